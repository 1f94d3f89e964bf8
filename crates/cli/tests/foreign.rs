//! Guests that Mother does not run: QEMU's, told by their own console what is true, and their memory in files that QEMU and
//! others write. Nothing about them changes by looking.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Mother, with_guest};
use images::Cache;
use serde_json::Value;
use tempfile::TempDir;

/// How long a guest may take to boot on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// Said aloud: the test harness would keep what is printed to itself.
fn skipped(why: &str) {
    let mut stderr = std::io::stderr();
    writeln!(stderr, "skipped: {why}").unwrap();
}

/// A guest of QEMU's with a shell, on its software CPU. It is gone when the test is over.
struct Qemu {
    child: Child,
    folder: TempDir,
    name: String,
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Qemu {
    /// Starts it and waits until it has a shell; nothing where this host has not what that takes.
    fn start(options: &[&str]) -> Option<(Mother, Qemu)> {
        let mother = with_guest()?;
        let cache = Cache::of_user().unwrap();
        let qemu = match fixtures::qemu(&cache, &mut |_| {}) {
            Ok(qemu) => qemu,
            Err(error) => {
                skipped(&format!("there is no QEMU: {error}"));
                return None;
            }
        };
        let guest = cache.default_guest(&mut |_| {}).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        // A name that no other test has.
        let name = format!("mother-test-{}", std::process::id());
        let name = format!(
            "{name}-{}",
            folder.path().file_name().unwrap().to_string_lossy()
        );
        let mut command = qemu.command();
        command
            .args([
                "-accel", "tcg", "-cpu", "max", "-display", "none", "-name", &name,
            ])
            .args(["-append", "console=ttyS0", "-kernel"])
            .arg(&guest.kernel)
            .arg("-initrd")
            .arg(&guest.initrd)
            .arg("-chardev")
            .arg(format!(
                "socket,id=c,path={},server=on,wait=off,logfile={}",
                place("console").display(),
                place("log").display()
            ))
            .args(["-serial", "chardev:c", "-qmp"])
            .arg(format!(
                "unix:{},server=on,wait=off",
                place("qmp").display()
            ))
            .args(options)
            .stdout(Stdio::null());
        let child = command.spawn().unwrap();
        let qemu = Qemu {
            child,
            folder,
            name,
        };
        qemu.until("guest:~#");
        Some((mother, qemu))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn target(&self) -> String {
        format!("qemu:{}", self.name)
    }

    /// Waits until its console has shown this.
    fn until(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = fs::read(self.path("log")).unwrap_or_default();
            if String::from_utf8_lossy(&log).contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "{text}: never");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// What a command prints in the guest.
    fn says(&self, command: &str) -> String {
        let mut console = UnixStream::connect(self.path("console")).unwrap();
        // QEMU sends a byte at a time, of which a socket that nobody reads holds few.
        let mut shown = console.try_clone().unwrap();
        let reader = thread::spawn(move || io::copy(&mut shown, &mut io::sink()));
        // What is typed is shown too, so that the mark is put together by the shell.
        writeln!(console, "{command}; echo en''d-of-it").unwrap();
        self.until("end-of-it");
        console.shutdown(Shutdown::Both).unwrap();
        let _ = reader.join();
        String::from_utf8_lossy(&fs::read(self.path("log")).unwrap()).into_owned()
    }

    /// Kilobytes of its process's mappings of at least 200 MiB that are there.
    fn resident(&self) -> u64 {
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", self.child.id())).unwrap();
        let number = |line: &str| {
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        let mut size = 0;
        let mut sum = 0;
        for line in smaps.lines() {
            if line.starts_with("Size:") {
                size = number(line);
            } else if line.starts_with("Rss:") && size >= 200 << 10 {
                sum += number(line);
            }
        }
        sum
    }

    fn qmp(&self, command: &str) -> Value {
        let stream = UnixStream::connect(self.path("qmp")).unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        for command in ["{\"execute\": \"qmp_capabilities\"}", command] {
            writeln!(stream.get_mut(), "{command}").unwrap();
            line.clear();
            while !line.contains("\"return\"") {
                assert!(!line.contains("\"error\""), "{command}: {line}");
                line.clear();
                stream.read_line(&mut line).unwrap();
            }
        }
        serde_json::from_str(&line).unwrap()
    }
}

fn json(mother: &Mother, words: &[&str]) -> Value {
    let ran = mother.call(words);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{words:?}: {}", ran.stderr))
}

/// Numbers and names of processes that have a program.
fn programs(list: &Value) -> BTreeSet<(i64, String)> {
    let all = list.as_array().unwrap().iter();
    all.filter(|process| process["is_kernel"] == false)
        .map(|process| {
            let name = process["comm"].as_str().unwrap().to_owned();
            (process["pid"].as_i64().unwrap(), name)
        })
        .collect()
}

/// Looks at a guest in every way, and compares with what it says on its console.
fn check(options: &[&str], configured: u64, cpus: f64) -> Option<(Mother, Qemu)> {
    let (mother, qemu) = Qemu::start(options)?;
    let target = qemu.target();
    let before = qemu.resident();
    let inspected = json(&mother, &["inspect", &target, "--json"]);
    assert_eq!(
        inspected["books"]["configured_bytes"], configured,
        "{inspected:#}"
    );
    assert_eq!(inspected["layout_unproven"], Value::Null, "{options:?}");
    assert_eq!(inspected["vm"]["cpus"], cpus);
    let listed = programs(&json(&mother, &["ps", &target, "--json"]));
    assert!(listed.contains(&(1, "init".to_owned())), "{listed:?}");
    let truth = json(&mother, &["truth", &target, "--json"]);
    assert_ne!(truth["standing"], "contradicts", "{truth:#}");
    let log = mother.call(&["dmesg", &target]).stdout;
    assert!(log.contains("Linux version "), "{log}");
    // The guest goes on meanwhile, and uses some memory for that; what was never touched is gigabytes or most of all.
    let after = qemu.resident();
    assert!(
        after < before + (8 << 10),
        "{before} kB became {after} kB by looking"
    );
    // The oracle: what the guest says of itself.
    let says = qemu.says("grep MemTotal /proc/meminfo; uname -r; ls -d /proc/[0-9]*");
    let total = inspected["guest"]["memory"]["seen"]["value"]["values"]["MemTotal"].as_u64();
    if let Some(total) = total {
        assert!(
            says.contains(&format!("{} kB", total / 1024)),
            "{total}: {says}"
        );
    }
    let release = inspected["kernel"]["release"].as_str().unwrap();
    assert!(says.contains(release), "{release}");
    for (pid, name) in &listed {
        assert!(
            says.contains(&format!("/proc/{pid}")),
            "{pid} ({name}) is nowhere"
        );
    }
    Some((mother, qemu))
}

#[test]
fn a_qemu_guest_in_a_shared_file_is_seen_and_its_dumps_are_read() {
    let memory = "memory-backend-memfd,id=m,size=512M,share=on";
    let options = [
        "-M",
        "q35,memory-backend=m",
        "-m",
        "512M",
        "-object",
        memory,
    ];
    let Some((mother, qemu)) = check(&options, 512 << 20, 1.0) else {
        return;
    };
    let live = programs(&json(&mother, &["ps", &qemu.target(), "--json"]));
    let same = |file: &Path, format: &str| {
        let file = file.to_str().unwrap();
        let list = json(&mother, &["ps", "--memory", file, "--json"]);
        assert_eq!(programs(&list), live, "{file}");
        let inspected = json(&mother, &["inspect", "--memory", file, "--json"]);
        assert_eq!(inspected["format"], format);
        assert!(
            mother
                .call(&["dmesg", "--memory", file])
                .stdout
                .contains("Linux version ")
        );
    };
    // Mother's own, of a guest that runs and of one that stands still by its own hypervisor.
    let target = qemu.target();
    for (option, format) in [
        ("--elf", "elf"),
        ("--kdump", "kdump"),
        ("--lime", "lime"),
        ("--raw", "raw"),
    ] {
        let file = qemu.path(format);
        let dumped = json(
            &mother,
            &[
                "dump",
                &target,
                option,
                "--json",
                "-o",
                file.to_str().unwrap(),
            ],
        );
        assert_eq!(
            (&dumped["vmcoreinfo"], &dumped["torn"]),
            (&Value::Bool(true), &Value::Bool(true))
        );
        same(&file, format);
    }
    // QEMU's.
    for (format, option) in [("elf", ""), ("kdump", ", \"format\": \"kdump-zlib\"")] {
        let file = qemu.path(&format!("qemu.{format}"));
        let place = file.display();
        qemu.qmp(&format!(
            "{{\"execute\": \"dump-guest-memory\", \"arguments\": {{\"paging\": false, \"protocol\": \"file:{place}\"{option}}}}}"
        ));
        same(&file, format);
    }
    let raw = qemu.path("qemu.raw");
    qemu.qmp(&format!(
        "{{\"execute\": \"pmemsave\", \"arguments\": {{\"val\": 0, \"size\": {}, \"filename\": \"{}\"}}}}",
        512 << 20,
        raw.display()
    ));
    same(&raw, "raw");
    // It is paused and goes on by its own way.
    assert_eq!(mother.call(&["pause", &target]).status, Some(0));
    assert_eq!(
        qemu.qmp("{\"execute\": \"query-status\"}")["return"]["status"],
        "paused"
    );
    assert_eq!(mother.call(&["resume", &target]).status, Some(0));
    assert_eq!(
        qemu.qmp("{\"execute\": \"query-status\"}")["return"]["status"],
        "running"
    );
}

#[test]
fn a_qemu_guest_in_anonymous_memory_with_a_hole_is_seen_and_stays_as_small_as_it_was() {
    // On i440fx the hole begins at 3 GiB, on q35 at 2 GiB.
    let options = ["-M", "pc", "-m", "5G", "-smp", "4"];
    let Some((mother, qemu)) = check(&options, 5 << 30, 4.0) else {
        return;
    };
    let file = qemu.path("raw");
    let path = file.to_str().unwrap();
    let dumped = mother.call(&["dump", &qemu.target(), "--raw", "-o", path]);
    assert_eq!(dumped.status, Some(0), "{}", dumped.stderr);
    let layout = || {
        let inspected = json(&mother, &["inspect", "--memory", path, "--json"]);
        assert_eq!(inspected["layout_unproven"], Value::Null, "{inspected:#}");
        inspected["layout"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        layout(),
        "in one piece",
        "an address is a place in the file"
    );
    // Firecracker and Cloud Hypervisor write what is below the hole, and right behind it what is above.
    let collapsed = Command::new("fallocate")
        .args([
            "--collapse-range",
            "--offset",
            "3GiB",
            "--length",
            "1GiB",
            path,
        ])
        .status();
    if collapsed.is_ok_and(|status| status.success()) {
        assert_eq!(layout(), "hole from 3 GiB");
    } else {
        skipped("the file system cannot take a range out of a file");
    }
}

#[test]
fn a_q35_guest_of_more_than_its_hole_is_laid_out_as_its_kernel_was_told() {
    check(&["-M", "q35", "-m", "4608M"], 4608 << 20, 1.0);
}

#[test]
fn a_file_that_is_no_memory_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    let check = |name: &str, bytes: &[u8], expected: &str| {
        let file = folder.path().join(name);
        fs::write(&file, bytes).unwrap();
        let ran = mother.call(&["inspect", "--memory", file.to_str().unwrap()]);
        assert_eq!(ran.status, Some(2), "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{name}: {}", ran.stderr);
    };
    check("text", b"hello", "too short");
    check("elf", b"\x7fELF\x02\x01\x01", "header");
    let program = fs::read("/proc/self/exe").unwrap();
    check("program", &program, "no core");
    check("kdump", b"KDUMP   ", "cut off");
    check("lime", b"EMiL\x01\0\0\0", "cut off");
    let missing = mother.call(&["ps", "--memory", "/nowhere/at/all"]);
    assert_eq!(missing.status, Some(2), "{}", missing.stderr);
    let none = mother.call(&["truth", "qemu:nobody-is-called-so"]);
    assert_eq!(none.status, Some(2), "{}", none.stderr);
    assert!(none.stderr.contains("--all"), "{}", none.stderr);
}

/// Processes in a control group that is named as a container's, one of which its PID namespace does not show.
struct Container {
    id: String,
    groups: Vec<PathBuf>,
    children: Vec<Child>,
}

impl Drop for Container {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for group in &self.groups {
            // The kernel takes a moment to let go of the last process.
            for _ in 0..50 {
                if fs::remove_dir(group).is_ok() {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Container {
    fn new() -> Option<Container> {
        let id = format!("{:064x}", std::process::id());
        let roots = [
            "/sys/fs/cgroup/memory",
            "/sys/fs/cgroup/cpu",
            "/sys/fs/cgroup/freezer",
        ];
        let old = roots.iter().map(Path::new).filter(|root| root.is_dir());
        let mut roots: Vec<&Path> = old.collect();
        if roots.is_empty() {
            roots.push(Path::new("/sys/fs/cgroup"));
        }
        let mut groups = Vec::new();
        for root in roots {
            let group = root.join(format!("libpod-{id}.scope"));
            if let Err(error) = fs::create_dir(&group) {
                skipped(&format!("no control groups can be made: {error}"));
                return None;
            }
            groups.push(group);
        }
        let limits = ["memory.max", "memory.limit_in_bytes"].map(|name| groups[0].join(name));
        for limit in limits.iter().filter(|limit| limit.exists()) {
            fs::write(limit, "67108864").unwrap();
        }
        let mut made = Container {
            id,
            groups,
            children: Vec::new(),
        };
        let inside = Command::new("unshare")
            .args([
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "sleep",
                "600",
            ])
            .spawn();
        let Ok(inside) = inside else {
            skipped("there is no unshare(1)");
            return None;
        };
        made.children.push(inside);
        made.children
            .push(Command::new("sleep").arg("601").spawn().unwrap());
        Some(made)
    }

    /// Puts processes into the groups: the namespace's first one, and one of the host's.
    fn fill(&self) -> Option<(u32, u32)> {
        let parent = self.children[0].id();
        let path = format!("/proc/{parent}/task/{parent}/children");
        let deadline = Instant::now() + Duration::from_secs(10);
        let first: u32 = loop {
            let found = fs::read_to_string(&path).unwrap_or_default();
            if let Some(first) = found.split_whitespace().next() {
                break first.parse().unwrap();
            }
            if Instant::now() > deadline {
                skipped("no PID namespace can be made");
                return None;
            }
            thread::sleep(Duration::from_millis(20));
        };
        let stranger = self.children[1].id();
        for group in &self.groups {
            for pid in [first, stranger] {
                if let Err(error) = fs::write(group.join("cgroup.procs"), pid.to_string()) {
                    skipped(&format!(
                        "no process can be put into a control group: {error}"
                    ));
                    return None;
                }
            }
        }
        Some((first, stranger))
    }
}

#[test]
fn a_container_that_believes_too_much_and_hides_a_process_is_told() {
    let Some(made) = Container::new() else { return };
    let Some((first, stranger)) = made.fill() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    let target = format!("container:{}", &made.id);
    let list = json(&mother, &["ps", "--all", "--json"]);
    let listed = list
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == made.id.as_str());
    assert_eq!(listed.unwrap()["runtime"], "podman", "{list:#}");
    let truth = mother.call(&["truth", &target, "--json"]);
    assert_eq!(truth.status, Some(1), "{}", truth.stderr);
    let truth: Value = serde_json::from_str(&truth.stdout).unwrap();
    let row = |rule: &str| {
        let rows = truth["rows"].as_array().unwrap().iter();
        rows.clone()
            .find(|row| row["rule"] == rule)
            .unwrap()
            .clone()
    };
    if truth["cgroup"]["memory_max_bytes"] == 64 << 20 {
        assert_eq!(row("container-memory")["verdict"], "contradicts");
    } else {
        skipped("the memory controller is not there for a control group of ours");
    }
    assert_eq!(row("container-hidden")["verdict"], "contradicts");
    let meaning = row("container-hidden")["meaning"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(meaning.contains(&stranger.to_string()), "{meaning}");
    assert!(!meaning.contains(&first.to_string()), "{meaning}");
    let processes = mother.call(&["ps", &target]).stdout;
    assert!(
        processes.contains("HIDDEN") && processes.contains("sleep 600"),
        "{processes}"
    );
    let paused = mother.call(&["pause", &target]);
    if paused.status == Some(0) {
        let seen = json(&mother, &["truth", &target, "--json"]);
        assert_eq!(seen["cgroup"]["is_frozen"], true);
        assert_eq!(mother.call(&["resume", &target]).status, Some(0));
    } else {
        skipped(&format!("no freezer: {}", paused.stderr));
    }
}
