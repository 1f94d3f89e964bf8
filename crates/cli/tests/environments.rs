//! What a host lacks is said by its true cause, with a way that works: a table of environments and sentences.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use crate::common::host::Host;

/// An environment, what is tried in it, and what comes of it.
struct Row {
    /// For bash, in a folder with the kernels of [`Host`]; `$MOTHER` is the command, and its cache is empty.
    script: &'static str,
    status: i32,
    /// The cause, in what is said.
    cause: &'static str,
    /// The way on, in what is said.
    way_on: &'static str,
}

const fn row(script: &'static str, status: i32, cause: &'static str, way_on: &'static str) -> Row {
    Row {
        script,
        status,
        cause,
        way_on,
    }
}

/// Where things are kept.
const PLACES: [Row; 12] = [
    row(
        "env -u HOME -u XDG_CACHE_HOME $MOTHER images",
        1,
        "there is no cache folder: neither XDG_CACHE_HOME nor HOME is set",
        "help: set HOME, or XDG_CACHE_HOME to a folder of your own",
    ),
    row(
        "env -u HOME -u XDG_CACHE_HOME $MOTHER run --app /bin/true",
        1,
        "there is no cache folder: neither XDG_CACHE_HOME nor HOME is set",
        "help: set HOME, or XDG_CACHE_HOME to a folder of your own",
    ),
    row(
        "touch file; XDG_CACHE_HOME=$PWD/file $MOTHER run",
        1,
        "file/mother",
        "help: bring a guest of your own with `--kernel FILE --initrd FILE`",
    ),
    row(
        "XDG_RUNTIME_DIR=$PWD/nowhere $MOTHER ps",
        1,
        "nowhere/mother for running VMs\n  no such file or folder",
        "help: set XDG_RUNTIME_DIR to a folder that is yours alone",
    ),
    row(
        "XDG_RUNTIME_DIR=$PWD/nowhere $MOTHER run --kernel echo",
        1,
        "nowhere/mother for running VMs\n  no such file or folder",
        "help: set XDG_RUNTIME_DIR to a folder that is yours alone",
    ),
    row(
        "touch file; XDG_RUNTIME_DIR=$PWD/file $MOTHER ps",
        1,
        "cannot use the folder",
        "help: set XDG_RUNTIME_DIR to a folder that is yours alone",
    ),
    row(
        "mkdir -p r/mother; chmod 777 r/mother; XDG_RUNTIME_DIR=$PWD/r $MOTHER ps",
        1,
        "is not safe for running VMs: other users may enter it",
        "`chmod 700` it if you trust what is in it",
    ),
    row(
        "$MOTHER run --kernel echo --report nowhere/report.json",
        2,
        "report: there is no folder nowhere",
        "help: make the folder, or name a file in one that is there",
    ),
    row(
        "$MOTHER run --kernel echo --vsock nowhere/socket",
        2,
        "vsock: nowhere/socket: there is no folder nowhere",
        "help: make the folder",
    ),
    row(
        "$MOTHER run --kernel echo --resident-limit 50% --page-file nowhere",
        2,
        "page-file: nowhere is not a folder",
        "help: name a folder",
    ),
    row(
        "$MOTHER doctor > /dev/full",
        1,
        "cannot write to standard output\n  No space left on device",
        "",
    ),
    row(
        "{ sleep 0.5; $MOTHER completions bash; } | true; exit ${PIPESTATUS[0]}",
        141,
        "",
        "",
    ),
];

