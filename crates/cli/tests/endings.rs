//! Who ends when: each process of a VM is killed in turn, and nothing of the VM is left but its end.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::host::Host;

/// How long anything may take to end; a VM whose launcher was killed has five seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The processes of a VM, by number.
struct Processes {
    /// `timeout`, which has started the command; none of a detached VM.
    command: Option<Child>,
    /// Nothing is typed, and there is no end of it: a guest that ends has not read one.
    _input: ChildStdin,
    client: Option<u32>,
    launcher: u32,
    vm: u32,
    passt: Vec<u32>,
}

/// The fields of a process's stat(5) behind its name: state, parent, ...
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

fn parent(pid: u32) -> u32 {
    stat(pid).unwrap()[1].parse().unwrap()
}

fn children(pid: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&other| stat(other).is_some_and(|stat| stat[1] == pid.to_string()))
        .collect()
}

/// The networks that a launcher has started, however passt is started on this host.
fn passts(launcher: u32) -> Vec<u32> {
    let is_passt = |&pid: &u32| {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.contains("passt")
    };
    children(launcher).into_iter().filter(is_passt).collect()
}

/// What is not there any more, or waits for the host's init to take notice.
fn is_gone(pid: u32) -> bool {
    stat(pid).is_none_or(|stat| stat[0] == "Z" && stat[1] == "1")
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Starts the echoing guest as `web`.
fn start(host: &Host, words: &[&str]) -> Processes {
    let is_detached = words.contains(&"-d");
    let mut command = host.mother.command(env!("CARGO_BIN_EXE_mother"));
    command.args([
        "run",
        "--kernel",
        "echo",
        "--memory",
        "32M",
        "--timeout",
        "90s",
    ]);
    command.args(["--name", "web"]).args(words);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let input = child.stdin.take().unwrap();
    if is_detached {
        assert!(child.wait().unwrap().success());
    }
    host.wait_for("web", "running");
    host.expect_log("web", "ready");
    let vm: u32 = host.ps("web")["pid"].to_string().parse().unwrap();
    let launcher = parent(vm);
    let name = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(name(vm), "mother: web\0");
    assert_eq!(name(launcher), "mother: launcher of web\0");
    Processes {
        client: (!is_detached).then(|| parent(launcher)),
        command: (!is_detached).then_some(child),
        _input: input,
        launcher,
        vm,
        passt: passts(launcher),
    }
}

fn kill(host: &Host, signal: &str, pid: u32) {
    let ran = host.mother.shell(&format!("kill -{signal} {pid}"));
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
}

impl Processes {
    /// Waits until all are gone; the exit status of the command.
    fn expect_gone(&mut self) -> Option<i32> {
        let status = self.command.as_mut().map(|command| command.wait().unwrap());
        for (what, pids) in [
            ("the launcher", vec![self.launcher]),
            ("the VM's process", vec![self.vm]),
            ("passt", self.passt.clone()),
        ] {
            for pid in pids {
                wait_until(&format!("{what} ({pid}) is gone"), || is_gone(pid));
            }
        }
        // timeout(1) dies of what its child died of.
        status.and_then(|status| status.code().or(status.signal().map(|signal| 128 + signal)))
    }
}

/// Kills one of them, and looks at what is left.
fn check(
    host: &Host,
    words: &[&str],
    victim: fn(&Processes) -> u32,
    state: &str,
    message: &str,
    status: Option<i32>,
) {
    let mut processes = start(host, words);
    kill(host, "9", victim(&processes));
    assert_eq!(processes.expect_gone(), status, "{words:?}");
    let vm = host.ps("web");
    assert_eq!(vm["state"], state, "{words:?} {vm}");
    let said = vm["end"]["message"].as_str().unwrap();
    assert!(said.contains(message), "{words:?}: {said}");
    assert_eq!(host.call(&["logs", "web"]).stdout, "ready\n");
    assert_eq!(host.call(&["ps", "-q"]).stdout, "");
}

#[test]
fn whichever_process_is_killed_the_others_end_and_the_end_is_known() {
    let host = Host::new();
    let in_front: &[&str] = &[];
    check(
        &host,
        in_front,
        |vm| vm.vm,
        "died",
        "ended by signal 9",
        Some(1),
    );
    check(
        &host,
        &["-d"],
        |vm| vm.vm,
        "died",
        "ended by signal 9",
        None,
    );
    check(
        &host,
        in_front,
        |vm| vm.launcher,
        "died",
        "vanished",
        Some(1),
    );
    check(&host, &["-d"], |vm| vm.launcher, "died", "vanished", None);
    check(
        &host,
        in_front,
        |vm| vm.client.unwrap(),
        "ended",
        "the command that started it vanished",
        Some(137),
    );
}

/// A host with the default guest and passt, or a loud word that there is none.
fn with_network() -> Option<Host> {
    let host = Host::with_guest()?;
    let has_passt = images::Cache::of_user().is_ok_and(|cache| cache.installed_passt().is_some());
    if !has_passt {
        // Written, not printed: the test harness would keep what is printed to itself.
        let mut stderr = std::io::stderr();
        std::io::Write::write_all(&mut stderr, b"skipped: there is no passt\n").unwrap();
    }
    has_passt.then_some(host)
}

#[test]
fn nothing_is_left_of_a_network_whose_vm_is_killed() {
    let Some(host) = with_network() else {
        return;
    };
    let victims: [fn(&Processes) -> u32; 3] =
        [|vm| vm.vm, |vm| vm.launcher, |vm| vm.client.unwrap()];
    for victim in victims {
        let mut processes = start(&host, &["--net", "user"]);
        assert_eq!(processes.passt.len(), 1);
        kill(&host, "9", victim(&processes));
        processes.expect_gone();
    }
}

#[test]
fn a_network_that_is_killed_comes_again() {
    let Some(host) = with_network() else {
        return;
    };
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let port = server.local_addr().unwrap().port();
    let words = [
        "-d",
        "--name",
        "web",
        "--net",
        "user,host",
        "--timeout",
        "110s",
    ];
    assert_eq!(host.mother.run(&words).status, Some(0));
    host.expect_log("web", "guest:~#");
    let launcher = parent(host.ps("web")["pid"].to_string().parse().unwrap());
    let passt = || passts(launcher).first().copied();
    let expect_connection = |word: &str| {
        // The link may still be down when the first of them is tried.
        let command = format!(
            "n=0; until echo {word} | nc -w 2 10.0.2.2 {port} || [ $n = 30 ]; do sleep 0.3; n=$((n + 1)); done\n"
        );
        let mut console = host.attach("web");
        std::io::Write::write_all(&mut console, command.as_bytes()).unwrap();
        let until = Instant::now() + Duration::from_secs(80);
        let stream = loop {
            match server.accept() {
                Ok((stream, _)) => break stream,
                Err(_) => {
                    let log = || host.call(&["logs", "web"]).stdout;
                    assert!(Instant::now() < until, "{word}: nobody connects: {}", log());
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        };
        stream.set_nonblocking(false).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert_eq!(line, format!("{word}\n"));
    };
    expect_connection("before");
    let first = passt().unwrap();
    kill(&host, "9", first);
    wait_until("there is another", || {
        passt().is_some_and(|second| second != first)
    });
    expect_connection("after");
    let second = passt().unwrap();
    assert_eq!(host.call(&["kill", "web"]).status, Some(0));
    wait_until("it goes with the VM", || is_gone(second));
}

#[test]
fn signals_mean_the_same_to_each_process_of_a_vm() {
    let host = Host::new();
    let check = |words: &[&str],
                 signal: &str,
                 whom: fn(&Processes) -> u32,
                 message: &str,
                 status: Option<i32>| {
        let mut processes = start(&host, words);
        kill(&host, signal, whom(&processes));
        assert_eq!(processes.expect_gone(), status, "{words:?} {signal}");
        let vm = host.ps("web");
        let end = (vm["state"].as_str(), vm["end"]["message"].as_str());
        assert_eq!(end, (Some("ended"), Some(message)), "{words:?} {signal}");
    };
    let off = "the guest powered off";
    let in_front: &[&str] = &[];
    check(in_front, "TERM", |vm| vm.client.unwrap(), off, Some(0));
    check(in_front, "TERM", |vm| vm.launcher, off, Some(0));
    check(in_front, "TERM", |vm| vm.vm, off, Some(0));
    check(&["-d"], "TERM", |vm| vm.launcher, off, None);
    check(&["-d"], "TERM", |vm| vm.vm, off, None);
    // The command dies of the signal.
    check(
        in_front,
        "HUP",
        |vm| vm.client.unwrap(),
        "its process got signal 1",
        Some(129),
    );
    check(
        in_front,
        "INT",
        |vm| vm.launcher,
        "its process got signal 2",
        Some(130),
    );
    check(&["-d"], "INT", |vm| vm.vm, "its process got signal 2", None);
}

#[test]
fn a_guest_stands_still_while_its_command_is_suspended() {
    let host = Host::new();
    let mut processes = start(&host, &[]);
    let is_stopped = || stat(processes.vm).is_some_and(|stat| stat[0] == "T");
    kill(&host, "TSTP", processes.client.unwrap());
    wait_until("it stands still", is_stopped);
    kill(&host, "CONT", processes.client.unwrap());
    wait_until("it goes on", || !is_stopped());
    kill(&host, "TSTP", processes.client.unwrap());
    wait_until("it stands still again", is_stopped);
    // A command that is killed while it is suspended leaves nothing that stands still for ever.
    kill(&host, "9", processes.client.unwrap());
    processes.expect_gone();
}

#[test]
fn a_log_turns_over_in_a_process_that_knows_no_path() {
    let host = Host::new();
    host.start("web");
    host.expect_log("web", "ready");
    let mut console = host.attach("web");
    let line = "x".repeat(99) + "\n";
    let text = line.repeat(60_000);
    let reader = console.try_clone().unwrap();
    let read = thread::spawn(move || std::io::copy(&mut { reader }, &mut std::io::sink()));
    std::io::Write::write_all(&mut console, text.as_bytes()).unwrap();
    std::io::Write::write_all(&mut console, b"the last line\n").unwrap();
    host.expect_log("web", "the last line");
    let kept = host.call(&["logs", "web"]).stdout.len();
    assert!((2_000_000..4_300_000).contains(&kept), "{kept}");
    drop(console);
    assert_eq!(host.call(&["kill", "web"]).status, Some(0));
    let _ = read.join();
}

#[test]
fn the_environment_of_a_vm_has_nothing_of_its_users() {
    let host = Host::new();
    let mut command = host.mother.command(env!("CARGO_BIN_EXE_mother"));
    command.args([
        "run",
        "-d",
        "--kernel",
        "echo",
        "--memory",
        "32M",
        "--timeout",
        "90s",
    ]);
    command
        .args(["--name", "web"])
        .env("A_SECRET", "of the user's");
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
    let vm = host.ps("web")["pid"].to_string();
    let environment = fs::read_to_string(format!("/proc/{vm}/environ")).unwrap();
    let names = environment.split_terminator('\0');
    let names = names.map(|variable| variable.split('=').next().unwrap());
    for name in names {
        let is_about_its_log = matches!(name, "MOTHER_LOG" | "NO_COLOR" | "RUST_BACKTRACE");
        assert!(is_about_its_log, "{name}");
    }
}

/// What a shell has open, and the folder it stands in, are not a VM's.
#[test]
fn a_vm_holds_nothing_of_the_shell_that_started_it() {
    let host = Host::new();
    let run = "run -d --kernel ../echo --memory 32M --timeout 90s --name web";
    let check = |name: &str, line: &str| {
        let ran = host.mother.shell(line);
        assert_eq!(ran.status, Some(0), "{line}: {}", ran.stderr);
        let vm: u32 = host.ps(name)["pid"].to_string().parse().unwrap();
        for pid in [vm, parent(vm)] {
            let at = |what: &str| fs::read_link(format!("/proc/{pid}/{what}")).unwrap();
            assert_eq!(at("cwd"), std::path::Path::new("/"), "{line}");
            for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
                let target = fs::read_link(entry.path()).unwrap_or_default();
                let target = target.to_string_lossy();
                let is_foreign = target.contains("foreign") || target.contains("description");
                assert!(!is_foreign, "{line}: {pid} has {target}");
            }
        }
        let comm = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!(comm(vm), format!("mother: {name}\n"));
        assert_eq!(comm(parent(vm)), "mother launcher\n");
        assert_eq!(host.call(&["stop", name]).status, Some(0));
    };
    check(
        "web",
        &format!("exec 7<>foreign; mkdir in; cd in; $MOTHER {run}"),
    );
    check("web", "exec 9<>foreign; $MOTHER start web");
}

#[test]
fn a_role_cannot_be_typed() {
    let host = Host::new();
    let ran = host
        .mother
        .shell("exec -a 'mother: web' $MOTHER </dev/null");
    assert_eq!(ran.status, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("Usage: "), "{}", ran.stderr);
    let ran = host
        .mother
        .shell("(exec -a 'mother: web' $MOTHER --version) </dev/null");
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let version = concat!("mother ", env!("CARGO_PKG_VERSION"));
    assert!(ran.stdout.starts_with(version), "{}", ran.stdout);
}
