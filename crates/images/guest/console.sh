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
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd /root
cat | bash
END
if [ "$(mother_option console)" = pipe ]; then
    start="/bin/sh /run/mother/pipe"
else
    start="-/sbin/agetty --autologin root --noclear --keep-baud 115200,38400,9600 ttyS0 ${term:-vt220}"
fi
cat >/root/run/systemd/system/serial-getty@ttyS0.service.d/mother.conf <<END
[Unit]
SuccessAction=poweroff
FailureAction=poweroff
[Service]
ExecStartPre=-/bin/sh /run/mother/size
ExecStart=
ExecStart=$start
StandardInput=tty
StandardOutput=tty
Restart=no
END
