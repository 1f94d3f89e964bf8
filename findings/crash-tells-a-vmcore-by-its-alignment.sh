#!/bin/bash
# crash takes a kernel's ELF dump for another kind of dump, and does not read the kernel's notes, unless p_align is 0.
#
# Expected: in ELF a p_align of 0 and one of 1 are the same, no alignment, and with any other the address and the place in the file
# agree modulo it. Segments that lie at pages of the file may say 4096, as Linux does in the cores of processes, and mean nothing by it.
# Seen: where the first PT_LOAD begins at a page of the file and its p_align is not 0, the file is a "netdump" to crash, whose notes of a
# kernel it does not read: `crash --osrelease` answers "unknown" though VMCOREINFO is there. By its source it does not ask a netdump
# for KERNELOFFSET either, nor QEMU's notes for the registers from which it could be worked out, so that the symbols of a kernel with
# KASLR are looked for where they are not. Whoever writes dumps writes 0 as Linux does, or begins the first segment beside a page.
# Where: crash 8.0.2 (Debian 12). Source: is_netdump in netdump.c (as in 9.0.2), kaslr_init in symbols.c; gABI, "Program Header".
# Output seen: "p_align 0: 6.1.0-test; p_align 1: unknown; p_align 4096: unknown; 4096, beside a page: 6.1.0-test"
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
chmod 755 .
apt-get download -qq crash=8.0.2-1 liblzo2-2 libsnappy1v5 2> /dev/null || { echo "needs Debian 12's packages"; exit 2; }
for package in *.deb; do dpkg -x "$package" root; done
python3 - <<'P'
import struct

def core(path, offset, align):
    """A dump of one page at the file's `offset`, of which only the note of the kernel counts here."""
    virtual = 0xffff888000000000 + offset % 4096
    text = b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\nKERNELOFFSET=5400000\n"
    note = struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text + bytes(-len(text) % 4)
    with open(path, "wb") as file:
        file.write(struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0))
        file.write(struct.pack("<IIQQQQQQ", 4, 0, 4096, 0, 0, len(note), len(note), 0))
        file.write(struct.pack("<IIQQQQQQ", 1, 7, offset, virtual, virtual % 4096, 4096, 4096, align))
        file.write(bytes(4096 - file.tell()) + note)
        file.write(bytes(offset - file.tell() + 4096))

for name, offset, align in (("0", 8192, 0), ("1", 8192, 1), ("4096", 8192, 4096), ("beside", 8192 + 512, 4096)):
    core(name + ".core", offset, align)
P
release() { LD_LIBRARY_PATH=$W/root/usr/lib/x86_64-linux-gnu root/usr/bin/crash --osrelease "$1.core" 2> /dev/null || true; }
line="p_align 0: $(release 0); p_align 1: $(release 1); p_align 4096: $(release 4096); 4096, beside a page: $(release beside)"
echo "$line"
[ "$line" = "p_align 0: 6.1.0-test; p_align 1: unknown; p_align 4096: unknown; 4096, beside a page: 6.1.0-test" ]
