# Sourced by inits whose guest may have a network: on the user network somebody has an address for it, at once. On a tap
# nobody may; what is behind that is for its owner to know.
ip link set lo up
if [ "$(mother_option net)" = user ] && [ -e /sys/class/net/eth0 ]; then
    ip link set eth0 up
    root= udhcpc -i eth0 -q -n -t 5 -T 1 -s /etc/network >/dev/null 2>&1
fi
