# Sourced by process 1 before it goes over to a system with systemd: who logs in on the console, and what its end
# means. For a person: root, without a password. For a pipe: a shell that reads commands to their end, with streams of its
# own where the host has such (`/words` says what is started), else on the console.
mkdir -p /root/run/systemd/system/serial-getty@ttyS0.service.d /root/run/mother
term=$(mother_option term)
size=$(mother_option size)
cat >/root/run/mother/size <<END
[ -z "$size" ] || stty rows ${size%x*} columns ${size#*x}
END
cat >/root/run/mother/start <<'END'
# Commands that need the network find it, if it comes within a few seconds.
for try in 1 2 3 4 5 6 7 8 9 10; do
    ls /sys/class/net | grep -qv '^lo$' || break
    ip route | grep -q ^default && break
    sleep 0.5
done
exec "$@"
END
cat >/root/run/mother/pipe <<'END'
stty -echo -onlcr -isig -ixon -iexten crtscts
echo "mother: /init started"
export TERM=dumb HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd /root
cat | sh /run/mother/start bash
END
if [ "$(mother_option agent)" = on ]; then
    cp /warden /root/run/mother/
    mkdir -p /root/run/systemd/system/multi-user.target.wants
    cat >/root/run/systemd/system/mother-agent.service <<'END'
[Unit]
Description=Guest agent of the hypervisor
[Service]
ExecStart=/run/mother/warden --agent - -
Delegate=yes
Restart=on-failure
END
    ln -s ../mother-agent.service /root/run/systemd/system/multi-user.target.wants/
fi
# The system goes down: nothing has failed, and what the program has printed is delivered.
cat >/root/run/mother/stop <<'END'
[ -n "$MAINPID" ] || exit 0
echo 0 >/run/mother.status
for program in $(cat "/proc/$MAINPID/task/"*/children); do
    kill -TERM "$program"
done
while kill -0 "$MAINPID" 2>/dev/null; do
    sleep 0.1
done
END
input=tty
more="ExecStartPre=-/bin/sh /run/mother/size"
if [ "$(mother_option console)" = pipe ] && [ -e /words ]; then
    cp /warden /words /root/run/mother/
    start="/run/mother/warden /run/mother/words"
    input=null
    more="ExecStop=-/bin/sh /run/mother/stop
TimeoutStopSec=20
KillSignal=SIGCONT
SendSIGHUP=no
TTYVHangup=no
TTYReset=no"
elif [ "$(mother_option console)" = pipe ]; then
    start="/bin/sh /run/mother/pipe"
    more="$more
Environment=TERM=dumb
TTYReset=no"
else
    start="-/sbin/agetty --autologin root --noclear --keep-baud 115200,38400,9600 ttyS0 ${term:-vt220}"
    more="$more
Environment=TERM=${term:-vt220}"
fi
cat >/root/run/systemd/system/serial-getty@ttyS0.service.d/mother.conf <<END
[Unit]
SuccessAction=poweroff
FailureAction=poweroff
[Service]
ExecStart=
ExecStart=$start
$more
StandardInput=$input
StandardOutput=tty
Restart=no
END
