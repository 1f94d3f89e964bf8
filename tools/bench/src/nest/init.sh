#!/.mother/busybox sh
# What runs in the nested machine of `cargo xtask test-kvm`: a host with KVM that has `mother` and guests, and tests.
# Every test says PASS or FAIL on a line of its own; the last line is DONE.
B=/.mother/busybox
# A root that can be left, as a host's: the first root of all cannot, and passt puts itself into another.
if [ ! -d /moved ]; then
    $B mkdir -p /moved /root.of.host
    $B mount -o bind / /root.of.host
    cd /root.of.host && $B mount -o move . / && exec $B chroot . "$0"
fi
$B mkdir -p /bin /dev /proc /sys /tmp /run /root /etc
$B --install -s /bin
export PATH=/bin:/usr/bin HOME=/root XDG_RUNTIME_DIR=/run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t debugfs debug /sys/kernel/debug
. @NEST@/places
cd "$NEST" || poweroff -f
for module in irqbypass kvm kvm-amd dummy tun; do insmod "$NEST/$module.ko"; done
# A host with a network: passt wants a way out, also where nothing is behind it.
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' > /etc/passwd
printf 'root:x:0:\nnogroup:x:65534:\n' > /etc/group
ip link set lo up
ip link add dummy0 type dummy
ip addr add 192.0.2.2/24 dev dummy0
ip link set dummy0 up
ip route add default via 192.0.2.1 dev dummy0

. ./tests
set=$(sed 's/.*mother.set=//; s/ .*//' /proc/cmdline)
# The worst case ends without words here and with a summary outside.
# A group says its name first, by which it can be asked for again.
group() {
    echo "GROUP $1"
    case $1 in
        moving?) moving "${1#moving}" ;;
        *) "$1" ;;
    esac
}
case $set in
    exits) . ./exits; exits ;;
    boots) . ./boot; boots ;;
    quick) set="engines,bare,hostile,linux,moving1,looking" ;;
    all) set="engines,bare,hostile,linux,again,button,limited,unprivileged,bounded,moving1,moving2,looking" ;;
esac
case $set in
    exits | boots) ;;
    *) for test in $(echo "$set" | tr , ' '); do group "$test"; done ;;
esac
echo DONE
sync
poweroff -f
