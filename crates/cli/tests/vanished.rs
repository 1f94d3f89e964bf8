//! Somebody cleans up where VMs are while one runs.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::host::Host;

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// A VM whose folder, or the one that it is in, is removed.
fn check(removed: impl Fn(&Path) -> &Path) {
    let host = Host::new();
    host.start("web");
    host.expect_log("web", "ready");
    let vms = host.mother.vms();
    let folder = vms.join("web");
    let process = host.ps("web")["pid"].clone();
    fs::remove_dir_all(removed(&folder)).unwrap();
    until("its folder is made anew", || {
        folder.join("vm.json").exists()
    });
    until("it is found", || {
        host.call(&["ps"]).stdout.contains("running")
    });
    assert_eq!(host.ps("web")["pid"], process, "it is the same VM");
    let second = host.run(&["-d", "--name", "web"]);
    assert_eq!(second.status, Some(1), "{}", second.stderr);
    assert!(second.stderr.contains("is running"), "{}", second.stderr);
    host.attach("web").write_all(b"said later\n").unwrap();
    host.expect_log("web", "said later");
    let messages = fs::read_to_string(folder.join("messages")).unwrap();
    assert!(messages.contains("made anew"), "{messages}");
    assert_eq!(host.call(&["kill", "web"]).status, Some(0));
    let after = host.call(&["logs", "web"]).stdout;
    assert!(after.contains("said later"), "{after}");
    until("the name is free", || {
        host.run(&["-d", "--name", "web"]).status == Some(0)
    });
}

#[test]
fn a_vm_whose_folder_is_removed_makes_it_anew() {
    check(|folder| folder);
}

#[test]
fn a_vm_whose_place_is_removed_makes_it_anew() {
    check(|folder| folder.parent().unwrap());
}
