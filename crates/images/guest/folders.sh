# Sourced by every init of ours. Mounts the folders of the host that the guest shares, each at its place; $1 is the root of the
# program's file system. A guest that cannot have one of them does not start without it.
no_folder() {
    echo "mother: the guest does not start without the folder at $1: $2"
    sleep 1
    poweroff -f
    sleep 100
}

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
