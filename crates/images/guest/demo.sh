#!/bin/busybox sh
# The guest introduces itself and runs real programs whose answers are known beforehand. Lines that start with
# "mother: " are read by `mother demo`: "claim KEY VALUE" is what the guest believes, "ran NAME VERDICT MS WHAT" what
# it did, by its own clock.
echo "mother: /init started"
. /etc/mounts

claim() {
    echo "mother: claim $*"
}

field() {
    sed -n "s/^$1[[:space:]]*:[[:space:]]*//p" "$2" | head -n 1
}

# A one goes before the hundredths: 08 and 09 would be taken for bad octal numbers.
now_ms() {
    read -r up rest </proc/uptime
    echo $((${up%.*} * 1000 + (1${up#*.} - 100) * 10))
}

# try NAME COMMAND ANSWER
try() {
    begin=$(now_ms)
    got=$(eval "$2" 2>&1)
    ms=$(($(now_ms) - begin))
    if [ "$got" = "$3" ]; then
        echo "mother: ran $1 right $ms $got"
    else
        echo "mother: ran $1 WRONG $ms got '$got' instead of '$3'"
    fi
}

claim kernel "$(uname -s) $(uname -r) $(uname -v)"
claim cpu "$(field 'model name' /proc/cpuinfo)"
claim cpus "$(grep -c ^processor /proc/cpuinfo)"
claim hypervisor "$(grep -q hypervisor /proc/cpuinfo && echo yes || echo no)"
claim memory_total_kib "$(field MemTotal /proc/meminfo | cut -d' ' -f1)"
claim command_line "$(cat /proc/cmdline)"

try hashing 'yes mother | head -c 4000000 | sha256sum | cut -c1-64' \
    381e690c9981c209f2730a6e4165abc64358f7eec2c03241d6c6167c5059d5c1
try sorting 'awk "BEGIN { x = 1; for (i = 0; i < 30000; i++) { x = (x * 16807) % 2147483647; print x } }" | sort -n | sha256sum | cut -c1-64' \
    6a448d4a42016a1d02688451422aab1a6ef8f89c89057365cde1c32ab0745a80
try float 'awk "BEGIN { for (i = 0; i < 300000; i++) s += (i % 2 ? -1 : 1) / (2 * i + 1); printf \"pi is near %.10f\", 4 * s }"' \
    'pi is near 3.1415893203'
try threads 'visitor threads' '8 threads, sum 1599920000, locked 160000, ids 28'
try processes 'visitor storm' '240 processes, codes 28680'

total=$(field MemTotal /proc/meminfo | cut -d' ' -f1)
available=$(field MemAvailable /proc/meminfo | cut -d' ' -f1)
claim memory_used_kib "$((total - available))"
claim uptime_ms "$(now_ms)"
# Jiffies of user, nice, system; idle follows. The kernel shows them in hundredths of a second.
read -r word user nice system rest </proc/stat
claim cpu_ms "$(((user + nice + system) * 10))"
claim processes_started "$(sed -n 's/^processes //p' /proc/stat)"
claim interrupts "$(sed -n 's/^intr \([0-9]*\).*/\1/p' /proc/stat)"
poweroff -f
