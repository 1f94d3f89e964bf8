//! `mother run` and `mother demo` with a whole guest, as a user sees them.
//!
//! The guest is the default one, from the user's cache; `cargo xtask guest` puts it there. Where it cannot be had,
//! each of these says that it was skipped.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;

use crate::common::host::Host;
use crate::common::{Mother, Ran, Terminal, assert_modes_came_back, multiboot, with_guest};

/// Types `input` into `mother run` with these words.
fn run(words: &[&str], input: &str) -> Option<Ran> {
    with_guest().map(|mother| mother.type_into(words, input))
}

/// The lines of the answers.
fn answers(ran: &Ran) -> Vec<&str> {
    ran.stdout.lines().collect()
}

#[test]
fn commands_have_streams_and_an_exit_status_of_their_own() {
    let check = |words: &[&str], input: &str, expected: (&str, &str, i32)| {
        let Some(ran) = run(words, input) else { return };
        assert_eq!(
            (ran.stdout.as_str(), ran.stderr.as_str(), ran.status),
            (expected.0, expected.1, Some(expected.2)),
            "{words:?}"
        );
    };
    let script = "uname -s\nhostname\necho $((6 * 7)); echo trouble >&2\nexit 3\n";
    check(
        &["--name", "web1"],
        script,
        ("Linux\nweb1\n42\n", "trouble\n", 3),
    );
    check(&[], "false\n", ("", "", 1));
    let line = "cat; echo trouble >&2; exit 4";
    check(&["--", "sh", "-c", line], "in\n", ("in\n", "trouble\n", 4));
    check(
        &[
            "--env",
            "A=b",
            "--workdir",
            "/tmp",
            "--",
            "sh",
            "-c",
            "echo $A; pwd",
        ],
        "",
        ("b\n/tmp\n", "", 0),
    );
    check(
        &["--", "nosuch"],
        "",
        (
            "",
            "mother: cannot start the program in the guest: No such file or directory (os error 2)\n",
            127,
        ),
    );
}

#[test]
fn the_kernels_log_is_a_flag_away_and_kept() {
    let Some(ran) = run(&["--kernel-log"], "echo hi\n") else {
        return;
    };
    assert_eq!((ran.stdout.as_str(), ran.status), ("hi\n", Some(0)));
    assert!(ran.stderr.contains("Linux version"), "{}", ran.stderr);
    let Some(host) = Host::with_guest() else {
        return;
    };
    let ran = host.mother.type_into(&["--name", "kept"], "echo hi\n");
    assert_eq!((ran.stdout.as_str(), ran.status), ("hi\n", Some(0)));
    let logs = host.call(&["logs", "kept"]);
    assert!(
        logs.stdout.contains("Linux version") && logs.stdout.contains("\nhi\n"),
        "{}",
        logs.stdout
    );
}

