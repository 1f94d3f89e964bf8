//! `cargo xtask differential`: instructions on the silicon and on the software CPU, for as long as one likes.

use std::process::Command;

use anyhow::{Context, Result};

use crate::steps::cargo;

/// The harness with these options, built for speed.
pub fn command(options: &[&str]) -> Command {
    let mut words = vec![
        "run",
        "--quiet",
        "--release",
        "--package",
        "proof",
        "--bin",
        "differential",
        "--",
    ];
    words.extend(options);
    cargo(&words)
}

/// Runs the harness with these options, in the foreground; `true` if nothing differed.
pub fn run(options: &[&str]) -> Result<bool> {
    Ok(command(options)
        .status()
        .context("start the differential harness")?
        .success())
}
