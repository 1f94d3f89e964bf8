//! `mother run --app`: one program of the host as the guest.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::{Ran, with_guest};

/// Runs a program of the host with this on its standard input.
fn run(words: &[&str], input: &str) -> Option<Ran> {
    with_guest().map(|mother| mother.type_into(&[&["--app"], words].concat(), input))
}

#[test]
fn python_of_the_host_computes_in_the_guest() {
    let Some(ran) = run(&["/usr/bin/python3", "--", "-c", "print(6*7)"], "") else {
        return;
    };
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str(), ran.status),
        ("42\n", "", Some(0))
    );
}

#[test]
fn streams_are_apart_and_the_exit_status_is_the_programs() {
    let line = "read -r word; echo \"out $word\"; echo err >&2; exit 7";
    let Some(ran) = run(&["/bin/sh", "--", "-c", line], "mother\n") else {
        return;
    };
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str(), ran.status),
        ("out mother\n", "err\n", Some(7))
    );
    let Some(ran) = run(&["/bin/sh", "--", "-c", "kill -9 $$"], "") else {
        return;
    };
    assert_eq!(ran.status, Some(137));
}

#[test]
fn the_guest_ends_with_its_program_whatever_that_leaves_behind() {
    let line = "sleep 1000 & head -c 300000 /dev/zero; echo done >&2; exit 3";
    let Some(ran) = run(
        &["/bin/sh", "--include", "/usr/bin/head", "--", "-c", line],
        "",
    ) else {
        return;
    };
    assert_eq!(
        (ran.stdout.len(), ran.stderr.as_str(), ran.status),
        (300_000, "done\n", Some(3))
    );
}

#[test]
fn a_program_has_a_network_if_it_is_given_one() {
    if images::Cache::of_user()
        .ok()
        .and_then(|cache| cache.installed_passt())
        .is_none()
    {
        let mut stderr = std::io::stderr();
        std::io::Write::write_all(
            &mut stderr,
            b"skipped: passt is neither on the PATH nor in the cache\n",
        )
        .unwrap();
        return;
    }
    let line = "/.mother/bin/ip -4 address show eth0; cat /etc/resolv.conf";
    let words = [
        "/bin/sh",
        "--include",
        "/bin/cat",
        "--net",
        "user",
        "--",
        "-c",
        line,
    ];
    let Some(ran) = run(&words, "") else { return };
    assert!(
        ran.stdout.contains("inet 10.0.2.15/24"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    assert_eq!(ran.status, Some(0), "{}{}", ran.stdout, ran.stderr);
}

#[test]
fn bytes_pass_unchanged_both_ways() {
    let Some(mother) = with_guest() else { return };
    let line = "set -o pipefail; for i in $(seq 0 255); do printf \"\\\\x$(printf %x $i)\"; done > all; \
                cat all all all all | $MOTHER run --app /bin/cat > back; cat all all all all | cmp - back && echo same";
    let folder = tempfile::tempdir().unwrap();
    let ran = mother.in_folder(folder.path()).shell(line);
    assert_eq!(ran.stdout, "same\n", "{}", ran.stderr);
}

#[test]
fn a_script_finds_its_interpreter_and_what_was_included() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    fs::write(&script, "#!/bin/sh\ncat data; pwd; echo \"$1 $GREETING\"\n").unwrap();
    fs::write(folder.path().join("data"), "included\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().to_str().unwrap();
    let words = [
        "--include",
        path,
        "--include",
        "/bin/cat",
        "--workdir",
        path,
        "--env",
        "GREETING=hello",
    ];
    let Some(ran) = run(
        &[&[script.to_str().unwrap()][..], &words, &["--", "one"]].concat(),
        "",
    ) else {
        return;
    };
    assert_eq!(
        ran.stdout,
        format!("included\n{path}\none hello\n"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_program_that_is_none_is_bad_input() {
    let Some(ran) = run(&["/etc/passwd"], "") else {
        return;
    };
    assert_eq!(ran.status, Some(2));
    assert!(
        ran.stderr.contains("/etc/passwd is not executable"),
        "{}",
        ran.stderr
    );
}
