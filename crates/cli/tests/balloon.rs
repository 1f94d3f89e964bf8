//! Memory that a real guest gives back when it is asked, and takes again.
//!
//! As in `guest.rs`, each test says that it was skipped where the default guest cannot be had.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::host::Host;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A guest of 512 MiB with a disk, at its prompt, and its console.
fn guest() -> Option<(Host, UnixStream)> {
    let host = Host::with_guest()?;
    File::create(host.folder().join("disk"))
        .unwrap()
        .set_len(200 * MIB)
        .unwrap();
    let words = [
        "-d",
        "--name",
        "web",
        "--memory",
        "512M",
        "--disk",
        "disk,format=raw",
        "--timeout",
        "110s",
    ];
    let ran = host.mother.run(&words);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    host.expect_log("web", ":~# ");
    let console = host.attach("web");
    Some((host, console))
}

/// Types a line; what the guest answers until it says that it is done.
fn ask(host: &Host, console: &mut UnixStream, line: &str, mark: &str) -> String {
    // In two pieces, so that the echo of the line is not the answer.
    console
        .write_all(format!("echo {mark}'<'; {line}; echo {mark}'>'\n").as_bytes())
        .unwrap();
    let start = format!("{mark}<");
    let end = format!("{mark}>");
    host.expect_log("web", &end);
    let log = host.call(&["logs", "web"]).stdout;
    let from = log.find(&start).unwrap() + start.len();
    log[from..log.find(&end).unwrap()].to_owned()
}

/// `mother balloon web` with these words.
fn balloon(host: &Host, words: &[&str], status: i32) -> Value {
    let ran = host.call(&[&["balloon", "--json", "web"], words].concat());
    assert_eq!(
        ran.status,
        Some(status),
        "{words:?}: {}{}",
        ran.stdout,
        ran.stderr
    );
    serde_json::from_str(&ran.stdout).unwrap()
}

fn resident(host: &Host) -> u64 {
    host.ps("web")["memory_resident_bytes"].as_u64().unwrap()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_the_guest_caches_goes_back_to_the_host_when_it_is_asked() {
    let Some((host, mut console)) = guest() else {
        return;
    };
    // Pages of the cache are in use for the guest: nothing but the balloon has it give them back.
    ask(
        &host,
        &mut console,
        "dd if=/dev/vda of=/dev/null bs=1M 2>/dev/null",
        "read",
    );
    let before = resident(&host);
    assert!(before > 150 * MIB, "{before}");
    let known = balloon(&host, &["400M"], 0);
    assert_eq!(
        (&known["balloon_bytes"], &known["reached"]),
        (&(400 * MIB).into(), &true.into())
    );
    // What is not in the balloon, and a little for the table of what is.
    wait_until("the host holds more than the guest has left", || {
        resident(&host) < 120 * MIB
    });
    let left = ask(
        &host,
        &mut console,
        "grep MemAvailable /proc/meminfo",
        "left",
    );
    let left: u64 = left
        .split_whitespace()
        .find_map(|word| word.parse().ok())
        .unwrap();
    assert!(
        left < 120 * 1024,
        "the guest says that it has {left} KiB for programs"
    );
    let known = balloon(&host, &["0"], 0);
    assert_eq!(known["balloon_bytes"], 0);
    let sum = ask(
        &host,
        &mut console,
        "dd if=/dev/zero of=/tmp/f bs=1M count=200 2>/dev/null; md5sum </tmp/f",
        "use",
    );
    // 200 MiB of zeros: pages that come back are empty and whole.
    assert!(sum.contains("3566de3a97906edb98d004d6b947ae9b"), "{sum}");
}

#[test]
fn a_guest_takes_pages_out_of_its_balloon_before_it_kills_a_program() {
    let Some((host, mut console)) = guest() else {
        return;
    };
    let full = balloon(&host, &["420M"], 0)["balloon_bytes"]
        .as_u64()
        .unwrap();
    let said = ask(
        &host,
        &mut console,
        "dd if=/dev/zero of=/tmp/f bs=1M count=150 2>/dev/null; wc -c </tmp/f; dmesg | grep -c 'Out of memory'",
        "full",
    );
    let numbers: Vec<u64> = said
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    assert_eq!(numbers, [150 * MIB, 0], "{said}");
    let left = balloon(&host, &[], 0)["balloon_bytes"].as_u64().unwrap();
    assert!(left < full, "{left} of {full} are still in the balloon");
}

#[test]
fn a_balloon_that_nobody_blows_up_is_told_from_one_that_is_slow() {
    let host = Host::new();
    host.start("web");
    let check = |words: &[&str], status, expected: &str| {
        let ran = host.call(&[&["balloon"], words].concat());
        assert_eq!(
            (ran.status, ran.stderr.contains(expected)),
            (Some(status), true),
            "{words:?}: {}",
            ran.stderr
        );
    };
    check(
        &["web", "16M"],
        1,
        "the guest has no driver for its balloon",
    );
    check(&["web", "33M"], 2, "more than the 32M that its guest has");
    check(&["web", "much"], 2, "write a number with K, M or G");
    check(&["web", "5000"], 2, "whole pages");
    check(&["nobody", "16M"], 1, "nobody");
    check(&["../x"], 2, "cannot be the name");
    assert_eq!(
        host.call(&["balloon", "web"]).stdout.split(';').next(),
        Some("web: 0 of 0 in the balloon")
    );
    assert_eq!(host.call(&["stop", "web"]).status, Some(0));
    check(&["web", "0"], 1, "it has ended");
}
