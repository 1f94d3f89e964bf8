#!/bin/busybox sh
# The one session of the shell guest: a person on the console, or a pipe into it. When it ends, so does the guest.
. /etc/profile
if [ "$(mother_option stdin)" = pipe ]; then
    # No prompt, no echo, plain line ends; `cat` turns the terminal into a pipe, so that the shell does not take it
    # for a person.
    stty -echo -onlcr
    cat </dev/console | sh
else
    TERM=$(mother_option term)
    export TERM=${TERM:-vt220}
    size=$(mother_option size)
    [ -z "$size" ] || stty rows "${size%x*}" columns "${size#*x}"
    cat /etc/motd
    # A session of its own on the real device behind /dev/console gives job control.
    setsid cttyhack sh -l
fi
poweroff -f
