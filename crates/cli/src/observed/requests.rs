//! What an observer asks for, and what it is told.

use std::path::PathBuf;

use api::VmName;
use fleet::Known;
use fleet::foreign::{Foreign, ProcessBooks};
use insight::kept::Entry;
use policy::Decision;
use serde::{Deserialize, Serialize};
use watch::foreign::{Mapping, ProcessText, QmpCommand, ThreadText};

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

/// Exit statuses of an observer that answers a question.
pub(super) const YES: u8 = 0;
pub(super) const NO: u8 = 1;

/// What an observer is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Work {
    /// It carries out what was typed.
    Look,
    /// It makes the profile of one kernel file.
    Profile,
    /// It looks whether the guest of this VM takes note of being copied.
    Clones(VmName),
}

impl About {
    /// About something that prints nothing, and knows of nothing around it.
    pub(super) fn of_work(work: Work) -> About {
        About {
            work,
            folder: PathBuf::new(),
            profiles: None,
            is_shown: false,
            is_heard: None,
            policy: None,
            size: (0, 0),
            host_memory_bytes: 0,
        }
    }

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
    /// The file of memory that was typed, or the manifest and the memory of a snapshot: [`Answered::Done`] with them.
    Image,
    /// Something of the VM or the container of somebody else that was typed.
    Theirs(OfTheirs),
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
    /// What is told of the VM of somebody else.
    Theirs(Told),
    /// It is done.
    Done,
    /// It is not: the host's number for why.
    Refused(i32),
}

/// What is asked for of a VM or a container that somebody else runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum OfTheirs {
    /// What was found of a VM: [`Told::Found`].
    Found,
    /// A text of its process: a file.
    Text(ProcessText),
    /// Its memory and its page map: two files.
    Memory,
    /// The file behind RAM that is shared.
    Behind(Mapping),
    /// Its threads: [`Told::Threads`].
    Threads,
    /// What it costs: [`Told::Costs`].
    Costs,
    /// A connection to QMP, which stays on the side that has rights.
    Connect,
    /// The next line that comes there: [`Told::Line`].
    Line,
    /// To say a question there.
    Say(QmpCommand),
    /// All that is known of a container: a file.
    Container,
}

/// What is told of a VM that somebody else runs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) enum Told {
    /// What was found, and whether there is a socket of QMP.
    Found(Box<Foreign>, bool),
    /// Its threads.
    Threads(Vec<ThreadText>),
    /// What it costs.
    Costs(ProcessBooks),
    /// A line of QMP.
    Line(Vec<u8>),
}
