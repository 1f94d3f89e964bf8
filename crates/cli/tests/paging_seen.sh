# Typed into the guest: fills nine tenths of its memory.
mkdir /m
mount -t tmpfs -o size=90% none /m
i=0
while [ $i -lt 20 ]; do (echo $i; cat /bin/busybox) | head -c 2097152 > /m/f$i; i=$((i+1)); done
head -c 2097152 /dev/zero > /m/z
echo fil''led
