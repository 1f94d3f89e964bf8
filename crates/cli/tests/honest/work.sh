# A Debian system at honest work: packages, a compiler, modules, BPF, tracing, containers, services and namespaces, again and
# again.
# Each kind of work that went well says so.
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd /root
# What it says is the program's output, not the console's, on which the kernel and services write too.
exec 3>&1 >>/root/log 2>&1
say() { echo "$*" >&3; }
fail() { say "cannot prepare: $*"; tail -n 5 /root/log >&3; exit 1; }

apt-get update || fail "no package lists"
apt-get install -y --no-install-recommends gcc libc6-dev bpftool runc || fail "no compiler"
gcc -O2 -o bpf bpf.c || fail "bpf.c"
bpftool btf dump file /sys/kernel/btf/vmlinux format raw >types || fail "no type information"
functions=$(sed -nE "s/^\[([0-9]+)\] FUNC '(vfs_open|vfs_read|do_sys_openat2|tcp_v4_connect)'.*/\1/p" types)
[ -n "$functions" ] || fail "no functions"
mount -t tracefs tracefs /sys/kernel/tracing
say "work begins"

packages() {
    apt-get install -y --no-install-recommends --reinstall bc && echo '6*7' | bc | grep -qx 42 && apt-get remove -y bc
}

compiler() {
    mkdir -p source && rm -f source/* || return
    for n in $(seq 12); do
        printf '#include <stdio.h>\nint work%d(int x) { int y = 0; for (int i = 0; i < x; i++) y += i %% %d; printf("%%d\\n", y); return y; }\n' \
            $n $((n + 1)) >source/$n.c
        gcc -O2 -c -o source/$n.o source/$n.c || return
    done
    (seq -f 'int work%g(int);' 12; echo 'int main(void) {'; seq -f 'work%g(100000);' 12; echo 'return 0; }') >source/main.c
    gcc -O2 -o source/main source/main.c source/*.o && [ $(source/main | wc -l) = 12 ]
}

modules() {
    for module in dummy veth tun loop overlay br_netfilter nf_tables vxlan zram; do
        modprobe $module || return
    done
    ip link add left type veth peer name right && ip link set left up && ip link del left || return
    # Some are still in use by others of them.
    for module in zram vxlan nf_tables br_netfilter overlay loop tun veth dummy; do
        modprobe -r $module
    done
    ! grep -q '^dummy ' /proc/modules
}

tracing() {
    cd /sys/kernel/tracing || return
    echo 'p:one do_sys_openat2' >kprobe_events && echo 'r:two vfs_read' >>kprobe_events &&
        echo 1 >events/kprobes/enable && sleep 2 && echo 1 >events/sched/enable && echo 'vfs_*' >set_ftrace_filter &&
        echo function >current_tracer && sleep 2 && [ $(head -n 50 trace | wc -l) = 50 ]
    local status=$?
    echo nop >current_tracer; echo >set_ftrace_filter; echo 0 >events/enable; echo >kprobe_events; echo >trace
    cd /root
    return $status
}

# As an engine of containers has it: layers, namespaces, a program copied into memory that sets them up, one more inside.
containers() {
    mkdir -p container/rootfs layers && mount -t tmpfs layers layers && mkdir layers/upper layers/work &&
        mount -t overlay container -o lowerdir=/,upperdir=layers/upper,workdir=layers/work container/rootfs || return
    (
        cd container && rm -f config.json && runc spec &&
            sed -i 's/"terminal": true/"terminal": false/; s/"readonly": true/"readonly": false/; s/"sh"/"sleep", "1000"/' \
                config.json &&
            runc run -d inner </dev/null && runc exec inner sh -c 'id; ps ax; echo inside >/written' &&
            runc kill inner KILL
    )
    local status=$?
    runc delete --force inner
    [ "$(cat layers/upper/written)" = inside ] || status=1
    umount container/rootfs layers
    return $status
}

services() {
    systemctl restart systemd-journald systemd-networkd &&
        systemd-run --wait --quiet -p PrivateTmp=yes -p PrivateNetwork=yes -p SystemCallFilter=@system-service true &&
        systemd-run --wait --quiet -p IPAddressDeny=any -p DevicePolicy=closed ls / &&
        unshare --fork --pid --mount --net --mount-proc sh -c 'ps ax; mount -t tmpfs inner /mnt; ip link set lo up' &&
        [ $(find /usr/lib -xdev -type f -print0 | head -z -n 1500 | xargs -0 sha256sum | wc -l) = 1500 ]
}

round=0
while :; do
    round=$((round + 1))
    for work in packages compiler modules "./bpf $functions" tracing containers services; do
        $work && say "did $work" || say "failed $work: $(tail -n 1 /root/log)"
    done
    say "round $round"
done
