# The tests of the nested machine, each a function.

pass() { echo "PASS $1 ($(cut -d' ' -f1 /proc/uptime) s)"; }
fail() { echo "FAIL $1: $2"; [ -z "$3" ] || tail -n "${4:-15}" "$3" | tr -d '\r' | sed 's/^/     | /'; }
skip() { echo "SKIP $1: $2"; }
# Whether a condition holds: `check NAME WHY FILE CONDITION...`.
check() {
    name=$1 why=$2 file=$3
    shift 3
    if "$@"; then pass "$name"; else fail "$name" "$why" "$file"; fi
}
# What is the same on every run: no colours, no carriage returns, no times of the kernel's, no word of Mother's.
plain() { tr -d '\r' | sed -e 's/^\[ *[0-9.]*\] //' -e '/^mother: /d'; }
# Waits for a line in a file: `await PATTERN FILE SECONDS`; not longer than the process `$vmm` lives.
vmm=
await() {
    waited=0
    until grep -q "$1" "$2" 2>/dev/null; do
        [ $waited -lt "$3" ] && { [ -z "$vmm" ] || [ -d /proc/$vmm ]; } || return 1
        sleep 1
        waited=$((waited + 1))
    done
}
# Types a file when the guest says that it listens; with LIVES=2 in its second life too.
typed() {
    [ -n "$1" ] || return
    await '^mother: /init started' "$2" 400
    sleep 1
    cat "$1"
    [ "$LIVES" = 2 ] || return
    waited=0
    until [ "$(grep -c '^mother: /init started' "$2")" = 2 ] || [ $waited -gt 90 ]; do sleep 1; waited=$((waited + 1)); done
    sleep 1
    cat "$1"
}

# One guest on one engine; its transcript is left in /tmp/ENGINE.
one() {
    engine=$1
    shift
    : > /tmp/$engine.raw
    typed "$INPUT" /tmp/$engine.raw |
        timeout 440 "$MOTHER" run --engine $engine --timeout "${LIMIT:-420s}" "$@" > /tmp/$engine.raw 2>/tmp/$engine.err
    echo "exit status $?" >> /tmp/$engine.raw
    plain < /tmp/$engine.raw | sed -n "${KEEP:-p}" > /tmp/$engine
}

# A guest on both engines, with the same words: same console, same exit status.
both() {
    name=$1
    shift
    for engine in kvm soft; do
        [ -z "$DISK" ] || cp "$DISK" /tmp/disk
        one $engine "$@"
        [ -z "$DISK" ] || md5sum < /tmp/disk >> /tmp/$engine
    done
    if ! grep -q "${WANTED:-^exit status 0$}" /tmp/kvm; then
        fail "$name" "not as expected on kvm" /tmp/kvm.raw
        tail -n 3 /tmp/kvm.err
    elif cmp -s /tmp/kvm /tmp/soft; then
        pass "$name"
    else
        tail -n 3 /tmp/soft.err
        fail "$name" "kvm and soft differ"
        diff /tmp/kvm /tmp/soft | head -n 20 | sed 's/^/     | /'
    fi
}

