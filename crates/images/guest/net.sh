#!/bin/busybox sh
# Sends to and receives from whoever measures the network: two ports of the host behind the gateway, which the kernel's
# command line names with the size of packets. Everything is fixed, so that nothing but TCP is measured.
echo "mother: /init started"
. /etc/mounts
. /etc/drivers
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 mtu "$(mother_option mtu)" up
nc 10.0.2.2 "$(mother_option sink)" -e /bin/dd if=/dev/zero bs=64k count="$(mother_option blocks)" 2>/dev/null
nc 10.0.2.2 "$(mother_option source)" -e /bin/dd of=/dev/null bs=64k 2>/dev/null
poweroff -f
