//! `differential`: runs random instructions on the silicon and on an engine and reports every difference.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use iced_x86::{Code, Mnemonic};

use proof::case::Runner;
use proof::engine::{self, Engine};
use proof::forms;
use proof::generate::{Generator, Wish};
use proof::golden;
use proof::native::Native;
use proof::run::{Limits, Report, run};

/// Compares an engine with the silicon, instruction by instruction.
#[derive(Parser)]
struct Arguments {
    /// Number of cases.
    #[arg(long, default_value_t = 100_000)]
    cases: u64,
    /// Seed; a new one each time if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Stop after this time.
    #[arg(long)]
    minutes: Option<f64>,
    /// Only cases with this mnemonic.
    #[arg(long)]
    only: Option<String>,
    /// 64, or 32 for compatibility mode.
    #[arg(long, default_value_t = 64)]
    bits: u32,
    /// What to compare with the silicon.
    #[arg(long, default_value = "soft")]
    engine: EngineName,
    /// Percent of cases that are random bytes.
    #[arg(long, default_value_t = 10)]
    raw: u64,
    /// Stop after this many mismatches.
    #[arg(long, default_value_t = 20)]
    mismatches: usize,
    /// Add a golden line for every mismatch to this file.
    #[arg(long)]
    keep: Option<std::path::PathBuf>,
    /// Run the cases of a file of golden lines on the silicon, print them with what really came of them, and end.
    #[arg(long)]
    record: Option<std::path::PathBuf>,
    /// Compare even if the host's CPU is of another vendor than the one guests see.
    #[arg(long)]
    any_vendor: bool,
    /// Print the list of forms that are not compared, and end.
    #[arg(long)]
    list_not_covered: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum EngineName {
    /// The software CPU.
    Soft,
    /// A second native process: finds what the silicon itself leaves to chance.
    Native,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.list_not_covered {
        print!("{}", forms::not_covered_text(&forms::whole_model()));
        return Ok(ExitCode::SUCCESS);
    }
    let other_vendor = forms::other_vendor().filter(|_| !arguments.any_vendor);
    if let Some(reason) = forms::host_cannot().or(other_vendor) {
        println!("this host cannot be the oracle: {reason}");
        println!("0 passed, 0 failed, {} skipped", arguments.cases);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &arguments.record {
        return record(path);
    }
    let only = arguments.only.as_deref().map(mnemonic).transpose()?;
    let generator = Generator::new(Wish {
        bits: arguments.bits,
        only,
        raw_percent: arguments.raw,
    })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let limits = Limits {
        cases: arguments.cases,
        time: arguments
            .minutes
            .map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
        seed: arguments.seed.unwrap_or(now.as_nanos() as u64 >> 10 << 20),
        mismatches: arguments.mismatches,
    };
    let mut engine: Box<dyn Runner> = match arguments.engine {
        EngineName::Soft => Box::new(Engine::new(engine::soft())?),
        EngineName::Native => Box::new(Native::new()?),
    };
    println!(
        "seed {} forms {} bits {}",
        limits.seed,
        generator.forms().len(),
        arguments.bits
    );
    let mut native = Native::new()?;
    let mut shown = Instant::now();
    let report = run(&generator, &mut native, &mut *engine, &limits, |report| {
        if shown.elapsed() > Duration::from_secs(5) {
            shown = Instant::now();
            eprintln!(
                "{} cases, {} mismatches",
                report.compared,
                report.mismatches.len()
            );
        }
    })?;
    if let Some(path) = &arguments.keep {
        keep(&report, path)?;
    }
    show(&report, native.starts);
    Ok(if report.mismatches.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn record(path: &std::path::Path) -> anyhow::Result<ExitCode> {
    let mut native = Native::new()?;
    for line in std::fs::read_to_string(path)?.lines() {
        if line.starts_with('#') || line.is_empty() {
            println!("{line}");
            continue;
        }
        let (case, _) = golden::parse(line)?;
        let truth = native.run(std::slice::from_ref(&case))?.remove(0);
        println!("{}", golden::line(&case, &truth));
    }
    Ok(ExitCode::SUCCESS)
}

fn keep(report: &Report, path: &std::path::Path) -> anyhow::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?;
    for mismatch in &report.mismatches {
        writeln!(file, "{}", golden::line(&mismatch.case, &mismatch.native))?;
    }
    Ok(())
}

fn mnemonic(name: &str) -> anyhow::Result<Mnemonic> {
    Code::values()
        .map(Code::mnemonic)
        .find(|mnemonic| format!("{mnemonic:?}").eq_ignore_ascii_case(name))
        .ok_or_else(|| anyhow::anyhow!("no instruction is called {name}"))
}

fn show(report: &Report, starts: u64) {
    for mismatch in &report.mismatches {
        println!(
            "mismatch in batch {}: {}",
            mismatch.seed,
            golden::disassembly(&mismatch.case)
        );
        println!("    {}", golden::line(&mismatch.case, &mismatch.native));
        for difference in &mismatch.differences {
            println!("    {difference}");
        }
    }
    let per_second = |time: Duration| report.compared as f64 / time.as_secs_f64().max(1e-9);
    println!(
        "{} of {} cases ran to their end, {} unstable; native {:.0}/s ({starts} processes), engine {:.0}/s",
        report.finished,
        report.compared,
        report.unstable,
        per_second(report.native_time),
        per_second(report.engine_time),
    );
    let vectors = report
        .vectors
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0);
    let text: Vec<String> = vectors
        .map(|(vector, count)| format!("{vector}: {count}"))
        .collect();
    println!("ended with vector {}", text.join(", "));
    let failed = report.mismatches.len() as u64;
    let skipped = report.skipped + report.unstable;
    println!(
        "{} passed, {failed} failed, {skipped} skipped",
        report.compared - failed
    );
}
