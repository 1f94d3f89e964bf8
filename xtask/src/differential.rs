//! `cargo xtask differential`: instructions on the silicon and on the software CPU, for as long as one likes.

use anyhow::{Context, Result};

use crate::steps::cargo;

/// Runs the harness with these options, in the foreground; `true` if nothing differed.
pub fn run(options: &[&str]) -> Result<bool> {
    let mut words = vec!["run", "--quiet", "--release", "--package", "proof", "--bin", "differential", "--"];
    words.extend(options);
    Ok(cargo(&words).status().context("start the differential harness")?.success())
}
