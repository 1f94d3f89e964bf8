#!/.mother/busybox sh
# What runs in the nested machine of `cargo xtask test-kvm`: a host with KVM that has `mother` and guests, and tests.
# Every test says PASS or FAIL on a line of its own; the last line is DONE.
B=/.mother/busybox
$B mkdir -p /bin /dev /proc /sys /tmp /run /root
$B --install -s /bin
export PATH=/bin HOME=/root XDG_RUNTIME_DIR=/run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
ip link set lo up
. @NEST@/places
cd "$NEST" || poweroff -f
for module in irqbypass kvm kvm-amd; do insmod "$NEST/$module.ko"; done

pass() { echo "PASS $1 ($(cut -d' ' -f1 /proc/uptime) s)"; }
fail() { echo "FAIL $1: $2"; [ -z "$3" ] || tail -n "${4:-15}" "$3" | sed 's/^/     | /'; }
# What is the same on every run: no colours, no carriage returns, no times of the kernel's, no word of Mother's.
plain() { tr -d '\r' | sed -e 's/^\[ *[0-9.]*\] //' -e '/^mother: /d'; }

# Types a file when the guest says that it listens.
typed() {
    [ -n "$1" ] || return
    waited=0
    until grep -q '^mother: /init started' "$2" || [ $waited -gt 140 ]; do sleep 1; waited=$((waited + 1)); done
    sleep 1
    cat "$1"
}

# A guest on both engines, with the same words: same console, same exit status.
both() {
    name=$1
    shift
    for engine in kvm soft; do
        : > /tmp/$engine.raw
        typed "$INPUT" /tmp/$engine.raw |
            timeout 150 "$MOTHER" run --engine $engine --timeout 140s "$@" > /tmp/$engine.raw 2>/tmp/$engine.err
        echo "exit status $?" >> /tmp/$engine.raw
        plain < /tmp/$engine.raw | sed -n "${KEEP:-p}" > /tmp/$engine
    done
    if ! grep -q "${WANTED:-^exit status 0$}" /tmp/kvm; then
        fail "$name" "not as expected on kvm" /tmp/kvm.raw
        tail -n 3 /tmp/kvm.err
    elif cmp -s /tmp/kvm /tmp/soft; then
        pass "$name"
    else
        fail "$name" "kvm and soft differ"
        diff /tmp/kvm /tmp/soft | head -n 20 | sed 's/^/     | /'
    fi
}

tests() {
    auto=$("$MOTHER" doctor | grep '^  auto')
    case "$auto" in *kvm) pass "auto takes kvm here" ;; *) fail "auto takes kvm here" "$auto" ;; esac

    WANTED='^exit status 33' both "a bare guest says hello" --kernel hello.bin --debug-exit --memory 32M
    # Not `nowhere`: its jump to the last canonical address stops QEMU's software CPU itself.
    for mode in msrs control devices; do
        WANTED='^exit status 65$' KEEP='/survived/p;/exit status/p' both "a hostile guest survives: $mode" \
            --kernel hostile.bin --cmdline "$mode" --debug-exit --memory 32M
    done
    WANTED='^exit status 3$' KEEP='/exit status/p' both "a hostile guest crashes alone: triple" \
        --kernel hostile.bin --cmdline triple --debug-exit --memory 32M
    # These end as the processor has it: alive, or dead and with a report.
    for mode in void random; do
        WANTED='^ended' KEEP='s/^exit status \(3\|65\)$/ended/p;s/^exit status/&/p' both "a hostile guest comes to an end: $mode" \
            --kernel hostile.bin --cmdline "$mode" --debug-exit --memory 32M
    done

    # XSAVE is left out: QEMU's software CPU does not tell KVM when a guest writes XCR0.
    linux="console=ttyS0 quiet noxsave rdinit=/pipe"
    dd if=/dev/urandom of=/tmp/disk bs=64k count=16 2>/dev/null
    INPUT=commands KEEP='/^OUT/p;/^exit status/p' both "Linux with two CPUs and a disk" --kernel kernel --initrd initrd \
        --cpus 2 --disk /tmp/disk,format=raw,readonly --cmdline "$linux"
    want=$(md5sum < /tmp/disk | cut -c1-32)
    if grep -q "OUT disk $want" /tmp/kvm; then pass "the disk is read right"; else fail "the disk is read right" "" /tmp/kvm; fi
    [ "$1" = quick ] || switching "$linux"
}

# A guest computes, holds a connection and a timer, and changes its engine twenty times.
switching() {
    mkfifo /tmp/keys
    "$MOTHER" run --name mover --engine kvm --timeout 400s --kernel kernel --initrd initrd --cmdline "$1" \
        < /tmp/keys > /tmp/moved 2> /tmp/moved.err &
    exec 3> /tmp/keys
    typed worker /tmp/moved >&3
    count=0
    until grep -q '^WORKING' /tmp/moved || [ $count -gt 90 ]; do sleep 1; count=$((count + 1)); done
    moves=0
    while [ $moves -lt 20 ]; do
        if [ $((moves % 2)) = 0 ]; then engine=soft; else engine=kvm; fi
        timeout 100 "$MOTHER" switch mover --engine $engine >/tmp/switch 2>&1 || break
        "$MOTHER" ps | grep -q "^mover *$engine" || break
        moves=$((moves + 1))
        sleep 1
    done
    echo 'rm /tmp/go; finish' >&3
    count=0
    until grep -q '^VERDICT' /tmp/moved || [ $count -gt 120 ]; do sleep 1; count=$((count + 1)); done
    exec 3>&-
    timeout 20 "$MOTHER" kill mover >/dev/null 2>&1
    if [ $moves = 20 ]; then pass "twenty changes of engine"; else fail "twenty changes of engine" "the one after $moves" /tmp/switch; fi
    if grep -q '^VERDICT right' /tmp/moved; then
        pass "a guest that moves computes, connects and beats on: $(grep '^VERDICT' /tmp/moved | tr -d '\r')"
    else
        fail "a guest that moves computes, connects and beats on" "$(grep '^VERDICT' /tmp/moved)" /tmp/moved 30
        tail -n 5 /tmp/moved.err
    fi
}

# What it costs to leave the guest, on both engines in turns, and to get to /init, with what left the guest until then.
exits() {
    for round in 1 2 3; do
        for engine in kvm soft; do
            "$MOTHER" run --engine $engine --kernel exits.bin --debug-exit --memory 32M < /dev/null 2>/dev/null |
                tr -d '\r' | sed -n "s/^ticks /EXITS $engine /p"
        done
    done
    for engine in kvm soft; do
        "$MOTHER" run --engine $engine --kernel kernel --initrd initrd --cmdline "console=ttyS0 quiet noxsave rdinit=/bench" \
            --timeout 200s --report /tmp/report < /dev/null > /tmp/booted 2>&1
        grep -q '^mother: /init started' /tmp/booted && echo "BOOT $engine $(grep -o '"wall_time": [0-9.]*' /tmp/report)"
        grep -E '"(hardware exits|I/O exits|MMIO exits|pio read|pio write|mmio read|mmio write|msr read|msr write|kicked|interrupt window)"' /tmp/report |
            sed "s/^ */BOOT $engine /; s/,$//"
    done
}

if grep -q mother.set=exits /proc/cmdline; then
    exits
    echo DONE
    poweroff -f
fi
tests $(sed 's/.*mother.set=//; s/ .*//' /proc/cmdline)
echo DONE
sync
poweroff -f
