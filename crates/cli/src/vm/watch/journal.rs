//! The journal: every decision with what was seen, before it is acted on, and what came of each action. JSON, a line each.
//!
//! What an action rests on has to outlive the action, so a decision is on the disk before anything is done. The file is
//! bounded: when it is full it becomes `NAME.1`, in the place of the one before.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use insight::timestamp;
use policy::{Action, Decision, HeldBack};

use crate::answers::{self, JournalEntry, Outcome};
use crate::failure::Failure;
use crate::observed;
use crate::output::say;
use crate::vm::words::printable;

/// Largest journal.
const BYTES_MAX: u64 = 64 << 20;
/// What it is called where nothing else was typed.
const FILE: &str = "decisions.jsonl";

/// Where it is kept if nobody says where (XDG Base Directory Specification).
pub(super) fn place() -> Result<PathBuf, Failure> {
    let absolute = |variable: &str| {
        let folder = std::env::var_os(variable).map(PathBuf::from);
        folder.filter(|folder| folder.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME");
    let state = state.or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let folder = state.ok_or(Failure::NoState)?;
    Ok(folder.join("mother").join(FILE))
}

impl Outcome {
    pub(super) fn of(decision: &Decision, action: &Action) -> Outcome {
        Outcome {
            decided_ns: decision.at_ns,
            at_ns: 0,
            vm: decision.vm.clone(),
            rule: decision.rule.clone(),
            action: action.word(),
            done: false,
            why: None,
        }
    }

    pub(super) fn came_to(mut self, at_ns: u64, result: Result<(), String>) -> Outcome {
        self.at_ns = at_ns;
        self.done = result.is_ok();
        self.why = result.err();
        self
    }
}

/// The file.
pub(super) struct Pages {
    path: PathBuf,
    file: File,
    bytes: u64,
    is_file: bool,
}

/// What is said of decisions, each written into the file first.
pub(super) struct Journal {
    /// As it was typed, for sentences about it.
    path: PathBuf,
    is_json: bool,
    failure: Option<Failure>,
}

impl Pages {
    pub(super) fn open(path: &Path) -> Result<Pages, Failure> {
        let failed = |source| Failure::Journal {
            path: path.to_owned(),
            source,
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        Ok(Pages {
            path: path.to_owned(),
            file,
            bytes: metadata.len(),
            is_file: metadata.is_file(),
        })
    }

    /// Adds a line. When this returns it is on the disk.
    pub(super) fn append(&mut self, line: &str) -> std::io::Result<()> {
        if self.is_file && self.bytes > 0 && self.bytes + line.len() as u64 > BYTES_MAX {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            fs::rename(&self.path, old)?;
            self.file = open(&self.path)?;
            self.bytes = 0;
        }
        self.file.write_all(line.as_bytes())?;
        self.bytes += line.len() as u64;
        // A pipe or a device has no disk to be on, and says so.
        match self.is_file {
            true => self.file.sync_data(),
            false => Ok(()),
        }
    }
}

impl Journal {
    /// Over a file that is somebody else's to write.
    pub(super) fn asked(typed: Option<&Path>, is_json: bool) -> Journal {
        Journal {
            path: typed.unwrap_or(Path::new(FILE)).to_owned(),
            is_json,
            failure: None,
        }
    }

    /// Why nothing can be written any more.
    pub(super) fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    /// Writes a decision down. When this returns it is on the disk, or there is a failure, which ends the watch.
    pub(super) fn decided(&mut self, decision: &Decision) {
        self.write(&JournalEntry::Decision(decision), &words(decision));
    }

    /// Writes down what came of it.
    pub(super) fn did(&mut self, outcome: &Outcome) {
        let what = match &outcome.why {
            None => "done".to_owned(),
            Some(why) => format!("FAILED: {}", printable(why)),
        };
        let line = format!(
            "{} {} {}: {} {what}\n",
            timestamp(outcome.at_ns),
            outcome.vm,
            printable(&outcome.rule),
            outcome.action
        );
        self.write(&JournalEntry::Outcome(outcome), &line);
    }

    fn write(&mut self, entry: &JournalEntry<'_>, words: &str) {
        let line = answers::short(entry);
        let written = observed::note(&line);
        let said = say(if self.is_json { &line } else { words });
        let failed = written.map_err(|source| Failure::Journal {
            path: self.path.clone(),
            source,
        });
        if let Err(failure) = failed.and(said) {
            self.failure.get_or_insert(failure);
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    // What guests do is their owner's affair.
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// A decision as a line for people.
pub fn words(decision: &Decision) -> String {
    let evidence = &decision.evidence;
    let text = |path: &str| evidence.pointer(path).map(ToString::to_string);
    let about = text("/event")
        .or_else(|| text("/subject"))
        .or_else(|| text("/fact"))
        .unwrap_or_default();
    let who = match (text("/process/name"), text("/process/pid")) {
        (Some(name), Some(pid)) => format!(" by {}({pid})", name.trim_matches('"')),
        _ => String::new(),
    };
    let then = match &decision.held_back {
        None => {
            let words: Vec<&str> = decision.then.iter().map(Action::word).collect();
            words.join(", ")
        }
        Some(HeldBack::Exception { why, until }) => format!("nothing: {why}, until {until}"),
        Some(HeldBack::SameCause) => "nothing: it was acted on already".to_owned(),
        Some(HeldBack::CoolDown) => "nothing: it has acted a short while ago".to_owned(),
        Some(HeldBack::Budget) => "nothing: there were as many actions as there may be".to_owned(),
        Some(HeldBack::DryRun) => "nothing: dry run".to_owned(),
    };
    let line = format!(
        "{} {} {}: {}{who} -> {then}",
        timestamp(decision.at_ns),
        decision.vm,
        decision.rule,
        about.trim_matches('"'),
    );
    printable(&line) + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decision() -> Decision {
        Decision {
            at_ns: 951_868_799_000_000_000,
            vm: "web".to_owned(),
            rule: "module".to_owned(),
            then: vec![Action::Note, Action::Pause],
            held_back: None,
            evidence: json!({ "event": "module", "process": { "name": "ins\u{1b}mod", "pid": 7 } }),
        }
    }

    #[test]
    fn decisions_are_lines_for_people_and_for_programs() {
        let said = words(&decision());
        assert!(
            said.ends_with(" web module: module by ins\\u001bmod(7) -> note, pause\n"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/journal");
        let mut pages = Pages::open(&path).unwrap();
        let line = answers::short(&JournalEntry::Decision(&decision()));
        pages.append(&line).unwrap();
        let outcome = Outcome::of(&decision(), &Action::Pause);
        let outcome = outcome.came_to(5, Err("gone".to_owned()));
        pages
            .append(&answers::short(&JournalEntry::Outcome(&outcome)))
            .unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["decision"]["evidence"]["process"]["pid"], 7);
        assert_eq!(lines[1]["outcome"]["why"], "gone");
        assert_eq!(lines[1]["outcome"]["done"], false);
    }

    #[test]
    fn a_journal_that_is_full_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut pages = Pages::open(&path).unwrap();
        pages.append("first\n").unwrap();
        let first = fs::read(&path).unwrap();
        pages.bytes = BYTES_MAX;
        pages.append("first\n").unwrap();
        assert_eq!(fs::read(folder.path().join("journal.1")).unwrap(), first);
        assert_eq!(fs::read(&path).unwrap(), first);
    }
}
