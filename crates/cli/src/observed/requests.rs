//! What an observer asks for, and what it is told.

use std::path::PathBuf;

use api::VmName;
use fleet::Known;
use insight::kept::Entry;
use policy::Decision;
use serde::{Deserialize, Serialize};

/// What an observer is told of its surroundings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct About {
    /// What it is for.
    pub work: Work,
    /// The folder with all VMs, for sentences about it.
    pub folder: PathBuf,
    /// Where profiles of kernels are kept; nowhere where there is no cache.
    pub profiles: Option<PathBuf>,
    /// Standard output ends at a terminal, though it is a pipe here.
    pub is_shown: bool,
    /// So does standard error, and it is so many characters wide.
    pub is_heard: Option<u16>,
    /// Columns and rows of the terminal, where the command has all of it.
    pub size: (u16, u16),
    /// The policy that is followed, as its file has it; no preset's.
    pub policy: Option<String>,
    /// All memory of the host; 0 if that is not known.
    pub host_memory_bytes: u64,
}

/// What an observer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Work {
    /// It carries out what was typed.
    Look,
    /// It makes the profile of one kernel file.
    Profile,
}

impl About {
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("plain values with names")
    }
}

/// Where something is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Place {
    /// With the profiles of kernels.
    Profiles,
    /// In the folder of a VM.
    Vm(VmName),
}

/// What an observer asks for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) enum Asked {
    /// What is known of a VM, or of all: [`Answered::Known`].
    Known(Option<VmName>),
    /// A connection to a VM: [`Answered::Done`] with it.
    Connect(VmName),
    /// Something that is kept: [`Answered::Done`] with it.
    Open(Place, Entry),
    /// To keep what is in the file with this.
    Put(Place, Entry),
    /// To keep something no longer.
    Remove(Place, Entry),
    /// To have the profile made of the kernel file with this, which has this SHA-256.
    Make([u8; 32]),
    /// The file that the command was told to write, which has no name yet: [`Answered::Done`] with it.
    Output,
    /// To give that file its name.
    KeepOutput,
    /// To write a line into the journal of decisions.
    Note(String),
    /// To do what the rule of a decision has at this place: [`Answered::Done`] with a pipe, in which it is said what came of it.
    Act(Box<Decision>, usize),
    /// The file of memory that was typed: [`Answered::Done`] with it.
    Image,
    /// What is typed, for a command that has the terminal: [`Answered::Done`] with a pipe.
    Keys,
    /// The kernel file of which a profile is to be made, for who does that: [`Answered::Done`] with it.
    Kernel,
}

/// What it is told.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) enum Answered {
    /// What is known of VMs.
    Known(Vec<Known>),
    /// It is done.
    Done,
    /// It is not: the host's number for why.
    Refused(i32),
}
