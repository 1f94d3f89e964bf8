# Sourced by every init of ours. Tells the host why a guest does not start; and mounts the folders of the host that the guest
# shares, each at its place, without which it does not.

# Tells it by a claim: one line, as short and as plain as those have to be.
not_started() {
    echo "mother: the guest does not start: $*"
    why=$(echo "$*" | tr '\n' ' ' | tr -c ' -~' '?' | cut -b -220)
    for port in /sys/class/virtio-ports/*; do
        [ "$(cat "$port/name" 2>/dev/null)" != mother.claims ] || echo "claim start_failed $why" >"/dev/${port##*/}"
    done
    # Until the console is through.
    sleep 1
    poweroff -f
    sleep 100
}

no_folder() {
    not_started "it cannot have the folder at $1: $2"
}

# $1 is the root of the program's file system.
mount_folders() {
    # TAG,ro|rw,PLACE, where what is no plain character of the place is written as an octal number.
    for folder in $(mother_option folder); do
        tag=${folder%%,*}
        rest=${folder#*,}
        place=$(printf '%b.' "${rest#*,}")
        place=${place%.}
        # A link in an image may lead out of it.
        at=$1
        rest=${place#/}/
        while [ -n "$1" ] && [ -n "$rest" ]; do
            at=$at/${rest%%/*}
            rest=${rest#*/}
            [ ! -L "$at" ] ||
                no_folder "$place" "in the image, ${at#"$1"} is a link to $(readlink "$at"): name the place that it leads to"
        done
        grep -qw virtiofs /proc/filesystems || no_folder "$place" "the guest's kernel has no virtiofs"
        mode=${folder#*,}
        said=$(mkdir -p "$1$place" 2>&1 && mount -t virtiofs -o "${mode%%,*}" "$tag" "$1$place" 2>&1) ||
            no_folder "$place" "$said"
    done
}
