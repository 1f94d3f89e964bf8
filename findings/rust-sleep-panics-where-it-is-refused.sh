#!/bin/bash
# Rust's std::thread::sleep panics where the kernel says no: under a filter of system calls that answers with an error, a thread
# that only wanted to wait is gone.
#
# Expected: a call that returns nothing waits for at least the time, as its page says, or at worst comes back early. A filter that
# answers EPERM (seccomp(2), SECCOMP_RET_ERRNO) is chosen over one that ends the process because programs then go on without what
# they were refused; C's sleep(3) and nanosleep(2) do.
# Seen: the answer is compared with EINTR by an assertion, so every other error is a panic of the calling thread: one in a library's
# background thread is a thread less, one in main ends the program with 101. Which call it is has changed too: clock_nanosleep
# where earlier versions had nanosleep, so a list that was made by watching a program built by one of those refuses it in the next.
# What waits by other calls is not concerned: Condvar::wait_timeout, recv_timeout and park_timeout are futex.
# Where: Rust 1.95.0, seccompiler 0.5.0, Linux x86-64. Source: library/std/src/sys/thread/unix.rs.
# Output seen: "sleep panicked; park_timeout came back"
set -eu
command -v cargo > /dev/null || exit 2
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT
mkdir -p "$W/src"
cat > "$W/Cargo.toml" <<'T'
[package]
name = "sleeps"
version = "0.0.0"
edition = "2021"

[dependencies]
libc = "=0.2.177"
seccompiler = "=0.5.0"
T
cat > "$W/src/main.rs" <<'R'
use std::collections::BTreeMap;
use std::convert::TryInto;
use std::thread;
use std::time::Duration;

use seccompiler::{apply_filter, BpfProgram, SeccompAction, SeccompFilter};

fn main() {
    let refused = [libc::SYS_nanosleep, libc::SYS_clock_nanosleep];
    let rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> =
        refused.into_iter().map(|call| (call, Vec::new())).collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    apply_filter(&program).unwrap();
    let wait = Duration::from_millis(20);
    let slept = thread::spawn(move || thread::sleep(wait)).join();
    let parked = thread::spawn(move || thread::park_timeout(wait)).join();
    println!(
        "sleep {}; park_timeout {}",
        if slept.is_err() { "panicked" } else { "came back" },
        if parked.is_err() { "panicked" } else { "came back" }
    );
}
R
got=$(cd "$W" && cargo run --quiet 2> /dev/null)
echo "$got"
[ "$got" = "sleep panicked; park_timeout came back" ]
