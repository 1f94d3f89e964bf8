"""Runs a command behind a filter that refuses calls as systemd's RestrictNamespaces= and SystemCallFilter= do:
sandbox.py namespaces,landlock,seccomp COMMAND..."""
import ctypes
import errno
import os
import sys

LOAD, EQUAL, BITS, END = 0x20, 0x15, 0x45, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
# Numbers of x86-64: clone, unshare, setns, clone3; those of Landlock; seccomp.
CLONE, UNSHARE, SETNS, CLONE3 = 56, 272, 308, 435
LANDLOCK, SECCOMP = (444, 445, 446), 317
NEW = 0x7E020000


def refused(number, error):
    return [(EQUAL, 0, 1, number), (END, 0, 0, REFUSE | error)]


code = [(LOAD, 0, 0, 0)]
for kind in sys.argv[1].split(","):
    if kind == "namespaces":
        # Flags of clone3 are where no filter looks: systemd says that there is no such call.
        code += refused(CLONE3, errno.ENOSYS) + refused(UNSHARE, errno.EPERM) + refused(SETNS, errno.EPERM)
    elif kind == "landlock":
        for number in LANDLOCK:
            code += refused(number, errno.EPERM)
    elif kind == "seccomp":
        code += refused(SECCOMP, errno.EPERM)
    else:
        sys.exit(f"nothing is called {kind}")
if "namespaces" in sys.argv[1]:
    code += [
        (EQUAL, 0, 4, CLONE),
        (LOAD, 0, 0, 16),
        (BITS, 0, 1, NEW),
        (END, 0, 0, REFUSE | errno.EPERM),
        (END, 0, 0, ALLOW),
    ]
code.append((END, 0, 0, ALLOW))


class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction))]


instructions = (Instruction * len(code))(*[Instruction(*one) for one in code])
program = Program(len(code), instructions)
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0):
    sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[2], sys.argv[2:])
