echo "OUT $(uname -rm)"
echo "OUT $(grep -c ^processor /proc/cpuinfo) CPUs, $(grep -m1 'model name' /proc/cpuinfo)"
echo "OUT $(grep -m1 ^flags /proc/cpuinfo)"
echo "OUT clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "OUT $(grep MemTotal /proc/meminfo)"
for device in /sys/bus/pci/devices/*; do echo "OUT $(cat $device/vendor) $(cat $device/device) $(cat $device/class)"; done
count=0; while [ ! -b /dev/vda ] && [ $count -lt 50 ]; do sleep 0.1; count=$((count + 1)); done
echo "OUT disk $(md5sum < /dev/vda | cut -c1-32)"
i=0; sum=; while [ $i -lt 40 ]; do i=$((i + 1)); sum=$(echo "$sum $i" | sha1sum | cut -c1-40); done; echo "OUT sum $sum"
before=$(cut -d. -f1 /proc/uptime); sleep 2; after=$(cut -d. -f1 /proc/uptime)
[ $((after - before)) -ge 2 ] && [ $((after - before)) -le 20 ] && echo "OUT sleeps"
(echo 1 > /tmp/one) & wait; echo "OUT child $(cat /tmp/one)"
dmesg | grep -i -E 'warning:|bug:|stall|mce:' | sed 's/^.*\] /OUT /'
poweroff -f
