# Typed into the guest: two readers of all memory, one each of network and disk, until `finish` is typed.
# @SOURCE@ and @SINK@ are ports of the host.
mount -t tmpfs -o size=420m none /mnt
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
i=0
while [ $i -lt 40 ]; do
    (echo $i; head -c 4000000 /dev/urandom; yes $i) | head -c 8388608 > /mnt/f$i
    i=$((i+1))
done
touch /tmp/go /tmp/rounds /tmp/wrong
sums() { cat /mnt/f* | md5sum; }
sums > /tmp/first
memory() {
    while [ -e /tmp/go ]; do
        sums > /tmp/m$1
        cmp -s /tmp/first /tmp/m$1 || echo memory >> /tmp/wrong
        echo memory >> /tmp/rounds
    done
}
network() {
    while [ -e /tmp/go ]; do
        nc 10.0.2.2 @SOURCE@ -e /bin/dd of=/tmp/net bs=64k 2>/dev/null
        nc 10.0.2.2 @SINK@ -e /bin/dd if=/tmp/net bs=64k 2>/dev/null
        echo network >> /tmp/rounds
        sleep 1
    done
}
disk() {
    i=0
    while [ -e /tmp/go ]; do
        f=/mnt/f$((i%40))
        dd if=$f of=/dev/vda bs=64k conv=fsync 2>/dev/null
        echo 3 > /proc/sys/vm/drop_caches
        head -c 8388608 /dev/vda | cmp -s - $f || echo disk >> /tmp/wrong
        echo disk >> /tmp/rounds
        i=$((i+1))
    done
}
memory 1 & memory 2 & network & disk &
echo working
of() { grep -c $1 /tmp/rounds; }
finish() {
    rm /tmp/go
    wait
    echo counted memory $(of memory) network $(of network) disk $(of disk) wrong $(wc -l < /tmp/wrong) $(sort -u /tmp/wrong)
}
