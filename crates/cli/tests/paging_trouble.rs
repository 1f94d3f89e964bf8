//! Guests whose pages have no room, do not come back, or whose VM is killed: they wait, or end with a report, and never
//! read a wrong page.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "common/puppet.rs"]
mod puppet;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::limited::Limited;
use crate::common::nobody::Who;
use puppet::{Came, Puppet, thread_of};

as_oneself_and_as_nobody!(
    a_guest_waits_while_the_store_is_full,
    a_guest_waits_while_the_disk_is_full,
    a_guest_never_reads_a_page_that_is_not_what_it_was,
    a_vm_that_is_killed_at_any_time_leaves_nothing_and_the_next_one_works,
    a_vm_whose_pager_lost_a_thread_ends_with_a_report
);

/// Enough to start with; the guest works on more than that.
const LITTLE: [&str; 4] = ["--resident-limit", "40M", "--page-memory", "32M"];
/// The same where most goes to a file.
const IN_FILE: [&str; 6] = [
    "--resident-limit",
    "40M",
    "--page-memory",
    "4M",
    "--page-file-size",
    "200M",
];

/// Fills 64 MiB that do not become smaller, and says whether it reads twice the same. The word is not in what is typed.
const WORK: &str = "mkdir /m; mount -t tmpfs -o size=90% none /m; head -c 67108864 /dev/urandom > /m/f; echo fil''led; \
                    md5sum /m/f > /a; md5sum /m/f > /b; cmp /a /b && echo reads the sa''me";

/// Waits until the guest waits for room, asks what a user would ask then, makes room, and waits until it is done.
fn stalls_and_goes_on(guest: &Limited, why: &str, make_room: impl FnOnce()) {
    guest.until("a stall", || guest.ps()["state"] == "waiting");
    let start = Instant::now();
    let paused = guest.call(&["pause", "short"]);
    assert_eq!(paused.status, Some(1), "{}", paused.stderr);
    assert!(
        paused
            .stderr
            .contains("the guest waits for room for its pages"),
        "{}",
        paused.stderr
    );
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "the answer took {:?}",
        start.elapsed()
    );
    let books = guest.client().books().unwrap();
    let waits = books.memory.paging.unwrap().waits.unwrap_or_default();
    assert!(waits.contains(why), "{waits}");
    assert!(
        books.memory.resident_bytes <= 41 << 20,
        "{}",
        books.memory.resident_bytes
    );
    assert!(!guest.log().contains("reads the same"));
    make_room();
    guest.until("the end of the stall", || {
        guest.log().contains("reads the same")
    });
    guest.until("running", || guest.ps()["state"] == "running");
    assert_eq!(guest.call(&["pause", "short"]).status, Some(0));
    assert_eq!(guest.call(&["kill", "short"]).status, Some(0));
}

/// A file system in memory at this place, gone when this is dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(&self, options: &str) -> bool {
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o", options, "none"])
            .arg(&self.0);
        command.status().is_ok_and(|done| done.success())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is still open in it goes with its process.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(&self.0)
            .stderr(Stdio::null())
            .status();
    }
}

fn a_guest_waits_while_the_store_is_full(who: Who) {
    let Some(guest) = Limited::new("short", who) else {
        return;
    };
    guest.start(&LITTLE);
    guest.type_line(WORK);
    stalls_and_goes_on(&guest, "the page store is full", || {
        let more = guest.call(&["limit", "short", "--page-memory", "100M"]);
        assert_eq!(more.status, Some(0), "{}", more.stderr);
    });
}

fn a_guest_waits_while_the_disk_is_full(who: Who) {
    let Some(guest) = Limited::new("short", who) else {
        return;
    };
    let disk = Disk(guest.folder.path().join("disk"));
    fs::create_dir(&disk.0).unwrap();
    if !disk.mount("size=36m") {
        return eprintln!("SKIPPED: a small file system cannot be mounted here");
    }
    guest.start(&[&IN_FILE[..], &["--page-file", "disk"]].concat());
    guest.type_line(WORK);
    stalls_and_goes_on(
        &guest,
        "cannot write to the page file: No space left on device",
        || {
            assert!(disk.mount("remount,size=200m"));
        },
    );
}

