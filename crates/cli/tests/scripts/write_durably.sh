cd /root; n=0; while :; do n=$((n + 1)); head -c 300000 /dev/urandom > f$n
sha256sum f$n > f$n.sum; mkdir d$n; mv f$n.sum d$n; sync; echo durable $n; done
