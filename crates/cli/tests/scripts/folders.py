# What programs do with files, in a folder of the host at /data; says "all is well" if it is as a disk of Linux's would have it.
import errno
import fcntl
import mmap
import os
import socket

os.chdir("/data")


def is_refused(error, act, *words):
    try:
        act(*words)
    except OSError as refused:
        assert refused.errno == error, refused
    else:
        raise AssertionError((act, words))


# A shared mapping is written back, a private one is not; also where the file is open to append alone.
for name, flags in (("mapped", os.O_RDWR), ("appended", os.O_RDWR | os.O_APPEND)):
    with open(name, "wb") as file:
        file.write(b"." * 10000)
    file = os.open(name, flags)
    private = mmap.mmap(file, 10000, mmap.MAP_PRIVATE)
    shared = mmap.mmap(file, 10000, mmap.MAP_SHARED)
    private[0:4] = b"mine"
    shared[5000:5004] = b"ours"
    shared.flush()
    assert private[0:4] == b"mine"
    private.close()
    assert os.pread(file, 4, 0) == b"....", "what is private is nobody's else"
    assert os.pread(file, 4, 5000) == b"ours"
    shared[9990:9994] = b"last"
    shared.close()
    os.close(file)
    assert os.stat(name).st_size == 10000, name

# What is appended goes to the end, wherever the place was.
file = os.open("appended", os.O_WRONLY | os.O_APPEND)
os.write(file, b"end")
os.close(file)

# Locks of both kinds hold between programs of the guest.
lock = os.open("lock", os.O_RDWR | os.O_CREAT, 0o600)
fcntl.lockf(lock, fcntl.LOCK_EX)
other = os.open("lock", os.O_RDWR)
fcntl.flock(lock, fcntl.LOCK_EX)
is_refused(errno.EAGAIN, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
child = os.fork()
if child == 0:
    is_refused(errno.EAGAIN, fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
fcntl.flock(lock, fcntl.LOCK_UN)
fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

# A name is taken from what is open and given to something else.
with open("old", "w+") as old, open("new", "w+") as new:
    old.write("old")
    new.write("new")
    old.flush()
    new.flush()
    os.rename("new", "old")
    assert os.pread(old.fileno(), 9, 0) == b"old"
    assert os.fstat(old.fileno()).st_nlink == 0
    old.write(" and gone")
    old.flush()
    assert os.pread(old.fileno(), 99, 0) == b"old and gone"
    assert open("old").read() == "new"
    os.unlink("old")
    assert os.pread(new.fileno(), 9, 0) == b"new"

# Every name once, also while some go.
names = {f"{number:05}-{'n' * (number % 60)}" for number in range(10000)}
os.mkdir("many")
for name in names:
    os.close(os.open(f"many/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
found = os.listdir("many")
assert len(found) == len(names) and set(found) == names
seen = []
for entry in os.scandir("many"):
    seen.append(entry.name)
    os.unlink(f"many/{entry.name}")
assert sorted(seen) == sorted(names)
os.rmdir("many")

# A link is the guest's to follow, and what is behind it on the host is not here.
is_refused(errno.ENOENT, open, "out")
assert os.readlink("out") == "/outside/secret"
is_refused(errno.EXDEV, os.link, "/proc/self/status", "linked")
is_refused(errno.EPERM, os.mkfifo, "pipe")
is_refused(errno.ENXIO, os.open, "socket", os.O_RDONLY)
is_refused(errno.EPERM, os.chmod, "socket", 0o777)
print("all is well")
