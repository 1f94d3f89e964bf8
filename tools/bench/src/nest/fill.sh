dd if=/dev/urandom of=/tmp/noise bs=64k count=128 2>/dev/null
i=0; while [ $i -lt 4 ]; do i=$((i + 1)); yes "line of part $i" | head -c 6000000 > /tmp/part$i; done
md5sum /tmp/noise /tmp/part* > /tmp/sums
for round in 1 2; do md5sum -c -s /tmp/sums && echo "OUT same"; done
poweroff -f
