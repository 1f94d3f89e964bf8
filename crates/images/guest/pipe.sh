#!/bin/busybox sh
# The guest of a pipe: no prompt, no echo, plain line ends; the end of the input ends the guest. The terminal is set
# before the marker is printed: whoever feeds the pipe waits for the marker, so that no input is echoed or taken for
# a control character but the one that ends it. Hardware flow control (crtscts) keeps long input from running over.
/bin/busybox stty -echo -onlcr -isig -ixon -iexten crtscts
echo "mother: /init started"
. /etc/mounts
. /etc/drivers
. /etc/folders
mount_folders ""
start_agent warden --agent / guest
. /etc/connect

# `poweroff` and `reboot` tell process 1, which is this script.
trap 'poweroff -f' USR1 USR2
trap 'reboot -f' TERM
hear_power_button /etc/acpi
# `dd` makes a pipe of the terminal, so that the shell does not take it for a person. Not `cat`: busybox has it ask the
# kernel for sendfile(2), and Linux keeps the pipe locked while that waits for the terminal, so that the shell sees a
# line only when the next one is typed.
dd bs=4096 2>/dev/null </dev/console | sh &
wait $!
# Waits until the line has sent what was written to it.
stty -echo </dev/console
poweroff -f
