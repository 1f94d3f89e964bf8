# One boot of the same kernel and initrd on KVM, by `mother` or by QEMU.

# Hundredths of a second.
now() { cut -d' ' -f1 /proc/uptime | tr -d .; }
append="console=ttyS0 noxsave rdinit=/bench"
start() {
    huge=
    case $1 in
        mother | mother-huge)
            [ $1 = mother ] || huge=--huge-pages
            timeout 100 "$MOTHER" run --engine kvm $huge --kernel kernel --initrd initrd --memory 512M --cmdline "$append"
            ;;
        qemu-*)
            # Memory that others can look at, as Mother's is, is in a file and in pages of 4 KiB; other memory may be in huge
            # pages, which leave the guest once for 512 small ones.
            machine=${1#qemu-}
            [ $machine = shared ] && machine="q35,memory-backend=all -object memory-backend-memfd,id=all,size=512M"
            timeout 100 sh ./qemu -accel kvm -cpu max -M $machine -m 512M -smp 1 -nodefaults -display none -monitor none \
                -serial stdio -no-reboot -kernel kernel -initrd initrd -append "$append panic=-1"
            ;;
    esac
}
# Starts a VMM, and when its guest has reached /init, says the time and what KVM counted of it.
boot() {
    start=$(now)
    : > /tmp/booted
    start "$1" < /dev/null > /tmp/booted 2>/tmp/booted.err &
    vmm=$!
    until grep -q '^mother: /init started' /tmp/booted || [ ! -d /proc/$vmm ]; do usleep 20000; done
    line="BOOT $1 time $(($(now) - start))"
    for kind in exits io_exits mmio_exits halt_exits irq_exits irq_window_exits insn_emulation; do
        line="$line $kind $(cat /sys/kernel/debug/kvm/$kind)"
    done
    if grep -q '^mother: /init started' /tmp/booted; then
        echo "$line"
        wait $vmm
    else
        wait $vmm
        echo "BOOT $1 failed: exit status $?"
        tail -n 15 /tmp/booted /tmp/booted.err | tr -d '\r' | sed 's/^/     | /'
        return 1
    fi
}

# How often Linux comes up, how long it takes and how often it leaves the guest, in many boots in turns: by `mother` and by
# QEMU's own KVM.
boots() {
    : > /tmp/boots
    for round in 1 2 3 4 5 6 7 8 9 10; do
        others=
        [ $round -gt 3 ] || others="qemu-shared qemu-microvm"
        for vmm in mother mother-huge qemu-q35 $others; do
            boot $vmm > /tmp/one
            cat /tmp/one
            cat /tmp/one >> /tmp/boots
        done
    done
    for vmm in mother mother-huge qemu-q35 qemu-shared qemu-microvm; do
        line="MEDIANS of $(grep -c "^BOOT $vmm time" /tmp/boots) $vmm"
        for kind in time exits io_exits mmio_exits; do
            line="$line $kind $(sed -n "s/^BOOT $vmm\( .*\)\? $kind \([0-9]*\).*/\2/p" /tmp/boots | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }')"
        done
        echo "$line"
    done
    ours=$(grep -c '^BOOT mother.* time' /tmp/boots) theirs=$(grep -c '^BOOT qemu-q35 time' /tmp/boots)
    check "twenty boots in twenty reach /init on KVM" "$ours of mother, $theirs of QEMU" "" [ $ours = 20 ]
}
