ip link set lo up
touch /tmp/go
# The listener must not see the end of its own input, or it would hang up.
mkfifo /tmp/hold
sleep 100000 > /tmp/hold &
holder=$!
nc -l -p 7000 < /tmp/hold > /tmp/got &
sleep 1
produce() { i=0; while [ -e /tmp/go ]; do i=$((i + 1)); echo "$i $(echo "line $i" | md5sum | cut -c1-32)"; done; echo end; }
produce | nc 127.0.0.1 7000 &
producer=$!
beat() { while [ -e /tmp/go ]; do cut -d' ' -f1 /proc/uptime >> /tmp/beats; sleep 0.5; done; }
beat &
finish() {
    wait $producer
    sleep 1
    kill $holder
    wait
    n=0; wrong=0
    while read -r i sum; do
        [ "$i" = end ] && continue
        n=$((n + 1))
        [ "$i" = $n ] && [ "$sum" = "$(echo "line $n" | md5sum | cut -c1-32)" ] || wrong=$((wrong + 1))
    done < /tmp/got
    last=$(tail -n 1 /tmp/got)
    beats=$(wc -l < /tmp/beats); back=$(awk 'NR > 1 && $1 + 0 < last + 0 { n++ } { last = $1 } END { print n + 0 }' /tmp/beats)
    if [ $n -gt 20 ] && [ $wrong = 0 ] && [ "$last" = end ] && [ $beats -gt 10 ] && [ $back = 0 ]; then word=right; else word=wrong; fi
    echo "VERDICT $word: $n sums over the connection, $wrong wrong, end \"$last\", $beats beats, $back backwards"
}
echo WORKING
