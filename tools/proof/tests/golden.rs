//! Every golden line, replayed: what an engine once did wrong it never does wrong again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use proof::case::{Case, Outcome, Runner};
use proof::compare::differences;
use proof::engine::{self, Engine};
use proof::golden;
use proof::native::Native;

use common::{can_run, is_oracle};

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
