//! Dumps and profiles: what is in them is what is in the guest, the guest goes on as it was, and other people's tools open
//! them. Tools that this host has not are named and left out.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Mother, Ran, with_guest};
use insight::{FileMemory, FileSlot, attach};
use serde_json::Value;
use tempfile::TempDir;
use x86::Gpa;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const MEMORY: u64 = 256 << 20;

/// The default guest on two vCPUs, in a folder of its own. It is gone when the test is over.
struct Host {
    mother: Mother,
    folder: TempDir,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.call(&["rm", "--all", "--force"]);
    }
}

impl Host {
    fn with_guest(words: &[&str]) -> Option<Host> {
        let folder = tempfile::tempdir().unwrap();
        let mother = with_guest()?.in_folder(folder.path());
        let host = Host { mother, folder };
        let usual = ["-d", "--name", "web", "--cpus", "2", "--memory", "256M"];
        let ran = host.mother.run(&[&usual, words].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        host.until("the guest has a shell", |host| {
            host.call(&["logs", "web"]).stdout.contains("guest:~#")
        });
        Some(host)
    }

    fn call(&self, words: &[&str]) -> Ran {
        self.mother.call(words)
    }

    fn well(&self, words: &[&str]) -> Ran {
        let ran = self.call(words);
        assert_eq!(ran.status, Some(0), "{words:?}: {}", ran.stderr);
        ran
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.well(words).stdout).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn state(&self) -> String {
        let list = self.json(&["ps", "--json"]);
        // A list is of those that have not ended.
        list[0]["state"].as_str().unwrap_or("gone").to_owned()
    }

    fn until(&self, what: &str, done: impl Fn(&Host) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "{what}: never");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn until_state(&self, state: &str) {
        self.until(state, |host| host.state() == state);
    }

    /// Processes by number and name, as `mother ps` sees them.
    fn processes(&self) -> BTreeSet<(i64, String)> {
        let list = self.json(&["ps", "web", "--json"]);
        let process = |process: &Value| {
            let name = process["comm"].as_str().unwrap().to_owned();
            (process["pid"].as_i64().unwrap(), name)
        };
        list.as_array().unwrap().iter().map(process).collect()
    }

    /// A dump that is stuck, as nobody reads it.
    fn stuck_dump(&self) -> Child {
        // Itself and not under timeout(1): it is killed.
        let mut command = Command::new(self.mother.program());
        command.args(["dump", "web", "--raw", "-o", "-"]);
        command.env("XDG_RUNTIME_DIR", self.mother.vms().parent().unwrap());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = child.spawn().unwrap();
        self.until_state("paused");
        child
    }

    /// Names of files in the folder.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn word(file: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).unwrap();
    u64::from_le_bytes(bytes)
}

/// Where an ELF core has stretches of memory; the kernel's image, which is in one of them, left out.
fn elf_slots(file: &File) -> Vec<FileSlot> {
    let count = word(file, 56) & 0xffff;
    let slot = |index: u64| {
        let at = 64 + 56 * index;
        let is_memory = word(file, at) as u32 == 1;
        let is_image = word(file, at + 16) >= 0xffff_ffff_8000_0000;
        (is_memory && !is_image).then(|| FileSlot {
            gpa: Gpa(word(file, at + 24)),
            len_bytes: word(file, at + 32),
            file_offset: word(file, at + 8),
        })
    };
    (0..count).filter_map(slot).collect()
}

/// Processes as a reader sees them that has the file alone.
fn processes_in(file: File, slots: Vec<FileSlot>) -> BTreeSet<(i64, String)> {
    let kernel = attach(Arc::new(FileMemory::new(file, slots)), &[], None).unwrap();
    let account = kernel.account();
    let look = kernel.look(&account, &[]);
    let processes = look.processes().into_value().unwrap();
    let processes = processes.into_iter();
    processes
        .map(|process| (i64::from(process.pid), process.comm))
        .collect()
}

#[test]
fn a_dump_has_what_is_in_the_guest_and_the_guest_goes_on_as_it_was() {
    let Some(host) = Host::with_guest(&[]) else {
        return;
    };
    let seen = host.processes();
    for (format, word) in [("elf", "--elf"), ("lime", "--lime"), ("raw", "--raw")] {
        let answer = host.json(&["dump", "web", word, "-o", format, "--json"]);
        assert_eq!(host.state(), "running", "{format}");
        assert_eq!(answer["format"], format);
        assert_eq!(answer["memory_bytes"], MEMORY);
        assert_eq!(
            (&answer["vcpus"], &answer["torn"]),
            (&2.into(), &false.into())
        );
        assert!(answer["rested_seconds"].as_f64().unwrap() > 0.0, "{answer}");
        let file = File::open(host.path(format)).unwrap();
        let whole = |file_offset| {
            vec![FileSlot {
                gpa: Gpa(0),
                len_bytes: MEMORY,
                file_offset,
            }]
        };
        let slots = match format {
            "elf" => elf_slots(&file),
            "lime" => whole(32),
            _ => whole(0),
        };
        let held = file.metadata().unwrap().blocks() * 512;
        assert!(held < MEMORY / 2, "{format}: {held} bytes on disk");
        let found = processes_in(file, slots);
        assert!(
            seen.len() > 20 && found.is_superset(&seen),
            "{format}: {found:?}"
        );
    }
    // One that was paused stays so, and gives the same bytes every time and in every way.
    host.well(&["pause", "web"]);
    host.well(&["dump", "web", "--raw", "-o", "first"]);
    assert_eq!(host.state(), "paused");
    let sums = host.mother.shell(&format!(
        "{} dump web --raw -o - | cmp - first && cat first | wc -c",
        host.mother.program().display()
    ));
    assert_eq!(sums.stdout.trim(), MEMORY.to_string(), "{}", sums.stderr);
    assert_eq!(host.state(), "paused");
    host.well(&["resume", "web"]);
    // Of a guest that runs on it is said, in the file too.
    let ran = host.well(&["dump", "web", "--live", "-o", "live"]);
    assert!(ran.stdout.contains("TORN"), "{}", ran.stdout);
    let mut head = vec![0; 16 << 10];
    File::open(host.path("live"))
        .unwrap()
        .read_exact_at(&mut head, 0)
        .unwrap();
    assert!(String::from_utf8_lossy(&head).contains("TORN=yes"));
}

#[test]
fn what_is_paged_out_is_in_a_dump_and_stays_where_it_is() {
    let Some(host) = Host::with_guest(&[]) else {
        return;
    };
    host.well(&["pause", "web"]);
    host.well(&["dump", "web", "--raw", "-o", "before"]);
    let limited = host.call(&["limit", "web", "--resident", "24M"]);
    if limited.stderr.contains("cannot be paged here") {
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped: {}", limited.stderr).unwrap();
        return;
    }
    assert_eq!(limited.status, Some(0), "{}", limited.stderr);
    let memory = || host.json(&["inspect", "web", "--json"])["books"]["memory"].clone();
    let away = memory();
    assert!(!away["paged_out"].as_array().unwrap().is_empty(), "{away}");
    for format in ["--raw", "--elf", "--kdump", "--lime"] {
        host.well(&["dump", "web", format, "-o", "after", "--force"]);
        let now = memory();
        assert_eq!(now["paged_out"], away["paged_out"], "{format}");
        assert_eq!(now["resident_bytes"], away["resident_bytes"], "{format}");
        if format == "--raw" {
            let same = host.mother.shell("cmp before after && echo same");
            assert_eq!(same.stdout, "same\n", "{}", same.stderr);
        }
    }
}

#[test]
fn whoever_ends_a_dump_the_guest_goes_on() {
    let Some(host) = Host::with_guest(&[]) else {
        return;
    };
    let check = |name: &str, act: &dyn Fn(&mut Child), state: &str, said: &str| {
        let mut dump = host.stuck_dump();
        act(&mut dump);
        host.until_state(state);
        let out = dump.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&out.stderr);
        assert!(told.contains(said), "{name}: {told}");
        assert!(!out.status.success(), "{name}");
    };
    check("killed", &|dump| dump.kill().unwrap(), "running", "");
    let resume = |_: &mut Child| drop(host.well(&["resume", "web"]));
    check(
        "resumed",
        &resume,
        "running",
        "somebody else had the guest go on",
    );
    // Who wants it paused gets that, and the dump is whole.
    let dump = host.stuck_dump();
    host.well(&["pause", "web"]);
    let out = dump.wait_with_output().unwrap();
    assert!(out.status.success() && out.stdout.len() as u64 == MEMORY);
    assert_eq!(host.state(), "paused");
    host.well(&["resume", "web"]);
    // One that ends meanwhile gives no dump.
    let kill = |_: &mut Child| drop(host.well(&["kill", "web"]));
    check("ended", &kill, "gone", "cannot dump VM \"web\"");
    let ended = host.call(&["dump", "web", "-o", "never2"]);
    assert!(ended.stderr.contains("it has ended"), "{}", ended.stderr);
    assert!(!host.path("never2").exists());
}

