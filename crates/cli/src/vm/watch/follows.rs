//! What is written down and done, outside the jail in which guests are looked at.
//!
//! What was decided comes from there, where a guest may have taken over who decides. So only what the policy has is done, to
//! VMs that are watched; the program, the folder and the address are the policy's, and the journal is only ever added to.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::path::Path;
use std::thread;

use fleet::Record;
use host::lock::Lock;
use policy::{Action, Decision, Policy};
use rustix::io::Errno;

use super::act::Actor;
use super::journal::Pages;
use crate::failure::Failure;
use crate::observed::{self, Follow};

/// Longest word about what came of an action.
const SAID_MAX: u64 = 8 << 10;

/// A policy that is followed.
pub(super) struct Follows {
    policy: Policy,
    actor: Actor,
    journal: Lock<Pages>,
}

impl Follows {
    pub(super) fn new(policy: Policy, journal: &Path) -> Result<Follows, Failure> {
        Ok(Follows {
            policy,
            actor: Actor::default(),
            journal: Lock::new(Pages::open(journal)?),
        })
    }
}

impl Follow for Follows {
    fn note(&self, line: &str) -> io::Result<()> {
        match line.strip_suffix('\n') {
            Some(line_itself) if !line_itself.contains('\n') => self.journal.lock().append(line),
            _ => Err(Errno::INVAL.into()),
        }
    }

    fn act(&self, decision: &Decision, place: usize, record: &Record) -> io::Result<PipeReader> {
        let mut rules = self.policy.rules.iter();
        let rule = rules.find(|rule| rule.name == decision.rule);
        let action = rule.and_then(|rule| rule.then.get(place));
        let action = action.filter(|_| !self.policy.dry_run).ok_or(Errno::PERM)?;
        let (reader, mut writer) = io::pipe()?;
        self.actor.act(action, decision, record, move |result| {
            // Whoever does not wait for it has ended.
            let _ = writer.write_all(result.err().unwrap_or_default().as_bytes());
        });
        Ok(reader)
    }
}

/// Has something done, and tells what came of it: orders at once, what takes longer beside what is decided meanwhile.
pub(super) fn ask(
    decision: &Decision,
    place: usize,
    action: &Action,
    tell: impl FnOnce(Result<(), String>) + Send + 'static,
) {
    if *action == Action::Note {
        return;
    }
    let heard = match observed::act(decision, place) {
        Ok(heard) => heard,
        Err(error) => return tell(Err(error.to_string())),
    };
    if Actor::is_beside(action) {
        thread::spawn(move || tell(came(heard)));
    } else {
        tell(came(heard));
    }
}

/// What is said in the pipe: nothing if it was done.
fn came(heard: File) -> Result<(), String> {
    let mut said = Vec::new();
    let read = heard.take(SAID_MAX).read_to_end(&mut said);
    read.map_err(|error| error.to_string())?;
    match said.is_empty() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&said).into_owned()),
    }
}
