//! How long jobs took when they ran last: `target/xtask/times`, a line each of milliseconds and a name.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Job;
use crate::workspace;

/// What is known.
pub struct Times(BTreeMap<String, Duration>);

impl Times {
    /// What the last run left; nothing, if none did.
    pub fn load() -> Times {
        let text = fs::read_to_string(path()).unwrap_or_default();
        Times(text.lines().filter_map(parse).collect())
    }

    /// How long a job took this time.
    pub fn note(&mut self, name: &str, time: Duration) {
        self.0.insert(name.to_owned(), time);
    }

    /// For the next run.
    pub fn save(&self) -> Result<()> {
        let lines = self
            .0
            .iter()
            .map(|(name, time)| format!("{} {name}\n", time.as_millis()));
        let path = path();
        fs::write(&path, lines.collect::<String>())
            .with_context(|| format!("write {}", path.display()))
    }

    /// In the order in which they are to start. Jobs that have never run count as their kind usually does: a harness is
    /// long, a test of the whole program longer than one of a module. What others wait for goes before all.
    pub fn longest_first(&self, mut jobs: Vec<Job>) -> VecDeque<Job> {
        let time = |job: &Job| {
            let known = self.0.get(&job.step.name).copied();
            known.unwrap_or(job.usual_time)
        };
        let awaited: HashSet<&str> = jobs.iter().filter_map(|job| job.after).collect();
        let is_awaited = |job: &Job| awaited.contains(job.step.name.as_str());
        jobs.sort_by_key(|job| std::cmp::Reverse((is_awaited(job), time(job))));
        jobs.into()
    }
}

fn path() -> PathBuf {
    workspace::root().join("target/xtask/times")
}

fn parse(line: &str) -> Option<(String, Duration)> {
    let (time, name) = line.split_once(' ')?;
    Some((name.to_owned(), Duration::from_millis(time.parse().ok()?)))
}
