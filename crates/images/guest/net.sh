#!/bin/busybox sh
# Sends to and receives from whoever measures: the host's loopback, behind the gateway, at the two ports that the
# kernel's command line names.
. /etc/mounts
. /etc/drivers
for word in $(cat /proc/cmdline); do
    case $word in
        mother.sink=*) sink=${word#*=} ;;
        mother.source=*) source=${word#*=} ;;
    esac
done
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
dd if=/dev/zero bs=64k count=4096 2> /dev/null | nc 10.0.2.2 "$sink"
nc 10.0.2.2 "$source" < /dev/null > /dev/null
poweroff -f
