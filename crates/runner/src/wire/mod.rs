//! What the processes of a VM say to each other.
//!
//! ```text
//! client --Role::Launcher, then FromClient--> launcher --Role::Vm, then ToVm--> VM
//!        <----------------------ToClient----          <----------------FromVm--
//! ```
//!
//! The lists are closed: a message that is not in them is an error of ours, and ends the connection. [`FromVm`] is the one
//! that a guest which has broken out could write, so everything in it is a plain word or is bounded, and none of it
//! names a path.

mod channel;
mod egress;
mod given;
mod network;
mod observer;
mod reader;
mod sharing;
mod upgrade;

use std::path::PathBuf;

use api::{CpuWeight, Jail, JailWish, VmEnd, VmInfo, VmName, VmOrigin};
use machine::{EgressPlan, KvmNode, Label, StopCause, VmPlan};
use serde::{Deserialize, Serialize};

pub(crate) use self::channel::{Channel, DESCRIPTORS_MAX};
pub(crate) use self::egress::FromEgress;
pub(crate) use self::given::{Given, Labelled, Sorted};
pub(crate) use self::network::{FromNetwork, Join, NetworkPlan};
pub(crate) use self::observer::{FromObserver, Look, Size, ToObserver};
pub(crate) use self::reader::{FromReader, ToReader};
pub(crate) use self::sharing::FromSharing;
pub(crate) use self::upgrade::{FORMAT, FromLauncher, ToLauncher, Upgrade};
pub use self::upgrade::{Refused, Upgraded};
use crate::own_log::LogWish;
use crate::report::RunReport;
use crate::trouble::Trouble;

/// The first message to a process that was started for a VM: what it is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// The launcher.
    Launcher(Box<Launch>),
    /// The VM's process.
    Vm(Box<Birth>),
    /// One that locks itself in, to say what came of it.
    Trial {
        /// What it says of itself.
        log: LogWish,
        /// It was born into namespaces of its own.
        is_apart: bool,
    },
    /// One that keeps where a guest may send to. The guest's socket and passt's come with this, and where it says what it has to
    /// say, for a detached VM.
    Egress {
        /// What it says of itself.
        log: LogWish,
        /// It was born into namespaces of its own.
        is_apart: bool,
        /// Where the guest may send to.
        plan: EgressPlan,
    },
    /// One that serves a folder that a guest shares. The VM's socket and the folder come with this, and where it says what it has to
    /// say, for a detached VM.
    Sharing {
        /// What it says of itself.
        log: LogWish,
        /// What the folder is called in messages.
        name: String,
        /// Whether the guest may not write.
        is_read_only: bool,
        /// How much of a jail it has.
        jail: JailWish,
    },
    /// One that carries a network between VMs. A listener comes with this.
    Network {
        /// What it says of itself.
        log: LogWish,
        /// It was born into namespaces of its own.
        is_apart: bool,
        /// Which network.
        plan: NetworkPlan,
    },
    /// One that looks into guests. Its standard output and standard error come with this.
    Observer(Box<Look>),
    /// One that reads foreign files.
    Reader {
        /// What it says of itself.
        log: LogWish,
        /// It was born into namespaces of its own.
        is_apart: bool,
    },
}

/// How the guest's console is to be understood.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Guest {
    /// It is a console; what comes on the input is typed as it comes, for as long as it comes.
    Console,
    /// It is a console, and the input is commands for it: its end is typed as the end of input.
    Commands {
        /// Nothing is typed before the console has printed this.
        after: Option<String>,
    },
    /// The guest is one program, whose streams are ports.
    Program(Program),
}

/// How a guest that is one program speaks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Program {
    /// What it says first on its control port.
    pub greeting: Vec<u8>,
    /// The ports: control, input, output, errors.
    pub ports: [String; 4],
    /// What becomes of the guest when the program has ended.
    pub after: AfterExit,
    /// Whether what its kernel says is shown beside the program's errors.
    pub shows_kernel: bool,
}

