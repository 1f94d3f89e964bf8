#!/bin/sh
# systemd 252's set of system calls for services, @system-service, has userfaultfd, and not the calls of Landlock and seccomp.
#
# Expected: a set that is made for "common system services" and recommended for hardening has the calls with which a
# service gives rights up for its children, seccomp(2) and Landlock's three: they take rights and give none.
# Seen: neither @system-service nor any set that is in it has one of the four; all of them are only in @known. prctl(2) is there,
# which installs the same filters as seccomp(2) does, and so is userfaultfd(2). A service under `SystemCallFilter=@system-service` with
# SystemCallErrorNumber=EPERM that puts its workers into a sandbox is told EPERM, and one that takes a sandbox where it can be had
# goes on without.
#
# Who packages such a service names the four calls behind @system-service.
#
# Versions: systemd 252.39-1~deb12u2 (Debian 12). Source: src/shared/seccomp-util.c, syscall_filter_sets.
# Output seen: "calls: 378; missing of four: 4; prctl: 1, userfaultfd: 1"
set -eu
version=252.39-1~deb12u2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for package in systemd libsystemd-shared; do
    apt-get --quiet=2 download "$package=$version" 2> /dev/null || exit 2
    dpkg -x "$package"_*.deb root
done
library=$(find root -name 'libsystemd-shared-252*.so' -printf '%h' -quit)
analyze() { LD_LIBRARY_PATH="$folder/$library" root/usr/bin/systemd-analyze syscall-filter "$1" 2> /dev/null; }
# The calls of a set, and of the sets that it names.
calls() {
    analyze "$1" | sed -n 's/^ \+\([a-z@][a-z0-9_-]*\)$/\1/p' | while read -r call; do
        case $call in
        @*) calls "$call" ;;
        *) echo "$call" ;;
        esac
    done
}
calls @system-service > calls
has() { grep -c -x -F -e "$1" calls || true; }
missing=0
for call in seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self; do
    [ "$(has $call)" != 0 ] || missing=$((missing + 1))
done
prctl=$(has prctl) uffd=$(has userfaultfd)
echo "calls: $(wc -l < calls); missing of four: $missing; prctl: $prctl, userfaultfd: $uffd"
[ "$missing" = 4 ] && [ "$prctl" -ge 1 ] && [ "$uffd" -ge 1 ]
