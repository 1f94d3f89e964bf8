//! `cargo xtask bench against PROGRAM`: this build of `mother` and another one, in pairs; `bench jail`: this build with its
//! jail and without; `bench profile`: without a profile and with one.
//!
//! Two guests each: the default guest from its start to its power-off, and Debian to its login prompt. Of a pair the other
//! build goes first every second time, so that neither has the warmer host. The CPU time is that of every process of a run:
//! what the kernel has added up for the children of this program, those among them that their parents left behind.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use images::Cache;
use rustix::io::Errno;
use rustix::process::{WaitOptions, getpid, set_child_subreaper, wait};

use crate::boot::{build_mother, to_power_off};
use crate::login::Login;
use crate::runs::{median, runs};

/// Pairs if not told otherwise: a difference of 2 % is seen with so many.
const PAIRS: usize = 15;
/// How long what a run has left behind may still take.
const REAP_TIME: Duration = Duration::from_secs(30);
/// Fields of `/proc/self/stat` behind the name of the program: time of children that were waited for, in user and in kernel
/// mode (proc_pid_stat(5), 16 and 17, the name being 2).
const CHILDREN_TIMES: [usize; 2] = [13, 14];

/// What a run took.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    wall_seconds: f64,
    /// CPU time of all its processes.
    pub cpu_seconds: f64,
}

/// One of the two.
type Part = fn(&Cost) -> f64;

/// How a build does one of the things that are compared; how long it took by the clock.
pub type Act<'a> = &'a dyn Fn(&Path) -> Result<Duration>;

/// Prints the comparison. It promises nothing, so it is content with every outcome.
pub fn run(words: &[&str]) -> Result<bool> {
    let [program, options @ ..] = words else {
        bail!("say which program: cargo xtask bench against PROGRAM [--runs N]");
    };
    let pair_count = if options.is_empty() {
        PAIRS
    } else {
        runs(options)?
    };
    let theirs = fs::canonicalize(program).with_context(|| format!("there is no {program}"))?;
    let ours = build_mother()?;
    println!("this build:  {}", version(&ours)?);
    println!("against:     {}", version(&theirs)?);
    in_pairs([&ours, &theirs], pair_count)
}

/// The same of this build alone, which runs guests without a jail as the other one.
pub fn jail(options: &[&str]) -> Result<bool> {
    println!("this: with the jail; that: without");
    with_option("--jail off", options)
}

/// The same of this build alone, which profiles its guests as the other one.
pub fn profile(options: &[&str]) -> Result<bool> {
    println!("this: without a profile; that: with one");
    with_option("--profile", options)
}

/// This build, and itself with more options.
fn with_option(more: &str, options: &[&str]) -> Result<bool> {
    let pair_count = if options.is_empty() {
        PAIRS
    } else {
        runs(options)?
    };
    let ours = build_mother()?;
    let folder = tempfile::tempdir().context("make a folder")?;
    let theirs = folder.path().join("mother");
    let script = format!(
        "#!/bin/sh\nfirst=$1\nshift\nexec '{}' \"$first\" {more} \"$@\"\n",
        ours.display()
    );
    fs::write(&theirs, script).context("write a script")?;
    fs::set_permissions(&theirs, Permissions::from_mode(0o755)).context("make it a program")?;
    in_pairs([&ours, &theirs], pair_count)
}

fn in_pairs(builds: [&PathBuf; 2], pair_count: usize) -> Result<bool> {
    let [ours, _] = builds;
    set_child_subreaper(Some(getpid())).context("have what is left behind as children")?;
    let guest = Cache::of_user()?.default_guest(&mut |_| {})?;
    let login = Login::prepare(ours)?;
    let compared: [(&str, Act); 2] = [
        ("the default guest to its power-off", &|mother| {
            to_power_off(mother, &guest)
        }),
        ("Debian to its login prompt", &|mother| {
            login.to_prompt(mother)
        }),
    ];
    for (name, act) in compared {
        println!("\n{name}, {pair_count} pairs");
        compare(act, builds, pair_count)?;
    }
    Ok(true)
}

/// What a program says that it is.
pub fn version(mother: &Path) -> Result<String> {
    let output = Command::new(mother).arg("--version").output();
    let output = output.with_context(|| format!("start {}", mother.display()))?;
    ensure!(
        output.status.success(),
        "{} does not say its version",
        mother.display()
    );
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(format!("{} at {}", said.trim(), mother.display()))
}

