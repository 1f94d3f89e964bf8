//! The walls around a VM's process, tried from inside: the tests that show each, without all the others.

use anyhow::{Context, Result};

use crate::steps::cargo;

/// Words of `cargo test`, one run for each.
const RUNS: [&[&str]; 2] = [
    &["test", "--package", "host", "--lib", "jail::"],
    &[
        "test",
        "--package",
        "cli",
        "--test",
        "drills",
        "--test",
        "opened_once",
        "--test",
        "identity",
    ],
];

/// Runs them; whether every wall held.
pub fn run() -> Result<bool> {
    let mut holds = true;
    for words in RUNS {
        let status = cargo(words).status().context("start cargo")?;
        holds &= status.success();
    }
    Ok(holds)
}
