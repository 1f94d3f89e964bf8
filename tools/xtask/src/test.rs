//! `cargo xtask test`: is the code right? What CI runs.
//!
//! Shape first, then everything is built once, in one profile, then all that runs runs side by side (`pool`). To add a
//! harness, add a job: a name, a program and its words, a limit. Tests of crates are found by themselves.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::pool::{self, Job};
use crate::steps::{self, Counts, Step, Tally, cargo};
use crate::{check, workspace};

/// The job that makes the image that tests of whole programs boot.
const DEBIAN: &str = "debian";

/// Everything `check` does, then every test; `true` if nothing failed.
pub fn run() -> Result<bool> {
    let mut total = steps::run(check::steps())? + steps::run(preparations())?;
    let mut jobs = harnesses();
    match pool::tests(DEBIAN) {
        Ok(tests) => jobs.extend(tests),
        Err(error) => {
            println!("FAILED {error:#}");
            total = total
                + Tally {
                    failed: 1,
                    ..Tally::default()
                };
        }
    }
    Ok(steps::sum_up(total + pool::run(jobs)?))
}

/// What must be there before tests start: apart from running them, so that a slow host that still compiles or downloads
/// has no test that hangs.
fn preparations() -> Vec<Step> {
    vec![
        // Tests and programs in one go: programs alone would be built of crates with other features, which takes long.
        Step {
            name: "build".into(),
            command: cargo(&["build", "--profile", "test", "--workspace", "--all-targets"]),
            limit: Duration::from_secs(1800),
            counts: Counts::One,
        },
        Step {
            name: "guest".into(),
            command: program("bench", &["guest"]),
            limit: Duration::from_secs(300),
            counts: Counts::LastLine,
        },
    ]
}

/// What is no test of one crate. The random instructions are from seeds that stay: a failure there is news.
fn harnesses() -> Vec<Job> {
    let job = |name: &str, command, limit, counts| Job {
        step: Step {
            name: name.into(),
            command,
            limit: Duration::from_secs(limit),
            counts,
        },
        is_test: false,
        usual_time: Duration::from_secs(limit),
        after: None,
    };
    let instructions = |words: &[&str]| program("differential", words);
    vec![
        // Debian is installed by one guest on one core, and a mirror is waited for: what needs no Debian runs beside it.
        job(DEBIAN, program("bench", &["debian"]), 900, Counts::LastLine),
        job(
            "test-kvm",
            program("bench", &["test-kvm", "--quick"]),
            2400,
            Counts::LastLine,
        ),
        job(
            "instructions",
            instructions(&["--cases", "100000", "--seed", "1"]),
            400,
            Counts::LastLine,
        ),
        job(
            "instructions32",
            instructions(&["--cases", "50000", "--seed", "1", "--bits", "32"]),
            300,
            Counts::LastLine,
        ),
        job(
            "fuzz",
            program("fuzz", &["--seconds", "60"]),
            300,
            Counts::LastLine,
        ),
        job(
            "stress",
            program("smp", &["stress", "--seconds", "30"]),
            400,
            Counts::LastLine,
        ),
    ]
}

/// A program of the workspace as tests have it, built before.
fn program(name: &str, words: &[&str]) -> Command {
    let root = workspace::root();
    let path: PathBuf = root.join("target/debug").join(name);
    let mut command = Command::new(path);
    command.args(words).current_dir(root);
    command
}
