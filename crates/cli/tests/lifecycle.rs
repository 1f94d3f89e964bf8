//! VMs handled from a second terminal, as a user sees it: real processes, real sockets, a real terminal.
//!
//! Most guests here are a few instructions that echo what is typed and obey the power button, so they need nothing
//! from a cache and are there at once.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::host::Host;
use crate::common::{Ran, Terminal, multiboot};
use serde_json::Value;

#[test]
fn a_detached_vm_is_listed_stopped_remembered_and_removed() {
    let host = Host::new();
    host.start("web");
    host.expect_log("web", "ready\r\n".replace('\r', "").as_str());
    assert_eq!(host.call(&["ps", "-q"]).stdout, "web\n");
    let process = std::path::PathBuf::from(format!("/proc/{}/comm", host.ps("web")["pid"]));
    assert_eq!(fs::read_to_string(process).unwrap(), "mother: web\n");
    let limits = fs::read_to_string(format!("/proc/{}/limits", host.ps("web")["pid"])).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<&str> = core.unwrap().split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "it leaves no core dump");
    let vm = host.ps("web");
    let got = (
        &vm["state"],
        &vm["engine"],
        &vm["detached"],
        &vm["memory_given_bytes"],
    );
    assert_eq!(
        got,
        (
            &"running".into(),
            &"soft".into(),
            &true.into(),
            &(32 << 20).into()
        )
    );
    assert!(
        vm["memory_resident_bytes"].as_u64().unwrap() > 0
            && vm["cpu_seconds"].as_f64().unwrap() > 0.0
    );
    let again = host.run(&["--name", "web"]);
    assert_eq!(again.status, Some(1));
    assert!(
        again
            .stderr
            .contains("a VM with the name \"web\" is running\n  help: "),
        "{}",
        again.stderr
    );
    let stopped = host.call(&["stop", "web"]);
    assert_eq!(
        (stopped.status, stopped.stdout.as_str()),
        (Some(0), "web\n"),
        "{}",
        stopped.stderr
    );
    assert_eq!(host.call(&["ps", "-q"]).stdout, "");
    let waited = host.call(&["wait", "web"]);
    let logs = host.call(&["logs", "web"]);
    assert_eq!(
        (waited.status, waited.stdout.as_str()),
        (Some(0), "web: the guest powered off\n")
    );
    assert_eq!((logs.stdout.as_str(), logs.status), ("ready\n", Some(0)));
    for command in ["stop", "kill", "pause", "resume", "nmi", "console"] {
        let ran = host.call(&[command, "web"]);
        assert!(
            ran.stderr.contains("VM \"web\": it has ended"),
            "{command}: {}",
            ran.stderr
        );
        assert_eq!(ran.status, Some(1), "{command}");
    }
    assert_eq!(host.call(&["rm", "web"]).status, Some(0));
    assert_eq!(host.call(&["ps", "-a", "-q"]).stdout, "");
}

#[test]
fn what_goes_wrong_before_the_start_is_said_where_it_was_typed() {
    let host = Host::new();
    let ran = host.mother.run(&["-d", "--kernel", "nowhere"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(2), ""));
    assert!(
        ran.stderr.contains("kernel: cannot open nowhere"),
        "{}",
        ran.stderr
    );
    assert_eq!(host.call(&["ps", "-a", "-q"]).stdout, "", "nothing is left");
    // A crash comes after the start.
    let ran = host
        .mother
        .run(&["-d", "--kernel", "crash", "--name", "bad"]);
    assert_eq!(
        (ran.status, ran.stdout.as_str()),
        (Some(0), "bad\n"),
        "{}",
        ran.stderr
    );
    assert_eq!(host.call(&["wait", "bad"]).status, Some(3));
    let logs = host.call(&["logs", "bad"]);
    assert!(
        logs.stderr
            .contains("has ended: the guest crashed\n  triple fault"),
        "{}",
        logs.stderr
    );
}

