count=0; while [ ! -b /dev/vda ] && [ $count -lt 50 ]; do sleep 0.1; count=$((count + 1)); done
if [ "$(head -c 6 /dev/vda)" = second ]; then echo "OUT second life"; poweroff -f; fi
echo "OUT first life"; echo second | dd of=/dev/vda bs=512 conv=sync 2>/dev/null; sync; reboot -f