#[test]
fn a_file_is_whole_or_not_there() {
    let Some(host) = Host::with_guest(&[]) else {
        return;
    };
    fs::write(host.path("old"), "old").unwrap();
    let refused = |words: &[&str], status: i32, said: &str| {
        let ran = host.call(words);
        assert!(ran.stderr.contains(said), "{words:?}: {}", ran.stderr);
        assert_eq!(ran.status, Some(status), "{words:?}");
    };
    refused(
        &["dump", "web", "-o", "old"],
        2,
        "there is a file old already",
    );
    refused(
        &["profile", "web", "--btf", "-o", "old"],
        2,
        "there is a file old already",
    );
    refused(
        &["dump", "web", "-o", "/dev/null", "--force"],
        2,
        "no plain file",
    );
    refused(
        &["dump", "web", "-o", "no/such/folder"],
        1,
        "cannot write no/such/folder",
    );
    refused(
        &["dump", "web", "--kdump", "-o", "-"],
        2,
        "not written from front to back",
    );
    refused(
        &["dump", "web", "--raw", "--json", "-o", "-"],
        2,
        "take one of them",
    );
    refused(
        &["dump", "web", "--raw", "--elf", "-o", "x"],
        2,
        "cannot be used with",
    );
    refused(&["dump", "nobody", "-o", "x"], 1, "there is no VM");
    refused(&["profile", "web"], 2, "required");
    // A limit that files reach is told as a full disk is.
    let program = host.mother.program().display().to_string();
    for format in ["--elf", "--kdump", "--lime", "--raw"] {
        let line = format!("trap '' XFSZ; ulimit -f 2000; {program} dump web {format} -o full");
        let ran = host.mother.shell(&line);
        assert!(
            ran.stderr.contains("cannot write full"),
            "{format}: {}",
            ran.stderr
        );
        assert_eq!(ran.status, Some(1), "{format}");
        assert_eq!(host.state(), "running", "{format}");
    }
    let full = host
        .mother
        .shell(&format!("{program} dump web --raw -o - > /dev/full"));
    assert!(
        full.stderr.contains("cannot write to standard output"),
        "{}",
        full.stderr
    );
    assert_eq!(fs::read(host.path("old")).unwrap(), b"old");
    assert_eq!(host.files(), ["old"]);
    host.well(&["dump", "web", "-o", "old", "--force"]);
    assert_eq!(host.files(), ["old"]);
    let mut magic = [0; 4];
    let file = File::open(host.path("old")).unwrap();
    file.read_exact_at(&mut magic, 0).unwrap();
    assert_eq!(
        (&magic, file.metadata().unwrap().mode() & 0o777),
        (b"\x7fELF", 0o600)
    );
}

