#!/bin/bash
# fallocate(FALLOC_FL_PUNCH_HOLE) on a tmpfs file says 0 and makes no hole when the huge page there cannot be split.
#
# Expected: "Within the specified range, partial filesystem blocks are zeroed, and whole filesystem blocks are removed from
# the file" (fallocate(2)); a block of tmpfs is 4 KiB whatever pages the file lies in, and a failure would be told.
# Seen: of a file in huge pages, a hole of 4 KiB is a hole (SEEK_HOLE finds it, st_blocks falls by 4 KiB). While anybody holds a
# reference to any part of that huge page (here one byte in a pipe by vmsplice(2); likewise direct I/O or a reader of
# /proc/PID/mem at that moment), the same call returns 0, and the range is zeros that are still there: no hole, no fall. So
# userfaultfd, registered for missing pages, hears nothing of the next access: a pager that relies on the hole hands out zeros.
# Where: Linux 6.18, x86-64. Source: mm/shmem.c, shmem_undo_range(), when truncate_inode_partial_folio() fails.
# Output seen: "free: hole True, 4 KiB given back; held: hole False, 0 KiB given back"
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT
cat > "$W/punch.py" <<'P'
import ctypes, mmap, os, sys

SIZE, PAGE, HUGE = 4 << 20, 4096, 2 << 20
libc = ctypes.CDLL(None, use_errno=True)
PUNCH_HOLE_KEEP_SIZE = 3


class Span(ctypes.Structure):
    """struct iovec"""
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def punch(is_held):
    """Whether a hole is where one was punched, and how many KiB the file gave back."""
    fd = os.open(f"{sys.argv[1]}/{is_held}", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, SIZE)
    memory = mmap.mmap(fd, SIZE)
    memory[:] = b"\1" * SIZE
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    pipe = os.pipe()
    if is_held:
        span = Span(address + 3 * PAGE, 1)
        assert libc.vmsplice(pipe[1], ctypes.byref(span), ctypes.c_ulong(1), 0) == 1
    before = os.fstat(fd).st_blocks
    at = 10 * PAGE
    assert libc.fallocate(fd, PUNCH_HOLE_KEEP_SIZE, ctypes.c_long(at), ctypes.c_long(PAGE)) == 0
    return os.lseek(fd, 0, os.SEEK_HOLE) == at, (before - os.fstat(fd).st_blocks) // 2


free, held = punch(False), punch(True)
print(f"free: hole {free[0]}, {free[1]} KiB given back; held: hole {held[0]}, {held[1]} KiB given back", flush=True)
os._exit(not (free == (True, 4) and held == (False, 0)))
P
# A tmpfs of one's own, in a namespace of one's own, says for itself that its files get huge pages.
unshare -rm sh -eu -c 'mount -t tmpfs -o huge=always,size=64m none "$1" 2> /dev/null || exit 2
python3 - "$1" < "$2"' sh "$(mkdir "$W/m" && echo "$W/m")" "$W/punch.py"
