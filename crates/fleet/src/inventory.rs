//! Every VM of this user, those that run and those that have ended.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use api::{EndKind, VmEnd, VmInfo, VmName, VmOrigin, VmState, VmStatus};
use rustix::fs::{FlockOperation, OFlags, flock};
use thiserror::Error;

use crate::claim::{Claim, ClaimError, is_held};
use crate::client::Client;
use crate::network::NetworkDoor;
use crate::place::{self, PlaceError, UsersPlace};
use crate::reach::{Known, reach};
use crate::record::Record;

/// What a VM without a name is called; further ones get a number.
const USUAL_NAME: &str = "guest";
/// How files of other users are opened: no link is followed, and no pipe waited for.
const UNFOLLOWED: i32 = (OFlags::NOFOLLOW.bits() | OFlags::NONBLOCK.bits()) as i32;
/// How many VMs without a name leave their reports; then the oldest name is taken again.
const USUAL_NAMES: u32 = 20;

/// Why the inventory does not answer.
#[derive(Debug, Error)]
pub enum InventoryError {
    /// It has no place.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Its place cannot be used.
    #[error("cannot {act} {}", .path.display())]
    Folder {
        /// The verb.
        act: &'static str,
        /// Which folder or file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// There is no such VM.
    #[error("there is no VM \"{0}\"")]
    NoSuchVm(VmName),
    /// It runs.
    #[error("VM \"{0}\" is running")]
    Running(VmName),
    /// Another one has the name.
    #[error("there is a VM \"{0}\" already")]
    NameTaken(VmName),
}

/// The VMs below one runtime folder.
#[derive(Clone, Debug)]
pub struct Inventory {
    folder: PathBuf,
    /// Whether it is somebody else's: then nothing is made in there, and no link in there is followed.
    is_foreign: bool,
}

/// Whose VMs this process speaks of, if not its own user's.
static SPOKEN_OF: OnceLock<PathBuf> = OnceLock::new();

/// Has [`Inventory::of_user`] mean the VMs in another user's folder from now on, which has been looked at. The first
/// call counts.
pub fn speak_of(place: &UsersPlace) {
    let _ = SPOKEN_OF.set(place.folder.clone());
}

/// A VM that is known: one that runs or what one left.
#[derive(Clone, PartialEq, Debug)]
pub struct Vm {
    /// Its name.
    pub name: VmName,
    /// What it is doing.
    pub state: VmState,
    /// What it is, if it got that far.
    pub info: Option<VmInfo>,
    /// What it said just now; only of one that runs.
    pub status: Option<VmStatus>,
    /// How it ended; only of one that does not run.
    pub end: Option<VmEnd>,
    /// How it came to be, if that is known.
    pub origin: Option<VmOrigin>,
}

impl Inventory {
    /// Of the user whose process this is; made if it is not there.
    ///
    /// # Errors
    /// [`InventoryError::Place`].
    pub fn of_user() -> Result<Inventory, InventoryError> {
        if let Some(reach) = reach() {
            return Ok(Inventory::foreign(&reach.folder()));
        }
        if let Some(folder) = SPOKEN_OF.get() {
            return Ok(Inventory::foreign(folder));
        }
        let folder = place::find(env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from))?;
        Ok(Inventory {
            folder,
            is_foreign: false,
        })
    }

    /// Of another user, for root.
    pub fn foreign(folder: &Path) -> Inventory {
        Inventory {
            folder: folder.to_owned(),
            is_foreign: true,
        }
    }

    /// Of another folder, which has been looked at: whoever can write there can be asked instead of a VM.
    pub fn at(folder: &Path) -> Inventory {
        Inventory {
            folder: folder.to_owned(),
            is_foreign: false,
        }
    }

    /// The folder with all of them.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the network between VMs of this name is reached.
    pub fn network(&self, name: VmName) -> NetworkDoor {
        NetworkDoor::new(&self.folder, name)
    }

    /// The folder of a VM.
    pub fn record(&self, name: &VmName) -> Record {
        Record::new(self.folder.join(name.as_str()))
    }

    /// Whether a VM of this name runs.
    ///
    /// # Errors
    /// [`InventoryError::Folder`].
    pub fn is_running(&self, name: &VmName) -> Result<bool, InventoryError> {
        if reach().is_some() {
            return Ok(self.known(Some(name))?.iter().any(|known| known.is_held));
        }
        let _register = self.lock()?;
        Ok(is_held(&self.record(name)))
    }

