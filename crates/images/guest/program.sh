#!/bin/busybox sh
# The guest of a script or a command: the warden starts it, with streams of its own, and tells the host how it ended.
echo "mother: /init started"
. /etc/mounts
. /etc/drivers
. /etc/folders
mount_folders ""
start_agent warden --agent / guest
. /etc/connect
hear_power_button /etc/program

# `poweroff` and `reboot` tell process 1, which is this script: the program ends, its output is delivered, and nothing
# has failed.
end() {
    echo 0 >/run/mother.status
    for program in $(cat "/proc/$warden/task/"*/children); do
        kill -KILL "$program"
    done
}
trap end USR1 USR2 TERM
warden /etc/command &
warden=$!
while kill -0 "$warden" 2>/dev/null; do
    wait "$warden"
done
poweroff -f
