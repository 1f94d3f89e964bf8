//! `cargo xtask test`: is the code right? What CI runs.
//!
//! To add a step, add an entry: a name, a command, a limit, and how its output says what it counted.

use std::error::Error;
use std::iter;
use std::time::Duration;

use anyhow::Result;
use images::Cache;

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
        name: "tests",
        command: cargo(&["test", "--workspace", "--no-fail-fast"]),
        limit: Duration::from_secs(900),
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
        name: "stress",
        command: smp::command("stress", &["--seconds", "30"]),
        limit: Duration::from_secs(400),
        counts: Counts::LastLine,
    });
    steps
}

/// Gets the default guest into the cache. A host that cannot have it skips, loudly, what needs it.
pub fn fetch_guest() -> Result<bool> {
    match Cache::of_user().and_then(|cache| cache.default_guest(&mut |_| {})) {
        Ok(guest) => println!("{}\n1 passed, 0 failed", guest.kernel_package),
        Err(error) => {
            let causes = iter::successors(Some(&error as &dyn Error), |error| (*error).source());
            let causes: Vec<String> = causes.map(ToString::to_string).collect();
            println!("no default guest: {}\n0 passed, 0 failed, 1 skipped", causes.join(": "));
        }
    }
    Ok(true)
}

/// Random instructions on the silicon and on the software CPU, from seeds that stay: a failure here is news.
const DIFFERENTIAL: [(&str, &[&str]); 2] = [
    ("instructions", &["--cases", "100000", "--seed", "1"]),
    ("instructions32", &["--cases", "50000", "--seed", "1", "--bits", "32"]),
];