    /// Takes `name` for the VM of this process; what an ended VM of that name left goes. Without a name it is
    /// `guest`, or that with a number.
    ///
    /// # Errors
    /// [`ClaimError`], in the inventory's words.
    pub fn claim(&self, name: Option<VmName>) -> Result<Result<Claim, ClaimError>, InventoryError> {
        let _register = self.lock()?;
        if let Some(name) = name {
            let record = self.record(&name);
            return Ok(Claim::take(name, record));
        }
        let usual = |number: u32| {
            let name = if number == 1 {
                USUAL_NAME.to_owned()
            } else {
                format!("{USUAL_NAME}-{number}")
            };
            VmName::new(&name).expect("a letter, letters, a dash and digits")
        };
        let unused = (1..=USUAL_NAMES)
            .map(usual)
            .find(|name| !self.record(name).folder().exists());
        let mut ended = (1..).map(usual).filter(|name| !is_held(&self.record(name)));
        let name = unused.or_else(|| ended.next()).expect("numbers do not end");
        let record = self.record(&name);
        Ok(Claim::take(name, record))
    }

    /// Every VM by name; of those that run, what they say.
    ///
    /// # Errors
    /// [`InventoryError::Folder`].
    pub fn list(&self) -> Result<Vec<Vm>, InventoryError> {
        let known = self.known(None)?;
        let mut vms = BTreeMap::new();
        thread::scope(|scope| {
            let ask = |known: Known| {
                let record = self.record(&known.name);
                scope.spawn(move || describe(known, &record))
            };
            // Asked all at once: one that does not answer must not hold up the others.
            let asked: Vec<_> = known.into_iter().map(ask).collect();
            for thread in asked {
                let vm = thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                vms.insert(vm.name.clone(), vm);
            }
        });
        Ok(vms.into_values().collect())
    }

    /// What is known of the VM of this name, or of all, without asking them; of one that there is not, nothing.
    ///
    /// # Errors
    /// [`InventoryError::Folder`].
    pub fn known(&self, name: Option<&VmName>) -> Result<Vec<Known>, InventoryError> {
        if let Some(reach) = reach() {
            let known = reach.known(name);
            return known.map_err(|source| self.failed("look into", &self.folder, source));
        }
        let names = match name {
            None => self.names()?,
            Some(name) => {
                let record = self.record(name);
                let _register = self.lock()?;
                let is_there = record.folder().is_dir();
                let found = is_there.then(|| (name.clone(), is_held(&record)));
                found.into_iter().collect()
            }
        };
        let known = names.into_iter().map(|(name, is_held)| {
            let record = self.record(&name);
            Known {
                is_held,
                info: record.info(),
                end: record.end(),
                origin: record.origin(),
                name,
            }
        });
        Ok(known.collect())
    }

    /// Every VM that runs, with what it is, if it got that far. None of them is asked.
    ///
    /// # Errors
    /// [`InventoryError::Folder`].
    pub fn running(&self) -> Result<Vec<(VmName, Option<VmInfo>)>, InventoryError> {
        let held = self.known(None)?.into_iter().filter(|known| known.is_held);
        Ok(held.map(|known| (known.name, known.info)).collect())
    }

    /// One VM.
    ///
    /// # Errors
    /// [`InventoryError::NoSuchVm`], [`InventoryError::Folder`].
    pub fn find(&self, name: &VmName) -> Result<Vm, InventoryError> {
        let known = self.known(Some(name))?.into_iter().next();
        let known = known.ok_or_else(|| InventoryError::NoSuchVm(name.clone()))?;
        Ok(describe(known, &self.record(name)))
    }

    /// Removes what an ended VM left.
    ///
    /// # Errors
    /// [`InventoryError::Running`], [`InventoryError::NoSuchVm`], [`InventoryError::Folder`].
    pub fn remove(&self, name: &VmName) -> Result<(), InventoryError> {
        let _register = self.lock()?;
        let record = self.ended_record(name)?;
        record
            .remove()
            .map_err(|source| self.failed("remove", record.folder(), source))
    }

    /// Gives an ended VM another name.
    ///
    /// # Errors
    /// [`InventoryError::Running`], [`InventoryError::NoSuchVm`], [`InventoryError::NameTaken`],
    /// [`InventoryError::Folder`].
    pub fn rename(&self, old: &VmName, new: &VmName) -> Result<(), InventoryError> {
        let _register = self.lock()?;
        let from = self.ended_record(old)?;
        let to = self.record(new);
        if to.folder().exists() {
            return Err(InventoryError::NameTaken(new.clone()));
        }
        fs::rename(from.folder(), to.folder())
            .map_err(|source| self.failed("rename", from.folder(), source))?;
        let failed = |source| self.failed("write to", to.folder(), source);
        if let Some(mut info) = to.info() {
            info.name = new.clone();
            to.write_info(&info).map_err(failed)?;
        }
        if let Some(mut origin) = to.origin() {
            origin.asked.name = Some(new.clone());
            origin.given.name = Some(new.clone());
            to.write_origin(&origin).map_err(failed)?;
        }
        Ok(())
    }

