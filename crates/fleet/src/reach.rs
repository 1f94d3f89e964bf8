//! VMs through somebody else: for a process in a jail, which opens no folder and connects to nobody itself.
//!
//! What a VM says is heard over the connection as ever, by who asked for it: whoever hands connections out reads none of it.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::OnceLock;

use api::{VmEnd, VmInfo, VmName, VmOrigin};
use serde::{Deserialize, Serialize};

use crate::record::Record;

/// What the host has of a VM without asking it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Known {
    /// Its name.
    pub name: VmName,
    /// Whether its process lives.
    pub is_held: bool,
    /// What it is, if it got that far.
    pub info: Option<VmInfo>,
    /// How it ended, if it said so.
    pub end: Option<VmEnd>,
    /// How it came to be, if that is known.
    pub origin: Option<VmOrigin>,
}

/// Somebody who may open folders and connect.
pub trait Reach: Send + Sync {
    /// The folder with all VMs, for sentences about it.
    fn folder(&self) -> PathBuf;

    /// What is known of the VM of this name, or of all: nothing of one that there is not.
    ///
    /// # Errors
    /// What the host says, or that this VM is none of who asks.
    fn known(&self, name: Option<&VmName>) -> io::Result<Vec<Known>>;

    /// A connection to the VM of this name.
    ///
    /// # Errors
    /// As [`Reach::known`].
    fn connect(&self, name: &VmName) -> io::Result<UnixStream>;
}

static REACH: OnceLock<Box<dyn Reach>> = OnceLock::new();

/// Has everything that this process does with VMs go through `reach` from now on. The first call counts.
pub fn reach_by(reach: Box<dyn Reach>) {
    let _ = REACH.set(reach);
}

/// Through whom VMs are reached; `None` where this process does it itself.
pub(crate) fn reach() -> Option<&'static dyn Reach> {
    REACH.get().map(AsRef::as_ref)
}

/// The VM that a folder is of.
pub(crate) fn name_of(record: &Record) -> io::Result<VmName> {
    let name = record.folder().file_name().and_then(|name| name.to_str());
    let name = name.and_then(|name| VmName::new(name).ok());
    name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is the folder of no VM"))
}
