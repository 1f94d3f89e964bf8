# Run in a guest by its agent, with a name and an address of a network card (or nothing): makes of a clone a machine of its
# own. What a guest does not have is left out.
name=$1
address=$2
old=$(hostname)
hostname "$name"
[ ! -e /etc/hostname ] || echo "$name" >/etc/hostname
# A new list in the place of the old one, whatever the name has in it; the file may be a mount, so it is not replaced.
if [ -e /etc/hosts ]; then
    renamed=$(while read -r first rest; do
        line=$first
        for word in $rest; do
            [ "$word" != "$old" ] || word=$name
            line="$line $word"
        done
        echo "$line"
    done </etc/hosts)
    echo "$renamed" >/etc/hosts
fi
# machine-id(5): 32 digits. That of D-Bus is the same, as a link or as a copy.
if [ -e /etc/machine-id ]; then
    id=$(tr -d - </proc/sys/kernel/random/uuid)
    echo "$id" >/etc/machine-id
    [ ! -f /var/lib/dbus/machine-id ] || echo "$id" >/var/lib/dbus/machine-id
fi
# Host keys of OpenSSH.
if ls /etc/ssh/ssh_host_*_key >/dev/null 2>&1; then
    rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
    ssh-keygen -A >/dev/null
    ! command -v systemctl >/dev/null || systemctl try-restart ssh sshd 2>/dev/null
fi
if [ -n "$address" ]; then
    for card in /sys/class/net/*; do
        case $(readlink "$card/device/driver") in
            */virtio_net) ip link set dev "${card##*/}" address "$address" && break ;;
        esac
    done
fi
exit 0
