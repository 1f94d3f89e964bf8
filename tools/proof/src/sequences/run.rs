//! Compares sequences, round by round, and makes those small on which the engine is wrong.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

use super::{Machine, generate};
use crate::arena;
use crate::case::{End, Image, Outcome};
use crate::compare::end_text;
use crate::native::Native;
use crate::rounds::{Change, Sequence};

/// How long to run.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Stop after this many sequences.
    pub sequences: u64,
    /// Stop after this time.
    pub time: Option<Duration>,
    /// Seed of the first sequence; the others count up from it.
    pub seed: u64,
    /// Stop after this many mismatches.
    pub mismatches: usize,
    /// 64, or 32 for compatibility mode; `None` for both in turn.
    pub bits: Option<u32>,
}

/// A sequence on which the engine was wrong, made small.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// Its seed.
    pub seed: u64,
    #[allow(missing_docs)]
    pub sequence: Sequence,
    /// The round that differed, and in what.
    pub found: Difference,
}

/// The first round that differs, and every way in which it does.
#[derive(Clone, Debug)]
pub struct Difference {
    /// From 0.
    pub round: usize,
    /// "rax: silicon 1, engine 2"
    pub what: Vec<String>,
}

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Sequences that were compared.
    pub compared: u64,
    /// Rounds of them.
    pub rounds: u64,
    /// How rounds ended, by vector.
    pub vectors: [u64; 32],
    /// Sequences without an outcome on the silicon: endless, or fatal to the native process.
    pub skipped: u64,
    /// Sequences on which the silicon did not agree with itself when asked again.
    pub unstable: u64,
    #[allow(missing_docs)]
    pub mismatches: Vec<Mismatch>,
}

const GPR_NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
/// The XMM registers in an XSAVE area.
const XMM: std::ops::Range<usize> = 160..416;

/// Every way in which two outcomes of a round differ.
fn differences(bits: u32, silicon: &Outcome, engine: &Outcome) -> Vec<String> {
    let mut found = vec![];
    let mut check = |what: &str, silicon: String, engine: String| {
        if silicon != engine {
            found.push(format!("{what}: silicon {silicon}, engine {engine}"));
        }
    };
    check("end", end_text(silicon), end_text(engine));
    let (ours, theirs) = (&silicon.registers, &engine.registers);
    let (count, mask) = if bits == 64 {
        (16, u64::MAX)
    } else {
        (8, 0xffff_ffff)
    };
    for (number, name) in GPR_NAMES.iter().enumerate().take(count) {
        let text = |value: u64| format!("{:#x}", value & mask);
        check(name, text(ours.gprs[number]), text(theirs.gprs[number]));
    }
    let text = |value: u64| format!("{value:#x}");
    check("rip", text(ours.rip), text(theirs.rip));
    check("rflags", text(ours.rflags), text(theirs.rflags));
    for (number, at) in XMM.step_by(16).enumerate().take(count) {
        let text = |bytes: &[u8]| format!("{bytes:02x?}");
        check(
            &format!("xmm{number}"),
            text(&ours.xsave[at..at + 16]),
            text(&theirs.xsave[at..at + 16]),
        );
    }
    if let Some(at) = (0..arena::DATA_BYTES).find(|&at| silicon.data[at] != engine.data[at]) {
        let until = (at + 8).min(arena::DATA_BYTES);
        check(
            &format!("frame {} at {:#x}", at / 4096, at % 4096),
            format!("{:02x?}", &silicon.data[at..until]),
            format!("{:02x?}", &engine.data[at..until]),
        );
    }
    found
}

fn first_difference(
    sequence: &Sequence,
    silicon: &[Outcome],
    engine: &[Outcome],
) -> Option<Difference> {
    (0..sequence.rounds.len()).find_map(|round| {
        let what = match engine.get(round) {
            Some(engine) => differences(sequence.bits, &silicon[round], engine),
            None => vec!["the engine did not come to it".to_owned()],
        };
        (!what.is_empty()).then_some(Difference { round, what })
    })
}

/// Whether every round ended with an exception, as it must to say something.
fn is_whole(outcomes: &[Outcome]) -> bool {
    outcomes
        .iter()
        .all(|outcome| matches!(outcome.end, End::Exception { .. }))
}

/// Runs and compares. `progress` is called now and then.
///
/// # Errors
/// When a runner cannot go on.
pub fn run(
    native: &mut Native,
    machine: &mut Machine,
    limits: &Limits,
    mut progress: impl FnMut(&Report),
) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let begun = Instant::now();
    let mut seed = limits.seed;
    while report.compared + report.skipped < limits.sequences
        && limits.time.is_none_or(|time| begun.elapsed() < time)
        && report.mismatches.len() < limits.mismatches
    {
        let bits = limits
            .bits
            .unwrap_or(if seed.is_multiple_of(2) { 64 } else { 32 });
        let sequence = generate(bits, seed);
        one(native, machine, seed, &sequence, &mut report)?;
        if report.compared.is_multiple_of(1000) {
            progress(&report);
        }
        seed = seed.wrapping_add(1);
    }
    Ok(report)
}

