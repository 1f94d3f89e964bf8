//! The bare guests on the software CPU: their transcripts, their endings, and the same guest under QEMU beside it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use proof::bare::{Ending, GUESTS, Run, run, source_folder};
use proof::engine;

const LIMIT: Duration = Duration::from_secs(60);

/// Builds a guest into a folder of this test alone.
fn build(name: &str, test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(&folder).unwrap();
    GUESTS
        .iter()
        .find(|guest| guest.name == name)
        .unwrap()
        .build(&folder)
        .unwrap()
}

fn run_on_soft(image: &Path, words: &str, limit: Duration) -> Run {
    run(
        &engine::soft(),
        &std::fs::read(image).unwrap(),
        words,
        limit,
    )
    .unwrap()
}

/// A transcript that is wrong is shown from its first wrong line.
fn check(transcript: &str, expected: &str) {
    for (number, (line, right)) in transcript.lines().zip(expected.lines()).enumerate() {
        assert_eq!(line, right, "line {}", number + 1);
    }
    assert_eq!(
        transcript.lines().count(),
        expected.lines().count(),
        "the transcript breaks off"
    );
}

#[test]
fn hello_says_hello() {
    let run = run_on_soft(&build("hello", "hello"), "", LIMIT);
    assert_eq!(
        run,
        Run {
            console: "hello from ring 0\n".to_owned(),
            ending: Ending::DebugExit(0x10)
        }
    );
}

#[test]
fn the_processor_does_what_the_manual_says() {
    let run = run_on_soft(&build("processor", "processor"), "", LIMIT);
    check(
        &run.console,
        &std::fs::read_to_string(source_folder().join("processor.expected")).unwrap(),
    );
    assert_eq!(run.ending, Ending::DebugExit(0));
}

#[test]
fn hostile_guests_survive_or_end_as_a_processor_would() {
    let image = build("hostile", "hostile");
    let short = Duration::from_secs(1);
    for (mode, ending) in [
        ("msrs", Ending::DebugExit(0x20)),
        ("control", Ending::DebugExit(0x20)),
        ("ports", Ending::DebugExit(0x20)),
        ("devices", Ending::DebugExit(0x20)),
        ("nowhere", Ending::DebugExit(0x20)),
        ("triple", Ending::TripleFault),
        ("faults", Ending::TimedOut),
    ] {
        let limit = if ending == Ending::TimedOut {
            short
        } else {
            LIMIT
        };
        assert_eq!(run_on_soft(&image, mode, limit).ending, ending, "{mode}");
    }
    // Random code may end in any way, as long as it is a guest's way.
    for mode in ["random", "void"] {
        run_on_soft(&image, mode, short);
    }
}

#[test]
fn qemu_agrees_but_for_its_known_shortcuts() {
    let image = build("processor", "qemu");
    let output = Command::new("timeout")
        .args([
            "60",
            "qemu-system-x86_64",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-m",
            "128",
            "-display",
            "none",
        ])
        .args([
            "-serial",
            "stdio",
            "-no-reboot",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=4",
        ])
        .args(["-append", "gentle", "-kernel"])
        .arg(&image)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let theirs = String::from_utf8_lossy(&output.stdout).into_owned();
    if !theirs.starts_with("-- exceptions") {
        eprintln!("no QEMU here to compare with");
        return;
    }
    let list = std::fs::read_to_string(source_folder().join("processor.qemu")).unwrap();
    let known: BTreeSet<&str> = list
        .lines()
        .filter_map(|line| line.rsplit_once(": "))
        .map(|(what, _)| what)
        .collect();
    let ours = run_on_soft(&image, "gentle", LIMIT).console;
    // How often a breakpoint was hit differs, so the single hits are left out.
    let is_hit = |line: &&str| line.starts_with("  at, DR6");
    let theirs = theirs.lines().filter(|line| !is_hit(line));
    let ours = ours.lines().filter(|line| !is_hit(line));
    for (line, right) in theirs.zip(ours) {
        let what = right.split_once(": ").map_or(right, |(what, _)| what);
        let is_known = known.iter().any(|known| known.starts_with(what));
        assert!(line == right || is_known, "QEMU: {line}\nsoft: {right}");
    }
}
