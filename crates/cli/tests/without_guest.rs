//! What works, and what is said, on hosts that cannot give a default guest.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::common;
use std::fs;

use crate::common::Mother;

const WAY_ON: &str = "  help: bring a guest of your own with `--kernel FILE --initrd FILE`: that needs no download\n";

#[test]
fn no_apt_says_so_and_names_the_way_on() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("bin");
    fs::create_dir(&empty).unwrap();
    for words in [&["run"][..], &["demo"]] {
        let ran = Mother::new(folder.path()).with_path(&empty).call(words);
        let lines: Vec<&str> = ran
            .stderr
            .lines()
            .filter(|line| !line.starts_with("mother: "))
            .collect();
        assert_eq!(
            lines[..2],
            [
                "error: cannot get the default guest",
                "  this host has no `apt-get`"
            ]
        );
        assert!(ran.stderr.ends_with(WAY_ON), "{}", ran.stderr);
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(1), ""));
    }
}

#[test]
fn no_mirror_says_so_and_leaves_nothing_half() {
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    // An apt that has no network.
    let apt = "#!/bin/sh\necho 'W: Failed to fetch the index: no route' >&2\necho 'E: Some files failed' >&2\nexit 100\n";
    write_program(&bin.join("apt-get"), apt);
    let ran = Mother::new(folder.path()).with_path(&bin).call(&["run"]);
    assert!(
        ran.stderr
            .contains("  `apt-get update` failed: Failed to fetch the index: no route\n"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.ends_with(WAY_ON), "{}", ran.stderr);
    assert_eq!(ran.status, Some(1));
    assert_eq!(
        common::names_in(&folder.path().join("cache/mother")),
        ["lock".to_owned()].into()
    );
}

fn write_program(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn doctor_answers_for_every_engine() {
    let folder = tempfile::tempdir().unwrap();
    let ran = Mother::new(folder.path()).call(&["doctor"]);
    for word in [
        "engines\n",
        "  kvm   ",
        "  soft  ",
        "  auto  ",
        "default guest\n",
        "holds no guest yet",
    ] {
        assert!(ran.stdout.contains(word), "{word:?} in {}", ran.stdout);
    }
    let works = ran.stdout.contains("auto  takes ");
    assert_eq!(ran.status, Some(if works { 0 } else { 1 }));
}

#[test]
fn help_and_version_are_for_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    for (words, expected) in [
        (&["--help"][..], "Examples:"),
        (&["run", "--help"], "Exit status:"),
        (&["--version"], "mother "),
    ] {
        let ran = mother.call(words);
        assert!(ran.stdout.contains(expected), "{words:?}");
        assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""));
    }
}
