//! Drills of who has taken over what looks into a guest.

use std::process::Command;

use super::*;

/// Somebody who looks into a guest again and again, and the process in a jail that reads the guest's memory for that; it has
/// looked at least once.
pub(super) fn looks_into(host: &Host, name: &str) -> (Child, i32) {
    looks_by(host.mother.command(host.mother.program()), name)
}

/// The same, started by this command.
pub(super) fn looks_by(mut command: Command, name: &str) -> (Child, i32) {
    command.args(["truth", "--watch", "--json", name]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut mother = command.stdin(Stdio::null()).spawn().unwrap();
    let mut said = vec![0; 64];
    let stdout = mother.stdout.as_mut().unwrap();
    if let Err(error) = stdout.read_exact(&mut said) {
        let mut why = String::new();
        let _ = mother.stderr.take().unwrap().read_to_string(&mut why);
        panic!("it says nothing: {error}: {why}");
    }
    assert!(said.starts_with(b"{"), "{}", String::from_utf8_lossy(&said));
    let observer = descendant(mother.id(), "mother: observer");
    // What it says later needs somebody who reads.
    let mut stdout = mother.stdout.take().unwrap();
    thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    (mother, observer)
}

/// What a process has open.
pub(super) fn open_files(process: i32) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect()
}

pub(super) fn has_no_rights(process: i32) {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    for line in ["NoNewPrivs:\t1", "CapEff:\t0000000000000000", "Seccomp:\t2"] {
        assert!(status.contains(line), "{status}");
    }
}

#[test]
fn who_has_broken_what_looks_into_a_guest_has_nothing_of_the_host() {
    let host = Host::new();
    let free = vm(&host, "free", "off");
    let sibling = vm(&host, "sibling", "auto");
    let (mother, observer) = looks_into(&host, "free");
    let open = open_files(observer);
    // Nothing, where its words go, whom it asks, its VM's process and that VM's memory, and what was seen of it before.
    let known = ["/dev/null", "pipe:", "socket:", "anon_inode:", "/memfd:"];
    let is_known = |target: &String| {
        known.iter().any(|known| target.starts_with(known))
            || target.ends_with("/free/integrity.text")
    };
    assert!(open.iter().all(is_known), "{open:?}");
    has_no_rights(observer);
    let environment = fs::read(format!("/proc/{observer}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("HOME"));
    if host.mother.shell("unshare -Ur true").status == Some(0) {
        let root = fs::read_dir(format!("/proc/{observer}/root")).unwrap();
        assert_eq!(root.count(), 0, "its root is empty");
    }
    let mut in_free = puppet(free, "control");
    let mut in_jail = Puppet::of(observer, observer).unwrap();
    // What a VM's process may, and an observer has no use for.
    let more = [
        drill(
            "makes a pipe",
            &[0; 8],
            libc::SYS_pipe2,
            [TEXT, 0, 0, 0, 0, 0],
        ),
        drill(
            "sets flags of where its words go",
            b"",
            libc::SYS_fcntl,
            [1, 4, 0, 0, 0, 0],
        ),
    ];
    works(&mut in_free, DRILLS.iter().chain(&more), sibling);
    is_held(&mut in_jail, DRILLS.iter().chain(&more), sibling);
    let program = in_jail.put(b"/bin/sh\0");
    let came = in_jail.call(libc::SYS_execve, [program, 0, 0, 0, 0, 0]);
    assert_eq!(came, Came::Dead(libc::SIGSYS), "another program");
    drop(in_jail);
    hears_of_the_jail(mother);
    host.call(&["kill", "free", "sibling"]);
}

#[test]
fn what_looks_into_a_guest_goes_with_who_asked() {
    let host = Host::new();
    vm(&host, "web", "auto");
    let (mut mother, observer) = looks_into(&host, "web");
    let asker = descendant_of_program(mother.id());
    kill_process(Pid::from_raw(asker).unwrap(), Signal::KILL).unwrap();
    mother.wait().unwrap();
    is_gone_soon(observer);
    host.call(&["kill", "web"]);
}
