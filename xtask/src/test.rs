//! `cargo xtask test`: is the code right? What CI runs.
//!
//! To add a step, add an entry: a name, a command, a limit, and how its output says what it counted.

use std::time::Duration;

use crate::check;
use crate::steps::{Counts, Step, cargo};

/// Everything `check` does, then every test.
pub fn steps() -> Vec<Step> {
    let mut steps = check::steps();
    steps.push(Step {
        name: "tests",
        command: cargo(&["test", "--workspace", "--no-fail-fast"]),
        limit: Duration::from_secs(900),
        counts: Counts::CargoTest,
    });
    steps
}
