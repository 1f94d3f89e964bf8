# Typed into the guest: fills nineteen twentieths of memory with files of programs and text, each another, says what it
# has and uses, and works on.
mount -t tmpfs -o size=100% none /mnt
of() { while read key number unit; do [ $key != $1: ] || echo $number; done < /proc/meminfo; }
total=$(of MemTotal)
i=0
while [ $(($(of MemAvailable) * 20)) -gt $total ]; do
    (echo $i; head -c $((i * 37)) /dev/zero; cat /bin/busybox; yes "line of file $i") | head -c 2097152 > /mnt/$i
    i=$((i + 1))
done
echo claims memory $total $((total - $(of MemAvailable)))
for p in /sys/class/virtio-ports/*; do
    [ "$(cat $p/name)" = mother.claims ] && port=/dev/${p##*/}
done
(while :; do echo claim memory_used_percent $(((total - $(of MemAvailable)) * 100 / total)) >$port; sleep 1; done) &
while :; do md5sum /bin/busybox > /dev/null; done
