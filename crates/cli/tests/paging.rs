//! Guests that are given less memory than they believe to have.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::common;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::nobody::Who;
use crate::common::{Mother, with_guest};
use api::{HostBooks, VmName};
use fleet::{Client, Inventory};

const NAME: &str = "paged";

fn books(mother: &Mother) -> Option<HostBooks> {
    let record = Inventory::at(&mother.vms()).record(&VmName::new(NAME).unwrap());
    Client::connect(&record).ok()?.books().ok()
}

const WORK: &str = include_str!("paging.sh");

as_oneself_and_as_nobody!(a_guest_reads_what_it_wrote_while_the_limit_moves);

fn a_guest_reads_what_it_wrote_while_the_limit_moves(who: Who) {
    let Some(mother) = with_guest() else { return };
    if !machine::paging_finding().usable {
        return eprintln!("SKIPPED: guest memory cannot be paged here");
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("disk.raw"), vec![0x5a; 8 << 20]).unwrap();
    let mother = mother.in_folder(folder.path()).of(who);
    let words = [
        "--name",
        NAME,
        "--memory",
        "256M",
        "--cpus",
        "2",
        "--disk",
        "disk.raw",
        "--timeout",
        "300s",
    ];
    let store = ["--page-memory", "32M", "--page-file", "."];
    let ran = thread::scope(|scope| {
        let guest = scope.spawn(|| mother.type_into(&[&words[..], &store].concat(), WORK));
        let limits = ["20%", "none", "32M", "60%", "24M", "100%"];
        for limit in limits.iter().cycle() {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(700) && !guest.is_finished() {
                thread::sleep(Duration::from_millis(50));
            }
            if guest.is_finished() {
                break;
            }
            // It may not have begun, or have ended meanwhile.
            let set = mother.call(&["limit", NAME, "--resident", limit]);
            let book = books(&mother);
            if let (Some(0), "20%", Some(book)) = (set.status, *limit, book) {
                let most = (256 << 20) / 5 * 102 / 100;
                assert!(book.memory.resident_bytes <= most, "{:?}", book.memory);
                let sum = book.memory.resident_bytes
                    + book.memory.given_back_bytes
                    + book.memory.paged_out_bytes();
                assert_eq!(book.memory.given_bytes, sum);
            }
        }
        guest.join().unwrap()
    });
    let said = ran
        .stdout
        .lines()
        .find_map(|line| line.trim().strip_prefix("rounds: "))
        .unwrap_or("");
    let (rounds, wrong) = said
        .split_once(", wrong: ")
        .unwrap_or_else(|| panic!("{}{}", ran.stdout, ran.stderr));
    assert!(rounds.parse::<u32>().unwrap() >= 1, "{said}");
    assert_eq!(wrong, "0", "{}", ran.stdout);
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().contains("pages")),
        "{left:?}"
    );
}

/// A page that leaves must leave a hole, and a huge page that the host cannot split leaves zeros.
#[test]
fn a_guest_in_huge_pages_works_and_gets_no_limit() {
    const NAME: &str = "huge";
    const WORK: &str = "head -c 40000000 /dev/urandom > /tmp/f; md5sum < /tmp/f > /tmp/sum; sleep 4
md5sum < /tmp/f | cmp - /tmp/sum && echo it is the $((1)) same\n";
    let Some(mother) = with_guest() else { return };
    if !machine::paging_finding().usable {
        return eprintln!("SKIPPED: guest memory cannot be paged here");
    }
    let folder = tempfile::tempdir().unwrap();
    let mother = mother.in_folder(folder.path());
    let words = [
        "--name",
        NAME,
        "--memory",
        "256M",
        "--huge-pages",
        "--timeout",
        "120s",
    ];
    let (ran, refused) = thread::scope(|scope| {
        let guest = scope.spawn(|| mother.type_into(&words, WORK));
        let mut refused = None;
        while !guest.is_finished() && refused.is_none() {
            thread::sleep(Duration::from_millis(200));
            let set = mother.call(&["limit", NAME, "--resident", "40M"]);
            // It may not have begun.
            refused = Some(set).filter(|set| set.status == Some(0) || set.stderr.contains("paged"));
        }
        (guest.join().unwrap(), refused.unwrap())
    });
    assert!(ran.stdout.contains("it is the 1 same"), "{}", ran.stdout);
    if ran.stderr.contains("this host gives no huge pages") {
        return eprintln!("SKIPPED: no huge pages here");
    }
    assert_ne!(refused.status, Some(0));
    assert!(
        refused.stderr.contains("it is in huge pages"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_limit_that_makes_no_sense_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    fs::write(folder.path().join("guest"), common::multiboot(&[0xf4])).unwrap();
    let check = |words: &[&str], text: &str| {
        let ran = mother.run(&[&["--kernel", "guest", "--memory", "64M"], words].concat());
        assert_eq!(ran.status, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(text), "{}", ran.stderr);
    };
    check(
        &["--resident-limit", "much"],
        "resident-limit: \"much\" is no limit",
    );
    check(
        &["--resident-limit", "1M"],
        "resident-limit: 1M is too little",
    );
    check(
        &["--resident-limit", "50M", "--huge-pages"],
        "resident-limit: memory in huge pages has no limit",
    );
    check(&["--page-memory", "x"], "page-memory: \"x\" is not a size");
    check(
        &["--page-file", "nowhere"],
        "page-file: nowhere is not a folder",
    );
    check(
        &["--page-file-size", "1G"],
        "page-file: a size is given, but no place for it",
    );
}
