//! The side that has rights: it looks whether what an observer asks for is its command's, and opens it.
//!
//! Whatever is asked may be the words of a guest that has taken the observer over. Names of VMs are checked by their type and
//! against what was typed, names of files are made here from an [`Entry`]; what is handed over to be kept is copied, and
//! bounded in length. Nothing of what a VM says is read here.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, PipeReader};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use api::VmName;
use fleet::{Client, Inventory, InventoryError, Known};
use host::lock::Lock;
use insight::kept::{self, Entry};
use rustix::io::Errno;

use super::foreign::{Giver, Theirs};
use super::handed::contents;
use super::profile;
use super::requests::{Answered, Asked, Place};
use super::{Follow, Unnamed};

/// Which VMs an observer may ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Vms {
    /// Those of these names.
    Named(BTreeSet<VmName>),
    /// Whichever there are.
    All,
}

impl Vms {
    fn has(&self, name: &VmName) -> bool {
        match self {
            Vms::Named(names) => names.contains(name),
            Vms::All => true,
        }
    }
}

/// See the module's head.
pub(super) struct Broker {
    inventory: Inventory,
    vms: Vms,
    profiles: Option<PathBuf>,
    /// What the command writes, until it is complete.
    output: Lock<Option<Box<dyn Unnamed>>>,
    /// What the command follows.
    follows: Option<Box<dyn Follow>>,
    /// The file of memory that was typed, or those of a snapshot.
    image: Vec<File>,
    /// The VM or the container of somebody else that was typed.
    theirs: Option<Giver>,
    /// What is typed.
    keys: Lock<Option<PipeReader>>,
}

/// Not for who asks.
fn refused() -> io::Error {
    Errno::PERM.into()
}

type Found = io::Result<(Answered, Vec<OwnedFd>)>;

fn done(file: impl Into<OwnedFd>) -> Found {
    Ok((Answered::Done, vec![file.into()]))
}

impl Broker {
    pub(super) fn new(inventory: Inventory, vms: Vms, profiles: Option<PathBuf>) -> Broker {
        Broker {
            inventory,
            vms,
            profiles,
            output: Lock::new(None),
            follows: None,
            image: Vec::new(),
            theirs: None,
            keys: Lock::new(None),
        }
    }

    /// The same for a command that reads a file of memory.
    pub(super) fn with_image(self, image: Vec<File>) -> Broker {
        Broker { image, ..self }
    }

    /// The same for a command about what somebody else runs.
    pub(super) fn with_theirs(self, theirs: Option<Theirs>) -> Broker {
        let theirs = theirs.map(Giver::new);
        Broker { theirs, ..self }
    }

    /// The same for a command that has the terminal.
    pub(super) fn with_keys(self, keys: Option<PipeReader>) -> Broker {
        *self.keys.lock() = keys;
        self
    }

    /// The same for a command that follows a policy.
    pub(super) fn with_policy(self, follows: Option<Box<dyn Follow>>) -> Broker {
        Broker { follows, ..self }
    }

    /// The same for a command that writes a file.
    pub(super) fn with_output(self, output: Option<Box<dyn Unnamed>>) -> Broker {
        *self.output.lock() = output;
        self
    }

    /// What an observer is told.
    pub(super) fn answer(&self, asked: Asked, files: Vec<OwnedFd>) -> (Answered, Vec<OwnedFd>) {
        let file = files.into_iter().next().map(File::from);
        self.find(asked, file).unwrap_or_else(|error| {
            let number = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
            tracing::debug!("an observer is refused something: {error}");
            (Answered::Refused(number), Vec::new())
        })
    }

    fn find(&self, asked: Asked, file: Option<File>) -> Found {
        match asked {
            Asked::Known(name) => Ok((Answered::Known(self.known(name.as_ref())?), Vec::new())),
            Asked::Connect(name) => self.connect(&name),
            Asked::Open(place, entry) => {
                let folder = self.folder(&place, entry)?;
                done(kept::open_now(&folder, entry)?)
            }
            Asked::Put(place, entry) if !entry.is_shared() => {
                let folder = self.folder(&place, entry)?;
                let bytes = contents(&file.ok_or_else(refused)?)?;
                kept::put_here(&folder, entry, &bytes)?;
                Ok((Answered::Done, Vec::new()))
            }
            Asked::Remove(place, Entry::Asked) => {
                let folder = self.folder(&place, Entry::Asked)?;
                kept::remove_here(&folder, Entry::Asked)?;
                Ok((Answered::Done, Vec::new()))
            }
            Asked::Make(digest) => {
                let folder = self.profiles.as_ref().ok_or_else(refused)?;
                profile::make(folder, digest, &file.ok_or_else(refused)?)?;
                Ok((Answered::Done, Vec::new()))
            }
            Asked::Output => {
                let output = self.output.lock();
                done(output.as_ref().ok_or_else(refused)?.file()?)
            }
            Asked::KeepOutput => {
                self.output.lock().take().ok_or_else(refused)?.keep()?;
                Ok((Answered::Done, Vec::new()))
            }
            Asked::Note(line) => {
                let follows = self.follows.as_ref().ok_or_else(refused)?;
                follows.note(&line)?;
                Ok((Answered::Done, Vec::new()))
            }
            Asked::Act(decision, place) => {
                let follows = self.follows.as_ref().ok_or_else(refused)?;
                let name = VmName::new(&decision.vm).map_err(|_| refused())?;
                if !self.vms.has(&name) {
                    return Err(refused());
                }
                done(follows.act(&decision, place, &self.inventory.record(&name))?)
            }
            Asked::Image if self.image.is_empty() => Err(refused()),
            Asked::Image => {
                let files = self.image.iter().map(|file| Ok(file.try_clone()?.into()));
                Ok((Answered::Done, files.collect::<io::Result<_>>()?))
            }
            Asked::Theirs(what) => self.theirs.as_ref().ok_or_else(refused)?.give(&what),
            Asked::Keys => done(self.keys.lock().take().ok_or_else(refused)?),
            Asked::Put(..) | Asked::Remove(..) | Asked::Kernel => Err(refused()),
        }
    }

    fn known(&self, name: Option<&VmName>) -> io::Result<Vec<Known>> {
        if name.is_some_and(|name| !self.vms.has(name)) {
            return Err(refused());
        }
        let known = self.inventory.known(name).map_err(|error| match error {
            InventoryError::Folder { source, .. } => source,
            other => io::Error::other(other),
        })?;
        // Who asks for all hears of its own.
        let known = known.into_iter().filter(|known| self.vms.has(&known.name));
        Ok(known.collect())
    }

    fn connect(&self, name: &VmName) -> Found {
        if !self.vms.has(name) {
            return Err(refused());
        }
        done(Client::connect_to_look(&self.inventory.record(name))?)
    }

    /// The folder of an entry, if the entry belongs there and the folder to who asks.
    fn folder(&self, place: &Place, entry: Entry) -> io::Result<PathBuf> {
        match place {
            Place::Profiles if entry.is_shared() => self.profiles.clone().ok_or_else(refused),
            Place::Vm(name) if !entry.is_shared() && self.vms.has(name) => {
                let record = self.inventory.record(name);
                // Nothing is made in the name of a VM that there is not.
                match record.folder().is_dir() {
                    true => Ok(record.folder().to_owned()),
                    false => Err(io::ErrorKind::NotFound.into()),
                }
            }
            _ => Err(refused()),
        }
    }
}

#[cfg(test)]
#[path = "broker_tests.rs"]
mod tests;