#[test]
fn a_profile_is_what_the_guest_says_of_itself() {
    let Some(host) = Host::with_guest(&[]) else {
        return;
    };
    let kallsyms = host.well(&["profile", "web", "--kallsyms"]).stdout;
    // The guest's own, as a sum: it has no other way out than the console.
    let program = host.mother.program().display().to_string();
    let typed = "(sleep 1; echo 'echo sum-$(md5sum < /proc/kallsyms)'; sleep 4)";
    let console = host
        .mother
        .shell(&format!("{typed} | timeout 8 {program} console web"))
        .stdout;
    // What was typed is shown too, and is no sum.
    let theirs = console.split("sum-").last().unwrap_or_default();
    let theirs = theirs.split_whitespace().next().unwrap_or_default();
    fs::write(host.path("kallsyms"), &kallsyms).unwrap();
    let ours = host.mother.shell("md5sum < kallsyms").stdout;
    assert_eq!(ours.split_whitespace().next(), Some(theirs), "{console}");
    let answer = host.json(&["profile", "web", "--btf", "-o", "btf", "--json"]);
    let bytes = fs::read(host.path("btf")).unwrap();
    assert_eq!(answer["file_bytes"], bytes.len());
    let types = insight::btf::Types::parse(&bytes).unwrap();
    assert!(types.named().contains_key("task_struct"));
    // Compressed or not, it is the same.
    host.well(&["profile", "web", "--isf", "-o", "plain.json"]);
    host.well(&["profile", "web", "--isf", "-o", "packed.json.gz"]);
    let same = host
        .mother
        .shell("gzip -dc packed.json.gz | cmp - plain.json && echo same");
    assert_eq!(same.stdout, "same\n", "{}", same.stderr);
    let isf: Value = serde_json::from_slice(&fs::read(host.path("plain.json")).unwrap()).unwrap();
    assert_eq!(isf["symbols"]["init_task"]["type"]["name"], "task_struct");
    let pid = &isf["user_types"]["task_struct"]["fields"]["pid"]["type"];
    assert_eq!(*pid, serde_json::json!({"kind": "base", "name": "int"}));
}

