//! One more program in a guest that runs: its streams, its status, its signals, and who may ask for one.
//!
//! As in `guest.rs`, each test says that it was skipped where the default guest cannot be had.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::common;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::host::Host;
use crate::common::{Ran, Terminal};

/// A host with one default guest that runs.
fn guest(words: &[&str]) -> Option<Host> {
    let host = Host::with_guest()?;
    let usual = ["-d", "--name", "web", "--memory", "128M"];
    let ran = host.mother.run(&[&usual, words].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    Some(host)
}

fn check(host: &Host, words: &[&str], expected: (i32, &str, &str)) {
    let ran = host.call(&[&["exec", "-n"], words].concat());
    let got = (ran.status, ran.stdout.as_str(), ran.stderr.as_str());
    assert_eq!(got, (Some(expected.0), expected.1, expected.2), "{words:?}");
}

/// `mother exec` with this on its standard input.
fn feed(host: &Host, words: &[&str], input: &[u8]) -> (Option<i32>, Vec<u8>) {
    let mut command = host.mother.command(host.mother.program());
    command.arg("exec").args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut output = Vec::new();
    std::thread::scope(|scope| {
        // A program that does not read to the end closes it.
        scope.spawn(move || drop(stdin.write_all(input)));
        stdout.read_to_end(&mut output).unwrap();
    });
    (child.wait().unwrap().code(), output)
}

#[test]
fn a_program_in_a_guest_has_streams_and_a_status_of_its_own() {
    let Some(host) = guest(&[]) else { return };
    check(&host, &["web", "echo", "hello"], (0, "hello\n", ""));
    let both = "echo out; echo err >&2; exit 3";
    check(
        &host,
        &["web", "--", "sh", "-c", both],
        (3, "out\n", "err\n"),
    );
    check(&host, &["web", "sh", "-c", "kill -9 $$"], (137, "", ""));
    check(
        &host,
        &["web", "no-such-program"],
        (
            127,
            "",
            "mother: cannot start no-such-program in VM \"web\": No such file or directory (os error 2)\n",
        ),
    );
    check(
        &host,
        &["web", "/etc"],
        (
            126,
            "",
            "mother: cannot start /etc in VM \"web\": Permission denied (os error 13)\n",
        ),
    );
    let said = "echo $A:$HOME:$(pwd):$(id -u):$(id -g)";
    check(
        &host,
        &["web", "sh", "-c", said],
        (0, ":/root:/root:0:0\n", ""),
    );
    check(
        &host,
        &[
            "-e", "A=b c", "--as", "7:8", "-w", "/tmp", "web", "sh", "-c", said,
        ],
        (0, "b c:/root:/tmp:7:8\n", ""),
    );
    let ran = host.call(&["exec", "-n", "-w", "/none", "web", "true"]);
    assert_eq!(ran.status, Some(1));
    assert!(
        ran.stderr.contains("the guest has no folder /none"),
        "{}",
        ran.stderr
    );
    let ran = host.call(&["exec", "-n", "--as", "nobody", "web", "true"]);
    assert!(
        ran.stderr.contains("the guest has no user \"nobody\""),
        "{}",
        ran.stderr
    );
    // What a program leaves behind runs on, and keeps nobody waiting.
    let leaves = "sleep 1000 & echo $!";
    let begun = Instant::now();
    let ran = host.call(&["exec", "-n", "web", "sh", "-c", leaves]);
    assert!(begun.elapsed() < Duration::from_secs(30));
    let left = format!("kill -0 {}", ran.stdout.trim());
    check(&host, &["web", "sh", "-c", &left], (0, "", ""));
}

#[test]
fn bytes_arrive_as_they_are_whatever_reads_them() {
    let Some(host) = guest(&[]) else { return };
    let much: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes())
        .collect();
    let (status, output) = feed(&host, &["web", "cat"], &much);
    assert_eq!(status, Some(0));
    assert!(output == much, "{} of {} bytes", output.len(), much.len());
    // More than may be under way, to a program that reads none of it.
    let (status, output) = feed(&host, &["web", "sh", "-c", "sleep 1; echo done"], &much);
    assert_eq!((status, output.as_slice()), (Some(0), &b"done\n"[..]));
    let ran = host.mother.shell("\"$MOTHER\" exec web yes | head -n 1");
    assert_eq!(
        (ran.status, ran.stdout.as_str()),
        (Some(0), "y\n"),
        "{}",
        ran.stderr
    );
}

