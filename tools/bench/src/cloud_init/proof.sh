# What is true in the guest, a line each.
say() {
    echo "proof: $*"
}
say version "$(dpkg-query -W -f '${Version}' cloud-init)"
say id "$(cloud-id)"
say datasource "$(cat /var/lib/cloud/instance/datasource)"
say instance "$(cat /var/lib/cloud/data/instance-id)"
say list "$(grep -v '^#' /run/cloud-init/cloud.cfg | tr '\n' ' ')"
say errors "$(tr -d '\n' </run/cloud-init/result.json | sed 's/.*"errors": //; s/ *}.*//')"
say hostname "$(hostname)"
say virt "$(systemd-detect-virt)"
say product "$(dmidecode -s system-product-name)"
say vendor "$(dmidecode -s system-manufacturer)"
say uuid "$(dmidecode -s system-uuid)"
say written "$(stat -c '%a %U' /etc/proof 2>&1) $(cat /etc/proof 2>&1)"
say user "$(id visitor 2>&1)"
say keys "$(cat /home/debian/.ssh/authorized_keys 2>&1)"
say runs "$(wc -l </var/log/proof-runs 2>&1)"
say hostkey "$(cut -d ' ' -f 2 /etc/ssh/ssh_host_ed25519_key.pub 2>&1)"
say address "$(ip -o -4 address show scope global | tr -s ' ')"
say root "$(df --output=size -m / | tail -n 1)"
say listening "$(ss -Hltn 'sport = :22' | wc -l)"
say failed "$(systemctl list-units --failed --no-legend | tr '\n' ' ')"
sync
systemctl poweroff
