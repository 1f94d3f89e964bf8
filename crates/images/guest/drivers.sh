# Sourced by inits whose guest may have devices: loads the drivers of those that are there, and what these need. A
# kernel that has them built in has no folder of modules.
modules=${modules:-/modules}
load() {
    for module in "$@"; do
        [ -e "/sys/module/$(echo "$module" | tr - _)" ] || [ ! -e "$modules/$module.ko" ] ||
            insmod "$modules/$module.ko"
    done
}

load_drivers() {
    load virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci
    # The device ID of a virtio function is 0x1040 and its kind (VIRTIO 1.2, 4.1.2.1).
    for kind in $(cat /sys/bus/pci/devices/*/device | sort -u); do
        case $kind in
            0x1041) load failover net_failover virtio_net ;;
            0x1042) load virtio_blk ;;
            0x1043) load virtio_console ;;
            0x1044) load virtio-rng ;;
            0x1045) load virtio_balloon ;;
            0x105a) load fuse virtiofs ;;
            0x1053) load vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport ;;
        esac
    done
    # VMClock, which programs read at /dev/vmclock0.
    [ ! -d /sys/bus/acpi/devices/AMZNC10C:00 ] || load pps_core ptp ptp_vmclock
}
[ -d "$modules" ] && load_drivers

# Has the power button heard: when it is pressed, `acpid` runs PWRF/00000080 in folder $1.
hear_power_button() {
    load button evdev
    acpid -d -c "$1" </dev/null >/dev/null 2>&1 &
}

# Starts the guest agent by these words, if the host has something for it to do.
start_agent() {
    [ "$(mother_option agent)" != on ] || "$@" </dev/null >/dev/null 2>&1 &
}
