//! How much of the machine is idle, from `/proc/stat` (proc(5)).

use std::fs;
use std::time::{Duration, Instant};

/// A reading to compare with.
pub struct Load {
    since: Instant,
    before: Option<Ticks>,
}

/// Ticks of all CPUs together since the machine began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ticks {
    idle: u64,
    all: u64,
    cpus: u64,
}

impl Load {
    /// From now on.
    pub fn begin() -> Load {
        Load {
            since: Instant::now(),
            before: read(),
        }
    }

    /// How many cores' worth of time was idle, and begins anew; nothing if it is too early to say.
    pub fn idle_cores(&mut self, least: Duration) -> Option<f64> {
        if self.since.elapsed() < least {
            return None;
        }
        let last = std::mem::replace(self, Load::begin());
        idle(last.before?, self.before?)
    }
}

fn read() -> Option<Ticks> {
    parse(&fs::read_to_string("/proc/stat").ok()?)
}

/// The line `cpu`: user, nice, system, idle, iowait and more; idle ones wait for a disk at most.
fn parse(text: &str) -> Option<Ticks> {
    let first = text.lines().next()?.strip_prefix("cpu ")?;
    let numbers: Vec<u64> = first
        .split_whitespace()
        // What guests of this machine took is in `user` already.
        .take(8)
        .map_while(|number| number.parse().ok())
        .collect();
    Some(Ticks {
        idle: numbers.get(3)? + numbers.get(4)?,
        all: numbers.iter().sum(),
        cpus: text
            .lines()
            .skip(1)
            .filter(|line| line.starts_with("cpu"))
            .count() as u64,
    })
}

fn idle(before: Ticks, now: Ticks) -> Option<f64> {
    let all = now.all.checked_sub(before.all).filter(|&all| all > 0)?;
    Some(now.idle.saturating_sub(before.idle) as f64 * now.cpus as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_waits_for_a_disk_is_idle() {
        let check = |before: &str, now: &str, expected: f64| {
            let rows = "\ncpu0 0\ncpu1 0\nintr 5\n";
            let [before, now] = [before, now].map(|line| parse(&format!("{line}{rows}")).unwrap());
            assert_eq!(idle(before, now), Some(expected));
        };
        check(
            "cpu  0 0 0 0 0 0 0 0 0 0",
            "cpu  100 0 0 100 0 0 0 0 0 0",
            1.0,
        );
        check(
            "cpu  9 0 0 5 5 0 0 0 0 0",
            "cpu  59 0 0 75 85 0 0 0 0 0",
            1.5,
        );
        check(
            "cpu  0 0 0 0 0 0 0 0 7 0",
            "cpu  100 0 100 0 0 0 0 0 99 0",
            0.0,
        );
    }

    #[test]
    fn no_time_has_no_load() {
        let ticks = parse("cpu  1 2 3 4 5 6 7 8\ncpu0 1").unwrap();
        assert_eq!(idle(ticks, ticks), None);
    }
}
