#!/bin/busybox sh
# The power button was pressed.
exec /bin/busybox poweroff