/// Runs the pairs and prints each of them, then what they come to.
fn compare(act: Act, builds: [&PathBuf; 2], pair_count: usize) -> Result<()> {
    println!(
        "{:<6}{:>24}{:>24}",
        "pair", "this: wall / CPU", "that: wall / CPU"
    );
    let mut costs: [Vec<Cost>; 2] = [Vec::new(), Vec::new()];
    for pair in 1..=pair_count {
        for which in in_turn(pair) {
            costs[which].push(cost(act, builds[which])?);
        }
        let [this, that] = [0, 1].map(|which: usize| costs[which][pair - 1]);
        println!("{pair:<6}{:>24}{:>24}", words(this), words(that));
    }
    println!(
        "\n{:<16}{:>10}{:>10}{:>13}{:>32}",
        "medians, s", "this", "that", "this / that", "of pairs: median, middle half"
    );
    let kinds: [(&str, Part); 2] = [
        ("wall time", |cost| cost.wall_seconds),
        ("CPU time", |cost| cost.cpu_seconds),
    ];
    for (name, of) in kinds {
        println!("{}", summary(name, &costs, of));
    }
    Ok(())
}

/// Who goes first and who second.
pub fn in_turn(pair: usize) -> [usize; 2] {
    if pair % 2 == 1 { [0, 1] } else { [1, 0] }
}

fn words(cost: Cost) -> String {
    format!("{:.2} / {:.2} s", cost.wall_seconds, cost.cpu_seconds)
}

/// A line: both medians, their ratio, and what the ratios of the pairs say.
fn summary(name: &str, costs: &[Vec<Cost>; 2], of: Part) -> String {
    let [this, that] = costs
        .each_ref()
        .map(|costs| median(costs.iter().map(of).collect()));
    let mut ratios: Vec<f64> = costs[0]
        .iter()
        .zip(&costs[1])
        .map(|(this, that)| of(this) / of(that))
        .collect();
    ratios.sort_by(f64::total_cmp);
    let quarter = ratios.len() / 4;
    let [low, high] = [ratios[quarter], ratios[ratios.len() - 1 - quarter]];
    format!(
        "{name:<16}{this:>10.2}{that:>10.2}{:>13.3}{:>14.3}, {low:.3} to {high:.3}",
        this / that,
        median(ratios)
    )
}

/// What a run took. Nothing of it is left when this returns.
pub fn cost(act: Act, mother: &Path) -> Result<Cost> {
    let before = children_seconds()?;
    let wall = act(mother).with_context(|| mother.display().to_string())?;
    reap()?;
    Ok(Cost {
        wall_seconds: wall.as_secs_f64(),
        cpu_seconds: children_seconds()? - before,
    })
}

/// Waits for every process that a run has left behind.
fn reap() -> Result<()> {
    let deadline = Instant::now() + REAP_TIME;
    loop {
        match wait(WaitOptions::NOHANG) {
            Err(Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error).context("wait for what a run has left"),
            Ok(Some(_)) => {}
            Ok(None) if Instant::now() > deadline => {
                bail!("a run has left processes that do not end")
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// CPU time of all children that were waited for, with all of theirs: what getrusage(2) calls `RUSAGE_CHILDREN`.
fn children_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    let ticks = children_ticks(&stat).context("/proc/self/stat has no times")?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn children_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    CHILDREN_TIMES
        .iter()
        .map(|place| fields.get(*place)?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_children_are_read_behind_whatever_the_program_is_called() {
        let rest = "R 1 2 3 4 5 6 7 8 9 10 11 12 700 42 20 0";
        for name in ["bench", "a (b) c"] {
            assert_eq!(
                children_ticks(&format!("7 ({name}) {rest}")),
                Some(742),
                "{name}"
            );
        }
        assert_eq!(children_ticks("7 (bench) R 1 2"), None);
    }

    #[test]
    fn what_a_child_has_used_is_counted_when_it_was_waited_for() {
        let before = children_seconds().unwrap();
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(
            Command::new("sh")
                .args(["-c", busy])
                .status()
                .unwrap()
                .success()
        );
        assert!(children_seconds().unwrap() > before);
    }

    #[test]
    fn every_second_pair_begins_with_the_other() {
        assert_eq!([1, 2, 3].map(in_turn), [[0, 1], [1, 0], [0, 1]]);
    }

    #[test]
    fn medians_and_ratios_stand_in_one_line() {
        let costs = |seconds: [f64; 4]| {
            seconds
                .map(|seconds| Cost {
                    wall_seconds: seconds,
                    cpu_seconds: 0.0,
                })
                .to_vec()
        };
        let costs = [costs([1.0, 2.0, 3.0, 4.0]), costs([2.0, 2.0, 2.0, 2.0])];
        let line = summary("wall time", &costs, |cost| cost.wall_seconds);
        let numbers: Vec<&str> = line.split_whitespace().skip(2).collect();
        assert_eq!(
            numbers,
            ["2.50", "2.00", "1.250", "1.250,", "1.000", "to", "1.500"]
        );
    }
}
