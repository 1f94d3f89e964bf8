//! `smp stress [--seconds N | --minutes N] [--cpus N]`: a guest of several CPUs under everything at once;
//! `smp bench [--runs N]`: what a second CPU is worth; `smp bare [--cache-kib N] [WORDS]`: the bare guest of four.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use proof::smp::{Done, Guest};

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs the stress program; the last line counts what passed.
    Stress {
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        #[arg(long)]
        minutes: Option<u64>,
        #[arg(long, default_value_t = 4)]
        cpus: u32,
    },
    /// The bare guest: short tests of what processors owe each other.
    Bare {
        #[arg(long, default_value_t = 65536)]
        cache_kib: usize,
        #[arg(default_value = "")]
        words: String,
    },
    /// Two processes on one vCPU and on two, turn and turn about.
    Bench {
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// How long each process computes.
        #[arg(long, default_value_t = 60_000)]
        rounds: u64,
    },
}

/// What a guest may take beside the time it was asked to run for: boot, and tasks that come to their end.
const GRACE: Duration = Duration::from_secs(60);
/// How long a run of the benchmark may take.
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> anyhow::Result<ExitCode> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../../target/smp-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let done = run(&Options::parse(), &folder);
    std::fs::remove_dir_all(&folder)?;
    Ok(if done? {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn run(options: &Options, folder: &Path) -> anyhow::Result<bool> {
    match options.task {
        Task::Bare {
            cache_kib,
            ref words,
        } => {
            let done = proof::parallel::run(folder, cache_kib << 10, words, LIMIT)?;
            println!("{}{:?}", done.console, done.ending);
            Ok(!done.console.contains("WRONG"))
        }
        Task::Stress {
            seconds,
            minutes,
            cpus,
        } => {
            let guest = match Guest::prepare(folder) {
                Ok(guest) => guest,
                Err(error) => {
                    println!("skipped: {error:#}\n0 passed, 0 failed, 1 skipped");
                    return Ok(true);
                }
            };
            stress(
                &guest,
                minutes.map_or(seconds, |minutes| minutes * 60),
                cpus,
            )
        }
        Task::Bench { runs, rounds } => bench(&Guest::prepare(folder)?, runs, rounds),
    }
}

fn stress(guest: &Guest, seconds: u64, cpus: u32) -> anyhow::Result<bool> {
    let done = guest.run(
        &format!("run {seconds}"),
        cpus,
        Duration::from_secs(seconds) + GRACE,
    )?;
    done.lines.iter().for_each(|line| println!("{line}"));
    let report = &done.report;
    let statistics: Vec<String> = report
        .statistics
        .0
        .iter()
        .map(|(name, _, value)| format!("{name} {value}"))
        .collect();
    println!("{}", statistics.join(", "));
    println!(
        "{cpus} vCPUs, {:.1} s, {:.1} s of vCPU time",
        report.wall_time.as_secs_f64(),
        report.vcpu_time.as_secs_f64()
    );
    let complaints = done.complaints(cpus);
    complaints
        .iter()
        .for_each(|complaint| println!("FAILED: {complaint}"));
    println!(
        "{} passed, {} failed",
        usize::from(complaints.is_empty()),
        complaints.len()
    );
    Ok(complaints.is_empty())
}

/// What a run of the benchmark took.
#[derive(Clone, Copy)]
struct Took {
    /// Seconds from the first process's start to the last one's end, by the guest's clock, which is the host's.
    wall: f64,
    /// Seconds of all vCPU threads, boot included.
    cpu: f64,
}

fn took(done: &Done) -> anyhow::Result<Took> {
    let line = done
        .lines
        .iter()
        .find(|line| line.starts_with("computed "))
        .context("no result")?;
    if line.contains("WRONG") {
        bail!("the guest computed something else: {line}");
    }
    let (_, rest) = line.split_once(" in ").context("no time")?;
    let (milliseconds, _) = rest.split_once(" ms").context("no time")?;
    Ok(Took {
        wall: milliseconds.parse::<f64>()? / 1000.0,
        cpu: done.report.vcpu_time.as_secs_f64(),
    })
}

fn bench(guest: &Guest, runs: usize, rounds: u64) -> anyhow::Result<bool> {
    let words = format!("compute 2 {rounds}");
    println!(
        "`stress {words}` on 1 and 2 vCPUs, {runs} runs each; seconds of the clock, and of all vCPU threads"
    );
    println!(
        "{:<5}{:>20}{:>20}{:>10}{:>14}",
        "run", "1 vCPU", "2 vCPUs", "ratio", "by CPU time"
    );
    let mut ratios = Vec::new();
    for run in 1..=runs {
        let one = took(&guest.run(&words, 1, LIMIT)?)?;
        let two = took(&guest.run(&words, 2, LIMIT)?)?;
        let ratio = one.wall / two.wall;
        // What it would be if nobody else had wanted the cores: the same work in more or less CPU time.
        let by_cpu_time = 2.0 * one.cpu / two.cpu;
        println!(
            "{run:<5}{:>11.2} / {:>6.2}{:>11.2} / {:>6.2}{ratio:>10.2}{by_cpu_time:>14.2}",
            one.wall, one.cpu, two.wall, two.cpu
        );
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!(
        "\ncompute of 2 vCPUs / 1 vCPU, median: {median:.2} (1.80 is wanted, on 2 cores that nobody else uses)"
    );
    Ok(median >= 1.8)
}
