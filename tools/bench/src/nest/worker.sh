touch /tmp/go
ip address add 10.0.2.15/24 dev eth0; ip link set eth0 up
produce() { i=0; while [ -e /tmp/go ]; do i=$((i + 1)); echo "$i $(echo "line $i" | md5sum | cut -c1-32)"; done; echo end; sleep 5; }
produce | nc 10.0.2.2 7000 > /tmp/greeting &
beat() { while [ -e /tmp/go ]; do cut -d' ' -f1 /proc/uptime >> /tmp/beats; sleep 0.5; done; }
beat &
# Registers of the vector unit with known values, checked as long as it runs.
vectors /tmp/go > /tmp/vectors &
finish() {
    wait
    beats=$(wc -l < /tmp/beats); back=$(awk 'NR > 1 && $1 + 0 < last + 0 { n++ } { last = $1 } END { print n + 0 }' /tmp/beats)
    if [ $beats -gt 10 ] && [ $back = 0 ] && grep -q ' 0 wrong' /tmp/vectors && grep -q hello /tmp/greeting; then word=right; else word=wrong; fi
    echo "VERDICT $word: $beats beats, $back backwards, $(cat /tmp/vectors)"
}
echo WORKING
