//! Snapshots: a guest goes on where it was, with the memory, the clock and the disks it had, or is not brought back at all.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::Ran;
use crate::common::host::Host;
use devices::virtio::blk::{ImageFormat, create_overlay};
use serde_json::Value;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A host with one default guest that has a shell.
struct Scene {
    host: Host,
    asked: std::cell::Cell<u32>,
}

impl Scene {
    fn with_guest(words: &[&str]) -> Option<Scene> {
        let scene = Scene {
            host: Host::with_guest()?,
            asked: std::cell::Cell::new(0),
        };
        let usual = [
            "-d", "--name", "web", "--memory", "128M", "--engine", "soft",
        ];
        let ran = scene.host.mother.run(&[&usual, words].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        scene.until_logged("web", "guest:~#");
        Some(scene)
    }

    fn call(&self, words: &[&str]) -> Ran {
        self.host.call(words)
    }

    fn well(&self, words: &[&str]) -> String {
        let ran = self.call(words);
        assert_eq!(
            ran.status,
            Some(0),
            "{words:?}: {}{}",
            ran.stdout,
            ran.stderr
        );
        ran.stdout
    }

    /// Calls it again and again until it ends well: what it waits for comes soon.
    fn until_well(&self, words: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ran = self.call(words);
            if ran.status == Some(0) {
                return;
            }
            assert!(Instant::now() < deadline, "{words:?}: {}", ran.stderr);
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn until_logged(&self, vm: &str, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.call(&["logs", vm]).stdout;
            if log.contains(text) {
                return log;
            }
            assert!(Instant::now() < deadline, "no {text:?} of {vm} in {log:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Types a command into the guest; what it printed.
    fn ask(&self, vm: &str, command: &str) -> String {
        let number = self.asked.get() + 1;
        self.asked.set(number);
        // What is typed is shown too, and must not look like the answer.
        let line = format!("echo be''gin{number}; {command}; echo e''nd{number}\n");
        self.host.attach(vm).write_all(line.as_bytes()).unwrap();
        let log = self.until_logged(vm, &format!("end{number}\n"));
        let from = log.find(&format!("begin{number}\n")).unwrap();
        let begin = from + format!("begin{number}\n").len();
        let end = log.find(&format!("end{number}\n")).unwrap();
        log[begin..end].trim().to_owned()
    }

    fn snapshots(&self) -> PathBuf {
        self.host
            .mother
            .vms()
            .parent()
            .unwrap()
            .join("data/mother/snapshots")
    }

    fn names(&self) -> Vec<String> {
        let list: Vec<Value> = serde_json::from_str(&self.well(&["ps", "--json"])).unwrap();
        let name = |vm: &Value| vm["name"].as_str().unwrap().to_owned();
        let mut names: Vec<String> = list.iter().map(name).collect();
        names.sort();
        names
    }

    /// The guest's wall clock is this host's, within two seconds.
    fn check_clock(&self, vm: &str) {
        let text = self.ask(vm, "date +%s");
        // The kernel may say on its console that an interrupt took long.
        let said = text.lines().find_map(|line| line.parse::<u64>().ok());
        let said = said.unwrap_or_else(|| panic!("{vm}: no clock in {text:?}"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(
            now.as_secs().abs_diff(said) <= 2,
            "{vm}: {said} and not {now:?}"
        );
    }
}

#[test]
fn a_guest_that_is_suspended_goes_on_where_it_was() {
    let Some(scene) = Scene::with_guest(&["--cpus", "2"]) else {
        return;
    };
    // What only this boot knows: in the guest's memory and in its shell.
    let nonce = scene.ask(
        "web",
        "head -c 16 /dev/urandom | md5sum > /tmp/nonce; cat /tmp/nonce",
    );
    scene.ask(
        "web",
        "here=$$; head -c 20000000 /dev/urandom > /tmp/much; md5sum < /tmp/much > /tmp/sum",
    );
    let before = scene.ask(
        "web",
        "cat /proc/sys/kernel/random/boot_id; cut -d. -f1 /proc/uptime",
    );
    let processes = |vm: &str| -> Vec<Value> {
        serde_json::from_str(&scene.well(&["ps", vm, "--json"])).unwrap()
    };
    let shown = processes("web").len();
    scene.well(&["suspend", "web"]);
    assert_eq!(scene.names(), Vec::<String>::new(), "it has ended");
    let folder = scene.snapshots().join("web");
    let written = scene.well(&["ps", "--memory", folder.to_str().unwrap(), "--json"]);
    let written: Vec<Value> = serde_json::from_str(&written).unwrap();
    assert_eq!(written.len(), shown, "what was written down is seen");
    thread::sleep(Duration::from_secs(3));
    assert_eq!(scene.well(&["restore", "web"]), "web\n");
    assert_eq!(
        processes("web").len(),
        shown,
        "the same guest is seen from outside"
    );
    assert_eq!(scene.ask("web", "cat /tmp/nonce"), nonce);
    assert_eq!(
        scene.ask("web", "md5sum < /tmp/much | cmp - /tmp/sum && echo same"),
        "same"
    );
    assert_eq!(
        scene.ask("web", "[ $here = $$ ] && echo same shell"),
        "same shell"
    );
    scene.check_clock("web");
    let after = scene.ask(
        "web",
        "cat /proc/sys/kernel/random/boot_id; cut -d. -f1 /proc/uptime",
    );
    let words = |text: &str| -> (String, u64) {
        let (boot, uptime) = text.split_once('\n').unwrap();
        (boot.trim().to_owned(), uptime.trim().parse().unwrap())
    };
    let (boot, earlier) = words(&before);
    let (same, later) = words(&after);
    assert_eq!(boot, same, "it was not started anew");
    assert!(later >= earlier + 3, "its time went on: {earlier} {later}");
    let cpus = scene.ask(
        "web",
        "grep -c ^processor /proc/cpuinfo; taskset 2 true && echo second",
    );
    assert!(cpus.starts_with('2'), "{cpus}");
    // A reset boots what it booted before.
    scene.ask("web", "(sleep 1; reboot -f) >/dev/null 2>&1 & true");
    let deadline = Instant::now() + PATIENCE;
    while scene.host.ps("web")["reboots"] != 1 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
    }
    scene.until_logged("web", "Linux version");
    scene.until_well(&["truth", "web"]);
}

#[test]
fn a_clone_is_made_only_for_who_wishes_for_one() {
    // Without the agent, and with a kernel without the driver, its random numbers would be the original's.
    let Some(scene) = Scene::with_guest(&["--agent", "off"]) else {
        return;
    };
    scene.ask("web", "echo it is me > /tmp/who");
    scene.well(&["snapshot", "web", "--to", "base"]);
    assert_eq!(scene.ask("web", "cat /tmp/who"), "it is me", "it runs on");
    let refused = scene.call(&["restore", "base", "--name", "other"]);
    assert_eq!(refused.status, Some(2), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("--same-identity"),
        "{}",
        refused.stderr
    );
    scene.well(&["restore", "base", "--name", "other", "--same-identity"]);
    scene.ask("other", "echo I am another > /tmp/who");
    assert_eq!(
        scene.ask("web", "cat /tmp/who"),
        "it is me",
        "they are apart"
    );
    // From one that was brought back itself, most of whose memory still is where it was.
    scene.well(&[
        "fork",
        "other",
        "--count",
        "2",
        "--name",
        "more",
        "--same-identity",
    ]);
    assert_eq!(scene.names(), ["more-1", "more-2", "other", "web"]);
    for name in ["more-1", "more-2"] {
        assert_eq!(scene.ask(name, "cat /tmp/who"), "I am another");
        scene.check_clock(name);
    }
    let in_use = scene.call(&["snapshots", "rm", "base"]);
    assert_ne!(in_use.status, Some(0), "{}", in_use.stdout);
    scene.well(&["kill", "other"]);
    // Its launcher is the last to let go.
    scene.until_well(&["snapshots", "rm", "base"]);
    assert_eq!(scene.ask("more-1", "cat /tmp/who"), "I am another");
}

#[test]
fn a_limited_guest_comes_back_limited_and_whole() {
    let Some(scene) = Scene::with_guest(&["--resident-limit", "40M"]) else {
        return;
    };
    scene.ask(
        "web",
        "head -c 30000000 /dev/urandom > /tmp/much; md5sum < /tmp/much > /tmp/sum",
    );
    scene.well(&["suspend", "web"]);
    scene.well(&["restore", "web"]);
    let check = |scene: &Scene| {
        let list: Value = serde_json::from_str(&scene.well(&["inspect", "web", "--json"])).unwrap();
        let memory = list
            .pointer("/books/memory")
            .or(list.pointer("/0/books/memory"))
            .unwrap();
        let resident = memory["resident_bytes"].as_u64().unwrap();
        assert!(resident <= 41 << 20, "{resident}");
    };
    check(&scene);
    assert_eq!(
        scene.ask("web", "md5sum < /tmp/much | cmp - /tmp/sum && echo same"),
        "same"
    );
    check(&scene);
}

#[test]
fn limits_go_along_as_they_were_set_last() {
    let Some(scene) = Scene::with_guest(&["--host-limit", "110M"]) else {
        return;
    };
    let limits = |name: &str| scene.host.ps(name)["limits"].clone();
    let check = |name: &str, host: Value, cpu: Value| {
        let limits = limits(name);
        assert_eq!(
            (&limits["host"], &limits["cpu_limit"]),
            (&host, &cpu),
            "{limits}"
        );
        // What a limit of the whole leaves for guest memory is nobody's limit.
        assert_eq!(limits["resident"], Value::Null, "{limits}");
    };
    scene.well(&["fork", "web", "--name", "whole"]);
    check("whole", "110M".into(), Value::Null);
    scene.well(&["kill", "whole"]);
    scene.well(&["limit", "web", "--host-limit", "none", "--cpu-limit", "70%"]);
    check("web", Value::Null, "70%".into());
    scene.well(&["fork", "web", "--name", "free"]);
    check("free", Value::Null, "70%".into());
    scene.well(&["limit", "free", "--host-limit", "120M"]);
    scene.well(&["suspend", "free"]);
    scene.well(&["restore", "free"]);
    check("free", "120M".into(), "70%".into());
    assert_eq!(scene.ask("free", "echo still here"), "still here");
}

#[test]
fn a_disk_goes_with_its_memory_or_the_snapshot_is_refused() {
    let Some(scene) = Scene::with_guest(&[]) else {
        return;
    };
    scene.well(&["kill", "web"]);
    let disk = scene.host.folder().join("disk.raw");
    File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    let usual = [
        "-d", "--name", "db", "--memory", "128M", "--engine", "soft", "--disk", "disk.raw",
    ];
    let ran = scene.host.mother.run(&usual);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    scene.until_logged("db", "guest:~#");
    scene.ask("db", "echo before > /dev/vda; sync");
    // Held by nothing but the guest's memory.
    scene.ask(
        "db",
        "echo pending | dd of=/dev/vda seek=8 conv=notrunc 2>/dev/null",
    );
    scene.well(&["suspend", "db"]);
    scene.well(&["restore", "db"]);
    assert_eq!(scene.ask("db", "head -c 6 /dev/vda"), "before");
    scene.ask("db", "sync");
    let mut bytes = [0; 7];
    File::open(&disk)
        .unwrap()
        .read_exact_at(&mut bytes, 4096)
        .unwrap();
    assert_eq!(&bytes, b"pending");
    // Without asking, a disk of the user's own is copied by nobody; a file system that shares copies does it at once.
    let taken = scene.call(&["snapshot", "db", "--to", "shared"]);
    if taken.status != Some(0) {
        assert!(taken.stderr.contains("--copy-disks"), "{}", taken.stderr);
        scene.well(&["snapshot", "db", "--to", "shared", "--copy-disks"]);
    }
    scene.ask("db", "echo behind > /dev/vda; sync");
    scene.well(&["restore", "shared", "--name", "old", "--same-identity"]);
    assert_eq!(scene.ask("old", "head -c 6 /dev/vda"), "before");
    scene.ask("old", "echo mine > /dev/vda; sync");
    assert_eq!(
        scene.ask("db", "head -c 6 /dev/vda"),
        "behind",
        "they are apart"
    );
    // A disk that somebody has written meanwhile is another one than the guest has in mind.
    scene.well(&["suspend", "db", "--to", "late"]);
    thread::sleep(Duration::from_millis(20));
    File::options()
        .write(true)
        .open(&disk)
        .unwrap()
        .write_all_at(b"x", 1 << 20)
        .unwrap();
    let refused = scene.call(&["restore", "late"]);
    assert_eq!(refused.status, Some(2), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("disk.raw has been written"),
        "{}",
        refused.stderr
    );
}

/// What a guest has written and not flushed is on the disk that goes with its memory: the tables of a qcow2 image are
/// written later than what they lead to.
#[test]
fn an_overlay_has_what_was_written_and_not_flushed() {
    let Some(scene) = Scene::with_guest(&[]) else {
        return;
    };
    scene.well(&["kill", "web"]);
    let base = scene.host.folder().join("base.raw");
    File::create_new(&base).unwrap().set_len(64 << 20).unwrap();
    let overlay = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(scene.host.folder().join("over.qcow2"))
        .unwrap();
    let base = File::open(&base).unwrap();
    create_overlay(overlay, &base, "base.raw", ImageFormat::Raw, None).unwrap();
    let disk = "over.qcow2,base=base.raw";
    let usual = [
        "-d", "--name", "db", "--memory", "128M", "--engine", "soft", "--disk", disk,
    ];
    let ran = scene.host.mother.run(&usual);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    scene.until_logged("db", "guest:~#");
    let copy = "dd if=/tmp/w of=/dev/vda bs=4096 seek=100 oflag=direct conv=notrunc";
    let write = format!("head -c 8192000 /dev/urandom > /tmp/w; {copy} 2>&1 | grep records.out");
    assert_eq!(scene.ask("db", &write), "2000+0 records out");
    // The kernel says on the console that it was asked, before the answer.
    let forget = "echo 3 > /proc/sys/vm/drop_caches";
    let compare = "dd if=/dev/vda bs=4096 skip=100 count=2000 2>/dev/null | cmp - /tmp/w";
    let read = format!("{forget}; {compare} && echo same");
    scene.well(&["snapshot", "db", "--to", "base"]);
    scene.well(&["restore", "base", "--name", "clone", "--same-identity"]);
    let check = |vm: &str| assert!(scene.ask(vm, &read).ends_with("same"), "{vm}");
    check("clone");
    check("db");
    // Suspended, the overlay stays where it was, and it is that which goes on.
    scene.well(&["suspend", "db", "--to", "later"]);
    scene.well(&["restore", "later"]);
    check("db");
    scene.ask("db", "echo mine > /dev/vda; sync");
    scene.well(&["kill", "db"]);
    let again = scene.call(&["restore", "later", "--same-identity"]);
    assert_eq!(
        again.status,
        Some(2),
        "it was written since: {}",
        again.stderr
    );
}

#[test]
fn a_damaged_snapshot_is_refused_and_nothing_is_lost() {
    let Some(scene) = Scene::with_guest(&[]) else {
        return;
    };
    scene.well(&["suspend", "web"]);
    let folder = scene.snapshots().join("web");
    let check = |part: &str, change: &dyn Fn(&mut Vec<u8>), expected: &str| {
        let path = folder.join(part);
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        change(&mut damaged);
        fs::remove_file(&path).unwrap();
        fs::write(&path, damaged).unwrap();
        let refused = scene.call(&["restore", "web"]);
        assert_eq!(
            refused.status,
            Some(2),
            "{part}: {}{}",
            refused.stdout,
            refused.stderr
        );
        assert!(
            refused.stderr.contains(expected),
            "{part}: {}",
            refused.stderr
        );
        assert!(scene.names().is_empty(), "{part}");
        if matches!(part, "memory" | "snapshot.json") {
            let looked = scene.call(&["ps", "--memory", folder.to_str().unwrap()]);
            assert_eq!(looked.status, Some(2), "{part}: {}", looked.stderr);
            assert!(looked.stderr.contains(expected), "{}", looked.stderr);
        }
        fs::write(&path, whole).unwrap();
    };
    check("state", &|bytes| bytes[40] ^= 1, "state");
    check("state", &|bytes| bytes.truncate(100), "state");
    check("memory", &|bytes| bytes.truncate(9000), "memory");
    check("memory", &|bytes| bytes[0] ^= 1, "memory");
    check("kernel", &|bytes| bytes[5000] ^= 1, "kernel");
    check(
        "snapshot.json",
        &|bytes| bytes.truncate(20),
        "snapshot.json",
    );
    scene.well(&["restore", "web"]);
    assert_eq!(scene.ask("web", "echo still here"), "still here");
}

#[test]
fn who_takes_a_snapshot_can_die_and_the_guest_goes_on() {
    let Some(scene) = Scene::with_guest(&[]) else {
        return;
    };
    scene.ask("web", "head -c 60000000 /dev/urandom > /tmp/much");
    let snapshot = ["snapshot", "web", "--to", "never"];
    let fork = ["fork", "web", "--name", "twin"];
    for (words, wait) in [
        (snapshot, 20),
        (snapshot, 60),
        (fork, 90),
        (snapshot, 120),
        (snapshot, 250),
        (fork, 300),
    ] {
        let mut command = Command::new(scene.host.mother.program());
        command.args(words);
        command.env("XDG_RUNTIME_DIR", scene.host.mother.vms().parent().unwrap());
        command.env(
            "XDG_DATA_HOME",
            scene.host.mother.vms().parent().unwrap().join("data"),
        );
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(scene.ask("web", "echo on"), "on", "after {wait} ms");
        if scene.snapshots().join("never").exists() {
            scene.well(&["snapshots", "verify", "never"]);
            scene.well(&["snapshots", "rm", "never"]);
        }
        let left = scene.well(&["snapshots", "--json"]);
        assert!(!left.contains("fork"), "{left}");
        let entries = std::fs::read_dir(scene.snapshots()).unwrap();
        let mut names = entries.map(|entry| entry.unwrap().file_name());
        let is_left = |name: &std::ffi::OsString| name != ".blobs" && name != ".lock";
        assert_eq!(names.find(is_left), None, "{words:?} after {wait} ms");
    }
    scene.well(&["snapshot", "web", "--to", "never"]);
}

#[test]
fn no_two_clones_draw_the_same_random_numbers() {
    let Some(scene) = Scene::with_guest(&[]) else {
        return;
    };
    // The kernel of this guest does not know that it is a clone; its programs draw all the time, before and after.
    let draw = "while :; do head -c 8 /dev/urandom | od -An -tx8; done >/tmp/drawn & true";
    scene.ask("web", draw);
    let clones: Vec<String> = (1..=8).map(|n| format!("clone-{n}")).collect();
    scene.well(&["fork", "web", "--name", "clone", "--count", "8"]);
    let drawn = |vm: &str| {
        let words = ["exec", "-n", vm, "sh", "-c", "cat /tmp/drawn"];
        let text = scene.well(&words);
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines
    };
    let all: Vec<Vec<String>> = clones
        .iter()
        .map(|it| drawn(it))
        .chain([drawn("web")])
        .collect();
    let first = &all[0];
    let common = (0..).take_while(|&n| {
        all.iter()
            .all(|it| it.get(n) == first.get(n) && it.get(n).is_some())
    });
    let common = common.count();
    assert!(common > 0, "nothing was drawn before: {first:?}");
    let mut seen = std::collections::HashMap::new();
    for (vm, lines) in all.iter().enumerate() {
        assert!(lines.len() > common + 3, "clone {vm} did not go on");
        // One number may have been on its way from the kernel to the file.
        for line in &lines[common + 1..] {
            let other = seen.insert(line.clone(), vm);
            assert!(
                other.is_none_or(|other| other == vm),
                "{line} of {vm} and {other:?}"
            );
        }
    }
    // No program was held back, and a second fork is as good.
    scene.well(&["fork", "web", "--name", "again"]);
    scene.ask("again", "true");
}

#[test]
fn a_pipe_goes_on_from_a_snapshot_as_from_a_start() {
    let Some(scene) = Scene::with_guest(&[]) else {
        return;
    };
    scene.ask("web", "x=kept");
    scene.well(&["suspend", "web"]);
    let refused = scene.call(&["run", "--from", "web", "--memory", "1G"]);
    assert_eq!(refused.status, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("memory"), "{}", refused.stderr);
    let line = "echo 'echo \"<$x>\"; poweroff -f' | \"$MOTHER\" run --from web --timeout 60s";
    let refused = scene.host.mother.shell(line);
    assert_eq!(
        refused.status,
        Some(2),
        "a time limit is not a snapshot's: {}",
        refused.stderr
    );
    let line = "echo 'echo \"<$x>\"; poweroff -f' | \"$MOTHER\" run --from web";
    let ran = scene.host.mother.shell(line);
    assert_eq!(ran.status, Some(0), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("<kept>"), "{}", ran.stdout);
}

#[test]
fn a_clone_becomes_a_machine_of_its_own() {
    let Some(scene) = Scene::with_guest(&["--net", "none"]) else {
        return;
    };
    scene.ask(
        "web",
        "echo 0123456789abcdef0123456789abcdef >/etc/machine-id; echo web >/etc/hostname",
    );
    scene.well(&["fork", "web", "--name", "other", "--new-identity"]);
    let say = |vm: &str| {
        let words = "hostname; cat /etc/hostname; grep -c other /etc/hosts; cat /etc/machine-id";
        let text = scene.well(&["exec", "-n", vm, "sh", "-c", words]);
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let other = say("other");
    assert_eq!(other[..3], ["other", "other", "1"]);
    let id = &other[3];
    assert!(
        id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit()),
        "{id}"
    );
    assert_ne!(id, "0123456789abcdef0123456789abcdef");
    let original = say("web").join(" ");
    assert_eq!(original, "web web 0 0123456789abcdef0123456789abcdef");
}

/// VMClock's page, as its field's offsets have it: the same while the machine goes on, and another in a clone.
#[test]
fn a_clone_reads_in_a_page_that_it_is_one() {
    let Some(scene) = Scene::with_guest(&["--net", "none"]) else {
        return;
    };
    let page = |vm: &str| {
        let read = "for at in 00 0c 18; do devmem 0xfe0$at; done; for at in 10 68; do devmem 0xfe0$at 64; done";
        let text = scene.well(&["exec", "-n", vm, "sh", "-c", read]);
        let number = |line: &str| u64::from_str_radix(line.trim_start_matches("0x"), 16).unwrap();
        text.lines().map(number).collect::<Vec<u64>>()
    };
    let before = page("web");
    let [magic, sequence, flags, disruption, generation] = before[..] else {
        panic!("{before:x?}");
    };
    assert_eq!((magic, sequence, flags), (0x4b4c_4356, 2, 0x300));
    assert_eq!(disruption, generation);
    scene.well(&["fork", "web", "--count", "2", "--name", "other"]);
    let clones = [page("other-1"), page("other-2")];
    for clone in &clones {
        assert_eq!(clone[..3], [magic, sequence + 2, flags]);
        assert_ne!((clone[3], clone[4]), (disruption, generation));
    }
    assert_ne!(clones[0][3..], clones[1][3..]);
    assert_eq!(page("web"), before, "the original went on");
}