engines() {
    "$MOTHER" doctor > /tmp/doctor 2>&1
    check "auto takes kvm here" "" /tmp/doctor grep -q '^  auto .*kvm' /tmp/doctor
    # The vCPU's own tests, one by one: one that hangs takes no other with it.
    for test in $(./kvm-tests --list 2>/dev/null | sed -n 's/: test$//p'); do
        timeout 30 ./kvm-tests --exact "$test" > /tmp/kvm-test 2>&1
        status=$?
        # On one CPU the harness has begun the line with the test's name.
        if [ $status = 0 ] && grep -q 'not here: ' /tmp/kvm-test; then
            skip "kvm: $(echo "${test##*::}" | tr _ ' ')" "$(sed -n 's/.*not here: //p' /tmp/kvm-test)"
            continue
        fi
        [ $status = 0 ] && grep -q 'skipped: ' /tmp/kvm-test && status=skipped
        check "kvm: $(echo "${test##*::}" | tr _ ' ')" "$status" /tmp/kvm-test [ $status = 0 ]
    done
}

bare() {
    WANTED='^exit status 33' both "a bare guest says hello" --kernel hello.bin --debug-exit --memory 32M
}

hostile() {
    # Not `nowhere`: its jump to the last canonical address stops QEMU's software CPU itself.
    for mode in msrs control devices; do
        WANTED='^exit status 65$' KEEP='/survived/p;/exit status/p' both "a hostile guest survives: $mode" \
            --kernel hostile.bin --cmdline "$mode" --debug-exit --memory 32M
    done
    # STGI and CLGI apart: where the processor has a GIF for guests, Linux 6.1's KVM lets every guest change its own.
    WANTED='^exit status 65$' KEEP='/^..gi: /!p' both "a guest cannot nest: every instruction of SVM and VMX" \
        --kernel hostile.bin --cmdline nested --debug-exit --memory 32M
    WANTED='^exit status 3$' KEEP='/exit status/p' both "a hostile guest crashes alone: triple" \
        --kernel hostile.bin --cmdline triple --debug-exit --memory 32M
    check "a triple fault has a report" "" /tmp/kvm.err grep -q -i 'triple fault' /tmp/kvm.err
    one kvm --kernel hostile.bin --cmdline emulate --debug-exit --memory 32M
    check "what KVM cannot emulate is a crash of the guest" "" /tmp/kvm.raw grep -q '^exit status 3$' /tmp/kvm.raw
    check "with registers in its report" "" /tmp/kvm.err grep -q -i 'cannot emulate' /tmp/kvm.err
    # These end as the processor has it, or go round for ever and are ended.
    for mode in void random; do
        LIMIT=20s one kvm --kernel hostile.bin --cmdline $mode --debug-exit --memory 32M
        check "a hostile guest comes to an end: $mode" "" /tmp/kvm.raw grep -q -E '^exit status (3|65|124)$' /tmp/kvm.raw
    done
}

# XSAVE is left out where a guest starts on KVM: QEMU's software CPU does not tell KVM when a guest writes XCR0.
LINUX="console=ttyS0 quiet noxsave rdinit=/pipe"

linux() {
    dd if=/dev/urandom of=/tmp/disk.first bs=64k count=32 2>/dev/null
    INPUT=commands KEEP='/^OUT/p;/^exit status/p' DISK=/tmp/disk.first both "Linux with two CPUs, typed commands and a disk" \
        --kernel kernel --initrd initrd --cpus 2 --disk /tmp/disk,format=raw --cmdline "$LINUX"
    want=$(head -c 1048576 /tmp/disk.first | md5sum | cut -c1-32)
    check "the disk is read right" "" /tmp/kvm grep -q "OUT disk $want" /tmp/kvm
    want=$(seq 1 200000 | head -c 1048576 | md5sum | cut -c1-32)
    found=$(tail -c 1048576 /tmp/disk | md5sum | cut -c1-32)
    check "the disk is written right" "$found" /tmp/kvm [ "$want" = "$found" ]
}

# A guest resets itself: what it wrote before is on its disk afterwards, and it powers off.
again() {
    dd if=/dev/zero of=/tmp/disk.first bs=64k count=16 2>/dev/null
    LIVES=2 INPUT=again-commands KEEP='/^OUT/p;/^exit status/p' DISK=/tmp/disk.first both "a guest resets, finds its disk and powers off" \
        --kernel kernel --initrd initrd --disk /tmp/disk,format=raw --cmdline "$LINUX"
    check "there were two lives" "" /tmp/kvm grep -q "OUT second life" /tmp/kvm
}

# The NMI button, on both engines: the guest says that it came, once, and goes on.
button() {
    for engine in kvm soft; do
        "$MOTHER" run --name button --engine $engine --timeout 300s --kernel kernel --initrd initrd --memory 160M \
            --cmdline "$LINUX" < /dev/null > /tmp/button 2> /tmp/button.err &
        vmm=$!
        await '^mother: /init started' /tmp/button 240
        "$MOTHER" nmi button > /tmp/nmi 2>&1
        check "the NMI button is pressed on $engine" "" /tmp/nmi [ "$(cat /tmp/nmi)" = button ]
        await 'NMI received for unknown reason' /tmp/button 60
        check "a guest on $engine says that an NMI came" "" /tmp/button \
            [ "$(grep -c 'NMI received for unknown reason' /tmp/button)" = 1 ]
        "$MOTHER" kill button > /dev/null 2>&1
        wait $vmm
        vmm=
    done
}

# A guest that is given less than it believes, on KVM.
limited() {
    INPUT=fill KEEP='/^OUT/p;/^exit status/p' both "a guest with 40 MiB of its 160 keeps its bytes" \
        --kernel kernel --initrd initrd --memory 160M --resident-limit 40M --cmdline "$LINUX"
    check "its sums are right" "" /tmp/kvm [ "$(grep -c 'OUT same' /tmp/kvm)" = 2 ]
}

# A user without privilege is given no faults of the kernel's own accesses: a guest has a limit on the software CPU, none on
# KVM, and goes from one to the other.
unprivileged() {
    chmod 666 /dev/kvm
    mkdir -p /tmp/nobody
    chown nobody /tmp/nobody
    rm -f /tmp/keys
    mkfifo /tmp/keys
    as_nobody() { su nobody -s /bin/sh -c "XDG_RUNTIME_DIR=/tmp/nobody HOME=/tmp/nobody exec '$MOTHER' $*"; }
    sums() {
        echo "md5sum -c -s /tmp/sums && echo OUT sa''me$1" >&3
        await "OUT same$1" /tmp/less 120
    }
    guest="--kernel '$NEST/kernel' --initrd '$NEST/initrd' --memory 160M --resident-limit 40M --cmdline '$LINUX'"
    as_nobody run --engine kvm --timeout 60s $guest > /tmp/refused 2>&1
    check "a user without privilege is refused a limit on KVM, with the way on" "status $?" /tmp/refused \
        grep -q 'use `--engine soft`' /tmp/refused
    as_nobody run --name less --engine soft --timeout 500s $guest < /tmp/keys > /tmp/less 2> /tmp/less.err &
    vmm=$!
    exec 3> /tmp/keys
    await '^mother: /init started' /tmp/less 400
    sleep 1
    echo "dd if=/dev/urandom of=/tmp/noise bs=64k count=128 2>/dev/null; yes line | head -c 40000000 > /tmp/part" >&3
    echo "md5sum /tmp/noise /tmp/part > /tmp/sums; echo OUT fil''led" >&3
    await 'OUT filled' /tmp/less 200
    check "such a user's guest has a limit on the software CPU" "" /tmp/less sums 1
    as_nobody switch less --engine kvm > /tmp/switch 2>&1
    check "with it, it does not go to KVM" "" /tmp/switch grep -q 'take the limit away first' /tmp/switch
    as_nobody limit less --resident none > /tmp/switch 2>&1
    tries=0
    until as_nobody switch less --engine kvm > /tmp/switch 2>&1 || [ $tries -gt 30 ]; do sleep 1; tries=$((tries + 1)); done
    as_nobody ps > /tmp/ps 2>&1
    check "without it, it does" "$(cat /tmp/switch)" /tmp/ps grep -q '^less *kvm *running' /tmp/ps
    check "and has its bytes there" "" /tmp/less.err sums 2
    as_nobody limit less --resident 40M > /tmp/switch 2>&1
    check "where it is given no limit" "" /tmp/switch grep -q 'it is on KVM' /tmp/switch
    as_nobody switch less --engine soft > /tmp/switch 2>&1 && as_nobody limit less --resident 40M >> /tmp/switch 2>&1
    check "but is when it is back" "status $?" /tmp/switch sums 3
    exec 3>&-
    as_nobody kill less > /dev/null 2>&1
    wait
    vmm=
}

# A guest that spins on KVM, bounded while it does.
bounded() {
    rm -f /tmp/keys
    mkfifo /tmp/keys
    "$MOTHER" run --name busy --engine kvm --timeout 300s --kernel kernel --initrd initrd --memory 128M --cmdline "$LINUX" \
        < /tmp/keys > /tmp/busy 2> /tmp/busy.err &
    vmm=$!
    exec 3> /tmp/keys
    await '^mother: /init started' /tmp/busy 400
    sleep 1
    echo "echo SPI''NS; while :; do :; done" >&3
    await '^SPINS' /tmp/busy 60
    # In hundredths of a second.
    used() { "$MOTHER" ps --json | sed -n 's/.*"cpu_seconds": *\([0-9]*\)\.\([0-9][0-9]\).*/\1\2/p'; }
    for limit in 30 60; do
        timeout 60 "$MOTHER" limit busy --cpu-limit $limit% > /tmp/limit 2>&1
        sleep 2
        before=$(used)
        sleep 20
        share=$((($(used) - before) / 20))
        check "a busy guest on KVM has $limit % of a core" "$share %" /tmp/limit \
            [ $share -ge $((limit - 5)) -a $share -le $((limit + 3)) ]
    done
    exec 3>&-
    timeout 20 "$MOTHER" kill busy >/dev/null 2>&1
    wait
    vmm=
}

# A guest computes, holds a connection over its network card and a timer, and changes its engine twenty times.
moving() {
    # `check` has a `name` of its own.
    whose="a guest of $1 vCPU moves"
    rm -f /tmp/keys /tmp/heard
    mkfifo /tmp/keys
    mkfifo /tmp/hold
    # The listener speaks first: Debian 12's passt resets a connection from a guest on which nothing ever came back, once
    # the guest has been silent for two seconds four times.
    { echo hello; exec sleep 100000; } > /tmp/hold &
    holder=$!
    nc -l -p 7000 < /tmp/hold > /tmp/heard &
    listener=$!
    # The default guest's initrd, and the program with the vector registers behind it.
    mkdir -p /tmp/more/bin
    cp vectors /tmp/more/bin/
    {
        cat initrd
        head -c $(((4 - $(stat -c %s initrd) % 4) % 4)) /dev/zero
        (cd /tmp/more && find bin | cpio -o -H newc 2>/dev/null)
    } > /tmp/moving-initrd
    # On the software CPU first, with XSAVE: KVM is told of XCR0 with the state.
    "$MOTHER" run --name mover --engine soft --timeout 800s --kernel kernel --initrd /tmp/moving-initrd --cpus "$1" --memory 256M \
        --net user,host --cmdline "console=ttyS0 quiet rdinit=/pipe" < /tmp/keys > /tmp/moved 2> /tmp/moved.err &
    vmm=$!
    exec 3> /tmp/keys
    typed worker /tmp/moved >&3
    await '^WORKING' /tmp/moved 90
    moves=0
    while [ $moves -lt 20 ]; do
        if [ $((moves % 2)) = 0 ]; then engine=kvm; else engine=soft; fi
        # Every fifth move is one of a paused VM, which stays paused.
        state=running
        [ $((moves % 5)) != 4 ] || { state=paused; timeout 60 "$MOTHER" pause mover >/tmp/switch 2>&1 || break; }
        timeout 100 "$MOTHER" switch mover --engine $engine >/tmp/switch 2>&1 || break
        "$MOTHER" ps > /tmp/ps; grep -q "^mover *$engine *$state" /tmp/ps || break
        [ $state = running ] || timeout 60 "$MOTHER" resume mover >/tmp/switch 2>&1 || break
        moves=$((moves + 1))
        sleep 1
    done
    echo 'rm /tmp/go; finish' >&3
    await '^VERDICT' /tmp/moved 240
    exec 3>&-
    timeout 20 "$MOTHER" kill mover >/dev/null 2>&1
    kill $holder $listener 2>/dev/null
    wait
    vmm=
    rm -f /tmp/hold
    check "$whose twenty times" "the one after $moves" /tmp/switch [ $moves = 20 ]
    check "$whose and its jail refuses it nothing" "" /tmp/moved.err [ "$(grep -c 'was refused' /tmp/moved.err)" = 0 ]
    if grep -q '^VERDICT right' /tmp/moved; then
        pass "$whose and computes and beats on: $(grep '^VERDICT' /tmp/moved | tr -d '\r')"
    else
        fail "$whose and computes and beats on" "$(grep '^VERDICT' /tmp/moved)" /tmp/moved 30
        tail -n 5 /tmp/moved.err | sed 's/^/     | /'
    fi
    # What came over the connection, counted here.
    n=0 wrong=0 last=
    while read -r i sum; do
        last=$i
        [ "$i" = end ] && continue
        n=$((n + 1))
        [ "$i" = $n ] && [ "$sum" = "$(echo "line $n" | md5sum | cut -c1-32)" ] || wrong=$((wrong + 1))
    done < /tmp/heard
    verdict="$n sums over the network card, $wrong wrong, end \"$last\""
    if [ $n -gt 20 ] && [ $wrong = 0 ] && [ "$last" = end ]; then
        pass "$whose with its connection: $verdict"
    else
        fail "$whose with its connection" "$verdict" /tmp/moved.err
    fi
}

# Programs of a guest on KVM, told one by one where the processor stops at their beginnings and ends.
traced() {
    timeout 200 "$MOTHER" trace --json --events exec,exit,credentials,module,log seen > /tmp/traced 2>&1 &
    tracer=$!
    await '"begins"' /tmp/traced 60
    echo 'i=0; while [ $i -lt 40 ]; do /bin/busybox true $i; i=$((i + 1)); done; echo RA''N' >&3
    await '^RAN' /tmp/seen 120
    sleep 3
    kill $tracer
    told() { grep "\"event\":\"$1\"" /tmp/traced | grep -c "$2"; }
    check "the log of a guest on KVM is sampled" "" /tmp/traced grep -q '"kind":"log","reach":"sampled"' /tmp/traced
    if ! grep -q '"kind":"exec","reach":"exact"' /tmp/traced; then
        skip "every program of a guest on KVM is told" "the processor below does not stop at breakpoints of a nested guest"
        return
    fi
    for kind in exit credentials module; do
        check "seen exactly on KVM: $kind" "" /tmp/traced grep -q "\"kind\":\"$kind\",\"reach\":\"exact\"" /tmp/traced
    done
    count=$(told exec '"true"')
    check "every program of a guest on KVM is told" "$count of 40" /tmp/traced [ "$count" = 40 ]
    count=$(told exit '"name":"busybox"')
    check "every end of one is told" "$count of 40" /tmp/traced [ "$count" -ge 40 ]
}

# Looking into a guest on KVM.
looking() {
    rm -f /tmp/keys
    mkfifo /tmp/keys
    "$MOTHER" run --name seen --engine kvm --huge-pages --timeout 300s --kernel kernel --initrd initrd --memory 256M --cmdline "$LINUX" \
        < /tmp/keys > /tmp/seen 2> /tmp/seen.err &
    vmm=$!
    exec 3> /tmp/keys
    await '^mother: /init started' /tmp/seen 140
    sleep 1
    # Nobody has asked for its working set yet, for which a sample of small pages would be taken.
    huge=$(sed -n 's/^ShmemPmdMapped: *//p' /proc/meminfo)
    check "a guest's memory on KVM is in huge pages" "$huge" /proc/meminfo [ "${huge% kB}" -gt 20000 ]
    echo 'sleep 98765 & echo SLEEPS' >&3
    await '^SLEEPS' /tmp/seen 30
    timeout 100 "$MOTHER" ps seen > /tmp/processes 2>&1
    check "mother ps sees a guest's processes on KVM" "" /tmp/processes grep -q sleep /tmp/processes
    timeout 100 "$MOTHER" truth seen > /tmp/truth 2>&1
    status=$?
    check "mother truth finds nothing wrong with an honest guest on KVM" "status $status" /tmp/truth [ $status = 0 ]
    check "mother truth knows the guest's kernel" "" /tmp/truth grep -q agrees /tmp/truth
    traced
    sleep 10
    "$MOTHER" inspect --json seen > /tmp/inspected 2>&1
    check "the working set is sampled for who asks" "" /tmp/inspected grep -q '"working_set": *{' /tmp/inspected
    exec 3>&-
    timeout 20 "$MOTHER" kill seen >/dev/null 2>&1
    wait
    vmm=
}