/// What is named and is not there, or is something else.
const FILES: [Row; 18] = [
    row(
        "$MOTHER run --kernel nowhere",
        2,
        "kernel: cannot open nowhere: no such file",
        "help: check the path",
    ),
    row(
        "$MOTHER run --kernel .",
        2,
        "kernel: cannot use .: it is not a regular file",
        "help: name a file",
    ),
    row(
        "$MOTHER run --kernel echo --disk nowhere.qcow2",
        2,
        "disk: cannot open nowhere.qcow2: no such file",
        "help: check the path, or make one with `truncate -s 10G nowhere.qcow2`",
    ),
    row(
        "$MOTHER run --kernel echo --disk .",
        2,
        "disk: . is a folder",
        "help: name the file of a disk image",
    ),
    row(
        "touch empty; $MOTHER run --kernel echo --disk empty",
        2,
        "disk: empty is empty",
        "help: give it a size, such as `truncate -s 10G empty`",
    ),
    row(
        r"{ printf '\xfd7zXZ\0'; head -c 4090 /dev/zero; } > d.xz; $MOTHER run --kernel echo --disk d.xz",
        2,
        "disk: cannot use d.xz: it is compressed with xz",
        "help: unpack it first: `xz -dc d.xz > NEW.img`",
    ),
    row(
        "truncate -s 1M d; $MOTHER run -d --name one --kernel echo --memory 32M --disk d > one; \
         $MOTHER run --kernel echo --memory 32M --disk d,format=raw",
        1,
        "d is in use by process",
        "end that first, or give the disk read-only to both",
    ),
    row(
        "$MOTHER run -d --name one --kernel echo --memory 32M > one; $MOTHER run --name one --kernel echo --memory 32M",
        1,
        "\"one\"",
        "",
    ),
    row(
        "$MOTHER run --config nowhere.toml",
        2,
        "config: cannot read nowhere.toml: no such file",
        "help: check the path",
    ),
    row(
        "echo 'memori = \"1G\"' > vm.toml; $MOTHER run --config vm.toml",
        2,
        "vm.toml:1: memori: there is no key \"memori\"",
        "help: did you mean `memory`?",
    ),
    row(
        "$MOTHER stop web",
        1,
        "there is no VM \"web\"",
        "help: `mother ps -a` lists all there are",
    ),
    row(
        "$MOTHER run ./image.tar",
        2,
        "cannot open ./image.tar\n  no such file or folder",
        "help: check the path",
    ),
    row(
        "$MOTHER run 127.0.0.1:1/library/alpine",
        1,
        "cannot pull \"127.0.0.1:1/library/alpine:latest\"\n  cannot reach 127.0.0.1:1",
        "help: look at the name, this host's network and its proxy",
    ),
    row(
        "$MOTHER run ubuntu:24.04",
        2,
        "there is no image \"ubuntu:24.04\"",
        "help: there are debian, debian:12",
    ),
    row(
        "truncate -s 1M d; $MOTHER run ./d --keep x",
        2,
        "what is written to a disk of yours stays there anyway",
        "",
    ),
    row(
        "$MOTHER run --app ./nothing",
        2,
        "there is no program ./nothing",
        "",
    ),
    row(
        "echo text > s; chmod +x s; $MOTHER run --app ./s",
        2,
        "is neither an ELF program nor a script that starts with #!",
        "",
    ),
    row(
        "cp /bin/true s; chmod -x s; $MOTHER run --app ./s",
        2,
        "./s is not executable",
        "",
    ),
];

/// What this host has not, or does not let us have.
const HOSTS: [Row; 8] = [
    row(
        "mkdir none; PATH=$PWD/none $MOTHER run",
        1,
        "cannot get the default guest\n  this host has no `apt-get`",
        "help: bring a guest of your own with `--kernel FILE --initrd FILE`",
    ),
    row(
        "mkdir none; PATH=$PWD/none $MOTHER run debian --net none",
        1,
        "cannot make the Debian image\n  this host has no `apt-get`",
        "help: Debian images are made with the host's apt and its mirrors",
    ),
    row(
        "mkdir none; PATH=$PWD/none $MOTHER run --net user --kernel echo",
        1,
        "cannot get passt, which carries the guest's network\n  this host has no `apt-get`",
        "",
    ),
    row(
        "$MOTHER run --net tap=nosuch0 --kernel echo",
        2,
        "net: this host has no interface nosuch0",
        "help: have one made with `ip tuntap add NAME mode tap user USER`, or write `--net user`",
    ),
    row(
        "ulimit -f 100; $MOTHER run --kernel echo",
        2,
        "this process may not have files of more than 100 KiB",
        "help: lift the limit on file sizes: `ulimit -f unlimited`",
    ),
    row(
        "ulimit -n 50; $MOTHER run --kernel echo",
        1,
        "it may come to need more open files than it can have",
        "help: allow more with `ulimit -n 1024`",
    ),
    row(
        "$MOTHER --user nosuchuser ps",
        1,
        "no VMs of a user \"nosuchuser\" can be seen",
        "help: `mother ps --all-users` lists all that can be seen",
    ),
    row(
        "$MOTHER --user nobody run",
        2,
        "a VM is started by the user whose it is",
        "help: become that user first",
    ),
];

