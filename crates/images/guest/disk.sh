#!/bin/busybox sh
# Process 1 until there is a disk: loads what the kernel needs to see it, mounts it, and goes over to it. What the
# machine's console shall do is written into /run, which is memory: the disk stays as it is.
/bin/busybox mkdir -p /bin /proc /sys /dev /root
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

. /folders

# The value of `mother.$1=` on the kernel's command line.
mother_option() {
    for word in $(cat /proc/cmdline); do
        case $word in
            mother.$1=*) echo "${word#*=}" ;;
        esac
    done
}

for module in $(cat /modules/order); do
    # Large, and for who shares folders alone.
    case $module in
        fuse.ko | virtiofs.ko) [ -n "$(mother_option folder)" ] || continue ;;
    esac
    insmod "/modules/$module" || echo "mother: cannot load $module"
done

# The disk with our serial number; drivers may still be looking.
find_disk() {
    for disk in /sys/block/vd*; do
        [ "$(cat "$disk/serial" 2>/dev/null)" = "$1" ] && echo "/dev/${disk##*/}" && return
    done
}
for try in 1 2 3 4 5 6 7 8 9 10; do
    disk=$(find_disk root)
    [ -n "$disk" ] && break
    sleep 0.2
done
[ -n "$disk" ] || not_started "the guest sees no disk with the serial number \"root\""

# A system may be on the whole disk or on a partition of it.
for part in "$disk" "$disk"[0-9]*; do
    [ -b "$part" ] || continue
    mount -t ext4 -o rw "$part" /root 2>/dev/null || continue
    [ -e /root/sbin/init ] || [ -L /root/sbin/init ] || [ -n "$(mother_option mode)" ] && found=$part && break
    umount /root
done
[ -n "$found" ] || not_started "no ext4 file system with /sbin/init on $disk"

case $(mother_option mode) in
    configure) . /configure ;;
    command) . /command ;;
esac

mount -t tmpfs -o mode=755 tmpfs /root/run
# A system has this module itself.
[ -z "$(mother_option folder)" ] || grep -qw virtiofs /proc/filesystems || chroot /root /sbin/modprobe virtiofs
mount_folders /root
. /session
for folder in dev proc sys; do
    mount --move "/$folder" "/root/$folder"
done
exec switch_root /root /sbin/init
