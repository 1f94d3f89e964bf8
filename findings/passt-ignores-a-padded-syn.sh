#!/bin/bash
# A TCP SYN in an Ethernet frame that was padded to the least length of 60 bytes gets no answer.
#
# Expected: Ethernet frames are at least 60 bytes long without their checksum (IEEE 802.3, 4.2.3.3), and receivers go by the IP
# header's total length: what is behind it is padding. Guests' drivers pad when their card does not (`skb_padto`).
# Seen: passt of Debian 12 answers ARP in a padded frame, and a SYN of 58 bytes that is not padded; the same SYN padded by two
# zero bytes is passed over in silence, so that no connection ever comes up. No reset, no ICMP.
# Where: passt 0.0~git20230309.7c7625d-1 (Debian 12), x86-64. Shown without a virtual machine, by speaking frames to passt's socket.
# Output seen: "connected with frames as they are: True; padded to 60 bytes: False"
. "$(dirname "$0")/lib/debian-passt.bash"
python3 - "$PASST" "$W" <<'P'
import sys
from passt_guest import *
came = {}
for shortest in (0, 60):
    port = serve(lambda client: client.recv(1))
    with Passt(*sys.argv[1:]) as path:
        came[shortest] = Guest(path, port, shortest).connect()
print(f"connected with frames as they are: {came[0]}; padded to 60 bytes: {came[60]}")
sys.exit(not (came[0] and not came[60]))
P
