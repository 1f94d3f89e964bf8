//! Four processors at once on the software CPU, with a code cache that holds everything and with one that is always full.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use proof::bare::Ending;
use proof::parallel::run;

fn check(test: &str, code_cache_bytes: usize, words: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(&folder).unwrap();
    let run = run(&folder, code_cache_bytes, words, Duration::from_secs(120)).unwrap();
    let wrong: Vec<&str> = run
        .console
        .lines()
        .filter(|line| !line.ends_with(": right"))
        .collect();
    assert!(wrong.is_empty(), "{}", run.console);
    assert_eq!(run.ending, Ending::DebugExit(0), "{}", run.console);
    assert_eq!(run.console.lines().count(), 9, "{}", run.console);
}

#[test]
fn processors_see_what_others_do() {
    check("parallel", 64 << 20, "");
}

#[test]
fn processors_see_what_others_do_while_code_is_thrown_away() {
    check("parallel-small", 384 << 10, "short");
}
