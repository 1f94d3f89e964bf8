#!/bin/busybox sh
echo "mother: /init started"
# Time to look at the VMM from outside before it ends.
/bin/busybox sleep 2
/bin/busybox poweroff -f
