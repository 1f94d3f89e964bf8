#!/bin/bash
# `timeout` sends its signal twice to a command that stays in its process group.
#
# Expected: one expiry, one signal. Programs that have a way out in good order take a second SIGTERM or SIGINT for impatience, and end at
# once (container clients, build tools and hypervisors do).
# Seen: when the time is over, or when it is itself sent a signal, `timeout` sends to the command's process and then to its whole process
# group, in which the command is. Of the standard signals two that wait become one, so the command is told once or twice, by chance;
# a queued real-time signal shows that there are always two. With `--foreground` there is one.
# Where: coreutils 9.1-1 (Debian 12), x86-64.
# Output seen: "told by default: 2; with --foreground: 1"
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT
cd "$W"
{ apt-get download -q coreutils=9.1-1 && dpkg-deb -x coreutils_9.1-1_amd64.deb tree; } >log 2>&1 || { cat log >&2; exit 2; }
cat >count.py <<'P'
import signal, time
told = 0
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
while signal.sigtimedwait([signal.SIGRTMIN], 2 if told == 0 else 0.5):
    told += 1
print(told)
P
told() { tree/usr/bin/timeout "$@" --signal=RTMIN 0.5 python3 count.py || true; }
group=$(told); alone=$(told --foreground)
echo "told by default: $group; with --foreground: $alone"
[ "$group" = 2 ] && [ "$alone" = 1 ]
