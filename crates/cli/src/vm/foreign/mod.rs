//! Guests that Mother does not run, and guests whose memory is in a file: what is typed for them, and how they are looked at.

mod container;
mod inspect;
pub(super) mod list;
mod open;
mod orders;
mod truth;

use std::path::PathBuf;

use clap::Args;
use fleet::foreign::Kind;
use insight::{Look, Observed};
use watch::foreign::ForeignGuest;

use crate::failure::{Failure, ForeignFailure};
use crate::observed::{Guests, Observation, Theirs};
use crate::vm::process_table::print;

pub(super) use inspect::inspect;
use open::{Opened, open};
pub(super) use orders::{Order, order};
pub(super) use truth::truth;

/// The verb of all that is done here.
const ACT: &str = "look into";

/// A file in place of a VM.
#[derive(Clone, Debug, Args)]
pub(super) struct MemoryArguments {
    /// In place of a VM's name: a guest's memory in FILE (raw, ELF core, kdump, LiME), or a snapshot by its folder
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    memory: Option<PathBuf>,
}

impl MemoryArguments {
    /// The file, or those of a snapshot, to be read in a jail.
    fn looks_into(&self) -> Result<Option<Observation>, Failure> {
        let Some(path) = &self.memory else {
            return Ok(None);
        };
        Ok(Some(Observation {
            image: open::files(path)?,
            ..Observation::to_see(Guests::Named(Vec::new()))
        }))
    }
}

/// What a command reads of whom it is about: a file of memory, or whoever is called so.
pub(super) fn looks_into(
    name: Option<&str>,
    memory: &MemoryArguments,
) -> Result<Option<Observation>, Failure> {
    match (memory.looks_into()?, name) {
        (None, Some(name)) => looks_into_named(name),
        (of_file, _) => Ok(of_file),
    }
}

/// The same of one who is called so: a VM of Mother's, or one of somebody else, who is found and opened here.
pub(super) fn looks_into_named(name: &str) -> Result<Option<Observation>, Failure> {
    let Some(target) = Target::named(name) else {
        return Ok(Guests::named(name).map(Observation::to_see));
    };
    let theirs = match target.is_container() {
        true => Theirs::Container(Box::new(open::found(&target)?)),
        false => Theirs::Process(Box::new(open::process(&target)?)),
    };
    Ok(Some(Observation {
        theirs: Some(theirs),
        ..Observation::to_see(Guests::Named(Vec::new()))
    }))
}

/// Whom a command is about that is no VM of Mother's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A file with a guest's memory.
    Memory(PathBuf),
    /// A VM or a container of this kind, by its name or the number of its process.
    Host(Kind, String),
}

impl Target {
    /// What was typed, if it names no VM of Mother's.
    pub(super) fn of(name: Option<&str>, memory: &MemoryArguments) -> Option<Target> {
        let by_name = || Target::named(name?);
        memory.memory.clone().map(Target::Memory).or_else(by_name)
    }

    /// `qemu:web`, `libvirt:db`, `firecracker:1234`, `container:4f5e…`: no VM of Mother's has such a name.
    pub(super) fn named(name: &str) -> Option<Target> {
        let (kind, word) = name.split_once(':')?;
        let kind = Kind::FOREIGN
            .into_iter()
            .find(|known| known.as_str() == kind)?;
        Some(Target::Host(kind, word.to_owned()))
    }

    /// Whether a container is meant.
    fn is_container(&self) -> bool {
        matches!(self, Target::Host(Kind::Container, _))
    }

    /// As sentences have it.
    pub(super) fn what(&self) -> String {
        match self {
            Target::Memory(path) => path.display().to_string(),
            Target::Host(kind, word) => format!("{}:{}", kind.as_str(), word.escape_debug()),
        }
    }

    pub(super) fn failed(&self, why: String, help: Option<&str>, is_bad_input: bool) -> Failure {
        Failure::Foreign {
            act: ACT,
            what: self.what(),
            source: ForeignFailure {
                why,
                help: help.map(str::to_owned),
                is_bad_input,
            },
        }
    }
}

/// Looks through the kernel of the guest once.
pub(super) fn seen<T>(
    target: &Target,
    see: impl FnOnce(&Look<'_>) -> Observed<T>,
) -> Result<T, Failure> {
    let opened = open(target)?;
    let guest = opened
        .guest()
        .map_err(|not| target.failed(not.to_string(), Some(NOT_RECOGNISED), false))?;
    let account = guest.kernel.account();
    match see(&guest.look(&account)) {
        Observed::Seen { value, .. } => Ok(value),
        Observed::NotObservable { why } => Err(target.failed(why, None, false)),
    }
}

/// Prints the processes of a guest or a container; the exit status.
pub(super) fn processes(target: &Target, is_json: bool) -> Result<u8, Failure> {
    if target.is_container() {
        return container::processes(target, is_json);
    }
    print(&seen(target, |look| look.processes())?, is_json)
}

/// What a dump of a guest needs: the guest, and whether it stands still.
pub(super) fn to_dump(target: &Target) -> Result<(ForeignGuest, bool), Failure> {
    let watcher = open::watch(target)?;
    let books = watcher
        .books()
        .map_err(|error| open::refused(target, &error))?;
    let is_paused = books.status.as_deref() == Some("paused");
    match watcher.into_guest() {
        Ok(guest) => Ok((guest, is_paused)),
        // Where in the guest's address space its memory lies is not known without its kernel, and a dump that is wrong about
        // that is worse than none.
        Err(not) => Err(target.failed(not.to_string(), Some(NOT_RECOGNISED), false)),
    }
}

/// What to do about memory without a kernel that is known.
const NOT_RECOGNISED: &str = "what is read is memory of an x86-64 Linux guest whose kernel runs and has VMCOREINFO and \
                              kallsyms; a guest that still boots, or another system, is not recognised";
