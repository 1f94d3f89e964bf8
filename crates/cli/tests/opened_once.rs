//! A running VM opens nothing: no path, socket, mount or process after its first instruction, in none of its lives.
//!
//! Its process is under a filter that refuses all of that and counts what it refuses. Here a VM goes through everything that
//! can happen to one, and after each of it the count is looked at.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use common::host::Host;
use common::multiboot;
use serde_json::Value;

/// What happens to a VM, and what is done for it.
type Step<'a> = (&'a str, &'a dyn Fn(&Host));

/// The value of the filter's counter in a list of metrics.
fn refused(metrics: &Value) -> Option<u64> {
    let metrics = metrics.as_array()?;
    let metric = metrics
        .iter()
        .find(|it| it["name"] == "mother_refused_system_calls_total")?;
    metric["samples"][0]["value"]
        .as_f64()
        .map(|value| value as u64)
}

/// Whether every thread of the VM's process is under a filter, and can get no further rights.
fn expect_filter(host: &Host) {
    let pid = host.ps("web")["pid"].to_string();
    for books in Host::books(&pid) {
        for line in ["Seccomp: 2", "NoNewPrivs: 1"] {
            assert!(books.iter().any(|it| it == line), "{line}: {books:?}");
        }
    }
}

/// Has all of it happen to the VM `web` of these options, and looks at what was refused.
fn check(host: &Host, words: &[&str], steps: &[Step<'_>]) {
    let report = host.folder().join("report.json");
    let common = ["-d", "--name", "web", "--report", report.to_str().unwrap()];
    let ran = host.mother.run(&[&common, words].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    expect_filter(host);
    for (what, happen) in steps {
        happen(host);
        let vm = host.ps("web");
        assert_eq!(refused(&vm["metrics"]), Some(0), "{what}: {vm:#}");
    }
    assert_eq!(host.call(&["stop", "web"]).status, Some(0));
    assert_eq!(host.call(&["wait", "web"]).status, Some(0));
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(refused(&report["metrics"]), Some(0), "at the end");
    let messages = fs::read_to_string(host.mother.vms().join("web/messages")).unwrap();
    assert!(!messages.contains("refused"), "after the end: {messages}");
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn calls(host: &Host, commands: &[&[&str]]) {
    for words in commands {
        let ran = host.call(&[words, &["web"][..]].concat());
        assert_eq!(ran.status, Some(0), "{words:?}: {}", ran.stderr);
    }
}

fn many_clients(host: &Host) {
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(host.ps("web")["state"], "running"));
        }
    });
}

fn ask_for_another_engine(host: &Host) {
    // KVM takes the guest where it is real; elsewhere the answer says why not, and the guest goes on.
    for engine in ["kvm", "soft"] {
        let ran = host.call(&["switch", "web", "--engine", engine]);
        assert!(
            ran.status.is_some_and(|status| status < 2),
            "{}",
            ran.stderr
        );
    }
    assert_eq!(host.ps("web")["state"], "running");
}

/// Prints more than a file of the log holds.
fn turn_the_log_over(host: &Host) {
    let mut writer = host.attach("web");
    let mut reader = writer.try_clone().unwrap();
    let read = thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
    let line = "x".repeat(99) + "\n";
    writer.write_all(line.repeat(30_000).as_bytes()).unwrap();
    writer.write_all(b"the last line\n").unwrap();
    host.expect_log("web", "the last line");
    let folder = host.mother.vms().join("web");
    assert!(
        folder.join("console.old").exists(),
        "a second file was begun"
    );
    writer.shutdown(std::net::Shutdown::Both).unwrap();
    let _ = read.join().unwrap();
}

/// Echoes what is typed on COM1, resets at an `!`, and powers off when the power button is pressed.
fn echo_or_reset() -> Vec<u8> {
    let mut code: Vec<u8> = b"ready\r\n"
        .iter()
        .flat_map(|&byte| [0xba, 0xf8, 3, 0, 0, 0xb0, byte, 0xee])
        .collect();
    // 1: mov edx, 0x3fd; in al, dx; test al, 1; jz 2f; mov edx, 0x3f8; in al, dx; out dx, al
    code.extend([
        0xba, 0xfd, 3, 0, 0, 0xec, 0xa8, 1, 0x74, 19, 0xba, 0xf8, 3, 0, 0, 0xec, 0xee,
    ]);
    // cmp al, '!'; jne 2f; mov edx, 0xcf9; mov al, 6; out dx, al
    code.extend([0x3c, b'!', 0x75, 8, 0xba, 0xf9, 0x0c, 0, 0, 0xb0, 6, 0xee]);
    // 2: mov edx, 0x600; in ax, dx; test ah, 1; jz 1b
    code.extend([0xba, 0, 6, 0, 0, 0x66, 0xed, 0xf6, 0xc4, 1, 0x74, 0xd7]);
    // mov edx, 0x604; mov ax, 0x3400; out dx, ax; hlt
    code.extend([0xba, 4, 6, 0, 0, 0x66, 0xb8, 0, 0x34, 0x66, 0xef, 0xf4]);
    code
}