/// Whether the host has a program; if not, a loud word.
fn has(host: &Host, program: &str) -> bool {
    let is_there = host.mother.shell(&format!("command -v {program}")).status == Some(0);
    if !is_there {
        // Written, not printed: the test harness would keep what is printed to itself.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped: this host has no {program}").unwrap();
    }
    is_there
}

#[test]
fn other_peoples_tools_open_what_is_written() {
    let Some(host) = Host::with_guest(&[]) else {
        return;
    };
    for folder in ["symbols", "cache"] {
        fs::create_dir(host.path(folder)).unwrap();
    }
    host.well(&["profile", "web", "--isf", "-o", "symbols/web.json.gz"]);
    host.well(&["profile", "web", "--btf", "-o", "web.btf"]);
    host.well(&["pause", "web"]);
    let files = [
        ("elf", "--elf"),
        ("kdump", "--kdump"),
        ("lime", "--lime"),
        ("raw", "--raw"),
    ];
    for (name, word) in files {
        host.well(&["dump", "web", word, "-o", name]);
    }
    let seen = host.processes();
    let shell = |line: &str| {
        let ran = host.mother.shell(line);
        assert_eq!(ran.status, Some(0), "{line}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    };
    if has(&host, "file") {
        let said = shell("file elf kdump");
        assert!(said.contains("ELF 64-bit LSB core file, x86-64"), "{said}");
        assert!(
            said.contains("Kdump compressed dump v6, system Linux"),
            "{said}"
        );
    }
    if has(&host, "bpftool") {
        let said = shell("bpftool btf dump file web.btf format c");
        assert!(said.contains("struct task_struct {"), "{said:.200}");
    }
    if has(&host, "makedumpfile") {
        for name in ["elf", "kdump"] {
            shell(&format!("makedumpfile --dump-dmesg {name} {name}.log"));
            let log = fs::read_to_string(host.path(&format!("{name}.log"))).unwrap();
            assert!(log.contains("] Linux version "), "{name}: {log:.200}");
            shell(&format!("makedumpfile -d 1 -c {name} {name}.again"));
        }
    }
    if has(&host, "drgn") {
        let script = "import hashlib, sys\n\
            sum = hashlib.md5()\n\
            for at in range(0, 256 << 20, 1 << 20): sum.update(prog.read(at, 1 << 20, True))\n\
            print(sum.hexdigest())\n";
        fs::write(host.path("sum.py"), script).unwrap();
        let expected = shell("md5sum < raw");
        let expected = expected.split_whitespace().next();
        for name in ["elf", "kdump"] {
            let said = shell(&format!("drgn -q --no-default-symbols -c {name} sum.py"));
            assert_eq!(said.lines().last(), expected, "{name}");
        }
    }
    if has(&host, "vol") {
        check_volatility(&host, &seen);
    }
}

/// Processes, modules and the banner, as Volatility finds them with the symbols that it was given.
fn check_volatility(host: &Host, seen: &BTreeSet<(i64, String)>) {
    let vol = |file: &str, plugin: &str| -> Vec<Value> {
        let line =
            format!("vol -q --offline --cache-path cache -r json -s symbols -f {file} {plugin}");
        let ran = host.mother.shell(&line);
        assert_eq!(ran.status, Some(0), "{line}: {}", ran.stderr);
        let at = ran.stdout.find('[').unwrap();
        serde_json::from_str(&ran.stdout[at..]).unwrap()
    };
    let modules = host.json(&["inspect", "web", "--json"])["guest"]["modules"].clone();
    let modules = modules["seen"]["value"]
        .as_array()
        .unwrap_or(&Vec::new())
        .clone();
    let modules: BTreeSet<String> = modules
        .iter()
        .map(|module| module["name"].as_str().unwrap().to_owned())
        .collect();
    for file in ["elf", "lime", "raw"] {
        let found: BTreeSet<(i64, String)> = vol(file, "linux.pslist.PsList")
            .iter()
            .map(|row| {
                (
                    row["PID"].as_i64().unwrap(),
                    row["COMM"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        assert_eq!(found, *seen, "{file}");
        let found: BTreeSet<String> = vol(file, "linux.lsmod.Lsmod")
            .iter()
            .map(|row| row["Module Name"].as_str().unwrap().to_owned())
            .collect();
        assert!(!found.is_empty());
        assert_eq!(found, modules, "{file}");
    }
    let banners = vol("elf", "banners.Banners");
    assert!(banners.iter().any(|row| {
        row["Banner"]
            .as_str()
            .unwrap()
            .starts_with("Linux version ")
    }));
}
