//! A guest's socket device with a real guest at the other end: Linux' own driver, and a program of ours that talks.
//!
//! As in `guest.rs`, each test says that it was skipped where the default guest cannot be had.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::host::Host;
use serde_json::Value;

/// More than all buffers on the way hold together.
const MUCH: usize = 8 << 20;

/// A host whose folder has the guest's program.
fn host() -> Option<Host> {
    let host = Host::with_guest()?;
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guests/vsock/main.c");
    let cc = Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o"])
        .arg(host.folder().join("vsock"))
        .arg(source)
        .status();
    assert!(cc.unwrap().success());
    Some(host)
}

/// Starts the guest's end, which runs until it is killed.
fn start(host: &Host, words: &[&str]) {
    let common = [
        "-d",
        "--name",
        "talker",
        "--vsock",
        "socket",
        "--timeout",
        "100s",
        "--app",
        "./vsock",
        "--",
    ];
    let ran = host.mother.run(&[&common, words].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
}

/// Connects to a port of the guest; the line that the device answers, `None` if it closes.
fn connect(host: &Host, port: u32) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(host.folder().join("socket")).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .unwrap();
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") {
        match stream.read(&mut byte) {
            Ok(1) => line.push(byte[0]),
            _ => return None,
        }
    }
    let line = String::from_utf8(line).unwrap();
    assert!(line.starts_with("OK "), "{line}");
    Some(stream)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

/// Sends everything and gives back what comes until the other side closes.
fn exchange(stream: &UnixStream, sent: &[u8]) -> Vec<u8> {
    thread::scope(|scope| {
        scope.spawn(|| {
            (&*stream).write_all(sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        (&*stream).read_to_end(&mut got).unwrap();
        got
    })
}

#[test]
fn a_program_of_the_host_talks_to_a_server_in_the_guest() {
    let Some(host) = host() else { return };
    start(&host, &["echo", "5000"]);
    host.expect_log("talker", "listening");
    for len in [0, 1, 100, MUCH] {
        let stream = connect(&host, 5000).expect("the guest listens");
        let sent = pattern(len);
        assert!(
            exchange(&stream, &sent) == sent,
            "{len} bytes did not come back as they were"
        );
    }
    assert!(connect(&host, 5001).is_none(), "nobody listens there");
    // One that is not served yet waits for the one before it.
    let first = connect(&host, 5000).unwrap();
    let second = connect(&host, 5000).unwrap();
    (&second).write_all(b"second").unwrap();
    assert_eq!(exchange(&first, b"first"), b"first");
    assert_eq!(exchange(&second, b""), b"second");
    assert_eq!(host.call(&["kill", "talker"]).status, Some(0));
    assert!(
        !host.folder().join("socket").exists(),
        "the socket goes with the VM"
    );
}

#[test]
fn a_program_in_the_guest_talks_to_a_server_on_the_host() {
    let Some(host) = host() else { return };
    let listener = UnixListener::bind(host.folder().join("socket_7000")).unwrap();
    let server = thread::spawn(move || {
        listener.set_nonblocking(true).unwrap();
        let deadline = Instant::now() + Duration::from_secs(100);
        let (mut stream, _) = loop {
            match listener.accept() {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    assert!(Instant::now() < deadline, "nobody came");
                    thread::sleep(Duration::from_millis(20));
                }
                accepted => break accepted.unwrap(),
            }
        };
        stream.set_nonblocking(false).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        stream.write_all(&got).unwrap();
        got
    });
    let much = MUCH.to_string();
    let common = [
        "--vsock",
        "socket",
        "--timeout",
        "100s",
        "--app",
        "./vsock",
        "--",
    ];
    let ran = host
        .mother
        .run(&[&common[..], &["send", "7000", &much]].concat());
    assert_eq!(
        (ran.stdout, ran.status),
        (format!("came {MUCH} wrong 0\n"), Some(0)),
        "{}",
        ran.stderr
    );
    assert!(server.join().unwrap() == pattern(MUCH));
    let ran = host
        .mother
        .run(&[&common[..], &["send", "7001", "1"]].concat());
    assert_eq!(
        ran.status,
        Some(1),
        "nobody listens there: {}{}",
        ran.stdout,
        ran.stderr
    );
}

/// What a shell script in the guest says over vsock, line by line, is set against the guest's own kernel.
#[test]
fn a_shell_script_in_the_guest_claims_over_vsock() {
    let Some(host) = host() else { return };
    let script = "#!/bin/sh\n(while :; do echo claim memory_used_percent 95; echo claim 'colour  blue'; echo no claim\n\
                  sleep 0.5; done) | ./vsock pipe 6684\n";
    let path = host.folder().join("agent");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let words = [
        "-d",
        "--name",
        "agent",
        "--vsock",
        "socket",
        "--timeout",
        "100s",
        "--include",
        "./vsock",
    ];
    let folder = host.folder().to_str().unwrap().to_owned();
    let ran = host
        .mother
        .run(&[&words[..], &["--workdir", &folder, "--app", "./agent"]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let deadline = Instant::now() + Duration::from_secs(60);
    let (truth, row) = loop {
        let ran = host.call(&["truth", "--json", "agent"]);
        let truth: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        let rows = truth["rows"].as_array().cloned().unwrap_or_default();
        let lies =
            |row: &Value| row["rule"] == "agent-against-kernel" && row["verdict"] == "contradicts";
        if let Some(row) = rows.iter().find(|row| lies(row)) {
            break (truth.clone(), row.clone());
        }
        assert!(Instant::now() < deadline, "{}{truth:#}", ran.stderr);
        thread::sleep(Duration::from_millis(500));
    };
    assert_eq!(
        (&row["claim"], &truth["worst"]),
        (&Value::from("95 %"), &Value::from("contradicts"))
    );
    let seen = host.call(&["inspect", "--json", "agent"]).stdout;
    let seen: Value = serde_json::from_str(&seen).unwrap();
    let book = &seen["books"]["claims"];
    let claims = book["claims"].as_array().unwrap();
    let colour = claims
        .iter()
        .find(|claim| claim["key"] == "colour")
        .unwrap();
    assert_eq!(
        (&colour["value"], &colour["way"]),
        (&Value::from("blue"), &Value::from("vsock"))
    );
    assert!(book["refused_lines"].as_u64().unwrap() > 0, "{book}");
}
