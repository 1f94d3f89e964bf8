cd /sys/bus/pci/devices; for f in *; do echo $f $(cat $f/vendor $f/device $f/class); done
for d in /sys/bus/virtio/devices/*; do basename $(readlink $d/driver); done | sort
dmesg -r | grep '^<[0-4]>'; echo complaints end
