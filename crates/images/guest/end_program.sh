#!/bin/sh
# The power button was pressed: the program is asked to end, as a container's is. Its exit status is the guest's.
signal=TERM
[ ! -e /stop_signal ] || signal=$(cat /stop_signal)
for warden in $(pidof warden); do
    for program in $(cat "/proc/$warden/task/"*/children); do
        kill -"$signal" "$program"
    done
done