#[test]
fn a_pipe_is_typed_into_the_serial_console_and_its_end_ends_the_guest() {
    let words = ["--console", "serial", "--name", "web1"];
    let Some(ran) = run(&words, "uname -s\nhostname\necho $((6 * 7))\n") else {
        return;
    };
    let after = ran
        .stdout
        .lines()
        .skip_while(|line| *line != images::INIT_MARKER);
    let lines: Vec<&str> = after
        .skip(1)
        .filter(|line| !line.starts_with('['))
        .collect();
    assert_eq!(lines, ["Linux", "web1", "42"], "{}", ran.stdout);
    assert_eq!(ran.status, Some(0));
    assert!(
        !ran.stdout.contains("mother: engine"),
        "standard output is the guest's"
    );
    assert!(ran.stderr.starts_with("mother: engine "), "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("\nmother: the guest powered off after "),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_pipe_may_end_inside_a_line_or_be_empty() {
    let Some(ran) = run(&[], "echo whole") else {
        return;
    };
    assert_eq!((answers(&ran), ran.status), (vec!["whole"], Some(0)));
    let Some(ran) = run(&[], "") else { return };
    assert_eq!((answers(&ran), ran.status), (vec![], Some(0)));
}

#[test]
fn a_program_that_waits_for_each_answer_gets_it() {
    let script = include_str!("scripts/answers.sh");
    let Some(mother) = with_guest() else { return };
    let ran = mother.shell(script);
    assert_eq!(
        (ran.stdout.as_str(), ran.status),
        ("all\n", Some(0)),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_long_pipe_arrives_whole() {
    let text = "All that is typed arrives, in order and once.\n".repeat(4000);
    let script = format!("wc -c <<'END'\n{text}END\n");
    let count = text.len().to_string();
    let Some(ran) = run(&[], &script) else {
        return;
    };
    assert_eq!((answers(&ran), ran.status), (vec![count.as_str()], Some(0)));
    let Some(ran) = run(&["--console", "serial"], &script) else {
        return;
    };
    assert!(
        ran.stdout.lines().any(|line| line == count),
        "{}",
        ran.stdout
    );
}

#[test]
fn poweroff_in_the_guest_ends_it() {
    let Some(ran) = run(&[], "poweroff; sleep 30\necho unreachable\n") else {
        return;
    };
    assert_eq!((answers(&ran), ran.status), (vec![], Some(0)));
}

#[test]
fn words_on_the_command_line_are_added_to_those_of_the_default_guest() {
    let Some(ran) = run(
        &["--cmdline", "quiet mine=1"],
        "grep -o mine=1 /proc/cmdline\n",
    ) else {
        return;
    };
    assert_eq!((answers(&ran), ran.status), (vec!["mine=1"], Some(0)));
}

#[test]
fn the_time_is_up() {
    let Some(ran) = run(&["--timeout", "2s"], "sleep 100\n") else {
        return;
    };
    assert_eq!(ran.status, Some(124));
    assert!(
        ran.stderr
            .contains("error: VM \"guest\" ran out of time after 2."),
        "{}",
        ran.stderr
    );
}

/// Runs a kernel of these instructions.
fn run_code(code: &[u8], words: &[&str]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("kernel"), multiboot(code)).unwrap();
    Mother::new(folder.path()).run(&[&["--kernel", "kernel", "--timeout", "20s"], words].concat())
}

#[test]
fn a_write_to_the_debug_exit_port_ends_the_guest_with_its_status() {
    // mov al, 0x10; out 0xf4, al; ud2
    let code = [0xb0, 0x10, 0xe6, 0xf4, 0x0f, 0x0b];
    let ran = run_code(&code, &["--debug-exit"]);
    assert_eq!(ran.status, Some(0x21), "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("mother: the guest ended through the debug-exit port"),
        "{}",
        ran.stderr
    );
    // Without the port the write goes nowhere and the guest crashes behind it.
    assert_eq!(run_code(&code, &[]).status, Some(3));
}

#[test]
fn a_guest_that_crashes_shows_its_registers() {
    // mov eax, 0x12345678; ud2, with no interrupt table
    let ran = run_code(
        &[0xb8, 0x78, 0x56, 0x34, 0x12, 0x0f, 0x0b],
        &["--name", "db1"],
    );
    assert_eq!(ran.status, Some(3));
    for text in [
        "error: the guest of VM \"db1\" crashed after",
        "triple fault in 32-bit protected mode, CPL 0, after #UD",
        "RAX 0000000012345678",
        "<0f> 0b",
    ] {
        assert!(ran.stderr.contains(text), "{text:?} in {}", ran.stderr);
    }
}

#[test]
fn a_reset_ends_the_guest_or_starts_it_again_as_asked() {
    let Some(ran) = run(&["--no-reboot"], "reboot; sleep 30\n") else {
        return;
    };
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(0), ""));
    // The second life reads no end of input: it was in the first.
    let words = ["--console", "serial", "--timeout", "25s"];
    let Some(ran) = run(&words, "reboot; sleep 30\n") else {
        return;
    };
    assert_eq!(
        (ran.status, ran.stdout.matches(images::INIT_MARKER).count()),
        (Some(124), 2)
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_guest() {
    let Some(mother) = with_guest() else { return };
    for (words, count) in [
        ("run --console serial </dev/null", 1),
        ("run -- yes </dev/null", 1),
        ("demo", 10),
        ("demo", 0),
    ] {
        let ran = mother.shell(&format!(
            "$MOTHER {words} | head -n {count}; echo ${{PIPESTATUS[0]}}"
        ));
        assert_eq!(
            ran.stdout.lines().last(),
            Some("141"),
            "{words}: {}",
            ran.stdout
        );
        assert!(
            !ran.stderr.contains("error") && !ran.stderr.contains("panic"),
            "{words}: {}",
            ran.stderr
        );
    }
}

#[test]
fn the_report_says_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let Some(ran) = run(&["--report", path.to_str().unwrap()], "") else {
        return;
    };
    assert_eq!(ran.status, Some(0));
    let report: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let ending = serde_json::json!({ "kind": "exited", "status": 0 });
    assert_eq!(report["ending"], ending);
    assert_eq!(report["guest_memory"]["configured"], 512 << 20);
    assert!(report["guest_memory"]["touched"].as_u64().unwrap() > 16 << 20);
    assert!(report["exits"]["pio write"].as_u64().unwrap() > 1000);
    assert!(report["vcpu_time"].as_f64().unwrap() <= report["wall_time"].as_f64().unwrap());
}

#[test]
fn the_demo_runs_every_program_and_prints_what_mother_knows() {
    let Some(mother) = with_guest() else { return };
    let ran = mother.call(&["demo"]);
    assert_eq!(ran.status, Some(0), "{}{}", ran.stdout, ran.stderr);
    for name in ["hashing", "sorting", "float", "threads", "processes"] {
        let line = ran
            .stdout
            .lines()
            .find(|line| line.trim_start().starts_with(name))
            .unwrap();
        assert!(line.contains("right"), "{line}");
    }
    for text in [
        "the guest says",
        "Mother knows",
        "start to /init",
        "exits to Mother",
        "code cache",
        "ever touched",
    ] {
        assert!(ran.stdout.contains(text), "{text:?} in {}", ran.stdout);
    }
    if machine::paging_finding().usable {
        for text in [
            "a full guest says",
            "used, 9",
            "given 51.2 MiB at a time",
            "working set",
            "it does not know",
        ] {
            assert!(ran.stdout.contains(text), "{text:?} in {}", ran.stdout);
        }
        // The same guest as `mother truth` sees it.
        let truth = ran.stdout.split_once("SUBJECT").unwrap().1;
        for text in [
            "CLAIM",
            "KERNEL",
            "TRUTH",
            "VERDICT",
            "used memory, as a program says",
            "paged out",
        ] {
            assert!(truth.contains(text), "{text:?} in {truth}");
        }
        assert!(!truth.contains("CONTRADICTS"), "{truth}");
    }
    let claims = ran.stdout.split("SUBJECT").next().unwrap();
    assert!(
        !claims.contains("nothing") && !claims.contains("never seen"),
        "{}",
        ran.stdout
    );
}

#[test]
fn on_a_terminal_keys_reach_the_guest_and_the_terminal_comes_back() {
    let Some(mother) = with_guest() else { return };
    let check = |last: &str, status: &str| {
        let mut terminal = Terminal::new(&mother, "stty -g; $MOTHER run; echo status $?; stty -g");
        terminal.expect("guest:~# ");
        terminal.send("tty\r");
        terminal.expect("/dev/ttyS0");
        terminal.expect("guest:~# ");
        // Ctrl-C ends the program in the guest, once it runs, and nothing else.
        terminal.send("sleep 100\r");
        std::thread::sleep(std::time::Duration::from_secs(1));
        terminal.send("\x03");
        terminal.expect("guest:~# ");
        terminal.send(last);
        terminal.expect(status);
        let lines = terminal.finish();
        assert_modes_came_back(&lines);
    };
    check("\x01x", "status 0");
    check("exit\r", "status 0");
}

#[test]
fn a_signal_ends_the_guest_and_gives_the_terminal_back() {
    let Some(mother) = with_guest() else { return };
    let check = |signal: &str, status: &str| {
        let kill = format!("(sleep 4; kill -{signal} $pid) & fg %1 >/dev/null");
        let script = format!("stty -g; $MOTHER run & pid=$!; {kill}; echo status $?; stty -g");
        let mut terminal = Terminal::new(&mother, &format!("set -m; {script}"));
        terminal.expect(status);
        let lines = terminal.finish();
        assert_modes_came_back(&lines);
    };
    check("HUP", "status 129");
    // The guest hears its power button.
    check("TERM", "status 0");
}
