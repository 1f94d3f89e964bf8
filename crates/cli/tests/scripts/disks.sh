for d in vda vdb; do cd /sys/block/$d; echo $d $(cat size) $(cat serial) $(cat ro) $(cat queue/physical_block_size); done
printf 'written by the guest' | dd of=/dev/vda bs=512 seek=7 conv=fsync 2>/dev/null && echo wrote
dd if=/dev/zero of=/dev/vdb bs=512 count=1 conv=fsync 2>/dev/null || echo refused
ls /sys/block/vda/mq | wc -l
