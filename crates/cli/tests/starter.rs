//! Commands that a service manager starts for a daemon that has given up what a VM takes: as systemd does it with
//! `Accept=yes`, without systemd.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::common::host::Host;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Listens at `path` and starts a starter for each who connects, with this variable.
fn listen(path: &Path, host: &Host) {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&socket, 16).unwrap();
    let program = host.mother.program().to_owned();
    let runtime = host.mother.vms().parent().unwrap().to_owned();
    thread::spawn(move || {
        while let Ok(connection) = rustix::net::accept(&socket) {
            start(&program, &runtime, connection);
        }
    });
}

fn start(program: &Path, runtime: &Path, connection: OwnedFd) {
    let mut command = Command::new(program);
    command
        .arg0("mother: starter")
        .env_clear()
        .env("XDG_RUNTIME_DIR", runtime)
        .env("HOME", runtime)
        .env("OF_THE_UNIT", "1")
        .stdin(Stdio::from(connection))
        .stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    thread::spawn(move || child.wait().unwrap());
}

/// The variables of a process.
fn environment(pid: &str) -> String {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap();
    String::from_utf8(bytes).unwrap().replace('\0', "\n")
}

#[test]
fn a_vm_is_born_where_the_service_manager_starts_commands() {
    let host = Host::new();
    let socket = host.folder().join("vm.sock");
    listen(&socket, &host);
    let starter = socket.display().to_string();
    let with = |starter: &str, words: &str| {
        let line = format!("MOTHER_STARTER={starter} \"$MOTHER\" {words}");
        host.mother.shell(&line)
    };
    let here = |words: &str| with(&starter, words);
    let ran = here("run --kernel echo --memory 32M -d --name web --json");
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("\"web\""), "{}", ran.stdout);
    // Its launcher was born of the unit, not of the command.
    let pid = host.ps("web")["pid"].to_string();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent = stat.rsplit(')').next().unwrap().split_whitespace().nth(1);
    let variables = environment(parent.unwrap());
    assert!(variables.contains("OF_THE_UNIT=1"), "{variables}");
    assert!(!variables.contains("MOTHER_STARTER"), "{variables}");
    // Its status and its words come back.
    let again = here("run --kernel echo -d --name web");
    assert_eq!(again.status, Some(1), "{}", again.stderr);
    assert!(again.stderr.contains("web"), "{}", again.stderr);
    let wrong = here("run --kernel nothing-there -d");
    assert_eq!(wrong.status, Some(2), "{}", wrong.stderr);
    // What only looks is done at once, without anybody.
    let listed = with("/nowhere", "ps -q");
    assert_eq!((listed.status, listed.stdout.as_str()), (Some(0), "web\n"));
    let nobody = with("/nowhere", "restart web");
    assert_eq!(nobody.status, Some(1));
    let expected = "cannot have the command started by /nowhere";
    assert!(nobody.stderr.contains(expected), "{}", nobody.stderr);
    assert_eq!(host.ps("web")["pid"].to_string(), pid);
    let restarted = here("restart --grace 0 web");
    assert_eq!(restarted.status, Some(0), "{}", restarted.stderr);
    assert_ne!(host.ps("web")["pid"].to_string(), pid);
}
