//! `cargo xtask stress` and `cargo xtask bench smp`: guests of several CPUs.

use std::process::Command;

use anyhow::{Context, Result};

use crate::steps::cargo;

/// The harness with this task and these options, built for speed.
pub fn command(task: &str, options: &[&str]) -> Command {
    let mut words = vec![
        "run",
        "--quiet",
        "--release",
        "--package",
        "proof",
        "--bin",
        "smp",
        "--",
        task,
    ];
    words.extend(options);
    cargo(&words)
}

/// Runs it in the foreground; `true` if it was content.
pub fn run(task: &str, options: &[&str]) -> Result<bool> {
    Ok(command(task, options)
        .status()
        .context("start the SMP harness")?
        .success())
}
