# Typed into the guest: fills memory, and reads all of it and a disk for twenty seconds; says how often, and how often
# anything had changed.
mount -t tmpfs -o size=200m none /mnt
i=0
while [ $i -lt 24 ]; do
    (echo $i; head -c 2000000 /dev/urandom; yes $i) | head -c 4194304 > /mnt/f$i
    i=$((i+1))
done
sums() { cat /mnt/* /dev/vda | sha256sum; }
sums > /tmp/first
rounds=0
wrong=0
end=$(($(cut -d. -f1 /proc/uptime) + 20))
while [ $(cut -d. -f1 /proc/uptime) -lt $end ]; do
    sums > /tmp/now & sums > /tmp/too; wait
    cmp -s /tmp/first /tmp/now && cmp -s /tmp/first /tmp/too || wrong=$((wrong+1))
    rounds=$((rounds+1))
done
echo "rounds: $rounds, wrong: $wrong"
