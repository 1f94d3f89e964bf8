//! The side in the jail: what has a name is asked for.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use api::VmName;
use fleet::{Inventory, Known, Reach};
use host::MemFd;
use insight::Loaded;
use insight::kept::{Entry, Keeper};
use policy::Decision;
use runner::Observing;
use rustix::io::Errno;

use super::requests::{About, Answered, Asked, NO, Place, Work, YES};
use crate::exit_status::OUR_FAULT;

/// How long to wait for somebody else who has what was seen of a VM.
const AGAIN: Duration = Duration::from_millis(5);

/// How the names of the kernel's driver of the VM's generation begin (Linux, drivers/virt/vmgenid.c).
const DRIVER: &[u8] = b"vmgenid_";

struct Within {
    about: About,
    observing: Observing,
}

static WITHIN: OnceLock<Within> = OnceLock::new();

/// What stands around this process, if it is an observer in a jail.
pub fn about() -> Option<&'static About> {
    WITHIN.get().map(|within| &within.about)
}

/// What was typed.
pub fn words() -> Vec<OsString> {
    match WITHIN.get() {
        Some(within) => {
            let words = within.observing.words.iter().cloned();
            words.map(OsString::from_vec).collect()
        }
        None => std::env::args_os().collect(),
    }
}

/// Has everything in this process ask for what has a name. The exit status if nothing is left to be done.
pub fn begin(observing: Observing) -> Option<u8> {
    let Ok(about) = serde_json::from_str::<About>(&observing.about) else {
        return Some(OUR_FAULT);
    };
    let within = WITHIN.get_or_init(|| Within { about, observing });
    let about = &within.about;
    fleet::reach_by(Box::new(Asker));
    insight::kept::keep_by(Box::new(Asker));
    match &about.work {
        Work::Look => None,
        Work::Profile => Some(make_profile()),
        Work::Clones(name) => Some(takes_note(name, about)),
    }
}

/// Whether a guest's kernel takes note of being copied.
fn takes_note(name: &VmName, about: &About) -> u8 {
    // Everything is asked for: the folder is for sentences.
    let record = Inventory::at(&about.folder).record(name);
    let looker = watch::Observer::connect(record, about.profiles.clone());
    let seen = looker.and_then(|mut looker| {
        let seen = looker.observe()?;
        Ok(seen.kernel.is_ok_and(|kernel| {
            let mut symbols = kernel.linked_symbols();
            symbols.any(|(_, _, name)| name.starts_with(DRIVER))
        }))
    });
    match seen {
        Ok(true) => YES,
        Ok(false) => NO,
        Err(error) => {
            tracing::debug!("the guest's kernel is not looked at: {error}");
            NO
        }
    }
}

fn make_profile() -> u8 {
    let folder = about().map(|about| about.folder.clone());
    let made = file(&Asked::Kernel).map(|kernel| {
        let folder = folder.unwrap_or_default();
        Loaded::keep(&File::from(kernel), &folder)
    });
    match made {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            tracing::info!("no profile is made of a kernel file: {error}");
            OUR_FAULT
        }
        Err(error) => {
            tracing::warn!("no profile is made of a kernel file: {error}");
            OUR_FAULT
        }
    }
}

pub(super) fn ask(what: &Asked, files: &[OwnedFd]) -> io::Result<(Answered, Vec<OwnedFd>)> {
    let within = WITHIN.get().ok_or(Errno::NOSYS)?;
    match within.observing.ask(what, files)? {
        (Answered::Refused(number), _) => Err(io::Error::from_raw_os_error(number)),
        answered => Ok(answered),
    }
}

/// The descriptor that comes with the answer.
fn file(what: &Asked) -> io::Result<OwnedFd> {
    let (_, files) = ask(what, &[])?;
    let file = files.into_iter().next();
    file.ok_or_else(|| io::Error::from(Errno::BADMSG))
}

/// The file that the command was told to write.
pub fn output() -> io::Result<File> {
    file(&Asked::Output).map(File::from)
}

/// Has it have its name.
pub fn keep_output() -> io::Result<()> {
    ask(&Asked::KeepOutput, &[]).map(drop)
}

/// The file of memory that was typed, or the manifest and the memory of a snapshot.
pub fn image() -> io::Result<Vec<File>> {
    let (_, files) = ask(&Asked::Image, &[])?;
    Ok(files.into_iter().map(File::from).collect())
}

/// What is typed.
pub fn keys() -> io::Result<File> {
    file(&Asked::Keys).map(File::from)
}

/// Has a line written into the journal.
pub fn note(line: &str) -> io::Result<()> {
    ask(&Asked::Note(line.to_owned()), &[]).map(drop)
}

/// Has something done; what comes of it is said in the pipe.
pub fn act(decision: &Decision, place: usize) -> io::Result<File> {
    file(&Asked::Act(Box::new(decision.clone()), place)).map(File::from)
}

/// See the module's head.
struct Asker;

impl Reach for Asker {
    fn folder(&self) -> PathBuf {
        about().map_or_else(PathBuf::new, |about| about.folder.clone())
    }

    fn known(&self, name: Option<&VmName>) -> io::Result<Vec<Known>> {
        match ask(&Asked::Known(name.cloned()), &[])? {
            (Answered::Known(known), _) => Ok(known),
            _ => Err(Errno::BADMSG.into()),
        }
    }

    fn connect(&self, name: &VmName) -> io::Result<UnixStream> {
        file(&Asked::Connect(name.clone())).map(UnixStream::from)
    }
}

/// The place that a folder is.
fn place(folder: &Path, entry: Entry) -> io::Result<Place> {
    if entry.is_shared() {
        return Ok(Place::Profiles);
    }
    let name = folder.file_name().and_then(|name| name.to_str());
    let name = name.and_then(|name| VmName::new(name).ok());
    Ok(Place::Vm(name.ok_or(Errno::INVAL)?))
}

impl Keeper for Asker {
    fn open(&self, folder: &Path, entry: Entry) -> io::Result<File> {
        let wanted = Asked::Open(place(folder, entry)?, entry);
        loop {
            match file(&wanted) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(AGAIN),
                opened => return opened.map(File::from),
            }
        }
    }

    fn put(&self, folder: &Path, entry: Entry, bytes: &[u8]) -> io::Result<()> {
        let memory = MemFd::new(c"kept", 0)?;
        memory.file().write_all(bytes)?;
        let file = memory.file().try_clone()?;
        ask(&Asked::Put(place(folder, entry)?, entry), &[file.into()]).map(drop)
    }

    fn remove(&self, folder: &Path, entry: Entry) -> io::Result<()> {
        ask(&Asked::Remove(place(folder, entry)?, entry), &[]).map(drop)
    }

    fn make(&self, _folder: &Path, digest: [u8; 32], kernel: &File) -> io::Result<()> {
        ask(&Asked::Make(digest), &[kernel.try_clone()?.into()]).map(drop)
    }
}
