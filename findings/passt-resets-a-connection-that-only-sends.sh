#!/bin/bash
# A guest that sends a line every five seconds to a server which never answers is disconnected after some 24 seconds.
#
# Expected: a TCP connection lives as long as both sides want; data in one direction only is normal (log shippers,
# metrics, sensors), and each segment is acknowledged.
# Seen: passt of Debian 12 delivers every line, then closes the connection to the server and resets the guest, although the
# guest has just sent. What counts is that nothing has ever come back from the server.
# Where: passt 0.0~git20230309.7c7625d-1 (Debian 12), x86-64. Shown without a virtual machine, by speaking frames to passt's socket.
# Output seen: "server read 5 lines, then the end after 24 s; guest reset: True"
. "$(dirname "$0")/lib/debian-passt.bash"
python3 - "$PASST" "$W" <<'P'
import sys, time
from passt_guest import *
said = {"lines": 0, "end": None}
start = time.monotonic()
def handle(client):
    while client.recv(100):
        said["lines"] += 1
    said["end"] = time.monotonic() - start
port = serve(handle)
with Passt(*sys.argv[1:]) as path:
    guest = Guest(path, port)
    assert guest.connect(), "no connection"
    while not guest.got_reset and time.monotonic() - start < 60:
        guest.send_tcp(PSH | ACK, b"a line\n")
        guest.listen(5)
end = said["end"]
print(f"server read {said['lines']} lines, then the end after {end and round(end)} s; guest reset: {guest.got_reset}")
sys.exit(not (guest.got_reset and said["lines"] >= 3 and end is not None and end < 45))
P