#[test]
fn who_goes_takes_the_program_along() {
    let Some(host) = guest(&[]) else { return };
    let start = |words: &[&str]| {
        let mut command = host.mother.command(host.mother.program());
        command.arg("exec").args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = [0; 6];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut line)
            .unwrap();
        assert_eq!(&line, b"ready\n");
        child
    };
    let script = "trap 'echo heard; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = start(&["web", "sh", "-c", script]);
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let mut rest = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut rest)
        .unwrap();
    assert_eq!(
        (child.wait().unwrap().code(), rest.as_str()),
        (Some(5), "heard\n")
    );
    let script = "echo ready; exec sleep 7654";
    let mut child = start(&["web", "sh", "-c", script]);
    // The helper that bounds its time, and it.
    let group = format!("-{}", child.id());
    let killed = Command::new("kill").args(["-KILL", "--", &group]).status();
    assert!(killed.unwrap().success());
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while host
        .call(&["exec", "-n", "web", "pgrep", "-f", "^sleep 7654"])
        .status
        == Some(0)
    {
        assert!(Instant::now() < deadline, "the program outlived its client");
    }
}

#[test]
fn at_a_terminal_the_program_has_one() {
    let Some(host) = guest(&[]) else { return };
    host.expect_log("web", "guest:~#");
    let mut terminal = Terminal::new(
        &host.mother,
        "stty -g; stty rows 33 columns 77; \"$MOTHER\" exec web; echo status $?; stty -g",
    );
    terminal.expect("#");
    terminal.send("tty; stty size\r");
    terminal.expect("/dev/pts/");
    terminal.expect("33 77");
    terminal.send("sh -c 'echo sta\"\"rted; sleep 1000'\r");
    terminal.expect("started");
    terminal.send("\u{3}");
    terminal.send("exit 4\r");
    terminal.expect("status 4");
    common::assert_modes_came_back(&terminal.finish());
}

#[test]
fn a_guest_without_an_agent_is_named() {
    let says = |ran: &Ran, text: &str| {
        assert_eq!(ran.status, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains(text), "{}", ran.stderr);
    };
    let Some(host) = guest(&["--agent", "off"]) else {
        return;
    };
    let ran = host.call(&["exec", "-n", "web", "true"]);
    says(
        &ran,
        "cannot run a program in VM \"web\": it was started without the guest agent",
    );
    says(
        &host.call(&["exec", "-n", "none", "true"]),
        "there is no VM \"none\"",
    );
    let ran = host
        .mother
        .run(&["-d", "--name", "paused", "--memory", "128M"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(host.call(&["exec", "-n", "paused", "true"]).status, Some(0));
    assert_eq!(host.call(&["pause", "paused"]).status, Some(0));
    says(
        &host.call(&["exec", "-n", "paused", "true"]),
        "it is paused",
    );
}

#[test]
fn a_signal_ends_the_command_where_nobody_in_the_guest_hears_it() {
    let Some(host) = guest(&[]) else { return };
    let mut command = host.mother.command(host.mother.program());
    command.args(["exec", "-n", "web", "sh", "-c"]);
    command.arg("echo begun; exec sleep 1000");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut begun = [0; 6];
    let output = child.stdout.as_mut().unwrap();
    output.read_exact(&mut begun).unwrap();
    assert_eq!(host.call(&["pause", "web"]).status, Some(0));
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let begun = Instant::now();
    let ended = child.wait_with_output().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(60));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.signal(), Some(15), "{said}");
    assert!(said.contains("reached no program"), "{said}");
}

#[test]
fn a_program_of_the_hosts_has_company() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let source = host.folder().join("wait.c");
    fs::write(
        &source,
        "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n",
    )
    .unwrap();
    let built = Command::new("cc")
        .args(["-static", "-o"])
        .arg(host.folder().join("wait"))
        .arg(&source)
        .status();
    assert!(built.unwrap().success());
    let words = [
        "-d",
        "--name",
        "app",
        "--env",
        "COLOUR=blue",
        "--app",
        "./wait",
    ];
    let ran = host.mother.run(&words);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    check(
        &host,
        &["app", "sh", "-c", "echo $COLOUR; pidof wait >/dev/null"],
        (0, "blue\n", ""),
    );
}
