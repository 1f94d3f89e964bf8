#!/bin/bash
# QEMU's dump-guest-memory with a kdump format writes makedumpfile's flattened stream, also into a plain file.
#
# Expected: the flattened form is for what cannot seek ("makedumpfile -F", makedumpfile(8): "for transferring the dumpfile to a
# remote host" over a pipe), so a file that QEMU may seek in begins with the header of a diskdump, "KDUMP   ", as makedumpfile's own do;
# and "format": "kdump-zlib" (qapi/dump.json: "kdump-compressed format with zlib-compressed") says nothing else.
# Seen: the file begins with "makedumpfile", and "KDUMP   " is 4 KiB and a record's head further on. Whoever knows
# compressed dumps by their first bytes takes it for no dump; `makedumpfile -R` makes the usual file of it.
# Where: QEMU 7.2.22 (Debian 12, 7.2+dfsg-7+deb12u18). Source: dump/dump.c, write_start_flat_header().
# Output seen: "begins with makedumpfile; KDUMP at 4112"
set -eu
W=$(mktemp -d); trap 'kill $(jobs -p) 2> /dev/null || true; rm -rf "$W"' EXIT; cd "$W"
command -v qemu-system-x86_64 > /dev/null && qemu-system-x86_64 --version | grep -q "version 7\.2\." ||
    { echo "needs QEMU 7.2 of Debian 12"; exit 2; }
timeout 60 qemu-system-x86_64 -accel tcg -M q35 -m 16M -nodefaults -display none -S -qmp unix:qmp,server=on,wait=off &
python3 - <<'P'
import json, os, socket, time

for _ in range(100):
    if os.path.exists("qmp"):
        break
    time.sleep(0.1)
qmp = socket.socket(socket.AF_UNIX)
qmp.connect("qmp")
lines = qmp.makefile("rw")


def ask(command, **arguments):
    lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    lines.flush()
    while True:
        answer = json.loads(lines.readline())
        if "return" in answer or "error" in answer:
            return answer


json.loads(lines.readline())
ask("qmp_capabilities")
answer = ask("dump-guest-memory", paging=False, protocol="file:" + os.path.abspath("dump"), format="kdump-zlib")
assert "return" in answer, answer
ask("quit")
head = open("dump", "rb").read(1 << 16)
at = head.find(b"KDUMP   ")
print(f"begins with {head[:12].decode()}; KDUMP at {at}")
raise SystemExit(not (head.startswith(b"makedumpfile\0") and at == 4096 + 16))
P
