#!/bin/bash
# A guest that has closed its own direction of a TCP connection never learns that the server has closed the other one.
#
# Expected: TCP's two directions end apart (RFC 9293, 3.6). A client that sends its request, closes its sending side
# (`nc HOST PORT < request`, `shutdown(SHUT_WR)`) and reads until the end of file gets the answer and then the server's FIN.
# Seen: passt of Debian 12 carries the guest's FIN to the server and the server's answer to the guest, but not the
# server's FIN: the guest waits for ever (20 s here). No reset comes either.
# Where: passt 0.0~git20230309.7c7625d-1 (Debian 12), x86-64. Found with `nc` in a virtual machine; shown here without one, by
# speaking frames to passt's socket. Source: passt(1), section about the socket; tcp.c there.
# Output seen: "server read b'request' and the end; guest read b'answer', end of file: False, reset: False"
. "$(dirname "$0")/lib/debian-passt.bash"
python3 - "$PASST" "$W" <<'P'
import sys, time
from passt_guest import *
said = {}
def handle(client):
    request = b""
    while part := client.recv(100):
        request += part
    said["request"] = request
    client.sendall(b"answer")
    client.close()
port = serve(handle)
with Passt(*sys.argv[1:]) as path:
    guest = Guest(path, port)
    assert guest.connect(), "no connection"
    guest.send_tcp(PSH | ACK, b"request")
    guest.listen(0.5)
    guest.send_tcp(FIN | ACK)
    guest.listen(20)
print(f"server read {said.get('request')} and the end; guest read {guest.data}, end of file: {guest.got_fin}, reset: {guest.got_reset}")
sys.exit(not (said.get("request") == b"request" and guest.data == b"answer" and not guest.got_fin and not guest.got_reset))
P