/// What becomes of a guest whose program has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AfterExit {
    /// Nothing of it is kept: it is ended at once.
    End,
    /// It has disks that outlive it: it writes what it has to write, and powers off.
    PowerOff,
}

/// What a client wants started.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// The name that was asked for.
    pub(crate) name: Option<VmName>,
    /// Whether what the VM leaves is kept however it ends.
    pub(crate) is_kept: bool,
    /// Whether it lives on without the client once its guest runs.
    pub(crate) is_detached: bool,
    /// What will be built.
    pub(crate) plan: VmPlan,
    /// What is at the other end of its console.
    pub(crate) guest: Guest,
    /// Rows and columns of the client's terminal.
    pub(crate) window: Option<(u16, u16)>,
    /// The client's terminal is in raw mode: lines that others print there end in CR LF.
    pub(crate) is_raw: bool,
    /// Where what is known at the end goes.
    #[serde(with = "api::host_path")]
    pub(crate) report: Option<PathBuf>,
    /// Where what is known of kernel files is kept, for the names in a profile.
    #[serde(with = "api::host_path")]
    pub(crate) symbols: Option<PathBuf>,
    /// How the VM came to be, to be kept beside it.
    pub(crate) origin: Option<VmOrigin>,
    /// Folders that go with the VM.
    pub(crate) remove: Vec<HostPath>,
    /// What the descriptors with this message are.
    pub(crate) given: Vec<Given>,
}

/// A path of the host, whatever its bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HostPath(#[serde(with = "api::host_path")] pub(crate) PathBuf);

/// What the launcher has the VM's process be.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Birth {
    /// What will be built.
    pub(crate) plan: VmPlan,
    /// What is at the other end of its console.
    pub(crate) guest: Guest,
    /// Rows and columns of the client's terminal.
    pub(crate) window: Option<(u16, u16)>,
    /// The terminal that standard error may be is in raw mode.
    pub(crate) is_raw: bool,
    /// What it says of itself, and how: it has no environment to look that up.
    pub(crate) log: LogWish,
    /// It was born into namespaces of its own.
    pub(crate) is_apart: bool,
    /// It goes on with a guest that another process runs still, which says what that is in this format
    /// ([`machine::HANDED_FORMAT`]).
    #[serde(default)]
    pub(crate) goes_on: Option<u32>,
    /// What the descriptors with this message are.
    pub(crate) given: Vec<Given>,
}

/// From the client to the launcher.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum FromClient {
    /// End it at once.
    Stop(StopCause),
    /// Press the power button, and end it after the grace time.
    PowerOff {
        /// How long the guest may take, in milliseconds.
        grace_ms: u64,
    },
    /// The terminal has this size now.
    Resize {
        /// Lines of the window.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
    /// The client is being suspended, and the guest with it.
    Suspend,
    /// The client goes on.
    GoOn,
}

/// From the launcher to the client.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum ToClient {
    /// The VM is built and can be reached under this name.
    Serving {
        /// The name.
        name: VmName,
    },
    /// Its guest runs.
    Started,
    /// It has ended, and its process is gone.
    Ended(Box<Ended>),
    /// It never was.
    Failed(Trouble),
}

