//! From what was typed to a guest with a kernel, or the reason why it has none.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use fleet::foreign::{self, Foreign};
use insight::{Limits, NotRecognised};
use rustix::fs::OFlags;
use snapshot::MemoryParts;
use watch::foreign::image::{self, ImageError, ImageFormat, MemoryImage};
use watch::foreign::{ForeignGuest, ForeignWatcher, HostProcess, recognise};

use super::Target;
use crate::failure::Failure;
use crate::observed;

/// What to do about a process that may not be read.
const RIGHTS: &str = "its memory is read as by a debugger: be the user whose it is, where kernel.yama.ptrace_scope is 0, \
                      or have CAP_SYS_PTRACE";

/// What was opened.
pub(super) enum Opened {
    /// A file.
    Memory {
        /// What kind of file it is.
        format: ImageFormat,
        /// RAM that is there.
        memory_bytes: u64,
        /// The guest, or why its kernel is not known.
        guest: Result<Box<ForeignGuest>, NotRecognised>,
    },
    /// A process.
    Process(Box<ForeignWatcher>),
}

impl Opened {
    /// The guest, or why its kernel is not known.
    pub(super) fn guest(&self) -> Result<&ForeignGuest, &NotRecognised> {
        match self {
            Opened::Memory { guest, .. } => guest.as_ref().map(AsRef::as_ref),
            Opened::Process(watcher) => watcher.guest(),
        }
    }
}

/// What a command is about, in the jail: whoever it is was opened before.
pub(super) fn open(target: &Target) -> Result<Opened, Failure> {
    match target {
        Target::Memory(_) => open_memory(target),
        Target::Host(..) => Ok(Opened::Process(Box::new(watch(target)?))),
    }
}

/// The VM or container that is meant.
pub(super) fn found(target: &Target) -> Result<Foreign, Failure> {
    let Target::Host(kind, word) = target else {
        return Err(target.failed("it is no VM".to_owned(), None, true));
    };
    foreign::find(*kind, word).map_err(|error| {
        target.failed(
            error.to_string(),
            Some("`mother ps --all` lists what there is, with the numbers of processes"),
            true,
        )
    })
}

/// The process of the VM that is meant, opened with the rights of who asks.
pub(super) fn process(target: &Target) -> Result<HostProcess, Failure> {
    HostProcess::open(found(target)?).map_err(|error| refused(target, &error))
}

/// Somebody who watches the VM that is meant, in the jail.
pub(super) fn watch(target: &Target) -> Result<ForeignWatcher, Failure> {
    if target.is_container() {
        return Err(target.failed(
            "a container has no kernel of its own".to_owned(),
            Some("`mother truth container:NAME` says what it believes and what it has"),
            true,
        ));
    }
    let watcher = observed::process().and_then(ForeignWatcher::connect);
    watcher.map_err(|error| refused(target, &error))
}

/// What is said of a process that has ended or may not be read.
pub(super) fn refused(target: &Target, error: &io::Error) -> Failure {
    let help = (error.kind() == io::ErrorKind::PermissionDenied).then_some(RIGHTS);
    target.failed(format!("its process cannot be read: {error}"), help, false)
}

/// Opens a file of memory, or those of a snapshot by its folder, and reads none of them.
pub(super) fn files(path: &Path) -> Result<Vec<File>, Failure> {
    let opened = match path.is_dir() {
        true => MemoryParts::open(path)
            .map(|parts| vec![parts.manifest, parts.memory])
            .map_err(ImageError::Snapshot),
        // What is no plain file is not waited for, and said to be none later.
        false => OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .map(|file| vec![file])
            .map_err(ImageError::Host),
    };
    let target = Target::Memory(path.to_owned());
    opened.map_err(|error| no_image(&target, &error, !path.exists()))
}

fn no_image(target: &Target, error: &ImageError, is_missing: bool) -> Failure {
    let help = match error {
        ImageError::Unsupported { help, .. } => Some(*help),
        ImageError::Host(_) if is_missing => {
            Some("name a file with a guest's memory, or the folder of a snapshot")
        }
        _ => None,
    };
    let is_bad_input = !matches!(error, ImageError::Host(_)) || is_missing;
    let cause = error.source().map(|cause| format!(": {cause}"));
    let why = format!("{error}{}", cause.unwrap_or_default());
    target.failed(why, help, is_bad_input)
}

/// Reads what is open already.
fn read_image() -> Result<MemoryImage, ImageError> {
    let mut files = observed::image()?;
    match (files.pop(), files.pop()) {
        (Some(memory), Some(manifest)) => image::of_snapshot(MemoryParts { manifest, memory }),
        (Some(file), None) => image::of_file(file),
        (None, _) => Err(ImageError::Host(io::ErrorKind::NotFound.into())),
    }
}

fn open_memory(target: &Target) -> Result<Opened, Failure> {
    let image = read_image().map_err(|error| no_image(target, &error, false))?;
    let extents = image.candidates.first().map(|first| first.memory.extents());
    let sizes = extents.iter().flatten().map(|extent| extent.len_bytes);
    Ok(Opened::Memory {
        format: image.format,
        memory_bytes: sizes.fold(0, u64::saturating_add),
        guest: recognise(&image.candidates, image.told.as_ref(), Limits::default()).map(Box::new),
    })
}
