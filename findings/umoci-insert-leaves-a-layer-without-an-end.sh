#!/bin/bash
# `umoci insert` writes a layer whose tar archive has no end: no padding behind the last file, no two blocks of zeros.
#
# Expected: a tar archive ends with two blocks of 512 zero bytes, and a file's content is padded to a whole block (POSIX pax,
# "ustar Interchange Format"); the OCI image specification says that layers are tar archives.
# Seen: a layer with one file of 3 bytes is 515 bytes long: a header and 3 bytes. Docker, skopeo and umoci take it; GNU tar ends
# with "Unexpected EOF in archive" and Python's tarfile with "unexpected end of data". Who reads layers must forgive it.
# Where: umoci 0.4.7+ds-3+b7 (Debian 12), x86-64. Source: umoci-insert(1); the writer is flushed and never closed.
# Output seen: "a layer of 515 bytes; tar: Unexpected EOF in archive"
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
apt-get download -qq umoci=0.4.7+ds-3+b7 2> /dev/null || { echo "needs Debian 12's packages"; exit 2; }
dpkg -x umoci_*.deb tools; umoci=$W/tools/usr/bin/umoci
"$umoci" init --layout image; "$umoci" new --image image:a
echo hi > file; "$umoci" insert --image image:a file /file
for blob in image/blobs/sha256/*; do
    gzip -t "$blob" 2> /dev/null || continue
    size=$(zcat "$blob" | wc -c)
    said=$(zcat "$blob" | LC_ALL=C tar -t 2>&1 > /dev/null | head -n 1 || true)
    echo "a layer of $size bytes; $said"
    [ "$size" = 515 ] && [ "$said" = "tar: Unexpected EOF in archive" ] && exit 0
done
exit 1
