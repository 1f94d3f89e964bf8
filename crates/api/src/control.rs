//! What is said over a VM's control socket: lines of JSON, one request, one reply.
//!
//! ```text
//! > {"version":1,"command":"stop","grace_ms":10000}
//! < {"version":1,"reply":"done"}
//! ```
//!
//! With the reply to `view` come descriptors (`SCM_RIGHTS` on the bytes of that line). After the reply to `console` the connection is no longer lines but the console itself, both ways, until one side
//! closes it. Fields that a reader does not know are ignored, so that fields may be added; a change that old readers
//! would misunderstand gets a new version.

use serde::{Deserialize, Serialize};

use crate::observe::{HostBooks, MemoryView, VcpuView};
use crate::status::{VmEnd, VmStatus};

/// The version that this code speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// Longest line, its end included, in either direction.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Pages whose contents fit into one line.
pub const STORED_PAGES_MAX: usize = 7;

/// Pages that one request may ask about.
pub const WRITTEN_PAGES_MAX: u64 = 8192;

/// What a client asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
}

/// What can be asked of a VM that runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// What is known now: [`Outcome::Status`].
    Status,
    /// Press the power button, resuming a paused VM first, and end the VM if it still runs after the grace time.
    /// [`Outcome::Done`] means that the button is pressed.
    Stop {
        /// How long the guest may take.
        grace_ms: u64,
    },
    /// End the VM at once.
    Kill,
    /// Stop guest code, devices and the guest's time. [`Outcome::Done`] when nothing of the guest runs any more.
    Pause,
    /// Undo a pause.
    Resume,
    /// Move the guest to another engine, `kvm` or `soft`. [`Outcome::Done`] when it is there, and runs again unless it
    /// was paused.
    Switch {
        /// Which one.
        engine: String,
    },
    /// Ask the guest to have so much of its memory in its balloon. [`Outcome::Done`] means that its driver has been told.
    Balloon {
        /// What the balloon shall hold; 0 gives all back.
        target_bytes: u64,
    },
    /// Attach to the console.
    Console {
        /// How much of the recent output to send first, at most.
        replay_bytes: u64,
        /// Whether what is sent from now on is typed into the guest; otherwise it is thrown away.
        types: bool,
    },
    /// The terminal of whoever looks at the console has this size now.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
    /// Reply with [`Outcome::Ended`] when the VM has ended.
    Wait,
    /// Show guest memory: [`Outcome::View`], and descriptors with the same message.
    View,
    /// Show registers, of vCPUs that run, sleep or are paused, without a pause: [`Outcome::Registers`].
    Registers,
    /// Show the host's own books: [`Outcome::Books`].
    Books,
    /// Change how much of the guest's memory the host may hold: [`Outcome::Done`] when the limit is kept. What is not
    /// given stays.
    Limit {
        /// A size, a share such as `10%`, or `none`.
        #[serde(default)]
        resident: Option<String>,
        /// Memory that compressed pages may take.
        #[serde(default)]
        page_memory: Option<String>,
    },
    /// Show the contents of pages that the residency map says are with the pager; also of others. Nothing is brought
    /// in: [`Outcome::StoredPages`]. At most [`STORED_PAGES_MAX`].
    StoredPages {
        /// Which life of the guest is meant; another one's pages are not given.
        life: u64,
        /// Indexes in the memory file.
        file_pages: Vec<u64>,
    },
    /// Which pages were written since they were asked for last, which is not known of them the first time:
    /// [`Outcome::WrittenPages`].
    WrittenPages {
        /// Stretches of the memory file: first page and count. At most [`WRITTEN_PAGES_MAX`] pages in all.
        stretches: Vec<(u64, u64)>,
    },
}

/// What a VM answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of a request.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Outcome {
    /// It is done.
    Done,
    /// What is known now.
    Status {
        /// Everything.
        status: Box<VmStatus>,
    },
    /// The VM has ended.
    Ended {
        /// How.
        end: VmEnd,
    },
    /// Where guest memory lies in the file whose descriptor comes with this.
    View {
        /// How to read it.
        view: MemoryView,
    },
    /// What is in the registers.
    Registers {
        /// Which life of the guest.
        life: u64,
        /// Every vCPU that answered now or before.
        vcpus: Vec<VcpuView>,
    },
    /// What the host knows of its own.
    Books {
        /// Everything.
        books: Box<HostBooks>,
    },
    /// What is in the pages that were asked for, in order.
    StoredPages {
        /// 4096 bytes each, in hexadecimal digits; none for a page that there is not.
        pages: Vec<Option<String>>,
    },
    /// Which of the pages that were asked for were written.
    WrittenPages {
        /// Stretches: first page and count.
        stretches: Vec<(u64, u64)>,
    },
    /// It is not done.
    Refused {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        message: String,
    },
}

/// Why a request was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// The request is no line of JSON that means anything, or is too long.
    BadRequest,
    /// The other side speaks another version.
    Version,
    /// Too many clients are connected.
    Busy,
    /// The VM is in a state in which that cannot be done.
    WrongState,
    /// It was tried and took too long.
    TimedOut,
}

impl Request {
    /// A request in our version.
    pub fn new(command: Command) -> Request {
        Request {
            version: PROTOCOL_VERSION,
            command,
        }
    }
}

impl Reply {
    /// A reply in our version.
    pub fn new(outcome: Outcome) -> Reply {
        Reply {
            version: PROTOCOL_VERSION,
            outcome,
        }
    }
}
