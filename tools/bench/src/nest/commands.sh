echo "OUT $(uname -rm)"
echo "OUT $(grep -c ^processor /proc/cpuinfo) CPUs, $(grep -m1 'model name' /proc/cpuinfo)"
echo "OUT $(grep -m1 ^flags /proc/cpuinfo)"
echo "OUT clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "OUT $(grep MemTotal /proc/meminfo)"
for device in /sys/bus/pci/devices/*; do echo "OUT $(cat $device/vendor) $(cat $device/device) $(cat $device/class)"; done
count=0; while [ ! -b /dev/vda ] && [ $count -lt 50 ]; do sleep 0.1; count=$((count + 1)); done
echo "OUT disk $(head -c 1048576 /dev/vda | md5sum | cut -c1-32)"
seq 1 200000 | head -c 1048576 | dd of=/dev/vda bs=64k seek=16 2>/dev/null; sync; echo 3 > /proc/sys/vm/drop_caches
echo "OUT disk $(dd if=/dev/vda bs=64k skip=16 2>/dev/null | md5sum | cut -c1-32)"
i=0; sum=; while [ $i -lt 40 ]; do i=$((i + 1)); sum=$(echo "$sum $i" | sha1sum | cut -c1-40); done; echo "OUT sum $sum"
for cpu in 0 1; do (seq 1 100000 | taskset -c $cpu md5sum > /tmp/sum$cpu) & done; wait; echo "OUT $(cat /tmp/sum0 /tmp/sum1)"
taskset -c 0 seq 1 3000 | taskset -c 1 sed 's/$/ x/' | taskset -c 0 sed 's/^/y /' | taskset -c 1 tail -n 1 | sed 's/^/OUT /'
grep -E 'RES:|CAL:|LOC:' /proc/interrupts | while read -r name zero one rest; do [ $zero -gt 0 ] && [ $one -gt 0 ] && echo "OUT $name on both"; done
before=$(cut -d. -f1 /proc/uptime); sleep 2; after=$(cut -d. -f1 /proc/uptime)
[ $((after - before)) -ge 2 ] && [ $((after - before)) -le 20 ] && echo "OUT sleeps"
(echo 1 > /tmp/one) & wait; echo "OUT child $(cat /tmp/one)"
dmesg | grep -i -E 'warning:|bug:|stall|mce:' | sed 's/^.*\] /OUT /'
poweroff -f
