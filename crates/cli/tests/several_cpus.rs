//! Guests of several CPUs, as a user sees them: all are there, the kernel has no complaints, and the guest comes to its
//! end whichever CPU ends it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::common::{Ran, with_guest};

fn run(words: &[&str], input: &str) -> Option<Ran> {
    with_guest().map(|mother| mother.type_into(words, input))
}

fn answers(ran: &Ran) -> Vec<&str> {
    ran.stdout.lines().collect()
}

#[test]
fn every_cpu_is_there_and_the_kernel_is_content() {
    // What the kernel says when the host gives its core to somebody else in the middle of an interrupt is left out.
    let commands = "nproc\n\
        cat /sys/devices/system/clocksource/clocksource0/current_clocksource\n\
        cat /sys/devices/system/cpu/cpu1/topology/core_siblings_list\n\
        cat /sys/devices/system/cpu/cpu1/topology/thread_siblings_list\n\
        for cpu in 1 2 4 8; do taskset $cpu sh -c 'echo works'; done\n\
        dmesg -r | grep -E '^<[0-4]>' | grep -v 'hrtimer: interrupt took'; true\n";
    let Some(ran) = run(&["--cpus", "4"], commands) else {
        return;
    };
    let expected = ["4", "tsc", "0-3", "1", "works", "works", "works", "works"];
    assert_eq!((answers(&ran), ran.status), (expected.to_vec(), Some(0)));
}

#[test]
fn any_cpu_may_end_the_guest() {
    let check = |name: &str, words: &[&str], input: &str, status: i32, said: &str| {
        let console = ["--cpus", "3", "--console", "serial"];
        let words: Vec<&str> = console.iter().chain(words).copied().collect();
        let Some(ran) = run(&words, input) else {
            return;
        };
        assert_eq!(
            ran.status,
            Some(status),
            "{name}: {}{}",
            ran.stdout,
            ran.stderr
        );
        assert!(ran.stderr.contains(said), "{name}: {}", ran.stderr);
    };
    let busy = "taskset 1 sh -c 'while :; do :; done' & taskset 2 sh -c 'while :; do :; done' &\n";
    let on_last = |command: &str| format!("{busy}taskset 4 sh -c '{command}'\nsleep 100\n");
    check("power-off", &[], &on_last("poweroff -f"), 0, "powered off");
    check(
        "reset",
        &["--no-reboot"],
        &on_last("reboot -f"),
        0,
        "powered off",
    );
    let crash = on_last("echo -1 >/proc/sys/kernel/panic; echo c >/proc/sysrq-trigger");
    check("panic", &["--no-reboot"], &crash, 0, "powered off");
    check(
        "triple fault",
        &["--cmdline", "reboot=t"],
        &on_last("reboot -f"),
        3,
        "triple fault",
    );
    check(
        "time is up",
        &["--timeout", "4s"],
        &on_last("true"),
        124,
        "ran out of time",
    );
}

#[test]
fn a_guest_of_several_cpus_starts_again() {
    // The second life finds what the first one found, and is ended by its time.
    let input = "nproc\ntaskset 2 reboot -f\nsleep 100\n";
    let Some(ran) = run(
        &["--cpus", "2", "--console", "serial", "--timeout", "25s"],
        input,
    ) else {
        return;
    };
    assert_eq!(ran.status, Some(124), "{}", ran.stderr);
    let starts = ran.stdout.matches("smp: Brought up 1 node, 2 CPUs").count();
    assert!(starts >= 2, "{}", ran.stdout);
}
