//! The daemon as what Debian's SNMP agent asks about VMs (VM-MIB, RFC 7666): walked, and heard of when something changes.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::daemon::Daemon;

/// vmMIB.
const ROOT: &str = ".1.3.6.1.2.1.236";

/// Programs that end with the test.
struct Programs(Vec<Child>);

impl Drop for Programs {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Debian's agent and its listener for notifications, in `folder`.
struct Agent {
    port: u16,
    _programs: Programs,
}

fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// A program of net-snmp that reads nothing of the host's configuration.
fn program(name: &str, folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(name);
    command
        .args(words)
        .current_dir(folder)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("SNMPCONFPATH", folder)
        .env("SNMP_PERSISTENT_DIR", folder.join("persistent"))
        .env("MIBS", "")
        .stdin(Stdio::null());
    command
}

fn start(folder: &Path) -> Agent {
    let port = free_port();
    let traps = free_port();
    let agent = format!(
        "agentaddress udp:127.0.0.1:{port}\nrocommunity public 127.0.0.1\nmaster agentx\n\
         agentXSocket {}\ntrap2sink 127.0.0.1:{traps} public\n",
        folder.join("master").display()
    );
    fs::write(folder.join("agent.conf"), agent).unwrap();
    fs::write(
        folder.join("traps.conf"),
        "authCommunity log public\ndisableAuthorization yes\n",
    )
    .unwrap();
    let log = |name: &str| Stdio::from(fs::File::create(folder.join(name)).unwrap());
    let listener = format!("udp:127.0.0.1:{traps}");
    let words = ["-f", "-C", "-c", "traps.conf", "-On", "-Lo", &listener];
    let listener = program("snmptrapd", folder, &words)
        .stdout(log("traps.log"))
        .stderr(log("traps.err"))
        .spawn()
        .unwrap();
    let words = ["-f", "-C", "-c", "agent.conf", "-Lo", "-r"];
    let agent = program("snmpd", folder, &words)
        .stdout(log("agent.log"))
        .stderr(log("agent.err"))
        .spawn()
        .unwrap();
    Agent {
        port,
        _programs: Programs(vec![listener, agent]),
    }
}

impl Agent {
    fn ask(&self, folder: &Path, tool: &str, place: &str) -> String {
        let host = format!("127.0.0.1:{}", self.port);
        let words = ["-v2c", "-c", "public", "-On", "-t", "5", &host, place];
        let output = program(tool, folder, &words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What is below the root, line by line, once it has all of `expected`.
    fn walk_until(&self, folder: &Path, expected: &[&str]) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let walked = self.ask(folder, "snmpwalk", ROOT);
            if expected.iter().all(|line| walked.contains(line)) {
                return walked;
            }
            assert!(Instant::now() < deadline, "no {expected:?} in {walked}");
            thread::sleep(Duration::from_millis(300));
        }
    }
}

/// Waits for a notification of this number with this name of a VM and one of these states before.
fn heard(folder: &Path, number: u32, name: &str, before: &[u32]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let kind = format!(".1.3.6.1.6.3.1.1.4.1.0 = OID: {ROOT}.0.{number}");
    let name = format!("= STRING: \"{name}\"");
    let states: Vec<String> = before.iter().map(|it| format!("= INTEGER: {it}")).collect();
    loop {
        let log = fs::read_to_string(folder.join("traps.log")).unwrap();
        let is_state = |object: &str| {
            object.contains(".1.4.1.6.") && states.iter().any(|state| object.ends_with(state))
        };
        let has_state = |line: &str| line.split('\t').any(is_state);
        let is_it =
            |line: &str| line.contains(&kind) && line.contains(&name) && has_state(line.trim_end());
        if log.lines().any(is_it) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "no {kind} {name} {states:?} in {log}"
        );
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn debians_agent_walks_vms_and_tells_of_their_changes() {
    let has = |name: &str| Path::new("/usr/sbin").join(name).exists();
    if !has("snmpd") || !has("snmptrapd") {
        // Written, not printed: the test harness would keep what is printed to itself.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped: this host has no snmpd and snmptrapd").unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let master = folder.join("master");
    let Some(daemon) = Daemon::start_with(&["--snmp", master.to_str().unwrap()]) else {
        return;
    };
    // The agent comes later than the daemon, which finds it.
    let agent = start(folder);
    agent.walk_until(folder, &["STRING: \"Mother\""]);
    daemon.well(&["create", "web", "--memory", "96M", "--boot"]);
    daemon.well(&["create", "idle", "--stopped"]);
    let object = |parts: &str, value: &str| format!("{ROOT}.1.{parts} = {value}");
    let table =
        |column: u32, index: u32, value: &str| object(&format!("4.1.{column}.{index}"), value);
    daemon.until_state("web", "running");
    let first = agent.walk_until(folder, &["STRING: \"web\"", "STRING: \"idle\""]);
    // Which of the two has which number is the daemon's.
    let web = match first.contains(&table(2, 1, "STRING: \"web\"")) {
        true => 1,
        false => 2,
    };
    let idle = 3 - web;
    let expected = [
        object("1.1.0", "STRING: \"Mother\""),
        object("2.0", "INTEGER: 2"),
        table(2, web, "STRING: \"web\""),
        table(5, web, "INTEGER: 1"),
        table(6, web, "INTEGER: 4"),
        table(7, web, "INTEGER: 2"),
        table(8, web, "INTEGER: 2"),
        table(9, web, "INTEGER: 1"),
        table(12, web, "INTEGER: 1048576"),
        table(13, web, "INTEGER: 96"),
        table(5, idle, "INTEGER: 4"),
        table(6, idle, "INTEGER: 11"),
        table(7, idle, "INTEGER: 3"),
    ];
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let walked = agent.walk_until(folder, &expected);
    assert_eq!(walked.lines().count(), 8 + 2 * 16, "{walked}");
    // The same by many at once, and one by its name.
    let bulk = agent.ask(folder, "snmpbulkwalk", &format!("{ROOT}.1.4.1.2"));
    assert_eq!(bulk.lines().count(), 2, "{bulk}");
    let one = agent.ask(folder, "snmpget", &format!("{ROOT}.1.4.1.6.{web}"));
    assert_eq!(one.trim(), table(6, web, "INTEGER: 4"));
    let none = agent.ask(folder, "snmpget", &format!("{ROOT}.1.4.1.6.77"));
    assert!(none.contains("No Such Instance"), "{none}");
    // What changes is told, with the state before.
    // Whether it was seen to start is chance.
    heard(folder, 1, "web", &[3, 11]);
    daemon.well(&["pause", "web"]);
    heard(folder, 4, "web", &[4]);
    daemon.well(&["resume", "web"]);
    heard(folder, 1, "web", &[8]);
    daemon.well(&["stop", "--grace", "0", "web"]);
    heard(folder, 3, "web", &[4, 10]);
    daemon.well(&["delete", "idle"]);
    heard(folder, 10, "idle", &[11]);
    agent.walk_until(
        folder,
        &[&object("2.0", "INTEGER: 1"), &table(6, web, "INTEGER: 11")],
    );
}
