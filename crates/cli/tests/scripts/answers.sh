coproc GUEST { "$MOTHER" run --timeout 90s 2>/dev/null; }
wait_for() {
    while read -r -t 20 -u "${GUEST[0]}" line; do [[ $line == *"$1"* ]] && return; done
    echo "no $1"; exit 1
}
for n in 1 2 3 4 5 6 7 8; do
    echo "echo answer \$((10 + $n))" >&"${GUEST[1]}"
    wait_for "answer $((10 + n))"
done
echo all
