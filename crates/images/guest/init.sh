#!/bin/busybox sh
echo "mother: /init started"
. /etc/mounts
. /etc/drivers
. /etc/folders
mount_folders ""
start_agent warden --agent / guest
. /etc/connect
hear_power_button /etc/acpi
# busybox's init reaps orphans, listens to `poweroff` and `reboot`, and starts /etc/session as /etc/inittab says.
exec init