/// For root: other users, and hosts without a network.
const OF_ROOT: [Row; 4] = [
    row(
        "mkdir -p -m 700 r/mother; chown 65534 r/mother; XDG_RUNTIME_DIR=$PWD/r $MOTHER ps",
        1,
        "is not safe for running VMs: it belongs to another user",
        "help: set XDG_RUNTIME_DIR to a folder that is yours alone",
    ),
    row(
        "unshare -n $MOTHER run debian --net none",
        1,
        "cannot fetch debian:",
        "help: look at this host's network, its proxy and apt's sources",
    ),
    row(
        "chmod 755 . ..; cp $MOTHER m; mkdir r; chown 65534 r; chmod 700 r; chmod 000 echo; \
         XDG_RUNTIME_DIR=$PWD/r setpriv --reuid 65534 --clear-groups ./m run --kernel echo",
        2,
        "kernel: cannot open echo: permission denied",
        "help: ",
    ),
    row(
        "chmod 755 . ..; cp $MOTHER m; mkdir r c; chown 65534 r; chmod 700 r; \
         XDG_CACHE_HOME=$PWD/c XDG_RUNTIME_DIR=$PWD/r setpriv --reuid 65534 --clear-groups ./m run",
        1,
        "cannot get the default guest",
        "XDG_CACHE_HOME to a folder of your own",
    ),
];

fn check(row: &Row) {
    let host = Host::new();
    let ran = host.mother.shell(row.script);
    let said = &ran.stderr;
    assert_eq!(ran.status, Some(row.status), "{}: {said}", row.script);
    for words in [row.cause, row.way_on] {
        assert!(
            said.contains(words),
            "{}: no {words:?} in: {said}",
            row.script
        );
    }
    assert!(!said.contains("panicked"), "{}: {said}", row.script);
}

fn check_all(rows: &[Row]) {
    for row in rows {
        check(row);
    }
}

#[test]
fn places_that_cannot_be_used_are_named_with_the_variable_that_moves_them() {
    check_all(&PLACES);
}

#[test]
fn what_is_named_and_is_something_else_is_told_from_what_is_not_there() {
    check_all(&FILES);
}

#[test]
fn what_a_host_lacks_is_said_with_a_way_that_works() {
    check_all(&HOSTS);
}

#[test]
fn what_only_root_can_try() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        // Written, not printed: the test harness would keep what is printed to itself.
        writeln!(
            std::io::stderr(),
            "skipped: only root can be another user and leave the network"
        )
        .unwrap();
        return;
    }
    check_all(&OF_ROOT);
}

#[test]
fn a_vm_lives_in_a_box_without_devices() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        writeln!(std::io::stderr(), "skipped: only root can mount").unwrap();
        return;
    }
    let script = "unshare -m sh -c 'mount -t tmpfs none /dev && $MOTHER run -d --name boxed --engine soft \
                  --kernel echo --memory 32M --timeout 60s && $MOTHER stop boxed'";
    let ran = Host::new().mother.shell(script);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
}

#[test]
fn nothing_is_fetched_for_what_cannot_run() {
    let host = Host::new();
    for script in [
        "$MOTHER run --app ./nothing",
        "$MOTHER run ./image.tar",
        "$MOTHER run ubuntu:24.04",
        "truncate -s 1M d; $MOTHER run ./d --keep x",
        "truncate -s 1M d; $MOTHER run ./d -- words",
    ] {
        let ran = host.mother.shell(script);
        assert_eq!(ran.status, Some(2), "{script}: {}", ran.stderr);
        assert!(!ran.stderr.contains("apt"), "{script}: {}", ran.stderr);
    }
}
