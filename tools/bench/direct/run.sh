#!/bin/sh
# Measures what running a guest's programs directly would cost on this host, and what of the host they would see.
#
#     tools/bench/direct/run.sh [FOLDER]
#
# It needs a C compiler with a static C library, python3 and objdump; no root. What it builds lies in FOLDER (a temporary one
# without it). Two minutes; other work on the machine makes everything longer, so shortest times are printed, and the order of
# what is compared goes round. Figures of one sitting stand in docs/decisions/0039-guest-programs-run-directly.md.
set -eu
here=$(dirname "$(realpath "$0")")
folder=$(realpath "${1:-$(mktemp -d)}")
works="alu interpreter recursion chase stream matrix-sse2 matrix-avx2 x87 mathematics sort memcpy rep-movsb sha256 compress locked across-pages data-beside-code code-rewritten"
cc=${CC:-cc}
"$cc" -O2 -Wall -Wextra -o "$folder/ways" "$here/ways.c"
"$cc" -O2 -Wall -Wextra -fno-stack-protector -static-pie -o "$folder/prototype" "$here/prototype.c"
cpu=$here/../../../guests/cpu
"$cc" -std=gnu11 -O2 -static -pthread -o "$folder/cpu" "$cpu/main.c" "$cpu/user.c" "$cpu/system.c" -lm

"$folder/ways"
python3 "$here/scan.py" --bytes $(for name in libc.so.6 libm.so.6 libstdc++.so.6 libcrypto.so.3 ld-linux-x86-64.so.2; do
    "$cc" -print-file-name="$name"; done | while read -r path; do [ ! -e "$path" ] || realpath "$path"; done)

for round in 1 2 3; do
    "$folder/cpu" leaf $works > "$folder/native.$round"
    for how in "1 scattered" "16 scattered" "16 ordered" "512 ordered"; do
        # Two words.
        "$folder/prototype" $how "$folder/cpu" leaf $works > "$folder/$(echo "$how" | tr ' ' -).$round"
    done
done
# The shortest of the rounds, divided by the host's own.
awk '$1 == "cpu" && NF == 5 { side = FILENAME; sub(/.*\//, "", side); sub(/\.[0-9]$/, "", side); key = side " " $3
        if (!(key in least) || $4 < least[key]) least[key] = $4; sides[side]; names[$3] }
     END { for (side in sides) if (side != "native") { sum = 0; count = 0
             for (name in names) { ratio = least[side " " name] / least["native " name]; sum += log(ratio); count++
                 printf "ratio %s %s %.2f\n", side, name, ratio }
             printf "ratio %s geometric-mean %.2f\n", side, exp(sum / count) } }' "$folder"/native.? "$folder"/*-ordered.? "$folder"/*-scattered.?
