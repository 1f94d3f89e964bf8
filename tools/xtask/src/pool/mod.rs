//! Jobs side by side: every test as a process of its own, and the long harnesses beside them.
//!
//! A guest under test waits for most of its life: for a timer, for a person's patience, for a disk. So the number of
//! jobs is not the number of cores. As many as there are cores always run; one more starts whenever a core has been
//! idle for a moment, up to [`JOBS_PER_CORE`]. That is measured, not declared: a test that begins to compute keeps
//! others from starting, and nobody has to keep a list of weights.
//!
//! The longest go first, as they were when they ran last (`target/xtask/times`), so that none is left over at the end
//! with nothing beside it; before them goes what others wait for. Each job is bounded, its output goes to a file, and only a failing one shows it.
//!
//! A test that failed runs once more at the end, with nothing beside it. If it passes then, what made it fail is the
//! company it had, and it is said as `UNSTEADY` beside what it said first: somebody has to look at it, but it keeps
//! nobody's work from landing. If many failed, none does: that is no matter of company
//! (`docs/decisions/0035-a-failed-test-runs-once-more-alone.md`). What failed because a disk was full is tried again in
//! any number.

mod job;
mod listing;
mod load;
mod room;
mod times;

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

pub use job::Job;
pub use listing::tests;

use crate::steps::Tally;
use crate::workspace;
use job::Ended;
use load::Load;
use room::Room;
use times::Times;

/// Jobs at once for each core, at most.
const JOBS_PER_CORE: usize = 3;
/// How often it is asked whether a core idles.
const TICK: Duration = Duration::from_millis(400);
/// How much of a core must be idle for one more job.
const IDLE_CORES: f64 = 0.5;
/// How many of the slowest are named.
const SLOWEST: usize = 10;
/// Failed tests that run once more, at most.
const MOST_AGAIN: usize = 4;

/// Runs all of them and counts; what failed or was skipped is said at once, the slowest at the end, and after them what
/// failed once more by name alone, where nobody overlooks it.
pub fn run(jobs: Vec<Job>) -> Result<Tally> {
    let folder = workspace::root().join("target/xtask/jobs");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let mut times = Times::load();
    let mut waiting = times.longest_first(jobs);
    let start = Instant::now();
    let mut room = Room::begin();
    let ended = run_side_by_side(&mut waiting, &folder, &mut room, |ended| {
        times.note(ended.name(), ended.time);
        if ended.job.is_test {
            ended.print_trouble();
        } else {
            ended.print();
        }
    })?;
    times.save()?;
    let ended = once_more(ended, &folder, &mut room)?;
    let seconds = start.elapsed().as_secs_f64();
    let tests = sum(ended.iter().filter(|ended| ended.job.is_test));
    let word = if tests.failed == 0 { "ok" } else { "FAILED" };
    println!("{word:<7}{:<14}{seconds:>7.1} s   {tests}", "tests");
    print_slowest(&ended);
    if let Some(least) = room.least() {
        println!("       least room on a disk: {} MiB", least >> 20);
    }
    for ended in ended.iter().filter(|ended| ended.tally.failed > 0) {
        println!("FAILED {}", ended.name());
    }
    Ok(sum(&ended))
}

fn sum<'a>(ended: impl IntoIterator<Item = &'a Ended>) -> Tally {
    ended
        .into_iter()
        .fold(Tally::default(), |sum, ended| sum + ended.tally)
}

/// Failed tests again, one by one: all that a full disk made fail, and the others if they are few enough to have failed of
/// company.
fn once_more(ended: Vec<Ended>, folder: &std::path::Path, room: &mut Room) -> Result<Vec<Ended>> {
    let is_failed = |ended: &Ended| ended.job.is_test && ended.tally.failed > 0;
    let of_company = |ended: &Ended| is_failed(ended) && !ended.lacked_room();
    let is_company = ended.iter().filter(|ended| of_company(ended)).count() <= MOST_AGAIN;
    let folder = folder.join("once-more");
    fs::create_dir_all(&folder)?;
    let again = |ended: Ended| {
        if !is_failed(&ended) || !is_company && !ended.lacked_room() {
            return Ok(ended);
        }
        room.wait();
        let ended = ended.job.run(&folder)?;
        if ended.tally.failed == 0 {
            println!("UNSTEADY {}: passes alone", ended.name());
        } else {
            ended.print_trouble();
        }
        Ok(ended)
    };
    ended.into_iter().map(again).collect()
}

