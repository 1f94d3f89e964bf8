//! `cargo xtask test`: is the code right? What CI runs.
//!
//! To add a step, add an entry: a name, a command, a limit, and how its output says what it counted.

use std::error::Error;
use std::iter;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
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

/// Gets the default guest into the cache. A host that cannot have it skips, loudly, what needs it.
pub fn fetch_guest() -> Result<bool> {
    match Cache::of_user().and_then(|cache| cache.default_guest(&mut |_| {})) {
        Ok(guest) => println!("{}\n1 passed, 0 failed", guest.kernel_package),
        Err(error) => {
            let causes = iter::successors(Some(&error as &dyn Error), |error| (*error).source());
            let causes: Vec<String> = causes.map(ToString::to_string).collect();
            println!(
                "no default guest: {}\n0 passed, 0 failed, 1 skipped",
                causes.join(": ")
            );
        }
    }
    Ok(true)
}

/// Has `mother` make the image that the whole-guest test of a distribution runs. A host that cannot have even the
/// default guest has no mirror: it skips, loudly.
pub fn make_debian() -> Result<bool> {
    let cache = Cache::of_user()?;
    if let Err(error) = cache.default_guest(&mut |_| {}) {
        println!(
            "skipped: no mirror for the image {DEBIAN}: {error}\n0 passed, 0 failed, 1 skipped"
        );
        return Ok(true);
    }
    if cache.store().find(DEBIAN)?.is_none() {
        let words = [
            "run",
            "--quiet",
            "--package",
            "cli",
            "--",
            "run",
            DEBIAN,
            "--net",
            "none",
        ];
        let mut command = cargo(&words);
        command.args(["--timeout", "120s"]).stdin(Stdio::null());
        let status = command.status().context("start `mother run`")?;
        ensure!(
            status.success(),
            "`mother run {DEBIAN}` ended with {status}"
        );
    }
    let is_made = cache.store().find(DEBIAN)?.is_some();
    println!(
        "{DEBIAN}\n{} passed, {} failed",
        u8::from(is_made),
        u8::from(!is_made)
    );
    Ok(is_made)
}

/// The image of the whole-guest test.
const DEBIAN: &str = "debian:12";

/// Random instructions on the silicon and on the software CPU, from seeds that stay: a failure here is news.
const DIFFERENTIAL: [(&str, &[&str]); 2] = [
    ("instructions", &["--cases", "100000", "--seed", "1"]),
    (
        "instructions32",
        &["--cases", "50000", "--seed", "1", "--bits", "32"],
    ),
];
