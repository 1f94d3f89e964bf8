#!/.mother/busybox sh
# Process 1 of a guest that is one program: mounts, and then the warden, who starts it and tells the host of it.
# What is printed here is seen only if the guest does not come so far.
export PATH=/.mother/bin
/.mother/busybox mkdir -p /.mother/bin /proc /sys /dev /run /tmp
/.mother/busybox --install -s /.mother/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
ip link set lo up
# The value of `mother.$1=` on the kernel's command line.
mother_option() {
    for word in $(cat /proc/cmdline); do
        case $word in
            mother.$1=*) echo "${word#*=}" ;;
        esac
    done
}
. /.mother/called
called ""
modules=/.mother/modules
. /.mother/drivers
. /.mother/folders
mount_folders ""
start_agent /.mother/warden --agent / program /.mother/command
hear_power_button /.mother/acpi
# A network device, if there is one, asks for an address.
if [ -e /sys/class/net/eth0 ]; then
    ip link set eth0 up
    root= udhcpc -i eth0 -q -n -t 5 -T 1 -s /.mother/network >/dev/null 2>&1
fi
# Returns when the host has everything, if the host does not end the guest then.
/.mother/warden /.mother/command
poweroff -f