fn run_side_by_side(
    waiting: &mut VecDeque<Job>,
    folder: &std::path::Path,
    room: &mut Room,
    mut on_end: impl FnMut(&Ended),
) -> Result<Vec<Ended>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut load = Load::begin();
    let mut running = 0;
    let mut done = Vec::new();
    let mut names = HashSet::new();
    let (report, reports) = mpsc::channel();
    while running > 0 || !waiting.is_empty() {
        if running == 0 {
            room.wait();
        }
        let may_start = running < cores
            || running < cores * JOBS_PER_CORE && load.idle_cores(TICK) > Some(IDLE_CORES);
        if may_start
            && room.has_room(running)
            && let Some(job) = next(waiting, &names)
        {
            names.insert(job.step.name.clone());
            let report = report.clone();
            let folder = folder.to_owned();
            thread::spawn(move || {
                // Nobody listens any more if the run has ended with an error.
                let _ = report.send(job.run(&folder));
            });
            running += 1;
            load = Load::begin();
            continue;
        }
        match reports.recv_timeout(TICK) {
            Ok(ended) => {
                let ended: Ended = ended?;
                running -= 1;
                names.remove(ended.name());
                on_end(&ended);
                done.push(ended);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(done)
}

/// The first that waits for no job that runs or is still to run.
fn next(waiting: &mut VecDeque<Job>, running: &HashSet<String>) -> Option<Job> {
    let is_over =
        |name: &str| !running.contains(name) && waiting.iter().all(|job| job.step.name != name);
    let place = waiting
        .iter()
        .position(|job| job.after.is_none_or(is_over))?;
    waiting.remove(place)
}

fn print_slowest(ended: &[Ended]) {
    let mut slowest: Vec<&Ended> = ended.iter().collect();
    slowest.sort_by_key(|ended| std::cmp::Reverse(ended.time));
    println!("       slowest:");
    for ended in slowest.into_iter().take(SLOWEST) {
        println!(
            "       {:>8.1} s   {}",
            ended.time.as_secs_f64(),
            ended.name()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::{Counts, Step};

    fn job(name: &str, after: Option<&'static str>) -> Job {
        Job {
            step: Step {
                name: name.to_owned(),
                command: std::process::Command::new("true"),
                limit: Duration::from_secs(1),
                counts: Counts::One,
            },
            is_test: true,
            usual_time: Duration::ZERO,
            after,
        }
    }

    #[test]
    fn a_job_starts_when_what_it_waits_for_is_over() {
        let check = |jobs: &[(&str, Option<&'static str>)], running: &[&str], expected| {
            let mut waiting = jobs.iter().map(|(name, after)| job(name, *after)).collect();
            let running = running.iter().map(|name| (*name).to_owned()).collect();
            let next = next(&mut waiting, &running).map(|job| job.step.name);
            assert_eq!(next.as_deref(), expected, "{jobs:?} beside {running:?}");
        };
        check(&[], &[], None);
        check(&[("a", None), ("b", None)], &[], Some("a"));
        // It runs, it is still to run, it is over.
        check(&[("a", Some("image")), ("b", None)], &["image"], Some("b"));
        check(&[("a", Some("image")), ("image", None)], &[], Some("image"));
        check(&[("a", Some("image"))], &["b"], Some("a"));
        check(&[("a", Some("image"))], &["image"], None);
    }

    /// Tests that are shell lines, side by side and then once more; what each came to.
    fn run_twice(lines: &[String], folder: &std::path::Path) -> Vec<u64> {
        let ended = lines.iter().enumerate().map(|(n, line)| {
            let mut job = job(&n.to_string(), None);
            job.step.command = std::process::Command::new("sh");
            job.step.command.args(["-c", line]).current_dir(folder);
            job.step.limit = Duration::from_secs(60);
            job.run(folder).unwrap()
        });
        let ended = once_more(ended.collect(), folder, &mut Room::begin()).unwrap();
        ended.iter().map(|ended| ended.tally.failed).collect()
    }

    #[test]
    fn a_test_that_failed_runs_once_more_and_many_do_not() {
        let folder = std::env::temp_dir().join(format!("once-more-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        // Fails the first time.
        let unsteady = |n: usize| format!("test -e {n}.was || {{ : > {n}.was; exit 1; }}");
        let steady = ["true".to_owned(), "false".to_owned()];
        let lines = [&steady[..], &[unsteady(1)]].concat();
        assert_eq!(run_twice(&lines, &folder), [0, 1, 0]);
        let many: Vec<String> = (10..=10 + MOST_AGAIN).map(unsteady).collect();
        let failed = run_twice(&many, &folder);
        assert!(failed.iter().all(|failed| *failed == 1), "{failed:?}");
        // Of a full disk as many as there are, and of company those few.
        let wanting = |n: usize| {
            let words = "cannot write: No space left on device";
            format!("test -e {n}.was || {{ : > {n}.was; echo {words}; exit 1; }}")
        };
        let lines: Vec<String> = (30..=30 + MOST_AGAIN).map(wanting).collect();
        let lines = [&lines[..], &[unsteady(2)]].concat();
        assert_eq!(run_twice(&lines, &folder), vec![0; lines.len()]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
