# Sourced by every init of ours. What the guest is called, and what programs expect to find: themselves under that name
# and `localhost`, a list of resolvers, their streams as files. `$1` is the root of the program's file system.
called() {
    name=$(mother_option name)
    name=${name:-guest}
    hostname "$name"
    mkdir -p "$1/etc"
    # A symbolic link in an image may lead anywhere; it is replaced, not followed.
    for file in hosts hostname resolv.conf; do
        [ ! -L "$1/etc/$file" ] || rm -f "$1/etc/$file"
    done
    grep -qsw localhost "$1/etc/hosts" ||
        printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >>"$1/etc/hosts"
    grep -qsw "$name" "$1/etc/hosts" || printf '127.0.1.1\t%s\n' "$name" >>"$1/etc/hosts"
    echo "$name" >"$1/etc/hostname"
    [ -e "$1/etc/resolv.conf" ] || : >"$1/etc/resolv.conf"
    ln -sfn /proc/self/fd "$1/dev/fd"
    ln -sf /proc/self/fd/0 "$1/dev/stdin"
    ln -sf /proc/self/fd/1 "$1/dev/stdout"
    ln -sf /proc/self/fd/2 "$1/dev/stderr"
}
