//! The long run: batch after batch on the silicon and on the engine, until the wished number or time is over.

use std::time::{Duration, Instant};

use crate::case::{Case, End, Outcome, Runner};
use crate::compare::{Difference, differences};
use crate::generate::{BATCH, Generator};
use crate::native::Native;
use crate::shrink;

/// How long to run and what to say.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Stop after this many cases.
    pub cases: u64,
    /// Stop after this time.
    pub time: Option<Duration>,
    /// Seed of the first batch; the others count up from it.
    pub seed: u64,
    /// Stop after this many mismatches.
    pub mismatches: usize,
}

/// A case on which the engine was wrong, made small.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// Seed of its batch.
    pub seed: u64,
    /// The small case.
    pub case: Case,
    /// What the silicon made of it.
    pub native: Outcome,
    /// In what the engine differed.
    pub differences: Vec<Difference>,
}

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Cases that were compared.
    pub compared: u64,
    /// Cases that ended with the breakpoint behind the code; the others faulted or trapped before.
    pub finished: u64,
    /// Cases without an outcome on the silicon: endless, or fatal to the native process.
    pub skipped: u64,
    /// Cases on which the silicon did not agree with itself when asked again.
    pub unstable: u64,
    /// Time in the two runners.
    pub native_time: Duration,
    /// See `native_time`.
    pub engine_time: Duration,
    /// How cases ended, by vector.
    pub vectors: [u64; 32],
    /// Every mismatch found.
    pub mismatches: Vec<Mismatch>,
}

/// Runs and compares. `progress` is called after every batch.
///
/// # Errors
/// When a runner cannot go on.
pub fn run(
    generator: &Generator,
    native: &mut Native,
    engine: &mut dyn Runner,
    limits: &Limits,
    mut progress: impl FnMut(&Report),
) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let start = Instant::now();
    let mut seed = limits.seed;
    while report.compared < limits.cases
        && limits.time.is_none_or(|time| start.elapsed() < time)
        && report.mismatches.len() < limits.mismatches
    {
        batch(generator, native, engine, seed, &mut report)?;
        progress(&report);
        seed = seed.wrapping_add(1);
    }
    Ok(report)
}

fn batch(
    generator: &Generator,
    native: &mut Native,
    engine: &mut dyn Runner,
    seed: u64,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut cases = generator.batch(seed);
    let before = Instant::now();
    let mut truths = native.run(&cases)?;
    report.native_time += before.elapsed();
    let mut keep = truths
        .iter()
        .map(|truth| matches!(truth.end, End::Exception { .. }));
    cases.retain(|_| keep.next().expect("as many outcomes as cases"));
    truths.retain(|truth| matches!(truth.end, End::Exception { .. }));
    report.skipped += (BATCH - cases.len()) as u64;
    if cases.is_empty() {
        return Ok(());
    }
    let before = Instant::now();
    let answers = engine.run(&cases)?;
    report.engine_time += before.elapsed();
    for ((case, truth), answer) in cases.iter().zip(&truths).zip(&answers) {
        report.compared += 1;
        if let End::Exception { vector, .. } = truth.end {
            report.finished += u64::from(vector == 3);
            report.vectors[usize::from(vector) % 32] += 1;
        }
        if differences(case, truth, answer).is_empty() {
            continue;
        }
        match shrink::confirm(case, native, engine)? {
            shrink::Verdict::Unstable => report.unstable += 1,
            shrink::Verdict::Gone => {
                // Alone it agrees: the neighbours matter, so the case is kept as it is.
                let differences = differences(case, truth, answer);
                report.mismatches.push(Mismatch {
                    seed,
                    case: case.clone(),
                    native: truth.clone(),
                    differences,
                });
            }
            shrink::Verdict::Wrong => {
                let case = shrink::shrink(case, native, engine)?;
                let (truth, differences) = shrink::ask(&case, native, engine)?;
                report.mismatches.push(Mismatch {
                    seed,
                    case,
                    native: truth,
                    differences,
                });
            }
        }
    }
    Ok(())
}
