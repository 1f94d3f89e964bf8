for d in vda vdb; do for n in 1 2 3 4; do dd if=/dev/$d bs=64k iflag=direct 2>/dev/null | md5sum & done; done
dd if=/dev/hwrng bs=4k count=64 2>/dev/null | wc -c &
wait
dd if=/dev/zero of=/dev/vda bs=64k oflag=direct 2>/dev/null; sync; dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | md5sum
grep -c MSI /proc/interrupts; grep -c ^processor /proc/cpuinfo; dmesg -r | grep '^<[0-4]>'; echo complaints end
