#!/bin/sh
# Called by udhcpc when an address was given. `root` is where the program's file system is.
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip address add "$ip/${mask:-24}" dev "$interface"
for gateway in $router; do
    ip route add default via "$gateway" dev "$interface"
done
# A symbolic link in the image may lead anywhere; it is replaced, not followed.
rm -f "$root/etc/resolv.conf"
for server in $dns; do
    echo "nameserver $server"
done >"$root/etc/resolv.conf"
