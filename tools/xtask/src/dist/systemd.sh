# The Debian package under a real systemd: typed into a Debian guest, with the package and what a guest needs on its second disk.
# Each line that begins with "ok" or "FAILED" is counted; the last one says how many there were.
set -u
# Where a VM is declared is where its paths are looked for: a folder that the daemon may enter.
cd /
failed=0
passed=0

check() { # NAME COMMAND...
    name=$1
    shift
    if said=$("$@" 2>&1); then
        passed=$((passed + 1))
        echo "ok $name"
    else
        failed=$((failed + 1))
        echo "FAILED $name: $said"
    fi
}

within() { # SECONDS COMMAND...: until it is so
    end=$(($(date +%s) + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$end" ] || { "$@"; return 1; }
        sleep 1
    done
}

host() { runuser -u mother -- env XDG_RUNTIME_DIR=/run/mother-host HOME=/var/lib/mother mother "$@"; }
user() { runuser -u somebody -- env XDG_RUNTIME_DIR=/run/user/2000 HOME=/home/somebody mother "$@"; }
units() { runuser -u somebody -- env XDG_RUNTIME_DIR=/run/user/2000 systemctl --user "$@"; }
pid_of() { "$1" ps --json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' | head -n 1; }
# Of whose VM: there is one.
unit_of() { sed -n 's|.*/\(mother-vm@[^/]*\.service\).*|\1|p' "/proc/$1/cgroup"; }
is() { # WHAT OF-WHOM UNIT
    said=$("$2" is-active "$3")
    [ "$said" = "$1" ] || { echo "$3 is $said"; return 1; }
}
pid_is() { [ "$(pid_of "$1")" = "$2" ] || { "$1" ps --json; return 1; }; }
runs() { "$1" ps --json | grep -q '"state": "running"'; }
lives() { [ -d "/proc/$1" ]; }
is_gone() { [ ! -d "/proc/$1" ]; }
main_pid() { systemctl show -p MainPID --value mother.service; }
# As the daemon has it asked.
doctor() {
    runuser -u mother -- env XDG_RUNTIME_DIR=/run/mother-host HOME=/var/lib/mother MOTHER_STARTER=/run/mother-vm.sock mother doctor
}
answers() { "$1" events >/dev/null; }
is_replaced() { now=$(main_pid); [ "$now" != 0 ] && [ "$now" != "$1" ]; }
walled() { "$1" ps --json | grep -q '"tier": "namespaces"' || { "$1" ps --json; return 1; }; }
exposed() { systemd-analyze security --no-pager --threshold=20 mother.service | tail -n 1; systemd-analyze security --no-pager --threshold=20 mother.service >/dev/null; }
quiet() { ! journalctl -b -o cat -u mother.service | grep -iE 'error|denied|not permitted|panick'; }

guest_cache() { mkdir -p "$2"; cp -r /mnt/cache/. "$2/"; chown -R "$1:" "$3"; }

check "the package installs" dpkg -i /mnt/mother.deb
guest_cache mother /var/cache/mother/mother /var/cache/mother
useradd --create-home --uid 2000 somebody
guest_cache somebody /home/somebody/.cache/mother /home/somebody

# The host's daemon.
check "the system unit says that it is ready" timeout 60 systemctl start mother.service
check "and is active" is active systemctl mother.service
exposed
check "little of the host is exposed to it" exposed
check "it answers its own user" within 20 answers host
check "a VM is declared" host create web --memory 96M --restart always
check "and runs" within 90 runs host
web=$(pid_of host)
unit=$(unit_of "$web")
echo "its unit: $unit"
check "in a unit of its own" systemctl is-active "$unit"
check "in all of its walls" walled host
check "the daemon is restarted" timeout 60 systemctl restart mother.service
check "its VM goes on" lives "$web"
check "and is known" within 20 pid_is host "$web"
before=$(main_pid)
kill -9 "$before"
check "the daemon comes back when it was killed" within 30 is_replaced "$before"
check "its VM goes on" lives "$web"
check "and it answers" within 20 answers host
check "it starts what only a unit of its own may" within 60 doctor
check "VMs can be stopped" host stop --grace 0 web
check "and are gone, with their unit" within 30 is_gone "$web"
check "the unit is gone" within 20 is inactive systemctl "$unit"
check "and started again" host start web
web=$(pid_of host)
unit=$(unit_of "$web")
check "stopping the unit ends the VM" timeout 90 systemctl stop "$unit"
check "as asked" within 5 is_gone "$web"
check "and --restart has it back" within 90 runs host
check "the daemon complains of nothing" quiet

# A user's.
# As libpam-systemd would have it, which the image has not.
mkdir -p /run/systemd/system/user@.service.d
printf '[Service]\nEnvironment=XDG_RUNTIME_DIR=/run/user/%%i\n' >/run/systemd/system/user@.service.d/folder.conf
systemctl daemon-reload
check "the user's service manager is there" systemctl start user@2000.service
check "the user's socket listens" units start mother.socket
check "and nothing else runs yet" is inactive units mother.service
check "who asks starts the daemon" within 60 answers user
check "it is active" is active units mother.service
check "a user's VM is declared" user create mine --memory 96M
check "and runs" within 90 runs user
mine=$(pid_of user)
check "in a unit of the user's" units is-active "$(unit_of "$mine")"
check "in all of its walls" walled user
check "the user's daemon is restarted" units restart mother.service
check "the user's VM goes on" lives "$mine"
check "the user's VM is stopped" user stop --grace 0 mine

# Away with it.
web=$(pid_of host)
check "the package is removed" dpkg -r mother
check "the daemon is gone" is inactive systemctl mother.service
check "its VM goes on" lives "$web"
[ -z "$web" ] || kill "$web"
check "the package is purged" dpkg -P mother
check "nothing of the host's daemon is left" [ ! -e /var/lib/mother ]
if [ "$failed" != 0 ]; then journalctl -b --no-pager -o short-monotonic | tail -n 200; fi
echo "$passed passed, $failed failed"
poweroff
