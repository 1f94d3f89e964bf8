//! What a command says to the launcher of a VM that runs: that a new binary is to run it.

use serde::{Deserialize, Serialize};

/// The number of how a launcher and a VM's process speak with each other, which may be of different versions: changed with anything
/// in what they say ([`super::Birth`], [`super::ToVm`], [`super::FromVm`], [`machine::VmPlan`], [`machine::Label`]) that the other
/// would not understand.
pub(crate) const FORMAT: u32 = 1;

/// From a command to a launcher.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum ToLauncher {
    /// Have the VM go on in a process of the program whose descriptor comes with this.
    Upgrade(Upgrade),
}

/// A program that is to run a VM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Upgrade {
    /// How its processes speak with a launcher ([`FORMAT`]).
    pub(crate) format: u32,
    /// Which version of Mother it is.
    pub(crate) version: String,
}

/// From a launcher to that command.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum FromLauncher {
    /// The VM runs in a process of that program.
    Upgraded(Upgraded),
    /// It does not, and runs on as it did.
    Refused(Refused),
}

/// A VM that runs in a process of another program.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Upgraded {
    /// The version that ran it before.
    pub from: String,
    /// And the one that runs it now.
    pub to: String,
    /// The process.
    pub pid: u32,
    /// How long its guest stood still, in seconds.
    pub pause_seconds: f64,
}

/// Why a VM runs on where it ran.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// What stands in the way.
    pub why: String,
    /// What to do.
    pub help: Option<String>,
}
