//! Every test of the workspace as a job, from what cargo built and what each test program lists.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Job;
use crate::steps::{Counts, Step, cargo};

/// How long one test may take.
const LIMIT: Duration = Duration::from_secs(600);
/// What tests of a module, and of a whole program, take usually.
const USUAL: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(10)];

/// A program of tests.
struct Program {
    /// The package and, for tests of the whole package, the file.
    name: String,
    path: PathBuf,
    /// The package's folder, in which cargo starts tests.
    folder: PathBuf,
    /// Tests of the package from outside.
    is_whole: bool,
}

/// All tests, ignored ones too: those count as skipped. The programs must be built already. Tests of whole programs wait
/// for the job `preparation`, and none else does.
pub fn tests(preparation: &'static str) -> Result<Vec<Job>> {
    let words = [
        "test",
        "--workspace",
        "--no-run",
        "--message-format",
        "json",
    ];
    let output = cargo(&words)
        .stderr(Stdio::null())
        .output()
        .context("start cargo")?;
    ensure!(output.status.success(), "the tests do not build");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut jobs = Vec::new();
    for program in text.lines().filter_map(program) {
        program.add_jobs(preparation, &mut jobs)?;
    }
    Ok(jobs)
}

/// A line of cargo's about a program of tests; see "External tools" in the Cargo book.
fn program(line: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["profile"]["test"] != true {
        return None;
    }
    let path = PathBuf::from(message["executable"].as_str()?);
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
    let package = folder.file_name()?.to_str()?;
    let is_whole = message["target"]["kind"][0] == "test";
    let name = match message["target"]["name"].as_str()? {
        target if target != package => format!("{package} {target}"),
        _ => package.to_owned(),
    };
    Some(Program {
        name,
        path,
        folder: folder.to_owned(),
        is_whole,
    })
}

impl Program {
    fn add_jobs(&self, preparation: &'static str, jobs: &mut Vec<Job>) -> Result<()> {
        for test in self.list()? {
            let mut command = self.command();
            // Its output goes to a file as it is: words about what was skipped, and all of it if it fails.
            command.args(["--exact", &test, "--nocapture", "--format", "terse"]);
            jobs.push(Job {
                step: Step {
                    name: format!("{} {test}", self.name),
                    command,
                    limit: LIMIT,
                    counts: Counts::CargoTest,
                },
                is_test: true,
                usual_time: USUAL[usize::from(self.is_whole)],
                after: self.is_whole.then_some(preparation),
            });
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<String>> {
        let mut command = self.command();
        command.args(["--list", "--format", "terse"]);
        let output = command
            .output()
            .with_context(|| format!("start {}", self.path.display()))?;
        ensure!(
            output.status.success(),
            "{} does not list its tests",
            self.path.display()
        );
        Ok(listed(&String::from_utf8_lossy(&output.stdout)))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder);
        command
    }
}

/// Names in lines like `module::a_test: test`.
fn listed(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_listed_and_benchmarks_are_not() {
        assert_eq!(listed("a::b: test\nc: test\nd: benchmark\n"), ["a::b", "c"]);
    }

    #[test]
    fn a_program_of_tests_is_told_from_what_else_cargo_builds() {
        let check = |profile: &str, kind: &str, name: &str, expected: Option<(&str, bool)>| {
            let line = format!(
                "{{\"reason\":\"compiler-artifact\",\"manifest_path\":\"/a/crates/cli/Cargo.toml\",\"target\":{{\
                 \"kind\":[\"{kind}\"],\"name\":\"{name}\"}},\"profile\":{{\"test\":{profile}}},\"executable\":\"/b\"}}"
            );
            let found = program(&line).map(|program| (program.name, program.is_whole));
            assert_eq!(
                found,
                expected.map(|(name, is_whole)| (name.to_owned(), is_whole))
            );
        };
        check("true", "lib", "cli", Some(("cli", false)));
        check("true", "test", "guest", Some(("cli guest", true)));
        check("false", "bin", "mother", None);
    }
}
