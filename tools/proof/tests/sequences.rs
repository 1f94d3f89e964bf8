//! Sequences of instructions whose pages change, on the silicon and on the software CPU; and what they consist of.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proof::engine;
use proof::forms;
use proof::native::Native;
use proof::rounds::{Change, MOST_CHANGES, MOST_ROUNDS, Sequence, WINDOW};
use proof::sequences::{self, Limits, Machine};

/// A few of what `cargo xtask differential --sequences` runs many of.
#[test]
fn sequences_end_alike_on_the_silicon_and_on_the_software_cpu() {
    if let Some(reason) = forms::host_cannot() {
        println!("this host cannot be the oracle: {reason}");
        return;
    }
    let mut native = Native::for_sequences().unwrap();
    let mut machine = Machine::new(engine::soft()).unwrap();
    let limits = Limits {
        sequences: 500,
        time: None,
        seed: 1 << 40,
        mismatches: 3,
        bits: None,
    };
    let report = sequences::run(&mut native, &mut machine, &limits, |_| ()).unwrap();
    let wrong: Vec<String> = report.mismatches.iter().map(sequences::describe).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(report.compared > 450, "{} compared", report.compared);
    // Most rounds run to the breakpoint behind the code; page faults and single steps are among the others.
    assert!(
        report.vectors[3] > report.rounds / 3,
        "{:?}",
        report.vectors
    );
    assert!(
        report.vectors[14] > 0 && report.vectors[1] > 0,
        "{:?}",
        report.vectors
    );
}

fn share(sequences: &[Sequence], has: impl Fn(&Sequence) -> bool) -> usize {
    100 * sequences.iter().filter(|one| has(one)).count() / sequences.len()
}

#[test]
fn sequences_meet_what_they_are_made_for() {
    let all: Vec<Sequence> = (0..400_u64)
        .map(|seed| sequences::generate(if seed.is_multiple_of(2) { 64 } else { 32 }, seed))
        .collect();
    let end = WINDOW + 4096;
    let crosses = |one: &Sequence| {
        one.instructions
            .iter()
            .any(|&(at, len)| at < end && at + len as u64 > end)
    };
    let changes = |one: &Sequence, is_it: fn(&Change) -> bool| {
        one.rounds[1..]
            .iter()
            .flat_map(|round| &round.changes)
            .any(is_it)
    };
    let remaps =
        |change: &Change| matches!(change, Change::Map { to: Some(to), .. } if to.frame > 1);
    let stores = |change: &Change| matches!(change, Change::Store { .. });
    assert!(share(&all, crosses) > 25);
    assert!(share(&all, |one| changes(one, remaps)) > 15);
    assert!(share(&all, |one| changes(one, stores)) > 10);
    assert!(share(&all, |one| one.rounds.iter().any(|round| round.steps)) > 15);
    for one in &all {
        assert!((1..=21).contains(&one.instructions.len()), "{one:?}");
        assert!(one.rounds.len() <= MOST_ROUNDS && !one.rounds[0].goes_on);
        assert!(
            one.rounds
                .iter()
                .all(|round| round.changes.len() <= MOST_CHANGES)
        );
    }
}
