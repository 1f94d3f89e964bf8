#!/usr/bin/env python3
"""How many executable pages of programs and libraries hold an instruction that cannot be trapped on this host.

    scan.py [--bytes] FILE...

For each file: executable pages, pages that hold the bytes at any offset (what a scan of pages must refuse, an instruction
over a page's end counts for both), and pages where objdump sees such an instruction (what a program really means; not with
--bytes, since objdump takes minutes for the largest).
CPUID, RDPID, XGETBV, SGDT, SIDT, SMSW, SLDT, STR, LSL, LAR, RDPKRU, WRPKRU, VMMCALL, MONITORX. XSAVE's family is left out: it is
state, not identity. RDTSC and RDTSCP trap when asked (PR_SET_TSC) and are counted apart.
"""
import re
import struct
import subprocess
import sys

PAGE = 4096
# 0F 01 /0 /1 /4 by memory or register, and the fixed second bytes.
SEEN = {
    "cpuid": rb"\x0f\xa2",
    "lar, lsl": rb"\x0f[\x02\x03]",
    "sldt, str": rb"\x0f\x00[\x00-\x0f\x40-\x4f\x80-\x8f\xc0-\xcf]",
    "sgdt, sidt": rb"\x0f\x01[\x00-\x0f\x40-\x4f\x80-\x8f]",
    "smsw": rb"\x0f\x01[\x20-\x27\x60-\x67\xa0-\xa7\xe0-\xe7]",
    "xgetbv": rb"\x0f\x01\xd0",
    "rdpkru, wrpkru": rb"\x0f\x01[\xee\xef]",
    "vmmcall, vmcall": rb"\x0f\x01[\xd9\xc1]",
    "monitorx, mwaitx": rb"\x0f\x01[\xfa\xfb]",
    # F3 may stand before other prefixes: what follows is taken alone.
    "rdpid": rb"\x0f\xc7[\xf8-\xff]",
}
# With UMIP, Linux answers these with numbers that are the same on every host.
UMIP = {"sldt, str", "sgdt, sidt", "smsw"}
CLOCK = rb"\x0f\x31|\x0f\x01\xf9"
MEANT = re.compile(r"^\s+([0-9a-f]+):\s+(?:cs |ds |rex\S* |data16 )*(cpuid|lar|lsl|sldt|str|sgdt|sidt|smsw|xgetbv|rdpkru|wrpkru|vmmcall|vmcall|monitorx|mwaitx|rdpid)[wlq]?\b")


def segments(data):
    """File offset, address and size of each executable part."""
    start, = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for n in range(count):
        kind, flags, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, start + n * size)
        if kind == 1 and flags & 1:
            yield offset, address, length


def pages_of(data, pattern):
    pages = set()
    for offset, address, length in segments(data):
        # Looked ahead for, since the end of one may be the beginning of another.
        for found in re.finditer(b"(?=(" + pattern + b"))", data[offset:offset + length], re.S):
            pages.add((address + found.start(1)) // PAGE)
            pages.add((address + found.end(1) - 1) // PAGE)
    return pages


def main():
    total = [0] * 6
    kinds = dict.fromkeys(SEEN, 0)
    names = sys.argv[1:]
    if by_bytes := names[:1] == ["--bytes"]:
        del names[0]
    for name in names:
        with open(name, "rb") as file:
            data = file.read()
        if data[:5] != b"\x7fELF\x02":
            sys.exit(f"error: {name} is no 64-bit ELF file")
        pages = sum((address + length - 1) // PAGE - address // PAGE + 1 for _, address, length in segments(data))
        any_offset = pages_of(data, b"|".join(SEEN.values()))
        with_umip = pages_of(data, b"|".join(bytes_ for kind, bytes_ in SEEN.items() if kind not in UMIP))
        named = pages_of(data, b"|".join(bytes_ for kind, bytes_ in SEEN.items() if kind not in UMIP and kind != "lar, lsl"))
        clock = pages_of(data, CLOCK)
        for kind, pattern in SEEN.items():
            kinds[kind] += len(pages_of(data, pattern))
        meant = set()
        command = ["true"] if by_bytes else ["objdump", "-d", "--no-show-raw-insn", "-w", name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as objdump:
            for line in objdump.stdout:
                if found := MEANT.match(line):
                    meant.add(int(found[1], 16) // PAGE)
        row = [pages, len(any_offset), len(meant), len(clock), len(with_umip), len(named)]
        total = [a + b for a, b in zip(total, row)]
        print(f"scan {name} pages {row[0]} any {row[1]} ({100 * row[1] / pages:.1f} %) meant {'-' if by_bytes else row[2]} clock {row[3]} with-umip {row[4]} and-without-lar-lsl {row[5]}", flush=True)
    print(f"scan all pages {total[0]} any {total[1]} ({100 * total[1] / max(total[0], 1):.1f} %) meant {total[2]} clock {total[3]} with-umip {total[4]} and-without-lar-lsl {total[5]}")
    for kind, count in kinds.items():
        print(f"scan kind {kind}: {count} pages")


if __name__ == "__main__":
    main()
