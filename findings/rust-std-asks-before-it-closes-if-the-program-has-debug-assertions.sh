#!/bin/sh
# Rust's standard library comes built, and optimised, whatever the program that uses it is built as: so a good engineer
# expects a program to make the same system calls with debug assertions and without. It does not: with them every close(2)
# of an `OwnedFd` (a `File`, a socket) has an fcntl(2) with F_GETFD before it, since that check is made in the program's own
# copy of the inlined code. A list of allowed calls (seccomp) that is learned from a release build refuses what a
# debug build does, and one that is learned from a debug build allows a call that nobody needs.
#
# Who has such a list tries it with both, and allows F_GETFD alone.
#
# Versions: rustc 1.95.0 (the host's), strace 6.1. Source: the standard library's documentation of `OwnedFd` promises no
# call but the closing; `-C debug-assertions` in the rustc book speaks of the crate that is compiled.
# Seen, five files opened and closed:
#   without debug assertions: 0 times F_GETFD
#   with debug assertions: 5 times F_GETFD
set -eu
command -v rustc >/dev/null && command -v strace >/dev/null || { echo 'needs rustc and strace'; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > closes.rs <<'RUST'
fn main() {
    for _ in 0..5 {
        drop(std::fs::File::open("closes.rs").unwrap());
    }
}
RUST
count() {
    rustc -O -C debug-assertions="$1" -o "closes-$1" closes.rs
    strace -f -e trace=fcntl -o "calls-$1" "./closes-$1"
    grep -c F_GETFD "calls-$1" || true
}
without=$(count off)
with=$(count on)
echo "without debug assertions: $without times F_GETFD"
echo "with debug assertions: $with times F_GETFD"
[ "$without" = 0 ] && [ "$with" = 5 ]
