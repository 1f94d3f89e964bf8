//! One job: a command with a limit, whose output goes to a file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::room;
use crate::steps::{self, Step, Tally};

/// What is to be run.
pub struct Job {
    /// The command; a name that no other job has.
    pub step: Step,
    /// One test among many, which is worth a line only if something is wrong with it.
    pub is_test: bool,
    /// How long it takes usually, if nothing better is known.
    pub usual_time: Duration,
    /// The job that has to be over, well or badly, before this one starts.
    pub after: Option<&'static str>,
}

/// What came of it.
pub struct Ended {
    /// What was run, for one more time.
    pub job: Job,
    /// What it counted.
    pub tally: Tally,
    /// How long it took.
    pub time: Duration,
    output: String,
    has_timed_out: bool,
    log: PathBuf,
}

impl Job {
    /// Runs it to its end, its output in a file of `folder`.
    pub fn run(self, folder: &Path) -> Result<Ended> {
        let name = self.step.name.replace(['/', ' ', ':'], "-");
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let start = Instant::now();
        let status = steps::run_bounded(&self.step, file)?;
        let output = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        Ok(Ended {
            tally: self.step.counts.read(&output, status),
            time: start.elapsed(),
            output,
            has_timed_out: steps::has_timed_out(status),
            log,
            job: self,
        })
    }
}

impl Ended {
    /// As the job's.
    pub fn name(&self) -> &str {
        &self.job.step.name
    }

    /// Whether it failed because a disk was full.
    pub fn lacked_room(&self) -> bool {
        self.tally.failed > 0 && room::was_wanting(&self.output)
    }

    /// A line of its own, and what is wrong.
    pub fn print(&self) {
        let word = if self.tally.failed == 0 {
            "ok"
        } else {
            "FAILED"
        };
        let seconds = self.time.as_secs_f64();
        println!(
            "{word:<7}{:<14}{seconds:>7.1} s   {}",
            self.name(),
            self.tally
        );
        self.print_trouble();
    }

    /// What was skipped and what failed, in its own words.
    pub fn print_trouble(&self) {
        steps::print_skips(&self.output);
        if self.tally.failed == 0 {
            return;
        }
        if self.job.is_test {
            println!("FAILED {}", self.name());
        }
        if self.has_timed_out {
            println!(
                "       ended after its limit of {} s",
                self.job.step.limit.as_secs()
            );
        }
        steps::show_failure(&self.output);
        println!("       all of it: {}", self.log.display());
    }
}
