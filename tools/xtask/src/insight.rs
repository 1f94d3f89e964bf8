//! `cargo xtask test-insight`, `bench insight` and `fuzz insight`: parts of the test `kernels` of `cli`, for longer or for
//! more kernels than a usual run.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::steps::cargo;

/// One test of the file, seen while it runs.
fn test(name: &str, words: &[&str]) -> Command {
    let mut command = cargo(&["test", "--package", "cli", "--test", "kernels", name, "--"]);
    command
        .args(["--nocapture", "--test-threads", "1"])
        .args(words);
    command
}

fn run(mut command: Command) -> Result<bool> {
    Ok(command.status().context("start cargo")?.success())
}

/// Everything that is read against what guests print: a few kernels, or all that the mirrors offer, going on where the
/// last run ended.
pub fn test_all(options: &[&str]) -> Result<bool> {
    let mut command = test("everything_that_is_read", &[]);
    match options {
        [] => {}
        ["--all"] => {
            command.env("MOTHER_KERNELS", "all");
        }
        ["--all", "--again"] => {
            command
                .env("MOTHER_KERNELS", "all")
                .env("MOTHER_KERNELS_AGAIN", "1");
        }
        ["--kernels", list] => {
            command.env("MOTHER_KERNELS", list);
        }
        _ => bail!("test-insight knows --all [--again] and --kernels RELEASE,RELEASE"),
    }
    run(command)
}

/// What attaching and looking costs.
pub fn bench() -> Result<bool> {
    run(test("what_attaching_and_looking_costs", &["--ignored"]))
}

/// What it costs a guest that somebody hears of every program, and how fast a policy acts.
pub fn bench_trace() -> Result<bool> {
    let mut command = cargo(&["test", "--package", "cli", "--test", "trace"]);
    command.args(["--", "--ignored", "--nocapture", "--test-threads", "1"]);
    run(command)
}

/// What the daemon costs.
pub fn bench_serve() -> Result<bool> {
    let mut command = cargo(&["test", "--package", "cli", "--test", "serve"]);
    command.args(["--", "--ignored", "--nocapture"]);
    run(command)
}

/// Hostile memory for so long.
pub fn fuzz(options: &[&str]) -> Result<bool> {
    let ["--seconds", seconds] = options else {
        bail!("fuzz insight needs --seconds N")
    };
    let seconds: u64 = seconds.parse().context("--seconds is a number")?;
    let mut command = test("no_memory_makes_insight", &[]);
    command.env("MOTHER_FUZZ_SECONDS", seconds.to_string());
    if std::env::var_os("MOTHER_FUZZ_SEED").is_none() {
        command.env(
            "MOTHER_FUZZ_SEED",
            (u64::from(std::process::id()) << 32).to_string(),
        );
    }
    run(command)
}

/// An honest guest at work for so long: Debian, or the small guest, deeper, with its own kernel or another of Debian's.
pub fn honest(options: &[&str]) -> Result<bool> {
    let (mut command, minutes) = match options {
        ["--minutes", minutes] => {
            let mut command = cargo(&["test", "--package", "cli", "--test", "honest", "--"]);
            command.args(["--nocapture", "--ignored"]);
            (command, minutes)
        }
        ["--small", "--minutes", minutes] => (test("an_honest_guest", &[]), minutes),
        ["--kernel", release, "--minutes", minutes] => {
            let mut command = test("an_honest_guest", &[]);
            command.env("MOTHER_HONEST_KERNEL", release);
            (command, minutes)
        }
        _ => bail!("honest knows [--small | --kernel RELEASE] --minutes N"),
    };
    let minutes: u64 = minutes.parse().context("--minutes is a number")?;
    command.env("MOTHER_HONEST_SECONDS", (60 * minutes).to_string());
    run(command)
}
