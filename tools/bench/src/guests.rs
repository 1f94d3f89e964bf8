//! `cargo xtask guest` and `cargo xtask debian`: what whole-guest tests run, made before they start.

use std::error::Error;
use std::iter;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use images::Cache;

use crate::nest::build_for_tests;

/// Gets the default guest into the cache. A host that cannot have it skips, loudly, what needs it.
pub fn fetch_default() -> Result<bool> {
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
        let mut command = Command::new(build_for_tests()?);
        command.args(["run", DEBIAN, "--net", "none"]);
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
