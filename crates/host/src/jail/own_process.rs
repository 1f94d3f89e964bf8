//! Tests whose subject is there for ever, and for all of a process: each runs in a process of its own.

use std::env;
use std::process::Command;

/// Set in the process of its own.
const WITHIN: &str = "JAIL_TEST_WITHIN";

/// Runs the test of this name (from `jail::` on) again in another process, unless this is it.
pub(super) fn in_its_own_process(name: &str, test: fn()) {
    if env::var_os(WITHIN).is_some() {
        return test();
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", &format!("jail::{name}"), "--nocapture"])
        .env(WITHIN, "1")
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "there is no such test: {out}");
}
