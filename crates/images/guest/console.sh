# Sourced by process 1 before it goes over to a system with systemd: who logs in on the console, and what its end
# means. For a person: root, without a password. For a pipe: a shell that reads commands to their end.
mkdir -p /root/run/systemd/system/serial-getty@ttyS0.service.d /root/run/mother
term=$(mother_option term)
size=$(mother_option size)
cat >/root/run/mother/size <<END
[ -z "$size" ] || stty rows ${size%x*} columns ${size#*x}
END
cat >/root/run/mother/pipe <<'END'
stty -echo -onlcr -isig -ixon -iexten crtscts
echo "mother: /init started"
export TERM=dumb HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd /root
# Commands that need the network find it, if it comes within a few seconds.
for try in 1 2 3 4 5 6 7 8 9 10; do
    ls /sys/class/net | grep -qv '^lo$' || break
    ip route | grep -q ^default && break
    sleep 0.5
done
cat | bash
END
if [ "$(mother_option console)" = pipe ]; then
    start="/bin/sh /run/mother/pipe"
    kind="Environment=TERM=dumb
TTYReset=no"
else
    kind="Environment=TERM=${term:-vt220}"
    start="-/sbin/agetty --autologin root --noclear --keep-baud 115200,38400,9600 ttyS0 ${term:-vt220}"
fi
cat >/root/run/systemd/system/serial-getty@ttyS0.service.d/mother.conf <<END
[Unit]
SuccessAction=poweroff
FailureAction=poweroff
[Service]
$kind
ExecStartPre=-/bin/sh /run/mother/size
ExecStart=
ExecStart=$start
StandardInput=tty
StandardOutput=tty
Restart=no
END
