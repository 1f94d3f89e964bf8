# A Debian package in a fresh tree of a release: what a user does with it, from installing it to purging it.
#
#   outside:  trial.sh TREE PACKAGE    in namespaces of its own, with the tree unpacked
#   inside:   trial.sh                 as root of the tree
set -eu

say() { echo "   $*"; }
fail() { echo "FAILED: $*"; exit 1; }

if [ $# = 2 ]; then
    mount --make-rprivate /
    mount --rbind /dev "$1/dev"
    mount -t proc proc "$1/proc"
    mount --bind /etc/resolv.conf "$1/etc/resolv.conf" 2>/dev/null || cp /etc/resolv.conf "$1/etc/resolv.conf"
    mkdir -p "$1/trial"
    cp "$0" "$1/trial/trial.sh"
    cp "$2" "$1/trial/mother.deb"
    exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        chroot "$1" /bin/sh /trial/trial.sh
fi

# Every file but what changes with any package.
files() {
    find / -xdev \( -path /proc -o -path /dev -o -path /sys -o -path /trial -o -path /tmp -o -path /root -o -path /run \
        -o -path /var/lib/apt -o -path /var/cache/apt -o -path /var/cache/man -o -path /var/lib/dpkg -o -path /var/log \
        -o -path /etc/.pwd.lock -o -name '*-' \) -prune -o -print | sort
}

runs() {
    text=$(printf 'echo it-is-$((40 + 2))\n' | timeout 300 "$@" 2>/trial/log) || fail "$*: $text $(cat /trial/log)"
    case $text in *it-is-42*) ;; *) fail "$*: the guest said nothing: $text" ;; esac
}

# Says what apt has to say only if it fails.
quietly() { "$@" >/trial/log 2>&1 || fail "$*: $(cat /trial/log)"; }

quietly apt-get -qq update
quietly apt-get -qq install --no-install-recommends passt apparmor bash-completion
# A user of the host's; and what any `systemd-sysusers` makes is there before.
useradd --create-home --groups kvm somebody 2>/dev/null || useradd --create-home somebody
files >/trial/before

quietly apt-get -qq install --no-install-recommends /trial/mother.deb
say "installed: $(mother --version)"
[ "$(dpkg-query -W -f '${Version}' mother)" = "$(mother --version | cut -d ' ' -f 2)" ] || fail "the versions differ"
getent passwd mother >/dev/null || fail "there is no user mother"
man mother | grep -q hypervisor || fail "there is no manual page"
man mother-serve | grep -q -- --listen || fail "the manual of serve says nothing"
bash -ic '_completion_loader mother 2>/dev/null; complete -p mother' >/dev/null 2>&1 \
    || bash -c '. /usr/share/bash-completion/completions/mother && complete -p mother' >/dev/null || fail "nothing completes"
[ -s /usr/share/zsh/vendor-completions/_mother ] || fail "nothing completes in zsh"
[ -s /usr/share/fish/vendor_completions.d/mother.fish ] || fail "nothing completes in fish"
for unit in mother.service mother-vm.socket mother-vm@1.service; do
    said=$(systemd-analyze verify --man=no "/usr/lib/systemd/system/$(echo "$unit" | sed s/@1/@/)" 2>&1) || fail "$unit: $said"
    # The kernel that this is tried on is not the one that it is for.
    if echo "$said" | grep -v 'legacy cgroups' | grep -i mother; then fail "$unit: systemd complains"; fi
done
exposed=$(systemd-analyze security --offline=true /usr/lib/systemd/system/mother.service --threshold=20 2>&1) \
    || fail "the daemon is exposed: $(echo "$exposed" | tail -n 1)"
say "$(echo "$exposed" | tail -n 1)"
for profile in /etc/apparmor.d/mother; do
    if [ -e "$profile" ]; then apparmor_parser -QK "$profile" || fail "AppArmor cannot read $profile"; fi
done
# Without all of its walls: a process in a chroot is given no user namespaces.
runs mother run --timeout 250s
say "root's guest ran"
mkdir -p -m 700 /tmp/run-somebody && chown somebody /tmp/run-somebody
runs runuser -u somebody -- env HOME=/home/somebody XDG_RUNTIME_DIR=/tmp/run-somebody mother run --timeout 250s
say "a user's guest ran"
# The same again is an upgrade.
quietly dpkg -i /trial/mother.deb
# What the host's daemon would leave.
mkdir -p /var/lib/mother/serve /var/cache/mother

quietly apt-get -qq remove mother
[ ! -e /usr/bin/mother ] && [ ! -e /etc/apparmor.d/mother ] || fail "removing leaves the program"
[ -d /var/lib/mother/serve ] || fail "removing forgets what is declared"
quietly apt-get -qq purge mother
rm -rf /home/somebody/.cache /home/somebody/.local
files >/trial/after
diff /trial/before /trial/after || fail "purging leaves something"
say "purged, and nothing is left"
