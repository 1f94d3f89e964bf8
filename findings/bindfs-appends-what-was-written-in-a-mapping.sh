#!/bin/bash
# bindfs puts what a program writes into a shared mapping at the end of the file, if the file is open to append.
#
# Expected: what is stored in a mapping (mmap with MAP_SHARED) goes to its place in the file, whatever flags the descriptor has that it was
# mapped through: O_APPEND is about write(2). So it is on every file system of the kernel's.
# Seen: the file grows by a copy of the page, and its old bytes stay as they were. The kernel writes such pages back by FUSE_WRITE with a
# place and the flag FUSE_WRITE_CACHE, through whatever the process has open; bindfs has opened the file with the program's own O_APPEND, and
# Linux's pwrite(2) then ignores the place. Whoever hands open flags on to the host has this coming, servers of virtio-fs too.
# Where: bindfs 1.14.7-1 with libfuse 3.14.0-4 (Debian 12), Linux 6.18, x86-64; needs root and /dev/fuse.
# Output seen: "in the folder itself: 100 bytes, changed in place: yes; through bindfs: 200 bytes, changed in place: no"
set -eu
W=$(mktemp -d)
trap 'umount "$W/mount" 2>/dev/null || true; rm -rf "$W"' EXIT
cd "$W"
[ "$(id -u)" = 0 ] && [ -c /dev/fuse ] || { echo "needs root and /dev/fuse" >&2; exit 2; }
{ apt-get download -q bindfs=1.14.7-1 libfuse3-3=3.14.0-4 && for d in *.deb; do dpkg-deb -x "$d" tree; done; } >log 2>&1 || { cat log >&2; exit 2; }
mkdir folder mount
LD_LIBRARY_PATH=$(dirname "$(find tree -name 'libfuse3.so.3' | head -1)") timeout 20 tree/usr/bin/bindfs folder mount
cat >store.py <<'P'
import mmap, os, sys
path, seen = sys.argv[1:]
with open(path, "wb") as file:
    file.write(b"." * 100)
file = os.open(path, os.O_RDWR | os.O_APPEND)
mapping = mmap.mmap(file, 100)
mapping[10:14] = b"here"
mapping.flush()
mapping.close()
os.close(file)
found = open(seen, "rb").read()
print(f"{len(found)} bytes, changed in place: {'yes' if found[10:14] == b'here' else 'no'}")
P
plain=$(python3 store.py folder/a folder/a)
through=$(timeout 20 python3 store.py mount/b folder/b)
echo "in the folder itself: $plain; through bindfs: $through"
[ "$plain" = "100 bytes, changed in place: yes" ] && [ "$through" = "200 bytes, changed in place: no" ]
