#!/bin/bash
# drgn does not know the architecture of a compressed dump that names it, unless other fields of the kernel's utsname are filled in too.
#
# Expected: the header of the format that makedumpfile, crash and QEMU share has the kernel's `utsname`, and `machine` in it says whose
# memory it is. Who writes a dump from outside may know no more: QEMU's `dump-guest-memory -z` fills in `machine` alone.
# Seen: a dump with `machine` "x86_64" opens, and ends with "kdump_get_string_attr(KDUMP_ATTR_ARCH_NAME): Key has no value" when one of
# sysname, release and version is empty; sysname has to be "Linux". libkdumpfile, by which drgn reads such files, takes the whole
# utsname for none then, though the release is in VMCOREINFO once more. It would look for another in the guest's memory, for which
# it needs the architecture. nodename and domainname may be empty. Whoever writes such dumps fills in all of it.
# Where: drgn 0.3.0 with the libkdumpfile of its wheel (PyPI); Debian 12's libkdumpfile 0.5.1 has no arch.name then either. Source:
# uts_looks_sane and uts_machine_post_hook in libkdumpfile's kdumpfile/util.c, create_header64 in QEMU's dump/dump.c.
# Output seen: "all: opened; no nodename, domainname: opened; no sysname: no architecture; no release: no architecture; no version:
# no architecture; only machine: no architecture" (on one line)
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv tools
tools/bin/pip install -q drgn==0.3.0 2> /dev/null || { echo "needs PyPI"; exit 2; }
tools/bin/python - <<'P'
import struct, sys
import drgn

BLOCK, PAGES = 4096, 8
# What drgn asks of a Linux dump before it reads memory by physical address.
INFO = b"""OSRELEASE=6.1.0-test
PAGESIZE=4096
SYMBOL(swapper_pg_dir)=ffffffff82a10000
KERNELOFFSET=0
NUMBER(phys_base)=0
NUMBER(pgtable_l5_enabled)=0
"""
NAMES = {"sysname": "Linux", "nodename": "guest", "release": "6.1.0-test", "version": "#1", "machine": "x86_64", "domainname": "none"}

def write(path, names):
    """A dump of eight pages, none compressed, each of which begins with its number: header, sub-header, two bitmaps, descriptors."""
    utsname = b"".join(names.get(field, "").encode().ljust(65, b"\0") for field in NAMES)
    header = struct.pack("<8si390s6xqqIiiIIIIIIi", b"KDUMP   ", 6, utsname, 0, 0, 0, BLOCK, 1, 2, PAGES, 0, 0, PAGES, 0, 1)
    note = struct.pack("<III", 11, len(INFO), 0) + b"VMCOREINFO\0\0" + INFO + bytes(-len(INFO) % 4)
    # From the start of the file: VMCOREINFO by itself, and all notes, which it is one of.
    notes, info = BLOCK + 1024, BLOCK + 1024 + 24
    sub = struct.pack("<QiiQQQQQQQQQQQ", 0, 0, 0, 0, 0, info, len(INFO), notes, len(note), 0, 0, 0, PAGES, PAGES)
    bitmap = bytes([(1 << PAGES) - 1]).ljust(BLOCK, b"\0")
    first = 5 * BLOCK
    descriptors = b"".join(struct.pack("<QIIQ", first + page * BLOCK, BLOCK, 0, 0) for page in range(PAGES))
    with open(path, "wb") as file:
        file.write(header.ljust(BLOCK, b"\0"))
        file.write((sub.ljust(1024, b"\0") + note).ljust(BLOCK, b"\0"))
        file.write(bitmap + bitmap + descriptors.ljust(BLOCK, b"\0"))
        for page in range(PAGES):
            file.write(struct.pack("<Q", page).ljust(BLOCK, b"\0"))

def opened(*left_out):
    write("dump", {field: value for field, value in NAMES.items() if field not in left_out})
    program = drgn.Program()
    try:
        program.set_core_dump("dump")
    except Exception as error:
        return "no architecture" if "KDUMP_ATTR_ARCH_NAME" in str(error) else str(error)
    return "opened" if program.read_u64(5 * BLOCK, True) == 5 else "other memory"

line = "; ".join(f"{name}: {opened(*left_out)}" for name, left_out in (
    ("all", ()), ("no nodename, domainname", ("nodename", "domainname")), ("no sysname", ("sysname",)), ("no release", ("release",)),
    ("no version", ("version",)), ("only machine", ("sysname", "nodename", "release", "version", "domainname"))))
print(line)
sys.exit(line != "all: opened; no nodename, domainname: opened; no sysname: no architecture; no release: no architecture; "
         "no version: no architecture; only machine: no architecture")
P
