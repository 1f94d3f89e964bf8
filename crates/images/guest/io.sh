#!/bin/busybox sh
# Measures the first disk, which is overwritten. Whoever watches the console takes the times.
echo "mother: /init started"
. /etc/mounts
. /etc/drivers
clerk measure /dev/vda
poweroff -f
