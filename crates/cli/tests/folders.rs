//! Folders of the host in a guest, as a user has them.
//!
//! As in `guest.rs`, each test says that it was skipped where the default guest cannot be had.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::host::Host;

/// Bytes of the large file: more than the guest may have in memory.
const MUCH: usize = 48 << 20;

fn much() -> Vec<u8> {
    let word = |n: u32| n.wrapping_mul(2_654_435_761).to_le_bytes();
    (0..MUCH as u32 / 4).flat_map(word).collect()
}

/// What a guest's shell says to a script.
fn guest(host: &Host, script: &str) -> String {
    let ran = host.call(&["exec", "-n", "sharing", "--", "sh", "-c", script]);
    assert_eq!(ran.status, Some(0), "{script}: {}", ran.stderr);
    ran.stdout
}

fn check(host: &Host, script: &str, expected: &str) {
    assert_eq!(guest(host, script), expected, "{script}");
}

/// The processes that serve this folder.
fn servers(folder: &Path) -> Vec<String> {
    let folder = folder.canonicalize().unwrap();
    let serves = |process: &PathBuf| {
        let words = fs::read(process.join("cmdline")).unwrap_or_default();
        let files = fs::read_dir(process.join("fd")).into_iter().flatten();
        let mut places = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok());
        words.starts_with(b"mother: folder") && places.any(|place| place == folder)
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .map(|process| process.path())
        .filter(serves)
        .map(|process| process.file_name().unwrap().to_str().unwrap().to_owned())
        .collect()
}

fn kill(process: &str) {
    let killed = Command::new("kill").args(["-9", process]).status().unwrap();
    assert!(killed.success());
}

fn wait_until(what: &str, is_true: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A guest under a resident limit that shares `data`, and `fixed` to be read.
fn sharing() -> Option<Host> {
    let host = Host::with_guest()?;
    let at = |name: &str| host.folder().join(name);
    fs::create_dir(at("data")).unwrap();
    fs::create_dir(at("fixed")).unwrap();
    fs::write(at("data/much"), much()).unwrap();
    fs::write(at("fixed/text"), "text\n").unwrap();
    symlink("/etc", at("data/etc")).unwrap();
    let words = [
        "-d",
        "--name",
        "sharing",
        "--memory",
        "160M",
        "--resident-limit",
        "64M",
        "-v",
        "data:/srv/my data",
        "-v",
        "fixed:/fixed:ro",
    ];
    let ran = host.mother.run(&words);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    Some(host)
}

#[test]
fn a_guest_and_its_host_share_a_folder() {
    let Some(host) = sharing() else { return };
    let at = |name: &str| host.folder().join(name);
    let script = "cd '/srv/my data'; cat much | md5sum; cp much copy; mv copy moved; ls";
    let said = guest(&host, script);
    assert!(said.ends_with("\netc\nmoved\nmuch\n"), "{said}");
    assert!(fs::read(at("data/moved")).unwrap() == much());
    let sum = Command::new("md5sum")
        .arg(at("data/much"))
        .output()
        .unwrap();
    assert_eq!(said[..32], String::from_utf8(sum.stdout).unwrap()[..32]);
    // A name is taken from what is open, which stays what it is.
    check(
        &host,
        "cd '/srv/my data'; echo old > a; echo new > b; exec 3< a; mv b a; cat <&3; cat a; rm a",
        "old\nnew\n",
    );
    // A link is the guest's to follow.
    check(&host, "cat '/srv/my data/etc/hostname'", "sharing\n");
    check(
        &host,
        "cd '/srv/my data'; mkdir many; cd many; i=0; while [ $i -lt 3000 ]; do : > name$i; i=$((i + 1)); done; ls | wc -l",
        "3000\n",
    );
    assert_eq!(fs::read_dir(at("data/many")).unwrap().count(), 3000);
    check(
        &host,
        "cat /fixed/text; { echo x > /fixed/text; } 2>&1 || cat /fixed/text",
        "text\nsh: can't create /fixed/text: Read-only file system\ntext\n",
    );
    assert_eq!(fs::read_to_string(at("fixed/text")).unwrap(), "text\n");
    let refused = host.call(&["snapshot", "sharing"]);
    assert_eq!(refused.status, Some(1), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("shares folders"),
        "{}",
        refused.stderr
    );
}

#[test]
fn who_serves_a_folder_may_go_and_the_guest_lives_but_never_the_other_way_round() {
    let Some(host) = sharing() else { return };
    let at = |name: &str| host.folder().join(name);
    // From here on both are mounted.
    check(
        &host,
        "ls '/srv/my data'; cat /fixed/text",
        "etc\nmuch\ntext\n",
    );
    let of_data = servers(&at("data"));
    let of_fixed = servers(&at("fixed"));
    assert_eq!((of_data.len(), of_fixed.len()), (1, 1));
    kill(&of_data[0]);
    let script = "cat '/srv/my data/much' 2>&1 || ls '/srv/my data' 2>&1 || cat /fixed/text";
    let said = guest(&host, script);
    assert!(
        said.contains("Input/output error") && said.ends_with("text\n"),
        "{said}"
    );
    let killed = host.call(&["kill", "sharing"]);
    assert_eq!(killed.status, Some(0), "{}", killed.stderr);
    wait_until("a server outlives its VM", || {
        servers(&at("fixed")).is_empty()
    });
}

#[test]
fn what_cannot_be_shared_is_refused_before_anything_starts() {
    let host = Host::new();
    fs::write(host.folder().join("file"), "").unwrap();
    let check = |folders: &[&str], expected: &str| {
        let words: Vec<&str> = folders.iter().flat_map(|it| ["-v", it]).collect();
        let ran = host.run(&words);
        assert_eq!(ran.status, Some(2), "{folders:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{folders:?}: {}", ran.stderr);
    };
    check(&["none:/x"], "there is no folder none");
    check(&["file:/x"], "file is no folder");
    check(&["/:/x"], "is the root of this host");
    check(&["/tmp:x"], "is no place in a guest");
    check(&["/tmp"], "does not say where in the guest");
    check(&["/tmp:/x", "/var:/x"], "two folders are to be at /x");
}
