//! From what was typed to a guest with a kernel, or the reason why it has none.

use std::error::Error;
use std::io;
use std::path::Path;

use fleet::foreign::{self, Foreign, Kind};
use insight::{Limits, NotRecognised};
use watch::foreign::{ForeignGuest, ForeignWatcher, ImageError, ImageFormat, image, recognise};

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

/// Opens whom a command is about.
pub(super) fn open(target: &Target) -> Result<Opened, Failure> {
    match target {
        Target::Memory(path) => open_memory(target, path),
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

/// Somebody who watches the VM that is meant.
pub(super) fn watch(target: &Target) -> Result<ForeignWatcher, Failure> {
    let vm = found(target)?;
    if vm.kind == Kind::Container {
        return Err(target.failed(
            "a container has no kernel of its own".to_owned(),
            Some("`mother truth container:NAME` says what it believes and what it has"),
            true,
        ));
    }
    ForeignWatcher::connect(vm).map_err(|error| refused(target, &error))
}

/// What is said of a process that has ended or may not be read.
pub(super) fn refused(target: &Target, error: &io::Error) -> Failure {
    let help = (error.kind() == io::ErrorKind::PermissionDenied).then_some(RIGHTS);
    target.failed(format!("its process cannot be read: {error}"), help, false)
}

fn open_memory(target: &Target, path: &Path) -> Result<Opened, Failure> {
    // In the jail it is open already, and has no name.
    let (image, is_missing) = match observed::about() {
        Some(_) => (
            observed::image()
                .map_err(ImageError::Host)
                .and_then(image::of_file),
            false,
        ),
        None => (image::open(path), !path.exists()),
    };
    let image = image.map_err(|error| {
        let help = match &error {
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
    })?;
    let extents = image.candidates.first().map(|first| first.memory.extents());
    let sizes = extents.iter().flatten().map(|extent| extent.len_bytes);
    Ok(Opened::Memory {
        format: image.format,
        memory_bytes: sizes.fold(0, u64::saturating_add),
        guest: recognise(&image.candidates, image.told.as_ref(), Limits::default()).map(Box::new),
    })
}
