//! Tells the program which version of the sources it was made of, so that a report about it can be followed.
#![forbid(unsafe_code)]

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=MOTHER_COMMIT");
    // Grows with every commit, checkout and rebase.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    let version = env::var("CARGO_PKG_VERSION").expect("cargo tells build scripts the version");
    // Who builds from an archive without a history says it.
    let commit = env::var("MOTHER_COMMIT")
        .ok()
        .or_else(|| git(&["rev-parse", "--short=10", "HEAD"]));
    let version = match commit {
        Some(commit) => format!("{version} ({commit})"),
        None => format!("{version} (of no known commit)"),
    };
    println!("cargo::rustc-env=MOTHER_VERSION={version}");
}

/// What git answers, if it is there and this is a repository.
fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git").args(words).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
