//! Steps: commands that run one after the other, quietly and bounded, and are counted at the end.
//!
//! What a step prints goes to `target/xtask/NAME.log`; only a failing step shows the end of it. The last line of
//! all has the form `12 passed, 0 failed` or `12 passed, 0 failed, 3 skipped` alone, for people and for programs.

use std::fs::{self, File};
use std::ops::Add;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::workspace;

/// Lines of a failing step's log to show.
const TAIL_LINES: usize = 80;

/// What `timeout` of coreutils returns when it had to end the command.
const TIMED_OUT: i32 = 124;

/// One command.
pub struct Step {
    /// For people, and for the name of its log.
    pub name: String,
    /// What to run.
    pub command: Command,
    /// How long it may take before it is ended, with all its children.
    pub limit: Duration,
    /// What its output counts.
    pub counts: Counts,
}

/// How a step's output says what passed.
#[derive(Clone, Copy)]
pub enum Counts {
    /// The step is one thing that passes or fails, as its exit status says.
    One,
    /// Every `test result:` line of `cargo test` adds its numbers; a test that says `skipped: why` on a line of its
    /// own counts as that.
    CargoTest,
    /// The last line of the form `12 passed, 0 failed, 3 skipped` says it.
    LastLine,
}

/// Numbers of tests.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Did what they should.
    pub passed: u64,
    /// Did not.
    pub failed: u64,
    /// Did not run here, and said so.
    pub skipped: u64,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// `cargo` with these words, as the cargo that runs us.
pub fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(words).current_dir(workspace::root());
    if !is_built_in_parts() {
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

/// Whether somebody builds here again and again, in parts of crates. A clone that is built once has no use for what that keeps: 3 GB,
/// and a twelfth of the work of building.
fn is_built_in_parts() -> bool {
    let kept = workspace::root().join("target/debug/incremental");
    let folders = std::fs::read_dir(kept).into_iter().flatten().flatten();
    folders
        .filter_map(|folder| folder.file_name().into_string().ok())
        .any(|name| name.starts_with("machine-"))
}

/// Runs every step, one after the other, also after one has failed.
pub fn run(steps: Vec<Step>) -> Result<Tally> {
    let mut total = Tally::default();
    for step in steps {
        total = total + run_one(step)?;
    }
    Ok(total)
}

/// Prints the last line; `true` if nothing failed.
pub fn sum_up(total: Tally) -> bool {
    println!("{total}");
    total.failed == 0
}

fn run_one(step: Step) -> Result<Tally> {
    let folder = workspace::root().join("target/xtask");
    fs::create_dir_all(&folder)?;
    let log = folder.join(format!("{}.log", step.name));
    let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let start = Instant::now();
    let status = run_bounded(&step, file)?;
    let output = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let tally = step.counts.read(&output, status);
    let word = if tally.failed == 0 { "ok" } else { "FAILED" };
    print_skips(&output);
    println!(
        "{word:<7}{:<14}{:>7.1} s   {tally}",
        step.name,
        start.elapsed().as_secs_f64()
    );
    if tally.failed > 0 {
        if has_timed_out(status) {
            println!("       ended after its limit of {} s", step.limit.as_secs());
        }
        show_failure(&output);
        println!("       all of it: {}", log.display());
    }
    Ok(tally)
}

/// What was skipped is never passed over in silence.
pub fn print_skips(output: &str) {
    for line in output
        .lines()
        .filter(|line| line.to_ascii_lowercase().starts_with("skipped: "))
    {
        println!("       {line}");
    }
}

/// Runs a step's command to its end, with all that it says in a file.
pub fn run_bounded(step: &Step, output: File) -> Result<ExitStatus> {
    bounded(step)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .with_context(|| format!("start {}", step.name))
}

/// Whether it was ended because of its limit.
pub fn has_timed_out(status: ExitStatus) -> bool {
    status.code() == Some(TIMED_OUT)
}

/// The step's command under `timeout`, which ends children and grandchildren too.
fn bounded(step: &Step) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", &step.limit.as_secs().to_string()]);
    command
        .arg(step.command.get_program())
        .args(step.command.get_args());
    if let Some(folder) = step.command.get_current_dir() {
        command.current_dir(folder);
    }
    for (name, value) in step.command.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// The failed tests' own words if there are any, else the end of the log; without backtraces, which a log has whole.
pub fn show_failure(output: &str) {
    for line in words_of_failure(output) {
        println!("       | {line}");
    }
}

fn words_of_failure(output: &str) -> Vec<&str> {
    let mut lines = without_backtraces(output);
    let own = failed_tests(&lines);
    if own.is_empty() {
        lines.split_off(lines.len().saturating_sub(TAIL_LINES))
    } else {
        own
    }
}

/// A backtrace is what follows its title and is numbered or indented.
fn without_backtraces(output: &str) -> Vec<&str> {
    let mut is_backtrace = false;
    let mut kept = Vec::new();
    for line in output.lines() {
        is_backtrace &= line.starts_with(' ');
        is_backtrace |= line == "stack backtrace:";
        if !is_backtrace && !line.is_empty() {
            kept.push(line);
        }
    }
    kept
}

/// What `cargo test` prints about failed tests, and a harness in lines that begin with `FAIL` with what is indented
/// under them.
fn failed_tests<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let mut shown = Vec::new();
    let mut is_test = false;
    let mut is_harness = false;
    for line in lines {
        is_test |= line.starts_with("---- ");
        is_test &= !line.starts_with("failures:");
        is_harness &= line.starts_with(' ');
        is_harness |= line.starts_with("FAIL ");
        if (is_test || is_harness) && shown.len() < TAIL_LINES {
            shown.push(*line);
        }
    }
    shown
}

