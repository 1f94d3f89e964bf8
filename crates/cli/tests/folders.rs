//! Folders of the host in a guest, as a user has them.
//!
//! As in `guest.rs`, each test says that it was skipped where the default guest cannot be had.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
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

#[test]
fn programs_find_in_a_folder_what_they_find_on_a_disk() {
    let python = Path::new("/usr/bin/python3");
    let Some(host) = Host::with_guest().filter(|_| python.exists()) else {
        return println!("skipped: no guest, or no Python on this host");
    };
    let at = |name: &str| host.folder().join(name);
    fs::create_dir(at("data")).unwrap();
    fs::write(at("secret"), "").unwrap();
    symlink("/outside/secret", at("data/out")).unwrap();
    let _listener = UnixListener::bind(at("data/socket")).unwrap();
    let script = include_str!("scripts/folders.py");
    let words = ["--app", python.to_str().unwrap(), "-v", "data:/data"];
    let ran = host
        .mother
        .run(&[&words[..], &["--net", "none", "--", "-c", script]].concat());
    assert_eq!(
        (ran.stdout.as_str(), ran.status),
        ("all is well\n", Some(0)),
        "{}",
        ran.stderr
    );
    // What was written through mappings is where it was put.
    let mut expected = vec![b'.'; 10000];
    expected[5000..5004].copy_from_slice(b"ours");
    expected[9990..9994].copy_from_slice(b"last");
    assert!(fs::read(at("data/mapped")).unwrap() == expected);
    expected.extend(b"end");
    assert!(fs::read(at("data/appended")).unwrap() == expected);
}

#[test]
fn a_guest_that_cannot_have_a_folder_fails_and_says_why() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    fs::create_dir(host.folder().join("data")).unwrap();
    let why = "did not start: it cannot have the folder at /proc/x: mkdir: can't create directory '/proc/x'";
    let check = |words: &[&str]| {
        let ran = host.mother.run(&[&["-v", "data:/proc/x"], words].concat());
        assert_eq!(ran.status, Some(1), "{words:?}: {}", ran.stderr);
        let complaints = ran.stderr.matches("error: ").count();
        assert!(
            ran.stderr.contains(why) && complaints == 1,
            "{words:?}: {}",
            ran.stderr
        );
    };
    check(&[]);
    check(&["--", "true"]);
    check(&["--app", "/bin/true"]);
    let ran = host
        .mother
        .run(&["-d", "--name", "sharing", "-v", "data:/proc/x"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let ended = host.call(&["wait", "sharing"]);
    assert_eq!(ended.status, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(why) || ended.stdout.contains(why));
}

#[test]
fn two_hundred_megabytes_go_through_a_folder_under_a_resident_limit() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let at = |name: &str| host.folder().join(name);
    fs::create_dir(at("data")).unwrap();
    let part = much();
    let mut file = fs::File::create(at("data/from")).unwrap();
    let mut left = 200 << 20;
    while left > 0 {
        let count = part.len().min(left);
        file.write_all(&part[..count]).unwrap();
        left -= count;
    }
    drop(file);
    let words = [
        "--memory",
        "160M",
        "--resident-limit",
        "64M",
        "-v",
        "data:/data",
    ];
    let script = "cp /data/from /data/to && md5sum < /data/to";
    let ran = host
        .mother
        .run(&[&words[..], &["--net", "none", "--", "sh", "-c", script]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let compared = Command::new("cmp")
        .args([at("data/from"), at("data/to")])
        .status();
    assert!(compared.unwrap().success());
    let file = fs::File::open(at("data/from")).unwrap();
    let sum = Command::new("md5sum").stdin(file).output().unwrap();
    assert_eq!(ran.stdout, String::from_utf8(sum.stdout).unwrap());
}