    /// Changes how a VM will be started again.
    ///
    /// # Errors
    /// [`InventoryError::NoSuchVm`], [`InventoryError::Folder`].
    pub fn note_origin(&self, name: &VmName, origin: &VmOrigin) -> Result<(), InventoryError> {
        let _register = self.lock()?;
        let record = self.record(name);
        if !record.folder().is_dir() {
            return Err(InventoryError::NoSuchVm(name.clone()));
        }
        record
            .write_origin(origin)
            .map_err(|source| self.failed("write to", record.folder(), source))
    }

    /// Puts back what was known of an ended VM whose new start came to nothing and took it along.
    ///
    /// # Errors
    /// [`InventoryError::Folder`].
    pub fn put_back(&self, vm: &Vm) -> Result<(), InventoryError> {
        let _register = self.lock()?;
        let record = self.record(&vm.name);
        if record.folder().exists() {
            return Ok(());
        }
        let failed = |source| self.failed("make", record.folder(), source);
        DirBuilder::new()
            .mode(0o700)
            .create(record.folder())
            .map_err(failed)?;
        let info = vm.info.as_ref().map(|info| record.write_info(info));
        let end = vm.end.as_ref().map(|end| record.write_end(end));
        let origin = vm.origin.as_ref().map(|it| record.write_origin(it));
        let written = [info, end, origin].into_iter().flatten();
        written.collect::<io::Result<()>>().map_err(failed)
    }

    /// The record of a VM that is known and does not run. The register is locked.
    fn ended_record(&self, name: &VmName) -> Result<Record, InventoryError> {
        let record = self.record(name);
        if !record.folder().is_dir() {
            return Err(InventoryError::NoSuchVm(name.clone()));
        }
        if is_held(&record) {
            return Err(InventoryError::Running(name.clone()));
        }
        Ok(record)
    }

    /// Names with whether they are held.
    fn names(&self) -> Result<Vec<(VmName, bool)>, InventoryError> {
        let _register = self.lock()?;
        let entries = fs::read_dir(&self.folder)
            .map_err(|source| self.failed("read", &self.folder, source))?;
        let folders = entries.filter_map(|entry| entry.ok().filter(|entry| entry.path().is_dir()));
        let names = folders.filter_map(|entry| VmName::new(entry.file_name().to_str()?).ok());
        Ok(names
            .map(|name| (name.clone(), is_held(&self.record(&name))))
            .collect())
    }

    /// Locks the register until the file is dropped.
    fn lock(&self) -> Result<File, InventoryError> {
        let path = self.folder.join("register");
        let mut options = File::options();
        if self.is_foreign {
            options.read(true).custom_flags(UNFOLLOWED);
        } else {
            options.write(true).create(true).truncate(false);
        }
        let open = options.open(&path);
        let register = open.map_err(|source| self.failed("open", &path, source))?;
        flock(&register, FlockOperation::LockExclusive)
            .map_err(|error| self.failed("lock", &path, error.into()))?;
        Ok(register)
    }

    fn failed(&self, act: &'static str, path: &Path, source: io::Error) -> InventoryError {
        InventoryError::Folder {
            act,
            path: path.to_owned(),
            source,
        }
    }
}

fn describe(known: Known, record: &Record) -> Vm {
    let Known {
        name,
        is_held,
        info,
        end,
        origin,
    } = known;
    if is_held {
        let (state, status) = match Client::connect(record).and_then(|mut client| client.status()) {
            Ok(status) => (status.state, Some(status)),
            Err(_) if info.is_none() => (VmState::Starting, None),
            Err(_) => (VmState::Unresponsive, None),
        };
        // What it says itself is newer: a guest may have changed its engine.
        let info = status
            .as_ref()
            .map(|status: &VmStatus| status.info.clone())
            .or(info);
        return Vm {
            name,
            state,
            info,
            status,
            end: None,
            origin,
        };
    }
    match end {
        Some(end) => Vm {
            name,
            state: match end.kind {
                EndKind::Died => VmState::Died,
                _ => VmState::Ended,
            },
            info,
            status: None,
            end: Some(end),
            origin,
        },
        None => Vm {
            name,
            state: VmState::Died,
            info,
            status: None,
            end: Some(died()),
            origin,
        },
    }
}

/// What is known of a VM whose process vanished.
fn died() -> VmEnd {
    VmEnd {
        kind: EndKind::Died,
        message: "its process vanished without a word: killed from outside (kill -9, or the host ran out of memory), or crashed"
            .to_owned(),
        detail: None,
        exit_status: 1,
        ended_at: None,
        uptime_seconds: None,
        cpu_seconds: None,
    }
}

#[cfg(test)]
#[path = "inventory_tests.rs"]
mod tests;
