//! Tasks that need the product's own crates are a program of their own, so that this one builds in seconds.

use std::process::Command;

use anyhow::{Context, Result};

use crate::steps::cargo;

/// The other program with these words, built for speed.
pub fn command(words: &[&str]) -> Command {
    let mut command = cargo(&["run", "--quiet", "--release", "--package", "bench", "--"]);
    command.args(words);
    command
}

/// Runs it in the foreground; `true` if it was content.
pub fn run(words: &[&str]) -> Result<bool> {
    Ok(command(words)
        .status()
        .context("start the program `bench`")?
        .success())
}
