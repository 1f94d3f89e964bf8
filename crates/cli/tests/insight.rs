//! What goes on in a guest, asked from outside as a user asks: of clean guests, liars, hung ones and panicked ones.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Mother, Ran, Terminal, multiboot, with_guest};
use api::VmName;
use fleet::{Client, Inventory};
use serde_json::Value;
use tempfile::TempDir;
use watch::LiveMemory;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// VMs that are gone when the test is over, however it went.
struct Host {
    mother: Mother,
    _folder: TempDir,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.mother.call(&["rm", "--all", "--force"]);
    }
}

impl Host {
    /// With the default guest running as `name`, its shell ready.
    fn with_guest(name: &str) -> Option<Host> {
        let host = Host {
            mother: with_guest()?,
            _folder: tempfile::tempdir().unwrap(),
        };
        let ran = host.mother.run(&[
            "-d",
            "--name",
            name,
            "--memory",
            "256M",
            "--timeout",
            "110s",
        ]);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        host.until(name, |host| {
            host.call(&["logs", name]).stdout.contains("guest:~#")
        });
        Some(host)
    }

    fn call(&self, words: &[&str]) -> Ran {
        self.mother.call(words)
    }

    fn client(&self, name: &str) -> Client {
        Client::connect(&Inventory::at(&self.mother.vms()).record(&VmName::new(name).unwrap()))
            .unwrap()
    }

    /// Types a line into the guest's console.
    fn type_line(&self, name: &str, line: &str) {
        let mut client = self.client(name);
        client
            .order(api::Command::Console {
                replay_bytes: 0,
                types: true,
            })
            .unwrap();
        let (_, mut stream) = client.into_console().unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(300));
    }

    fn until(&self, what: &str, done: impl Fn(&Host) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "{what}: not in time");
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn truth(&self, name: &str) -> (Value, Option<i32>) {
        let ran = self.call(&["truth", "--json", name]);
        (
            serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.stderr)),
            ran.status,
        )
    }
}

fn rows<'a>(truth: &'a Value, rule: &str) -> Vec<&'a Value> {
    truth["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["rule"] == rule)
        .collect()
}

#[test]
fn a_clean_guest_shows_its_processes_and_raises_no_alarm() {
    let Some(host) = Host::with_guest("clean") else {
        return;
    };
    host.type_line("clean", "sleep 1234 &");
    host.until("the process", |host| {
        host.call(&["ps", "clean"]).stdout.contains("sleep 1234")
    });
    let processes: Vec<Value> =
        serde_json::from_str(&host.call(&["ps", "--json", "clean"]).stdout).unwrap();
    assert!(
        processes
            .iter()
            .any(|process| process["pid"] == 1 && process["comm"] == "init"),
        "{processes:?}"
    );
    assert!(
        processes
            .iter()
            .any(|process| process["comm"] == "kthreadd" && process["is_kernel"] == true)
    );
    let log = host.call(&["dmesg", "clean"]).stdout;
    assert!(
        log.contains("Linux version ") && log.contains("Free page reporting enabled"),
        "{log}"
    );
    for _ in 0..5 {
        let (truth, status) = host.truth("clean");
        assert!(
            status == Some(0) && truth["worst"] != "contradicts" && truth["worst"] != "differs",
            "{truth:#}"
        );
        assert_eq!(
            truth["kernel"]["disputes"].as_array().map(Vec::len),
            Some(0),
            "{truth:#}"
        );
        for rule in ["hidden-task", "hidden-module", "table-changed"] {
            assert_eq!(rows(&truth, rule)[0]["verdict"], "agrees", "{truth:#}");
        }
    }
    let all = host.call(&["truth"]);
    assert_eq!(all.status, Some(0), "{}", all.stderr);
    for text in [
        "clean",
        "256M",
        "memory of all guests",
        "256M believed",
        "host has",
    ] {
        assert!(all.stdout.contains(text), "{text:?} in {}", all.stdout);
    }
    let all: Value = serde_json::from_str(&host.call(&["truth", "--json"]).stdout).unwrap();
    assert_eq!(
        (&all["guests"][0]["name"], &all["rows"][0]["rule"]),
        (&"clean".into(), &"beliefs-against-host".into())
    );
    let text = host.call(&["inspect", "clean"]).stdout;
    for head in ["SOCKET", "HELD BY", "MOUNT", "proc ", "sysfs"] {
        assert!(text.contains(head), "{head:?} in {text}");
    }
    let everything = host.call(&["inspect", "--json", "clean"]).stdout;
    let everything: Value = serde_json::from_str(&everything).unwrap();
    let modules = everything["guest"]["modules"]["seen"]["value"]
        .as_array()
        .unwrap();
    assert!(
        modules
            .iter()
            .any(|module| module["name"] == "virtio_balloon"),
        "{modules:?}"
    );
    let memory = &everything["books"]["memory"];
    let number = |name: &str| memory[name].as_u64().unwrap();
    assert_eq!(
        number("given_bytes"),
        number("resident_bytes") + number("given_back_bytes")
    );
    assert!(everything["cost"]["everything"]["bytes"].as_u64().unwrap() > 0);
}

