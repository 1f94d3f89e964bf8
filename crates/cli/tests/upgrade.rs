//! A new binary under a running VM: another program's process goes on with the guest, or the one that had it does.
//!
//! The new program is this one in another file, so that which of the two runs a VM can be seen.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::host::Host;
use crate::common::{Ran, Terminal};
use devices::virtio::blk::{ImageFormat, create_overlay};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, socket_with,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A host with a program that is to run its VMs.
struct Scene {
    host: Host,
    other: PathBuf,
    asked: std::cell::Cell<u32>,
}

impl Scene {
    fn of(host: Host) -> Scene {
        let other = host.folder().join("mother-new");
        fs::copy(host.mother.program(), &other).unwrap();
        Scene {
            host,
            other,
            asked: std::cell::Cell::new(0),
        }
    }

    /// A VM of some instructions that echo what is typed.
    fn with_echo() -> Scene {
        let scene = Scene::of(Host::new());
        scene.host.start("web");
        scene.host.expect_log("web", "ready");
        scene
    }

    /// A default guest that has a shell.
    fn with_guest(words: &[&str]) -> Option<Scene> {
        let scene = Scene::of(Host::with_guest()?);
        let usual = [
            "-d", "--name", "web", "--memory", "128M", "--engine", "soft",
        ];
        let ran = scene.host.mother.run(&[&usual, words].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        scene.until_logged("guest:~#");
        // What the kernel says would come in the middle of answers.
        scene.ask("dmesg -n 1");
        Some(scene)
    }

    fn until_logged(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.host.call(&["logs", "web"]).stdout;
            if log.contains(text) {
                return log;
            }
            assert!(Instant::now() < deadline, "no {text:?} in {log:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Types a command into the guest; what it printed.
    fn ask(&self, command: &str) -> String {
        let number = self.asked.get() + 1;
        self.asked.set(number);
        // What is typed is shown too, and must not look like the answer.
        let line = format!("echo be''gin{number}; {command}; echo e''nd{number}\n");
        self.host.attach("web").write_all(line.as_bytes()).unwrap();
        // A line of its own each, whatever the kernel says in between.
        let log = self.until_logged(&format!("\nend{number}\n"));
        let begin = format!("begin{number}");
        let begin = log.find(&begin).unwrap() + begin.len();
        let end = log.find(&format!("end{number}\n")).unwrap();
        log[begin..end].trim().to_owned()
    }

    fn upgrade(&self, words: &[&str]) -> Ran {
        let mut command = self.host.mother.command(&self.other);
        let output = command.arg("upgrade").args(words).output().unwrap();
        Ran {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Upgrades it; how long the guest stood still.
    fn well(&self) -> f64 {
        let before = self.pid();
        let ran = self.upgrade(&["--json", "web"]);
        assert_eq!(ran.status, Some(0), "{}{}", ran.stderr, self.messages());
        let done: Value = serde_json::from_str(&ran.stdout).unwrap();
        let pid = self.pid();
        assert_ne!(pid, before);
        assert_eq!(
            (&done[0]["name"], done[0]["pid"].as_i64()),
            (&"web".into(), Some(pid.into()))
        );
        let runs = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        assert_eq!(runs, self.other);
        done[0]["pause_seconds"].as_f64().unwrap()
    }

    fn pid(&self) -> i32 {
        let pid = self.host.ps("web")["pid"].as_i64();
        i32::try_from(pid.unwrap()).unwrap()
    }

    /// What its processes have said.
    fn messages(&self) -> String {
        let path = self.host.mother.vms().join("web/messages");
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Types into the echoing guest, which prints it.
    fn echoes(&self, text: &str) {
        let mut console = self.host.attach("web");
        console.write_all(text.as_bytes()).unwrap();
        self.host.expect_log("web", text);
    }
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// The fields behind the name in the kernel's account of a process (proc_pid_stat(5)), from its state on.
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// The process beside `old` that its launcher has started for the VM.
fn wait_for_other(old: i32) -> i32 {
    let launcher = stat(old).unwrap()[1].clone();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|it| it.file_name().to_str()?.parse::<i32>().ok());
        let is_it = |pid: &i32| {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
            let is_named = comm.is_ok_and(|name| name == "mother: web\n");
            is_named
                && *pid != old
                && stat(*pid).is_some_and(|it| it[1] == launcher && it[0] != "Z")
        };
        if let Some(pid) = pids.into_iter().find(is_it) {
            return pid;
        }
        assert!(Instant::now() < deadline, "no other process comes");
    }
}

/// Waits until the first thread of a process waits for a message.
fn wait_until_it_listens(pid: i32) {
    let deadline = Instant::now() + PATIENCE;
    let is_in_call = |number: &str| {
        let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        call.starts_with(number)
    };
    // recvmsg(2) on x86-64, in a process that has locked itself in: it waits for the guest.
    let is_locked_in = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains("Seccomp:\t2")
    };
    while !(is_locked_in() && is_in_call("47 ")) {
        assert!(
            Instant::now() < deadline,
            "process {pid} does not get ready"
        );
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_running_guest_goes_on_in_a_process_of_another_program() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    let overlay = folder.path().join("overlay");
    File::create(&raw).unwrap().set_len(64 << 20).unwrap();
    let base = folder.path().join("base");
    File::create(&base).unwrap().set_len(64 << 20).unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&overlay);
    let base_file = File::open(&base).unwrap();
    create_overlay(file.unwrap(), &base_file, "base", ImageFormat::Raw, None).unwrap();
    let over = format!("{},base={}", overlay.display(), base.display());
    let disks = [raw.display().to_string(), over];
    let words = ["--cpus", "2", "--disk", &disks[0], "--disk", &disks[1]];
    let Some(scene) = Scene::with_guest(&words) else {
        return;
    };
    // What only this boot knows, in the guest's memory, its shell and its kernel.
    let nonce = scene.ask("head -c 16 /dev/urandom | md5sum > /tmp/nonce; cat /tmp/nonce");
    let boot = scene.ask("here=$$; cat /proc/sys/kernel/random/boot_id");
    scene.ask("head -c 20000000 /dev/urandom > /tmp/much; md5sum < /tmp/much > /tmp/sum");
    // Both disks are written and read all the while: whatever is read is what was written last.
    let load = "load() { n=0; while [ ! -e /tmp/stop ]; do \
                dd if=/tmp/much of=$1 bs=64k count=200 seek=$((n % 4 * 200)) conv=notrunc 2>/dev/null; sync; \
                echo 3 > /proc/sys/vm/drop_caches; \
                dd if=$1 bs=64k count=200 skip=$((n % 4 * 200)) 2>/dev/null | md5sum > /tmp/is$2; \
                cmp -s /tmp/is$2 /tmp/should || echo wrong $1 $n; n=$((n + 1)); echo $n > /tmp/count$2; done; }";
    scene.ask("head -c 13107200 /tmp/much | md5sum > /tmp/should");
    scene.ask(&format!(
        "{load}; load /dev/vda a & load /dev/vdb b & sleep 1"
    ));
    let count = |name: &str| -> u64 {
        let text = scene.ask(&format!("cat /tmp/count{name}"));
        text.lines().find_map(|line| line.parse().ok()).unwrap_or(0)
    };
    let mut before = (count("a"), count("b"));
    let mut pauses = Vec::new();
    for _ in 0..10 {
        pauses.push(scene.well());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = (count("a"), count("b"));
            if now.0 > before.0 && now.1 > before.1 {
                before = now;
                break;
            }
            assert!(Instant::now() < deadline, "the disks' load stands still");
        }
    }
    scene.ask("touch /tmp/stop; wait");
    assert_eq!(scene.ask("cat /tmp/nonce"), nonce);
    assert_eq!(
        scene.ask("[ $here = $$ ] && cat /proc/sys/kernel/random/boot_id"),
        boot
    );
    assert_eq!(
        scene.ask("md5sum < /tmp/much | cmp - /tmp/sum && echo same"),
        "same"
    );
    let log = scene.host.call(&["logs", "web"]).stdout;
    assert!(!log.contains("wrong /dev"), "{log}");
    let said = scene.ask("date +%s").parse::<u64>().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    assert!(
        now.unwrap().as_secs().abs_diff(said) <= 2,
        "its clock is right"
    );
    // Of a pause, not of a restart: the machine is busy with other tests too.
    assert!(pauses.iter().all(|pause| *pause < 5.0), "{pauses:?}");
    let ran = scene.host.call(&["exec", "web", "--", "cat", "/tmp/nonce"]);
    assert_eq!(ran.stdout.trim(), nonce, "{}", ran.stderr);
    assert_eq!(scene.host.call(&["stop", "web"]).status, Some(0));
    // What the guest has written last is in the file.
    let mut bytes = vec![0; 1 << 16];
    File::open(&raw)
        .unwrap()
        .read_exact_at(&mut bytes, 0)
        .unwrap();
    assert!(bytes.iter().any(|byte| *byte != 0));
}

#[test]
fn a_connection_over_the_network_lives_on() {
    let cache = images::Cache::of_user().ok();
    if cache.and_then(|cache| cache.installed_passt()).is_none() {
        let mut stderr = std::io::stderr();
        writeln!(
            stderr,
            "skipped: passt is neither on the PATH nor in the cache"
        )
        .unwrap();
        return;
    }
    let Some(scene) = Scene::with_guest(&["--net", "user,host"]) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let lines = 4_000_000;
    let got = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        let mut piece = vec![0; 1 << 16];
        loop {
            let count = stream.read(&mut piece).unwrap();
            if count == 0 {
                return bytes;
            }
            bytes.extend_from_slice(&piece[..count]);
            // So that the connection is there for as long as the upgrades take.
            thread::sleep(Duration::from_micros(200));
        }
    });
    scene.ask(&format!(
        "(seq 1 {lines} | nc 10.0.2.2 {port}; touch /tmp/sent) > /dev/null 2>&1 & sleep 0.3"
    ));
    for _ in 0..6 {
        scene.well();
        thread::sleep(Duration::from_millis(100));
    }
    let sent = scene.ask("[ -e /tmp/sent ] && echo sent before || echo sends still");
    assert_eq!(
        sent, "sends still",
        "the upgrades were under the connection"
    );
    let got = got.join().unwrap();
    let expected: String = (1..=lines).map(|n| format!("{n}\n")).collect();
    assert!(
        got == expected.as_bytes(),
        "{} bytes of {}",
        got.len(),
        expected.len()
    );
    assert!(!scene.messages().contains("passt"), "{}", scene.messages());
}

#[test]
fn what_was_typed_printed_paused_and_limited_stays_so() {
    let scene = Scene::with_echo();
    let ran = scene.host.call(&["limit", "web", "--cpu-limit", "80%"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    scene.echoes("before");
    assert_eq!(scene.host.call(&["pause", "web"]).status, Some(0));
    scene.host.attach("web").write_all(b"between").unwrap();
    scene.well();
    assert_eq!(scene.host.ps("web")["state"], "paused");
    assert_eq!(scene.host.call(&["resume", "web"]).status, Some(0));
    scene.host.expect_log("web", "ready\nbeforebetween");
    scene.well();
    scene.echoes("after");
    scene.host.expect_log("web", "ready\nbeforebetweenafter");
    // What a console is shown first is what was printed before, in whichever process.
    let line = format!("{} console web", scene.host.mother.program().display());
    let mut terminal = Terminal::new(&scene.host.mother, &line);
    terminal.expect("beforebetweenafter");
    terminal.send("\x01x");
    terminal.finish();
    assert_eq!(scene.host.call(&["stop", "web"]).status, Some(0));
    assert_eq!(scene.host.ps("web")["end"]["kind"], "powered-off");
}

#[test]
fn limits_are_after_an_upgrade_as_they_were_set_last() {
    let words = ["--host-limit", "110M", "--cpu-limit", "150%"];
    let Some(scene) = Scene::with_guest(&words) else {
        return;
    };
    let limit = |words: &[&str]| {
        let ran = scene.host.call(&[&["limit", "web"], words].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    };
    let limits = || scene.host.ps("web")["limits"].clone();
    let first = limits();
    assert_eq!(
        (&first["host"], &first["cpu_limit"]),
        (&"110M".into(), &"150%".into())
    );
    let ran = scene.upgrade(&["web", "nobody", "--json"]);
    assert_eq!(ran.status, Some(1), "{}", ran.stdout);
    let refused: Value = serde_json::from_str(&ran.stdout).unwrap();
    let why = refused[0]["error"].to_string();
    assert!(why.contains("mother limit NAME --host-limit none"), "{why}");
    assert_eq!(refused[0]["done"], false);
    assert_eq!(refused[1]["name"], "nobody");
    limit(&["--host-limit", "none", "--cpu-limit", "80%"]);
    limit(&["--engine-memory", "40M"]);
    for _ in 0..2 {
        scene.well();
        let limits = limits();
        assert_eq!(limits["host"], Value::Null, "{limits}");
        assert_eq!(limits["resident"], Value::Null, "{limits}");
        assert_eq!(limits["engine_memory"], "40M", "{limits}");
        assert_eq!(limits["cpu_limit"], "80%", "{limits}");
        let inspected = scene.host.call(&["inspect", "web"]).stdout;
        assert!(
            !inspected.contains("of the host, of the"),
            "no limit of the whole: {inspected}"
        );
        assert!(
            inspected.contains("limit    CPU 80% of a core"),
            "{inspected}"
        );
    }
}

#[test]
fn a_program_in_the_guest_is_told_to_have_lost_its_command() {
    let Some(scene) = Scene::with_guest(&[]) else {
        return;
    };
    let mut command = scene.host.mother.command(scene.host.mother.program());
    let words = [
        "exec",
        "-n",
        "web",
        "sh",
        "-c",
        "echo begun; exec sleep 1000",
    ];
    command.args(words).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut begun = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut begun)
        .unwrap();
    scene.well();
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the connection to its guest agent was cut"),
        "{said}"
    );
}

#[test]
fn a_new_process_that_is_killed_at_any_step_leaves_the_guest_where_it_was() {
    let scene = Scene::with_echo();
    let old = scene.pid();
    let begin = || -> Child {
        let mut command = scene.host.mother.command(&scene.other);
        command.args(["upgrade", "web"]).stdout(Stdio::null());
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let check = |step: &str, mut child: Child, new: i32| {
        signal(new, Signal::KILL);
        signal(old, Signal::CONT);
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{step}: {said}");
        assert!(
            said.contains("VM \"web\" is not upgraded")
                && said.contains("the process that was to run it is gone"),
            "{step}: {said}"
        );
        assert_eq!(scene.pid(), old, "{step}");
        scene.host.wait_for("web", "running");
        scene.echoes(&format!("goes-on-{step};"));
    };
    // While it opens what the guest stands on. The old process is held, so that nothing comes of it first.
    signal(old, Signal::STOP);
    let child = begin();
    let new = wait_for_other(old);
    check("opening", child, new);
    // When it is ready, and the guest is to come to rest.
    signal(old, Signal::STOP);
    let child = begin();
    let new = wait_for_other(old);
    wait_until_it_listens(new);
    check("ready", child, new);
    // When it has been handed the guest, which stands still.
    signal(old, Signal::STOP);
    let child = begin();
    let new = wait_for_other(old);
    wait_until_it_listens(new);
    signal(new, Signal::STOP);
    signal(old, Signal::CONT);
    scene.host.wait_for("web", "paused");
    // Nobody can have it go on meanwhile.
    let ran = scene.host.call(&["resume", "web"]);
    assert!(
        ran.status == Some(1) && ran.stderr.contains("moves to another process"),
        "{}",
        ran.stderr
    );
    check("handed", child, new);
    // And after all that it can be upgraded.
    scene.well();
    scene.echoes("after");
}

#[test]
fn whoever_asked_may_go_and_the_guest_goes_on_all_the_same() {
    let scene = Scene::with_echo();
    let old = scene.pid();
    let mut command = scene.host.mother.command(&scene.other);
    let mut child = command.args(["upgrade", "web"]).spawn().unwrap();
    let new = wait_for_other(old);
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while scene.pid() != new {
        assert!(Instant::now() < deadline, "{}", scene.messages());
        thread::sleep(Duration::from_millis(20));
    }
    scene.echoes("after");
    // The process that runs it now is the VM's: its end is the VM's.
    signal(new, Signal::KILL);
    scene.host.wait_for("web", "died");
}

#[test]
fn a_vm_that_was_upgraded_is_stopped_killed_and_remembered_as_any_other() {
    let scene = Scene::with_echo();
    scene.well();
    assert_eq!(scene.host.call(&["kill", "web"]).status, Some(0));
    let vm = scene.host.ps("web");
    assert_eq!(
        (&vm["state"], &vm["end"]["kind"]),
        (&"ended".into(), &"stopped".into())
    );
    let ran = scene.upgrade(&["web"]);
    assert_eq!(ran.status, Some(1));
    assert!(ran.stderr.contains("it has ended"), "{}", ran.stderr);
    let ran = scene.upgrade(&["nobody"]);
    assert!(
        ran.status == Some(1) && ran.stderr.contains("nobody"),
        "{}",
        ran.stderr
    );
    scene.host.start("web");
    scene.host.expect_log("web", "ready");
    scene.well();
    scene.echoes("again");
}

#[test]
fn what_cannot_be_carried_is_refused_and_runs_on() {
    let scene = Scene::with_echo();
    let refused = |words: &[&str], why: &str, help: &str| {
        let ran = scene.upgrade(words);
        assert_eq!(ran.status, Some(1), "{why}");
        assert!(
            ran.stderr.contains(why) && ran.stderr.contains(help),
            "{}",
            ran.stderr
        );
    };
    let ran = scene.host.call(&["limit", "web", "--resident", "4M"]);
    if ran.status == Some(0) {
        refused(
            &["web"],
            "the host may not hold all of its memory",
            "--resident none",
        );
        let ran = scene.host.call(&["limit", "web", "--resident", "none"]);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        scene.well();
        scene.echoes("unlimited");
    }
    let mut foreground = scene.host.mother.command(scene.host.mother.program());
    let mut foreground = foreground
        .args([
            "run",
            "--kernel",
            "echo",
            "--memory",
            "32M",
            "--name",
            "here",
            "--timeout",
            "90s",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    scene.host.wait_for("here", "running");
    refused(
        &["here"],
        "its console is connected to the command that started it",
        "`-d`",
    );
    // One that is refused keeps no other from its upgrade.
    let before = scene.pid();
    refused(&["here", "web"], "its console is connected", "`-d`");
    assert_ne!(scene.pid(), before);
    let ran = scene.upgrade(&["--json", "here"]);
    let failed: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(
        failed.to_string().contains("its console is connected"),
        "{failed}"
    );
    assert_eq!(scene.host.call(&["kill", "here"]).status, Some(0));
    foreground.wait().unwrap();
}

/// Says to a launcher that a program of this format is to run the VM; its answer.
fn order(launcher: &Path, program: &Path, format: u32) -> String {
    let kind = SocketType::SEQPACKET;
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::empty(), None).unwrap();
    connect(&socket, &SocketAddrUnix::new(launcher).unwrap()).unwrap();
    let program = File::open(program).unwrap();
    let text = format!("{{\"Upgrade\":{{\"format\":{format},\"version\":\"9.9.9\\u001b[1m\"}}}}");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let rights = [program.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&rights)));
    let packet = [IoSlice::new(text.as_bytes())];
    sendmsg(&socket, &packet, &mut ancillary, SendFlags::empty()).unwrap();
    let mut bytes = vec![0; 1 << 16];
    let mut packet = [IoSliceMut::new(&mut bytes)];
    let mut none = RecvAncillaryBuffer::default();
    let got = recvmsg(&socket, &mut packet, &mut none, RecvFlags::empty()).unwrap();
    String::from_utf8(bytes[..got.bytes].to_vec()).unwrap()
}

#[test]
fn a_program_of_another_version_or_none_of_mothers_is_refused() {
    let scene = Scene::with_echo();
    let launcher = scene.host.mother.vms().join("web/launcher");
    let check = |program: &Path, format, words: &[&str]| {
        let said = order(&launcher, program, format);
        for word in words {
            assert!(
                said.starts_with("{\"Refused\"") && said.contains(word),
                "{said}"
            );
        }
        scene.host.wait_for("web", "running");
    };
    let versions = [
        "its launcher is of Mother",
        "and Mother 9.9.91m does in format 77",
        "mother suspend",
    ];
    check(&scene.other, 77, &versions);
    let gone = ["the process that was to run it is gone"];
    check(Path::new("/bin/true"), 1, &gone);
    check(
        Path::new("/etc/passwd"),
        1,
        &["cannot start a process for the VM"],
    );
    scene.echoes("goes-on");
}
