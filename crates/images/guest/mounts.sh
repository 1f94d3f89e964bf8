# Sourced by every init of ours: the file systems, the applets and the names that a small guest needs.
. /etc/profile
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mkdir -p /dev/pts /dev/shm
/bin/busybox mount -t devpts devpts /dev/pts
/bin/busybox mount -t tmpfs tmpfs /dev/shm
/bin/busybox mount -t tmpfs tmpfs /tmp
/bin/busybox --install -s /bin
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
# Where there is a guest agent, every program is in a control group that it can hold still.
[ "$(mother_option agent)" != on ] ||
    { mkdir /sys/fs/cgroup/guest && echo $$ >/sys/fs/cgroup/guest/cgroup.procs; } 2>/dev/null
. /etc/called
called ""
