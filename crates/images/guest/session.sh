#!/bin/busybox sh
# The one session of the shell guest, for a person on the console. When it ends, so does the guest.
. /etc/profile
TERM=$(mother_option term)
export TERM=${TERM:-vt220}
size=$(mother_option size)
[ -z "$size" ] || stty rows "${size%x*}" columns "${size#*x}"
cat /etc/motd
# A session of its own on the real device behind /dev/console gives job control.
setsid cttyhack sh -l
# Waits until the line has sent what was written to it.
stty -echo 2>/dev/null
poweroff -f
