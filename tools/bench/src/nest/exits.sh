# What it costs to leave the guest, on both engines in turns.
exits() {
    for round in 1 2 3; do
        for engine in kvm soft; do
            timeout 100 "$MOTHER" run --engine $engine --kernel exits.bin --cpus 2 --debug-exit --memory 32M < /dev/null 2>/dev/null |
                tr -d '\r' | sed -n "s/^ticks /EXITS $engine /p"
        done
    done
}
