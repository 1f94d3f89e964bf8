//! Every golden line, replayed: what an engine once did wrong it never does wrong again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;

use iced_x86::{Code, Decoder, DecoderOptions};

use proof::case::{Case, Outcome, Runner};
use proof::compare::differences;
use proof::engine::{self, Engine};
use proof::native::Native;
use proof::{forms, golden};

/// All golden files: the name of the file and its cases.
fn lines() -> Vec<(String, Case, Outcome)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/golden");
    let mut cases = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let (case, truth) =
                golden::parse(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            cases.push((line.to_owned(), case, truth));
        }
    }
    cases
}

/// Whether this host has every instruction of a case.
fn can_run(case: &Case) -> bool {
    let table = forms::model();
    let mut decoder = Decoder::new(case.bits, &case.code, DecoderOptions::NONE);
    let mut codes = Vec::new();
    while decoder.can_decode() {
        codes.push(decoder.decode().code());
    }
    codes
        .iter()
        .all(|&code| code == Code::INVALID || forms::is_presented(code, case.bits, &table))
}

fn replay(runner: &mut dyn Runner) {
    let lines = lines();
    let mut wrong = Vec::new();
    for (line, case, truth) in lines.iter().filter(|(_, case, _)| can_run(case)) {
        let outcome = runner.run(std::slice::from_ref(case)).unwrap().remove(0);
        let found = differences(case, truth, &outcome);
        if !found.is_empty() {
            wrong.push(format!("{line}\n    {found:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} lines:\n{}",
        wrong.len(),
        lines.len(),
        wrong.join("\n")
    );
}

/// Whether this host can tell right from wrong; says so if not.
fn is_oracle() -> bool {
    let reason = forms::host_cannot().or(forms::other_vendor());
    if let Some(reason) = reason {
        // Past the test runner's capture: what is skipped is said aloud.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped: this host cannot be the oracle: {reason}").unwrap();
    }
    reason.is_none()
}

#[test]
fn soft_does_every_golden_line_right() {
    if is_oracle() {
        replay(&mut Engine::new(engine::soft()).unwrap());
    }
}

#[test]
fn this_silicon_agrees_with_every_golden_line() {
    if is_oracle() {
        replay(&mut Native::new().unwrap());
    }
}