/// From the launcher to the VM's process.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum ToVm {
    /// Serve the control socket, whose listener comes with this, and run.
    Serve {
        /// What to say of itself.
        info: VmInfo,
    },
    /// End at once.
    Stop(StopCause),
    /// Press the power button, and end after the grace time.
    PowerOff {
        /// How long the guest may take, in milliseconds.
        grace_ms: u64,
    },
    /// The terminal has this size now.
    Resize {
        /// Lines of the window.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
    /// What the guest stands on: the descriptors with this are these. `node` comes with the last of them.
    Given {
        /// What each descriptor is.
        labels: Vec<Label>,
        /// What else is known of `/dev/kvm`.
        node: Option<KvmNode>,
    },
    /// The answer to [`FromVm::Ask`]: the descriptor with this, if there is one to that wish, or the host's number
    /// for why there is none.
    Answer {
        /// The number of what was asked.
        number: u64,
        /// Why not.
        refusal: Option<i32>,
    },
    /// So many packets of the guest's were refused, because their destination is not on its list.
    Refused {
        /// Packets since the last time.
        count: u64,
    },
    /// So many system calls of its own were refused.
    CallsRefused {
        /// Calls since the last time.
        count: u64,
    },
    /// Another user-mode network, whose socket comes with this: the last one is gone.
    Network,
    /// The VM's folder was gone and was made anew. With this come the lock of its name, the control socket's listener and, for a
    /// detached VM, where it says what it has to say.
    Renewed,
    /// Bring the guest to rest and give it away: another process is ready for it. Answered with [`FromVm::Gives`] or
    /// [`FromVm::Keeps`].
    GiveAway,
    /// Let no more clients in: the guest is another process's in a moment. Answered with [`FromVm::LetsNobodyIn`].
    LetNobodyIn,
    /// The guest stays: it is to go on, if it rests to be given away, and clients come in.
    Stays,
    /// Go on with the guest that another process has given away: the descriptors with this are the log and a [`machine::Handed`].
    GoOn {
        /// Bytes that the log has already.
        log_bytes: u64,
    },
    /// The end is written down and the name given back.
    Recorded,
}

/// From the VM's process to the launcher: all that it can ask for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum FromVm {
    /// Everything is opened and built. Answered with [`ToVm::Serve`].
    Built {
        /// What stands around its process.
        jail: Jail,
    },
    /// Everything is opened and it has locked itself in, to go on with a guest that another process runs still. Answered with
    /// [`ToVm::GoOn`].
    Ready {
        /// In which format it says what a VM is ([`machine::HANDED_FORMAT`]).
        format: u32,
    },
    /// The guest rests, and the descriptors with this are a [`machine::Handed`].
    Gives {
        /// Since when it rests, in microseconds.
        rested_us: u64,
    },
    /// Who comes to the control socket waits there.
    LetsNobodyIn,
    /// The guest is not given away, and goes on here.
    Keeps {
        /// Why.
        why: String,
    },
    /// It has locked itself in; whoever has the descriptor with this hears of each call that it is refused.
    Refusals,
    /// The guest runs.
    Started,
    /// The client whose socket comes with this has asked for something.
    Asked {
        /// In the words of the command line.
        what: String,
    },
    /// It wants a descriptor. Answered with [`ToVm::Answer`].
    Ask {
        /// What the answer shall have on it.
        number: u64,
        /// What for.
        wish: Wish,
    },
    /// It has ended. Answered with [`ToVm::Recorded`].
    Ended(Box<Ended>),
}

/// What a VM's process gets while its guest runs: what takes a path, a new socket or a look at other processes, which it can
/// have itself no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Wish {
    /// The next file of the log: the last one is full.
    NextLog,
    /// No descriptor, but CPU time by this weight for the VM's processes.
    CpuWeight(CpuWeight),
    /// A stream to whatever listens for the guest at this port of the host.
    VsockPort(u32),
}

/// How a VM ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// What is kept of it.
    pub end: VmEnd,
    /// What is said where it was started.
    pub outcome: Outcome,
}

/// What is said of an end where the VM was started.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// It ran to an end.
    Ran(Box<Ran>),
    /// Mother failed.
    Failed(Trouble),
}

/// A VM that ran to an end.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Ran {
    /// The sentence for a person, whole lines; nothing of a program that ended by itself.
    pub words: String,
    /// The exit status that means the same.
    pub status: u8,
    /// Why it was stopped from outside, if it was.
    pub stopped: Option<StopCause>,
    /// What was measured.
    pub report: RunReport,
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
