//! `cargo xtask differential` and `cargo xtask fuzz`: instructions on the silicon and on the software CPU, and whatever reads
//! foreign bytes, for as long as one likes.

use std::process::Command;

use anyhow::{Context, Result};

use crate::steps::cargo;

/// A harness with these options, built for speed.
fn command(harness: &str, options: &[&str]) -> Command {
    let mut words = vec!["run", "--quiet", "--release", "--package", "proof", "--bin"];
    words.extend([harness, "--"]);
    words.extend(options);
    cargo(&words)
}

/// Runs the harness of this name with these options, in the foreground; `true` if it found nothing.
pub fn run(harness: &str, options: &[&str]) -> Result<bool> {
    Ok(command(harness, options)
        .status()
        .with_context(|| format!("start the harness {harness}"))?
        .success())
}
