# Sourced by process 1 of a guest that is a container image: mounts what its program expects, and the warden starts it
# inside.
for folder in proc sys dev run tmp etc; do
    mkdir -p "/root/$folder"
done
mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t devtmpfs devtmpfs /root/dev
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -t tmpfs tmpfs /root/dev/shm
mount -t tmpfs -o mode=755 tmpfs /root/run
ln -sf /proc/self/fd /root/dev/fd
name=$(mother_option name)
hostname "${name:-guest}"
ip link set lo up
# A network device, if there is one, asks for an address.
if [ -e /sys/class/net/eth0 ]; then
    ip link set eth0 up
    root=/root udhcpc -i eth0 -q -n -t 5 -T 1 -s /network >/dev/null 2>&1
fi
acpid -d -c /acpi </dev/null >/dev/null 2>&1 &
# Returns when the host has everything, if the host does not end the guest then.
/warden /words
sync
poweroff -f