#[test]
fn a_small_guest_lives_its_lives_without_opening_anything() {
    let host = Host::new();
    fs::write(host.folder().join("resets"), multiboot(&echo_or_reset())).unwrap();
    File::create(host.folder().join("disk"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let reset = |host: &Host| {
        let before = host.ps("web")["reboots"].as_u64();
        host.attach("web").write_all(b"!").unwrap();
        until("it starts again", || {
            host.ps("web")["reboots"].as_u64() > before
        });
    };
    let limit = |host: &Host| calls(host, &[&["limit", "--resident", "16M"]]);
    let steps: &[Step<'_>] = &[
        ("it starts", &|host| host.expect_log("web", "ready")),
        ("a console comes and goes", &|host| {
            let mut console = host.attach("web");
            console.write_all(b"hello\n").unwrap();
            let mut echo = [0; 5];
            console.read_exact(&mut echo).unwrap();
            assert_eq!(&echo, b"hello");
        }),
        ("it is reset", &reset),
        ("another engine is asked for", &ask_for_another_engine),
        ("it gets a limit", &limit),
        ("it is reset with a limit", &reset),
        ("it is paused", &|host| {
            calls(host, &[&["pause"], &["resume"]])
        }),
        ("many ask", &many_clients),
        ("it is looked at", &|host| {
            for words in [
                ["inspect", "web"],
                ["truth", "web"],
                ["dmesg", "web"],
                ["balloon", "web"],
            ] {
                // A guest that is no Linux has little to show.
                let ran = host.call(&words);
                assert!(ran.status.is_some(), "{words:?}");
            }
        }),
        ("its log turns over", &turn_the_log_over),
    ];
    let words = ["--kernel", "resets", "--memory", "32M", "--timeout", "100s"];
    let devices = ["--vsock", "socket", "--disk", "disk", "--page-file", "."];
    check(&host, &[&words[..], &devices].concat(), steps);
    assert!(
        !host.folder().join("socket").exists(),
        "the socket goes with the VM"
    );
}

#[test]
fn a_linux_guest_lives_its_lives_without_opening_anything() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    File::create(host.folder().join("disk"))
        .unwrap()
        .set_len(8 << 20)
        .unwrap();
    let has_passt = images::Cache::of_user().is_ok_and(|cache| cache.installed_passt().is_some());
    // The shell of this life is there.
    let boots = |count: usize| {
        move |host: &Host| {
            until("it boots", || {
                let log = host.call(&["logs", "web"]).stdout;
                let lives: Vec<&str> = log.split(images::INIT_MARKER).skip(1).collect();
                lives.len() == count && lives[count - 1].contains("guest:~#")
            });
        }
    };
    let typed = |commands: &'static str, expected: &'static str| {
        move |host: &Host| {
            host.attach("web").write_all(commands.as_bytes()).unwrap();
            host.expect_log("web", expected);
        }
    };
    let disk = typed(
        "dd if=/dev/zero of=/dev/vda bs=64k count=64 conv=fsync 2>/dev/null; echo wrote $((6 * 7))\n",
        "wrote 42",
    );
    let network = typed(
        "ip -4 addr show eth0; wget -T 2 http://10.0.2.2/; echo asked $((6 * 7))\n",
        "asked 42",
    );
    let reboot = |host: &Host| host.attach("web").write_all(b"reboot -f\n").unwrap();
    let looked_at = |host: &Host| calls(host, &[&["inspect"], &["dmesg"], &["balloon"], &["ps"]]);
    let limit = |host: &Host| calls(host, &[&["limit", "--resident", "40%"]]);
    let truth = |host: &Host| drop(host.call(&["truth", "web"]));
    let balloon = |host: &Host| {
        host.call(&["balloon", "web", "64M", "--wait", "5s"]);
        calls(host, &[&["balloon"]]);
    };
    let mut steps: Vec<Step<'_>> = vec![];
    let first = boots(1);
    let second = boots(2);
    steps.push(("it boots", &first));
    steps.push(("it writes to its disk", &disk));
    if has_passt {
        steps.push(("it uses its network", &network));
    }
    steps.extend([
        ("it is looked at", &looked_at as &dyn Fn(&Host)),
        ("it is judged", &truth),
        ("it gets a limit", &limit),
        ("its balloon is filled", &balloon),
        ("another engine is asked for", &ask_for_another_engine),
        ("it is told to reboot", &reboot),
        ("it boots again", &second),
        ("it is looked at again", &looked_at),
    ]);
    let net = if has_passt { "user,host" } else { "none" };
    let words = [
        "--memory", "256M", "--cpus", "2", "--net", net, "--disk", "disk",
    ];
    check(
        &host,
        &[&words[..], &["--vsock", "socket", "--timeout", "110s"]].concat(),
        &steps,
    );
}

/// What a guest may still cause to be connected is asked of the launcher.
#[test]
fn a_guest_is_connected_to_the_host_by_another_process_than_its_own() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let program = host.folder().join("vsock");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guests/vsock/main.c");
    let cc = std::process::Command::new("cc")
        .args(["-O2", "-static", "-o", program.to_str().unwrap(), source])
        .status();
    assert!(cc.unwrap().success());
    let listener = UnixListener::bind(host.folder().join("socket_7000")).unwrap();
    let peer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let peer = rustix::net::sockopt::socket_peercred(&stream).unwrap();
        let name = fs::read_to_string(format!("/proc/{}/cmdline", peer.pid.as_raw_nonzero()));
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        stream.write_all(&got).unwrap();
        (name.unwrap_or_default(), got.len())
    });
    let report = host.folder().join("report.json");
    let words = ["--name", "web", "--vsock", "socket", "--timeout", "100s"];
    let app = [
        "--report",
        report.to_str().unwrap(),
        "--app",
        "./vsock",
        "--",
        "send",
        "7000",
        "5000",
    ];
    let ran = host.mother.run(&[&words[..], &app].concat());
    assert_eq!(
        (ran.stdout.as_str(), ran.status),
        ("came 5000 wrong 0\n", Some(0)),
        "{}",
        ran.stderr
    );
    let (name, len) = peer.join().unwrap();
    assert_eq!((name.as_str(), len), ("mother: launcher of web\0", 5000));
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(refused(&report["metrics"]), Some(0));
}