#[test]
fn a_process_that_is_killed_leaves_a_report_and_no_stale_entry() {
    let host = Host::new();
    host.start("web");
    host.expect_log("web", "ready");
    let pid = host.ps("web")["pid"].to_string();
    assert_eq!(host.mother.shell(&format!("kill -9 {pid}")).status, Some(0));
    let waited = host.call(&["wait", "web"]);
    assert_eq!(waited.status, Some(1));
    assert!(
        waited
            .stdout
            .starts_with("web: its process vanished without a word"),
        "{}",
        waited.stdout
    );
    assert_eq!(host.call(&["ps", "-q"]).stdout, "");
    assert_eq!(host.ps("web")["state"], "died");
    let logs = host.call(&["logs", "web"]);
    assert_eq!(logs.stdout, "ready\n");
    assert!(
        logs.stderr.contains("its process vanished without a word"),
        "{}",
        logs.stderr
    );
    // The name is free, and what was left goes with its next use.
    host.start("web");
    assert_eq!(host.ps("web")["state"], "running");
}

/// What is waited for, within which time, and what is said, of the guest that echoes and has a port of the host that
/// leads nowhere.
#[test]
fn what_a_vm_is_waited_for_is_reached_or_told() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let ran = host
        .mother
        .run(&["-d", "--name", "web", "--timeout", "90s"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    for (words, status, stdout, stderr) in [
        (&["--for", "running"][..], 0, "web\n", ""),
        (&["--for", "login", "--timeout", "60s"], 0, "web\n", ""),
        (&["--for", "login"], 0, "web\n", ""),
        (
            &["--for", "port=80"],
            1,
            "",
            "cannot wait for VM \"web\": no port of this host leads to TCP port 80 of its guest\n  help: start it with `-p",
        ),
        (
            &["--timeout", "0s"],
            1,
            "",
            "cannot wait any longer for VM \"web\": the time is over, and it has not ended",
        ),
        (
            &["--for", "boot"],
            2,
            "",
            "write exit, running, login, or port=N",
        ),
    ] {
        let ran = host.call(&[&["wait", "web"], words].concat());
        assert_eq!(ran.status, Some(status), "{words:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, stdout, "{words:?}");
        assert!(ran.stderr.contains(stderr), "{words:?}: {}", ran.stderr);
    }
    let json = host.call(&["wait", "web", "--for", "login", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json, serde_json::json!([{"name": "web", "reached": true}]));
    assert_eq!(host.call(&["kill", "web"]).status, Some(0));
    let ended = host.call(&["wait", "web", "--for", "login"]);
    let text =
        "cannot wait for VM \"web\": it has ended, and its console shows no login: it was killed";
    assert!(
        ended.status == Some(1) && ended.stderr.contains(text),
        "{}",
        ended.stderr
    );
}

#[test]
fn sigterm_is_the_power_button_and_the_second_one_does_not_wait() {
    let host = Host::new();
    // jmp to itself: hears no power button.
    fs::write(host.folder().join("deaf"), multiboot(&[0xeb, 0xfe])).unwrap();
    let check = |kernel: &str, signals: &[&str], end: &str, status: i32| {
        let name = "web";
        let words = [
            "-d",
            "--name",
            name,
            "--kernel",
            kernel,
            "--memory",
            "32M",
            "--timeout",
            "90s",
        ];
        let ran = host.mother.run(&words);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        if kernel == "echo" {
            host.expect_log(name, "ready");
        }
        let pid = host.ps(name)["pid"].to_string();
        for signal in signals {
            let ran = host.mother.shell(&format!("kill -{signal} {pid}"));
            assert_eq!(ran.status, Some(0), "{signal}: {}", ran.stderr);
            // Within half a second the same signal is the same asking.
            thread::sleep(Duration::from_millis(700));
        }
        let waited = host.call(&["wait", name]);
        assert_eq!(
            (waited.stdout.as_str(), waited.status),
            (format!("web: {end}\n").as_str(), Some(status)),
            "{kernel} {signals:?}"
        );
    };
    check("echo", &["TERM"], "the guest powered off", 0);
    check("deaf", &["TERM", "TERM"], "its process got signal 15", 143);
    check("deaf", &["TERM", "INT"], "its process got signal 2", 130);
    check("deaf", &["HUP"], "its process got signal 1", 129);
}

#[test]
fn what_is_logged_into_a_file_has_no_colours() {
    let host = Host::new();
    let mother = &host.mother;
    let ran = mother.shell(
        "echo x > echo.typed; MOTHER_LOG=trace timeout 20 $MOTHER run --kernel echo --memory 32M --timeout 1s \
         < echo.typed 2>&1 >/dev/null",
    );
    assert!(
        ran.stdout.contains("TRACE") || ran.stdout.contains("DEBUG"),
        "{}",
        ran.stdout
    );
    assert!(!ran.stdout.contains('\u{1b}'), "{}", ran.stdout);
}

#[test]
fn of_many_who_want_a_name_one_gets_it() {
    let host = Host::new();
    let ran: Vec<Ran> = thread::scope(|scope| {
        let threads: Vec<_> = (0..5)
            .map(|_| scope.spawn(|| host.run(&["-d", "--name", "web"])))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(ran.iter().filter(|ran| ran.status == Some(0)).count(), 1);
    for lost in ran.iter().filter(|ran| ran.status != Some(0)) {
        assert_eq!((lost.status, lost.stdout.as_str()), (Some(1), ""));
        assert!(
            lost.stderr
                .contains("a VM with the name \"web\" is running"),
            "{}",
            lost.stderr
        );
    }
    assert_eq!(host.call(&["ps", "-a", "-q"]).stdout, "web\n");
}

#[test]
fn strange_names_are_refused_and_unknown_ones_are_not_found() {
    let host = Host::new();
    let long = "n".repeat(300);
    for command in [
        "stop", "kill", "pause", "resume", "nmi", "console", "logs", "wait", "rm",
    ] {
        for name in [
            "",
            "..",
            ".",
            "a/b",
            "/etc",
            "a b",
            "a\u{1b}[2J",
            long.as_str(),
            "-x",
            "--",
            "größe",
        ] {
            let ran = host.call(&[command, name]);
            assert_eq!(ran.status, Some(2), "{command} {name:?}: {}", ran.stderr);
            assert!(
                ran.stderr.starts_with("error: "),
                "{command} {name:?}: {}",
                ran.stderr
            );
            assert!(!ran.stderr.contains('\u{1b}'), "{command} {name:?}");
        }
        let ran = host.call(&[command, "nosuch"]);
        assert_eq!(ran.status, Some(1), "{command}");
        let expected =
            "error: there is no VM \"nosuch\"\n  help: `mother ps -a` lists all there are\n";
        assert_eq!(ran.stderr, expected, "{command}");
    }
    assert_eq!(host.call(&["ps", "--json"]).stdout, "[]\n");
}

#[test]
fn several_vms_are_handled_at_once_and_each_is_answered_for() {
    let host = Host::new();
    host.start("one");
    host.start("two");
    let ran = host.call(&["pause", "one", "nosuch", "two", "one", "--json"]);
    let results: Value = serde_json::from_str(&ran.stdout).unwrap();
    let done: Vec<_> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["name"], &one["done"]))
        .collect();
    let expected = [("one", true), ("nosuch", false), ("two", true)]
        .map(|(name, done)| (name.into(), done.into()));
    assert_eq!(
        done,
        expected
            .iter()
            .map(|(name, done): &(Value, Value)| (name, done))
            .collect::<Vec<_>>()
    );
    assert_eq!(ran.status, Some(1));
    let killed = host.call(&["kill", "one", "two"]);
    assert_eq!(
        (killed.status, killed.stdout.as_str()),
        (Some(0), "one\ntwo\n")
    );
    assert_eq!(host.call(&["wait", "one"]).status, Some(137));
    assert_eq!(host.call(&["rm", "--all"]).stdout, "one\ntwo\n");
}

#[test]
fn a_paused_guest_does_nothing_costs_nothing_and_goes_on() {
    let host = Host::new();
    host.start("web");
    host.expect_log("web", "ready");
    let mut console = host.attach("web");
    assert_eq!(host.call(&["pause", "web"]).status, Some(0));
    console.write_all(b"typed meanwhile\n").unwrap();
    let before = host.ps("web");
    thread::sleep(Duration::from_secs(1));
    let after = host.ps("web");
    assert_eq!(
        (&before["state"], &after["state"]),
        (&"paused".into(), &"paused".into())
    );
    let used = after["cpu_seconds"].as_f64().unwrap() - before["cpu_seconds"].as_f64().unwrap();
    assert!(used < 0.02, "a paused VM used {used} s of CPU in a second");
    assert!(!host.call(&["logs", "web"]).stdout.contains("typed"));
    assert_eq!(host.call(&["resume", "web"]).status, Some(0));
    host.expect_log("web", "typed meanwhile");
    assert_eq!(host.call(&["pause", "web"]).status, Some(0));
    // A guest that is to hear its power button has to run.
    let ran = host.call(&["stop", "web"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(
        host.call(&["wait", "web"]).stdout,
        "web: the guest powered off\n"
    );
}

#[test]
fn a_guest_hears_the_nmi_button_and_goes_on() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let ran = host
        .mother
        .run(&["-d", "--name", "web", "--timeout", "100s"]);
    assert_eq!(ran.stdout, "web\n", "{}", ran.stderr);
    host.expect_log("web", ":~# ");
    let press = || {
        let ran = host.call(&["nmi", "web"]);
        assert_eq!(
            (ran.status, ran.stdout.as_str()),
            (Some(0), "web\n"),
            "{}",
            ran.stderr
        );
    };
    let heard = "NMI received for unknown reason";
    let times = || host.call(&["logs", "web"]).stdout.matches(heard).count();
    // One that stands still takes it when it goes on; pressed twice before that, it is one.
    assert_eq!(host.call(&["pause", "web"]).status, Some(0));
    press();
    press();
    assert_eq!(times(), 0);
    assert_eq!(host.call(&["resume", "web"]).status, Some(0));
    host.expect_log("web", heard);
    let mut console = host.attach("web");
    console.write_all(b"echo still' 'here\n").unwrap();
    host.expect_log("web", "still here");
    assert_eq!(times(), 1);
    press();
    console.write_all(b"echo once' 'more\n").unwrap();
    host.expect_log("web", "once more");
    assert_eq!(times(), 2);
}

#[test]
fn a_console_is_attached_typed_into_left_and_attached_again() {
    let host = Host::new();
    host.start("web");
    host.expect_log("web", "ready");
    let mut other = host.attach("web");
    let mut terminal = Terminal::new(&host.mother, "$MOTHER console web; echo status $?");
    terminal.expect("ready");
    terminal.send("hello\x01\x01");
    terminal.expect("hello\x01");
    let mut seen = [0; 6];
    other.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hello\x01", "everybody sees what is typed by one");
    other.write_all(b"from elsewhere").unwrap();
    terminal.expect("from elsewhere");
    assert_eq!(host.ps("web")["consoles"], 2);
    terminal.send("\x01d");
    terminal.expect("it goes on");
    terminal.expect("status 0");
    terminal.finish();
    let mut terminal = Terminal::new(&host.mother, "$MOTHER console web; echo status $?");
    terminal.expect("from elsewhere");
    assert_eq!(host.call(&["kill", "web"]).status, Some(0));
    terminal.expect("has ended: it was killed");
    terminal.expect("status 137");
    terminal.finish();
}

#[test]
fn a_detached_vm_outlives_the_terminal_it_was_started_from() {
    let host = Host::new();
    let line = "$MOTHER run -d --name web --kernel echo --memory 32M --timeout 90s; echo status $?";
    let mut terminal = Terminal::new(&host.mother, line);
    terminal.expect("web");
    terminal.expect("status 0");
    terminal.finish();
    host.expect_log("web", "ready");
    assert_eq!(host.ps("web")["state"], "running");
}

#[test]
fn a_log_is_followed_to_its_end() {
    let host = Host::new();
    host.start("web");
    let mut command = host.mother.command(env!("CARGO_BIN_EXE_mother"));
    command
        .args(["logs", "-f", "web"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let follower = command.spawn().unwrap();
    host.attach("web").write_all(b"one\ntwo\nthree\n").unwrap();
    host.expect_log("web", "three\n");
    assert_eq!(
        host.call(&["logs", "--tail", "2", "web"]).stdout,
        "two\nthree\n"
    );
    assert_eq!(host.call(&["stop", "web"]).status, Some(0));
    let output = follower.wait_with_output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(stdout, "ready\r\none\ntwo\nthree\n");
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("the guest powered off")
    );
}

#[test]
fn a_run_at_a_terminal_is_reached_and_leaves_what_it_should() {
    let host = Host::new();
    let check = |words: &[&str], name: &str, order: &[&str], status: i32, left: &str| {
        thread::scope(|scope| {
            let run = scope.spawn(|| host.run(words));
            host.wait_for(name, "running");
            assert_eq!(host.call(&[order, &[name]].concat()).status, Some(0));
            let ran = run.join().unwrap();
            assert_eq!(ran.status, Some(status), "{}", ran.stderr);
        });
        assert_eq!(host.call(&["ps", "-a", "-q"]).stdout, left);
    };
    check(&[], "guest", &["stop"], 0, "");
    check(&[], "guest", &["kill"], 137, "");
    check(&["--name", "web"], "web", &["stop"], 0, "web\n");
    check(&["--name", "web"], "web", &["rm", "-f"], 137, "");
}

#[test]
fn clients_that_are_slow_silent_or_hostile_hold_up_nobody() {
    let host = Host::new();
    host.start("web");
    let socket = host.mother.vms().join("web").join("control");
    let connect = || UnixStream::connect(&socket).unwrap();
    // Says nothing; never ends its line; never reads what the guest prints.
    let _silent = connect();
    let mut endless = connect();
    let _ = endless.write_all(&vec![b'x'; 100_000]);
    let mut deaf = host.attach("web");
    let sender = thread::spawn(move || {
        for _ in 0..200 {
            deaf.write_all(&[b'a'; 10_000]).unwrap();
        }
        deaf
    });
    let mut refused = connect();
    refused
        .write_all(b"{\"version\":99,\"command\":\"status\"}\nnonsense\n")
        .unwrap();
    let mut answers = String::new();
    refused
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    while answers.lines().count() < 2 || !answers.ends_with('\n') {
        let mut bytes = [0; 1000];
        let count = refused.read(&mut bytes).unwrap();
        assert!(count > 0, "{answers}");
        answers.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
    assert!(
        answers.contains("\"code\":\"version\"") && answers.contains("\"code\":\"bad-request\""),
        "{answers}"
    );
    // Two million bytes are echoed, of which the deaf one reads none, and the guest is not held up by that.
    let deaf = sender.join().unwrap();
    assert_eq!(host.ps("web")["state"], "running");
    drop(deaf);
    // More than there is room for.
    let crowd: Vec<UnixStream> = (0..40).map(|_| connect()).collect();
    assert_eq!(
        host.call(&["kill", "web"]).status,
        Some(0),
        "a VM can be killed whoever is connected"
    );
    drop(crowd);
    assert_eq!(host.call(&["ps", "-q"]).stdout, "");
}

#[test]
fn a_guest_with_two_vcpus_does_not_notice_a_pause() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let ran = host
        .mother
        .run(&["-d", "--name", "web", "--cpus", "2", "--timeout", "100s"]);
    assert_eq!(ran.stdout, "web\n", "{}", ran.stderr);
    host.expect_log("web", ":~# ");
    let mut console = host.attach("web");
    let mut uptime = |mark: &str| {
        // In two pieces, so that the echo of the line is not the answer.
        let line = format!("echo '<'{mark}' '$(cut -d. -f1 /proc/uptime)'>'\n");
        console.write_all(line.as_bytes()).unwrap();
        let start = format!("<{mark} ");
        host.expect_log("web", &start);
        let log = host.call(&["logs", "web"]).stdout;
        let text = &log[log.rfind(&start).unwrap() + start.len()..];
        text[..text.find('>').unwrap()].parse::<u64>().unwrap()
    };
    let real = Instant::now();
    let before = uptime("before");
    assert_eq!(host.call(&["pause", "web"]).status, Some(0));
    thread::sleep(Duration::from_secs(12));
    assert_eq!(host.call(&["resume", "web"]).status, Some(0));
    let after = uptime("after");
    let passed = (after - before, real.elapsed().as_secs());
    assert!(passed.0 + 8 < passed.1, "(guest, host): {passed:?}");
    console
        .write_all(b"dmesg | grep -ciE 'stall|lockup|clocksource.*unstable|tsc.*unstable'; echo end''mark\n")
        .unwrap();
    host.expect_log("web", "endmark");
    let log = host.call(&["logs", "web"]).stdout;
    let answer = &log[..log.rfind("endmark").unwrap()];
    assert_eq!(answer.lines().last(), Some("0"), "{log}");
}

#[test]
fn a_guest_that_was_still_starting_hears_the_power_button_later() {
    let host = Host::new();
    let ran = host.mother.run(&[
        "-d",
        "--name",
        "web",
        "--kernel",
        "late",
        "--memory",
        "32M",
        "--timeout",
        "90s",
    ]);
    assert_eq!(ran.stdout, "web\n", "{}", ran.stderr);
    host.expect_log("web", "ready");
    assert_eq!(
        host.call(&["stop", "--grace", "60s", "web"]).status,
        Some(0)
    );
    assert_eq!(host.ps("web")["end"]["kind"], "powered-off");
}

#[test]
fn small_guests_obey_the_power_button() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    // With a grace time that is over long after the test's own.
    let stop = ["stop", "--grace", "1h", "web"];
    let check = |words: &[&str], ready: &str, status: i32, message: &str| {
        let ran = host
            .mother
            .run(&[&["-d", "--name", "web", "--timeout", "100s"], words].concat());
        assert_eq!(ran.stdout, "web\n", "{}", ran.stderr);
        host.expect_log("web", ready);
        assert_eq!(host.call(&stop).status, Some(0));
        let end = &host.ps("web")["end"];
        assert_eq!(end["exit_status"], status, "{words:?}: {end}");
        assert!(
            end["message"].as_str().unwrap().contains(message),
            "{words:?}: {end}"
        );
    };
    check(&[], ":~# ", 0, "powered off");
    // A program is asked to end as a container is, and may say how it does.
    check(
        &["--app", "/bin/sh", "--", "-c", "echo up; sleep 1000"],
        "up",
        143,
        "exit status 143",
    );
    let trap = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.1; done";
    check(
        &["--app", "/bin/sh", "--", "-c", trap],
        "up",
        7,
        "exit status 7",
    );
    // Commands from a pipe; the first one takes longer than anybody waits.
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            host.mother.type_into(
                &["--name", "web", "--timeout", "100s"],
                "echo up; sleep 1000\n",
            )
        });
        host.wait_for("web", "running");
        host.expect_log("web", "up");
        assert_eq!(host.call(&stop).status, Some(0));
        let ran = run.join().unwrap();
        assert_eq!(ran.status, Some(143), "{}{}", ran.stdout, ran.stderr);
    });
}

#[test]
fn completions_are_scripts_that_shells_can_read() {
    let host = Host::new();
    let check = host
        .mother
        .shell("set -e; $MOTHER completions bash > c; bash -n c; . ./c; complete -p mother");
    assert_eq!(check.status, Some(0), "{}", check.stderr);
    assert!(check.stdout.contains("_mother_names"), "{}", check.stdout);
    host.start("web");
    let line = "PATH=$(dirname $MOTHER):$PATH; . ./c; COMP_WORDS=(mother stop w); COMP_CWORD=2; _mother_names mother w stop; echo ${COMPREPLY[@]}";
    assert_eq!(host.mother.shell(line).stdout, "web\n");
    assert_eq!(host.call(&["completions", "cobol"]).status, Some(2));
}
