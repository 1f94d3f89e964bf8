//! `cargo xtask test`: is the code right? What CI runs.
//!
//! To add a step, add an entry: a name, a command, a limit, and how its output says what it counted.

use std::time::Duration;

use crate::steps::{Counts, Step, cargo};
use crate::{check, differential, smp};

/// Everything `check` does, then every test.
pub fn steps() -> Vec<Step> {
    let mut steps = check::steps();
    steps.push(Step {
        name: "guest",
        command: cargo(&["xtask", "guest"]),
        limit: Duration::from_secs(300),
        counts: Counts::LastLine,
    });
    steps.push(Step {
        name: "debian",
        command: cargo(&["xtask", "debian"]),
        limit: Duration::from_secs(600),
        counts: Counts::LastLine,
    });
    // Apart from running them: a slow host that is still compiling has no test that hangs.
    steps.push(Step {
        name: "build tests",
        command: cargo(&["test", "--workspace", "--no-run"]),
        limit: Duration::from_secs(900),
        counts: Counts::One,
    });
    steps.push(Step {
        name: "tests",
        command: cargo(&["test", "--workspace", "--no-fail-fast"]),
        limit: Duration::from_secs(1200),
        counts: Counts::CargoTest,
    });
    for (name, options) in DIFFERENTIAL {
        steps.push(Step {
            name,
            command: differential::command(options),
            limit: Duration::from_secs(300),
            counts: Counts::LastLine,
        });
    }
    steps.push(Step {
        name: "test-kvm",
        command: cargo(&["xtask", "test-kvm", "--quick"]),
        limit: Duration::from_secs(720),
        counts: Counts::LastLine,
    });
    steps.push(Step {
        name: "stress",
        command: smp::command("stress", &["--seconds", "30"]),
        limit: Duration::from_secs(400),
        counts: Counts::LastLine,
    });
    steps
}

/// Random instructions on the silicon and on the software CPU, from seeds that stay: a failure here is news.
const DIFFERENTIAL: [(&str, &[&str]); 2] = [
    ("instructions", &["--cases", "100000", "--seed", "1"]),
    (
        "instructions32",
        &["--cases", "50000", "--seed", "1", "--bits", "32"],
    ),
];