/// The page file is spoilt behind the back of the VM while much of the guest is in it.
fn a_guest_never_reads_a_page_that_is_not_what_it_was(who: Who) {
    let check = |spoil: &dyn Fn(&File), why: &str| {
        let Some(guest) = Limited::new("spoilt", who) else {
            return;
        };
        guest.start(&[&IN_FILE[..], &["--page-file", "."]].concat());
        guest.type_line("mkdir /m; mount -t tmpfs -o size=90% none /m; head -c 67108864 /dev/urandom > /m/f; echo fil''led");
        guest.until("a full guest", || guest.log().contains("filled"));
        let pages = guest.page_file(guest.folder.path());
        spoil(
            &OpenOptions::new()
                .read(true)
                .write(true)
                .open(pages)
                .unwrap(),
        );
        // Its kernel may have been the first to want a page.
        guest.type_line_if_alive("md5sum /m/f; echo got throu''gh");
        let waited = guest.call(&["wait", "spoilt"]);
        assert_eq!(waited.status, Some(1), "{}", waited.stdout);
        let logs = guest.call(&["logs", "spoilt"]);
        assert!(
            logs.stderr.contains("pages of its memory do not come back"),
            "{}",
            logs.stderr
        );
        assert!(logs.stderr.contains(why), "{}", logs.stderr);
        assert!(!logs.stdout.contains("got through"), "{}", logs.stdout);
    };
    check(
        &|file| file.set_len(0).unwrap(),
        "cannot read a page from the page file",
    );
    let flip = |file: &File| {
        for position in (0..file.metadata().unwrap().len()).step_by(512) {
            let mut byte = [0];
            if file.read_at(&mut byte, position).unwrap() == 1 {
                file.write_at(&[byte[0] ^ 1], position).unwrap();
            }
        }
    };
    check(&flip, "its checksum is wrong");
}

fn a_vm_that_is_killed_at_any_time_leaves_nothing_and_the_next_one_works(who: Who) {
    let Some(guest) = Limited::new("killed", who) else {
        return;
    };
    let pages = guest.folder.path().join("pages");
    fs::create_dir(&pages).unwrap();
    guest.mother.give(&pages);
    let words = [&IN_FILE[..], &["--page-file", "pages"]].concat();
    let kill = || {
        let mut command = Command::new("kill");
        assert!(
            command
                .args(["-9", &guest.pid()])
                .status()
                .unwrap()
                .success()
        );
        guest.until("the end", || guest.ps()["state"] == "died");
        assert_eq!(fs::read_dir(&pages).unwrap().count(), 0);
    };
    // While it starts, while it fills its memory, and while it reads it.
    guest.launch(&words);
    thread::sleep(Duration::from_millis(300));
    kill();
    for wait in ["", "filled"] {
        guest.start(&words);
        guest.type_line(WORK);
        thread::sleep(Duration::from_millis(700));
        guest.until(wait, || guest.log().contains(wait));
        kill();
    }
    guest.start(&words);
    guest.type_line(WORK);
    guest.until("the next one", || guest.log().contains("reads the same"));
}

/// A thread of the pager is ended from outside, as no program would: nobody brings pages back any more.
fn a_vm_whose_pager_lost_a_thread_ends_with_a_report(who: Who) {
    for thread in ["pager", "reclaim"] {
        let Some(guest) = Limited::new("lost", who) else {
            return;
        };
        guest.start(&["--resident-limit", "60M"]);
        let process = guest.pid().parse().unwrap();
        let mut lost = Puppet::of(process, thread_of(process, thread).unwrap()).unwrap();
        assert_eq!(lost.call(libc::SYS_exit, [0; 6]), Came::Dead(0), "{thread}");
        let waited = guest.call(&["wait", "lost"]);
        assert_eq!(waited.status, Some(1), "{thread}: {}", waited.stdout);
        let logs = guest.call(&["logs", "lost"]);
        assert!(
            logs.stderr.contains("a thread of the pager is gone"),
            "{thread}: {}",
            logs.stderr
        );
    }
}