#[test]
fn to_look_into_a_guest_costs_it_no_page() {
    let Some(host) = Host::with_guest("still") else {
        return;
    };
    // Nothing of the guest's own may change the number.
    assert_eq!(host.call(&["pause", "still"]).status, Some(0));
    let memory = host.client("still").memory().unwrap().memory;
    let before = memory.metadata().unwrap().blocks();
    for words in [
        ["ps", "still"],
        ["truth", "still"],
        ["inspect", "still"],
        ["dmesg", "still"],
    ] {
        let ran = host.call(&words);
        assert!(
            ran.status == Some(0) && !ran.stdout.is_empty(),
            "{words:?}: {}",
            ran.stderr
        );
    }
    assert_eq!(
        memory.metadata().unwrap().blocks(),
        before,
        "blocks of the memory file"
    );
}

#[test]
fn an_agent_that_says_95_percent_is_told_from_its_kernel() {
    let Some(host) = Host::with_guest("liar") else {
        return;
    };
    let lie = "for p in /sys/class/virtio-ports/*; do [ \"$(cat $p/name)\" = mother.claims ] && p=/dev/${p##*/} && \
               while :; do echo claim memory_used_percent 95 >$p; sleep 1; done & done";
    host.type_line("liar", lie);
    host.until("the lie", |host| {
        let (truth, status) = host.truth("liar");
        let row = rows(&truth, "agent-against-kernel");
        row.iter().any(|row| row["verdict"] == "contradicts") && status == Some(1)
    });
    let (truth, _) = host.truth("liar");
    let row = rows(&truth, "agent-against-kernel")[0];
    assert_eq!(row["claim"], "95 %", "{row:#}");
    let others = truth["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["verdict"] == "contradicts");
    assert_eq!(others.count(), 1, "only the liar is one: {truth:#}");
    let table = host.call(&["truth", "liar"]).stdout;
    assert!(
        table.contains("CONTRADICTS") && table.contains("rule agent-against-kernel"),
        "{table}"
    );
}

/// Whoever watches for long has the old guest's memory open: with the new one's registers it would be a guest that nobody
/// ever ran, and what was learned of it would be held against the new one.
#[test]
fn a_guest_of_the_same_name_is_another_guest() {
    let Some(host) = Host::with_guest("web") else {
        return;
    };
    let record = || Inventory::at(&host.mother.vms()).record(&VmName::new("web").unwrap());
    let mut watcher = watch::Watcher::connect(record(), None).unwrap().for_long();
    watcher.assess().unwrap();
    assert_eq!(host.call(&["kill", "web"]).status, Some(0));
    let ran = host.call(&["start", "web"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    host.until("the new guest's shell", |host| {
        host.call(&["logs", "web"]).stdout.contains("guest:~#")
    });
    // What passes while it waits, it looks at too.
    watcher.wait(Duration::from_secs(2));
    let seen = watcher.assess();
    assert!(
        matches!(seen, Err(fleet::ClientError::Connection(_))),
        "{:?}",
        seen.map(|assessment| assessment.rows)
    );
    let (truth, status) = host.truth("web");
    assert_eq!(status, Some(0), "{truth:#}");
}

#[test]
fn a_panicked_guest_still_answers() {
    let Some(host) = Host::with_guest("dead") else {
        return;
    };
    host.type_line("dead", "echo c >/proc/sysrq-trigger");
    host.until("the panic", |host| {
        host.call(&["dmesg", "dead"])
            .stdout
            .contains("Kernel panic")
    });
    let ps = host.call(&["ps", "dead"]);
    assert!(
        ps.status == Some(0) && ps.stdout.contains("kthreadd"),
        "{}",
        ps.stderr
    );
    let (truth, _) = host.truth("dead");
    assert_eq!(
        rows(&truth, "memory-size")[0]["verdict"],
        "agrees",
        "{truth:#}"
    );
}

/// A guest whose vCPU spins in its kernel with interrupts off: the harness writes `cli; jmp` to itself over a system
/// call that nobody has made yet, and makes it.
#[test]
fn a_hung_guest_still_answers() {
    let Some(host) = Host::with_guest("hung") else {
        return;
    };
    let mut client = host.client("hung");
    let files = client.memory().unwrap();
    let kernel = insight::attach(Arc::new(LiveMemory::new(files, None)), &[], None).unwrap();
    let call = kernel.address("__x64_sys_chroot").unwrap().0;
    let base = kernel
        .vmcoreinfo()
        .and_then(insight::vmcoreinfo::VmCoreInfo::phys_base)
        .unwrap();
    let gpa = (call - 0xffff_ffff_8000_0000).wrapping_add(base);
    write_memory(&host, "hung", gpa, &[0xfa, 0xeb, 0xfe]);
    host.type_line("hung", "chroot never");
    let is_spinning = |host: &Host| {
        let (_, vcpus) = host.client("hung").registers().unwrap();
        vcpus[0].rip == call + 1 && vcpus[0].rflags & 0x200 == 0
    };
    host.until("the hang", is_spinning);
    let ps = host.call(&["ps", "--json", "hung"]);
    let processes: Vec<Value> = serde_json::from_str(&ps.stdout).unwrap();
    // The shell does this command in a copy of itself.
    assert!(
        processes
            .iter()
            .any(|process| process["state"] == "running"),
        "{processes:#?}"
    );
    assert!(
        host.call(&["dmesg", "hung"])
            .stdout
            .contains("Linux version ")
    );
    let (truth, _) = host.truth("hung");
    assert_eq!(
        rows(&truth, "memory-size")[0]["verdict"],
        "agrees",
        "{truth:#}"
    );
    let inspected = host.call(&["inspect", "hung"]).stdout;
    assert!(inspected.contains("__x64_sys_chroot"), "{inspected}");
    assert!(is_spinning(&host), "it is as hung as before");
}

/// Writes into a guest's memory file, which only who owns the VM's process can.
fn write_memory(host: &Host, name: &str, gpa: u64, bytes: &[u8]) {
    let view = host.client(name).memory().unwrap().view;
    let slot = view
        .slots
        .iter()
        .find(|slot| (slot.gpa..slot.gpa + slot.len_bytes).contains(&gpa))
        .unwrap();
    let pid = host.client(name).status().unwrap().info.pid;
    let is_memory = |path: &std::path::Path| {
        fs::read_link(path)
            .is_ok_and(|target| target.to_string_lossy().contains("mother-guest-memory"))
    };
    let mut descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let file = descriptors.find(|path| is_memory(path)).unwrap();
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(bytes, slot.file_offset + (gpa - slot.gpa))
        .unwrap();
}

#[test]
fn who_cannot_be_looked_into_is_told_why() {
    let folder = tempfile::tempdir().unwrap();
    // cli; jmp to itself
    fs::write(folder.path().join("bare"), multiboot(&[0xfa, 0xeb, 0xfe])).unwrap();
    let host = Host {
        mother: Mother::new(folder.path()),
        _folder: folder,
    };
    for command in ["ps", "truth", "inspect", "dmesg"] {
        let ran = host.call(&[command, "nobody"]);
        assert_eq!(ran.status, Some(1), "{command}");
        assert!(
            ran.stderr
                .starts_with("error: there is no VM \"nobody\"\n  help: "),
            "{command}: {}",
            ran.stderr
        );
        let ran = host.call(&[command, "../nobody"]);
        assert!(
            ran.status == Some(2) && ran.stderr.contains("cannot be the name of a VM"),
            "{}",
            ran.stderr
        );
    }
    let ran = host.mother.run(&[
        "-d",
        "--name",
        "bare",
        "--kernel",
        "bare",
        "--memory",
        "32M",
        "--timeout",
        "90s",
    ]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    for command in ["ps", "dmesg"] {
        let ran = host.call(&[command, "bare"]);
        let why = "error: cannot look into VM \"bare\": no Linux kernel was recognised: ";
        assert!(
            ran.status == Some(1) && ran.stderr.starts_with(why),
            "{command}: {}",
            ran.stderr
        );
    }
    let ran = host.call(&["truth", "bare"]);
    // What it cannot see it does not call fine.
    assert_eq!(ran.status, Some(4), "{}", ran.stderr);
    assert!(
        ran.stdout.contains("32M")
            && ran.stdout.contains("not observable")
            && ran.stdout.contains("BLIND"),
        "{}",
        ran.stdout
    );
    let ran = host.call(&["top"]);
    assert!(
        ran.status == Some(1) && ran.stderr.contains("`mother top` is for people"),
        "{}",
        ran.stderr
    );
}

#[test]
fn top_shows_all_guests_at_a_terminal_of_80_by_24() {
    let Some(host) = Host::with_guest("shown") else {
        return;
    };
    let mut terminal = Terminal::new(
        &host.mother,
        "stty rows 24 cols 80; $MOTHER top; echo status $?; stty -a",
    );
    terminal.expect("believed, ");
    terminal.expect("VERDICT");
    terminal.expect("shown");
    terminal.expect("256M");
    // Only what changes is drawn anew, so these are words that the page before does not have.
    terminal.send("\r");
    terminal.expect("[kthreadd]");
    terminal.send("t");
    terminal.expect("SUBJECT");
    terminal.send("q");
    terminal.expect("TREND");
    terminal.send("q");
    terminal.expect("status 0");
    let rest = terminal.finish();
    assert!(
        rest.contains(" echo ") && rest.contains(" icanon "),
        "the terminal is as it was: {rest}"
    );
}

#[test]
fn top_ends_with_its_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    // A terminal that is killed hangs up: whoever had it open finds it gone.
    // Its keys come from a pipe that nobody ever writes to.
    let line = include_str!("scripts/top_hangs_up.sh").trim_end();
    let ran = mother.shell(line);
    assert!(ran.stdout.contains("gone"), "{}{}", ran.stdout, ran.stderr);
}
