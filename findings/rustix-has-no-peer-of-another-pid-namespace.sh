#!/bin/bash
# rustix's socket_peercred fails with error number 0, "Success", for a peer that is outside of the caller's PID namespace.
#
# Expected: SO_PEERCRED (unix(7)) succeeds for every connected peer. The process number of one that the reader's PID namespace
# does not know is 0, and its user and group are there all the same: a server in a container is to see them, or to be told
# that there is no process number.
# Seen: getsockopt returns 0 and {pid=0, uid, gid}; `rustix::net::sockopt::socket_peercred` returns Err(Errno(0)). Its answer
# has the number as a type that cannot be 0, into which the kernel's bytes are put as they are, and the place of a 0 there is
# what the compiler uses to tell Ok from Err. So a server that treats an error as "unknown" never learns who asks.
# Where: rustix 1.1.6, rustc 1.95, x86-64, Linux 6.18. Source: src/net/types.rs (UCred), src/backend/linux_raw/
# net/sockopt.rs (socket_peercred).
# Output seen: "same namespace: a peer; another namespace: error 0"
set -eu
command -v cargo > /dev/null || exit 2
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT
mkdir "$W/src"
cat > "$W/Cargo.toml" <<'T'
[package]
name = "peer"
version = "0.0.0"
edition = "2021"

[dependencies]
rustix = { version = "=1.1.6", default-features = false, features = ["std", "net"] }

[workspace]
T
cat > "$W/src/main.rs" <<'R'
//! `server SOCKET` says what it is told of who connects; `client SOCKET` connects and waits to be let go.

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let [_, role, path] = &words[..] else { std::process::exit(2) };
    if role == "client" {
        let mut stream = UnixStream::connect(path).expect("it listens");
        let _ = stream.read(&mut [0]);
        return;
    }
    let listener = UnixListener::bind(path).expect("the folder is ours");
    let (stream, _) = listener.accept().expect("one connects");
    match rustix::net::sockopt::socket_peercred(&stream) {
        Ok(_) => println!("a peer"),
        Err(error) => println!("error {}", error.raw_os_error()),
    }
}
R
(cd "$W" && CARGO_TARGET_DIR="$W/target" cargo build --quiet --release) || exit 2
ask() { # the server's words, started by the command given
    "$@" "$W/target/release/peer" server "$W/socket" > "$W/said" &
    while [ ! -S "$W/socket" ]; do kill -0 $! 2> /dev/null || exit 2; sleep 0.1; done
    "$W/target/release/peer" client "$W/socket"
    wait $!
    rm "$W/socket"
    cat "$W/said"
}
here=$(ask env)
there=$(ask unshare --map-root-user --pid --fork)
echo "same namespace: $here; another namespace: $there"
[ "$here" = "a peer" ] && [ "$there" = "error 0" ]
