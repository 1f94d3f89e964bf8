# Sourced by process 1 of a guest that is a container image: gives its program what container engines give, and the
# warden starts it inside. What the image has in /run and /tmp stays: build steps made it for the program.
for folder in proc sys dev run; do
    mkdir -p "/root/$folder"
done
[ -e /root/tmp ] || mkdir -m 1777 /root/tmp
mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t devtmpfs devtmpfs /root/dev
mkdir -p /root/dev/pts /root/dev/shm /root/dev/mqueue
mount -t devpts devpts /root/dev/pts
mount -t tmpfs tmpfs /root/dev/shm
mount -t mqueue mqueue /root/dev/mqueue 2>/dev/null
. /called
called /root
. /folders
mount_folders /root
[ -e /root/etc/mtab ] || ln -s /proc/mounts /root/etc/mtab
# A control group of its own with every controller, as the root of what it sees.
if mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null; then
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
    done
    mkdir /sys/fs/cgroup/program
    mount --bind /sys/fs/cgroup/program /root/sys/fs/cgroup
    echo $$ >/sys/fs/cgroup/program/cgroup.procs
fi
# A user who is not root may listen on port 80 and ping.
echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start
echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range
ip link set lo up
# A network device, if there is one, asks for an address.
if [ -e /sys/class/net/eth0 ]; then
    ip link set eth0 up
    root=/root udhcpc -i eth0 -q -n -t 5 -T 1 -s /network >/dev/null 2>&1
fi
acpid -d -c /acpi </dev/null >/dev/null 2>&1 &
[ "$(mother_option agent)" != on ] ||
    /warden --agent / program /words </dev/null >/dev/null 2>&1 &
# Returns when the host has everything, if the host does not end the guest then.
/warden /words
sync
poweroff -f