fn one(
    native: &mut Native,
    machine: &mut Machine,
    seed: u64,
    sequence: &Sequence,
    report: &mut Report,
) -> anyhow::Result<()> {
    let silicon = native.run_rounds(sequence)?;
    if !is_whole(&silicon) {
        report.skipped += 1;
        return Ok(());
    }
    let engine = machine.run(sequence)?;
    report.compared += 1;
    report.rounds += silicon.len() as u64;
    for outcome in &silicon {
        if let End::Exception { vector, .. } = outcome.end {
            report.vectors[usize::from(vector) % 32] += 1;
        }
    }
    if first_difference(sequence, &silicon, &engine).is_none() {
        return Ok(());
    }
    let again = native.run_rounds(sequence)?;
    if first_difference(sequence, &silicon, &again).is_some() {
        report.unstable += 1;
        return Ok(());
    }
    let sequence = shrink(sequence, native, machine)?;
    let Some(found) = ask(&sequence, native, machine)? else {
        report.unstable += 1;
        return Ok(());
    };
    report.mismatches.push(Mismatch {
        seed,
        sequence,
        found,
    });
    Ok(())
}

/// How the two differ on a sequence, if they do.
fn ask(
    sequence: &Sequence,
    native: &mut Native,
    machine: &mut Machine,
) -> anyhow::Result<Option<Difference>> {
    let silicon = native.run_rounds(sequence)?;
    if !is_whole(&silicon) {
        return Ok(None);
    }
    let engine = machine.run(sequence)?;
    Ok(first_difference(sequence, &silicon, &engine))
}

/// Fewer rounds, fewer changes, fewer instructions, as long as the engine is wrong.
fn shrink(
    sequence: &Sequence,
    native: &mut Native,
    machine: &mut Machine,
) -> anyhow::Result<Sequence> {
    let mut best = sequence.clone();
    loop {
        let mut is_smaller = false;
        for smaller in smaller(&best) {
            if ask(&smaller, native, machine)?.is_some() {
                best = smaller;
                is_smaller = true;
                break;
            }
        }
        if !is_smaller {
            return Ok(best);
        }
    }
}

fn smaller(sequence: &Sequence) -> Vec<Sequence> {
    let mut all = vec![];
    for round in (1..sequence.rounds.len()).rev() {
        let mut one = sequence.clone();
        one.rounds.remove(round);
        all.push(one);
    }
    for round in 1..sequence.rounds.len() {
        for change in 0..sequence.rounds[round].changes.len() {
            let mut one = sequence.clone();
            one.rounds[round].changes.remove(change);
            all.push(one);
        }
    }
    for index in 0..sequence.instructions.len() {
        let mut one = sequence.clone();
        let (address, len) = one.instructions.remove(index);
        let mut data = one.image.data.clone();
        // No-operations in its place, in every frame.
        for address in address..address + len as u64 {
            let at = Sequence::code_offset(address);
            let other = if at < 4096 { 3 * 4096 + at } else { 4096 + at };
            data[at] = 0x90;
            data[other] = 0x90;
        }
        one.image = Arc::new(Image { data });
        all.push(one);
    }
    all
}

/// A mismatch for people.
pub fn describe(mismatch: &Mismatch) -> String {
    let Mismatch {
        seed,
        sequence,
        found,
    } = mismatch;
    let mut text = format!("sequence {seed}, {} bits:\n", sequence.bits);
    let mut formatter = IntelFormatter::new();
    for &(address, len) in &sequence.instructions {
        let at = Sequence::code_offset(address);
        let bytes = &sequence.image.data[at..at + len];
        let mut line = String::new();
        let instruction =
            Decoder::with_ip(sequence.bits, bytes, address, DecoderOptions::NONE).decode();
        formatter.format(&instruction, &mut line);
        let _ = writeln!(text, "    {address:x}: {line}    {bytes:02x?}");
    }
    let start = &sequence.start;
    let _ = writeln!(
        text,
        "    start {:x} flags {:x} registers {:x?}",
        start.rip, start.rflags, start.gprs
    );
    for (number, round) in sequence.rounds.iter().enumerate() {
        let how = match (round.goes_on, round.steps) {
            (true, _) => " goes on",
            (_, true) => " steps",
            _ => "",
        };
        let changes: Vec<String> = round.changes.iter().map(change_text).collect();
        let _ = writeln!(text, "    round {number}{how}: {}", changes.join("; "));
    }
    let _ = write!(
        text,
        "    round {} differs: {}",
        found.round,
        found.what.join(", ")
    );
    text
}

fn change_text(change: &Change) -> String {
    match change {
        Change::Map { page, to: None } => format!("page {page} away"),
        Change::Map { page, to: Some(to) } => format!(
            "page {page} = frame {}{}{}",
            to.frame,
            if to.write { " w" } else { "" },
            if to.execute { " x" } else { "" }
        ),
        Change::Store { offset, byte } => {
            format!(
                "frame {} at {:#x} = {byte:#x}",
                offset / 4096,
                offset % 4096
            )
        }
    }
}