impl Counts {
    /// What `output` counts; a status that says failure is at least one failure, whatever the output says.
    pub fn read(self, output: &str, status: ExitStatus) -> Tally {
        self.read_output(output, status.success())
    }

    fn read_output(self, output: &str, success: bool) -> Tally {
        let mut tally = match self {
            Counts::One => Tally {
                passed: u64::from(success),
                ..Tally::default()
            },
            Counts::CargoTest => count_cargo_test(output),
            Counts::LastLine => output
                .lines()
                .rev()
                .find_map(parse_last_line)
                .unwrap_or_default(),
        };
        let counted_nothing = tally == Tally::default();
        if tally.failed == 0 && (!success || counted_nothing) {
            tally.failed = 1;
        }
        tally
    }
}

fn count_cargo_test(output: &str) -> Tally {
    let mut tally = output
        .lines()
        .filter_map(parse_cargo_line)
        .fold(Tally::default(), Tally::add);
    let said = output
        .lines()
        .filter(|line| line.to_ascii_lowercase().starts_with("skipped: "))
        .count() as u64;
    let skipped = said.min(tally.passed);
    tally.passed -= skipped;
    tally.skipped += skipped;
    tally
}

impl Add for Tally {
    type Output = Tally;

    fn add(self, other: Tally) -> Tally {
        Tally {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

fn parse_cargo_line(line: &str) -> Option<Tally> {
    let numbers = line
        .trim_start()
        .strip_prefix("test result: ")?
        .split_once(". ")?
        .1;
    Some(parse_numbers(numbers.split("; "), "ignored"))
}

fn parse_last_line(line: &str) -> Option<Tally> {
    let is_count =
        line.contains(" passed, ") && line.starts_with(|first: char| first.is_ascii_digit());
    is_count.then(|| parse_numbers(line.split(", "), "skipped"))
}

/// Reads parts like `12 passed`.
fn parse_numbers<'a>(parts: impl Iterator<Item = &'a str>, skipped: &str) -> Tally {
    let mut tally = Tally::default();
    for part in parts {
        let Some((number, word)) = part.trim().split_once(' ') else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        match word {
            "passed" => tally.passed = number,
            "failed" => tally.failed = number,
            _ if word == skipped => tally.skipped = number,
            _ => {}
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(counts: Counts, output: &str, success: bool, expected: &str) {
        assert_eq!(counts.read_output(output, success).to_string(), expected);
    }

    #[test]
    fn a_plain_step_is_one_thing() {
        check(Counts::One, "whatever", true, "1 passed, 0 failed");
        check(Counts::One, "whatever", false, "0 passed, 1 failed");
    }

    #[test]
    fn cargo_test_lines_add_up() {
        let ok = "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        let bad = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";
        check(Counts::CargoTest, ok, true, "5 passed, 0 failed, 1 skipped");
        check(
            Counts::CargoTest,
            &format!("{ok}\n{bad}"),
            false,
            "8 passed, 2 failed, 1 skipped",
        );
    }

    #[test]
    fn a_test_that_says_it_was_skipped_has_not_passed() {
        let ok = "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        check(
            Counts::CargoTest,
            &format!("skipped: no guest\n{ok}"),
            true,
            "4 passed, 0 failed, 1 skipped",
        );
    }

    #[test]
    fn a_build_that_breaks_is_a_failure_though_nothing_was_counted() {
        check(
            Counts::CargoTest,
            "error: could not compile",
            false,
            "0 passed, 1 failed",
        );
        check(Counts::CargoTest, "", true, "0 passed, 1 failed");
    }

    #[test]
    fn a_crash_after_good_lines_is_a_failure() {
        let ok = "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        check(
            Counts::CargoTest,
            &format!("{ok}\nsignal: 11"),
            false,
            "5 passed, 1 failed",
        );
    }

    #[test]
    fn what_failed_is_shown_in_its_own_words_without_a_backtrace() {
        let shown = |log: &str, words: &[&str]| assert_eq!(words_of_failure(log), words);
        shown(
            "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\npanicked at b\nstack backtrace:\n   0: c\n\n\
             failures:\n    a\n",
            &["---- a stdout ----", "panicked at b"],
        );
        shown(
            "running 1 test\npanicked at b\nstack backtrace:\n   0: c\n             at d.rs:1\nnote: e\n",
            &["running 1 test", "panicked at b", "note: e"],
        );
        shown(
            "PASS a\nFAIL b: why\n     | because\nPASS c\n2 passed, 1 failed\n",
            &["FAIL b: why", "     | because"],
        );
    }

    #[test]
    fn a_program_may_count_for_itself() {
        check(
            Counts::LastLine,
            "seed 7\n100000 passed, 0 failed, 12 skipped\n",
            true,
            "100000 passed, 0 failed, 12 skipped",
        );
        check(
            Counts::LastLine,
            "9 passed, 1 failed",
            false,
            "9 passed, 1 failed",
        );
        check(Counts::LastLine, "no numbers", true, "0 passed, 1 failed");
    }
}
