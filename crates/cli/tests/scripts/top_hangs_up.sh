mkfifo keys; script -qfc 'echo $$ >pid; exec $MOTHER top' /dev/null 0<>keys >screen & terminal=$!
for n in $(seq 200); do grep -q TREND screen 2>/dev/null || grep -q 'No guest' screen && break; sleep 0.1; done
kill -9 $terminal
for n in $(seq 200); do [ -e /proc/$(cat pid) ] || { echo gone; break; }; sleep 0.1; done
