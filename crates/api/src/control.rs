//! What is said over a VM's control socket: lines of JSON, one request, one reply.
//!
//! ```text
//! > {"version":1,"command":"stop","grace_ms":10000}
//! < {"version":1,"reply":"done"}
//! ```
//!
//! After the reply to `probe` come lines of hits until one side closes it. With the reply to `view` come descriptors (`SCM_RIGHTS` on the bytes of that line). After the reply to `console` the connection is no longer lines but the console itself, both ways, until one side
//! closes it; after that to `connect` it is a stream to a program in the guest. Fields that a reader does not know are ignored, so that fields may be added; a change that old readers
//! would misunderstand gets a new version.

use probe::{Hit, Point};
use serde::{Deserialize, Serialize};

use crate::metrics::Metric;
use crate::observe::{HostBooks, MemoryView, VcpuView};
use crate::spec::Rates;
use crate::status::{VmEnd, VmStatus};

/// The version that this code speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// Longest request, its end included.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Longest reply, its end included: what a guest can make its VM say, with as many devices as a VM can have, is shorter.
pub const REPLY_BYTES_MAX: usize = 256 * 1024;

/// Pages whose contents come with one reply.
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
    /// Stop the guest as a pause does for as long as this connection lasts, on which nothing else is asked any more than
    /// [`Command::Release`]; a VM that was paused stays so. [`Outcome::Done`] when nothing of the guest runs any more.
    Rest,
    /// Let the guest go on after [`Command::Rest`], as it was before. [`Outcome::Done`] if it has rested all the time, a
    /// refusal if somebody else had it go on meanwhile.
    Release,
    /// Undo a pause.
    Resume,
    /// Interrupt the guest as an operator's NMI button does: once, on its first vCPU. [`Outcome::Done`] means that it is on its
    /// way; a paused guest takes it when it goes on.
    Nmi,
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
    /// Plug the cable of the network card in, or pull it.
    Link {
        /// Whether it is in from now on.
        up: bool,
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
        /// Lines of the window.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
    /// Connect to a port of the guest's socket device. After [`Outcome::Done`] the connection is no longer lines: it is
    /// closed if nobody in the guest listens there, else `OK`, a number and a newline come, and then what is said there.
    Connect {
        /// Which port.
        port: u32,
    },
    /// Reply with [`Outcome::Ended`] when the VM has ended.
    Wait,
    /// Show guest memory: [`Outcome::View`], and descriptors with the same message.
    View,
    /// Show registers, of vCPUs that run, sleep or are paused, without a pause: [`Outcome::Registers`].
    Registers,
    /// Have this connection only look from now on: whatever is done to the guest, and its console and ports, is refused. For
    /// who hands the connection to somebody that is not trusted with more. [`Outcome::Done`].
    OnlyLook,
    /// Show all that the guest is apart from its memory: [`Outcome::State`], and descriptors with the same message. The
    /// guest should [rest](Command::Rest) for another connection of the same client.
    State,
    /// Show the host's own books: [`Outcome::Books`].
    Books,
    /// Change how much of the guest's memory the host may hold, and what it may use per second: [`Outcome::Done`] when the
    /// limits are kept. What is not given stays.
    Limit {
        /// A size, a share such as `10%`, or `none`.
        #[serde(default)]
        resident: Option<String>,
        /// Memory that compressed pages may take.
        #[serde(default)]
        page_memory: Option<String>,
        /// What the software CPU may hold: a size or `none`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        engine_memory: Option<String>,
        /// What the VM may cost the host in all: a size or `none`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host_limit: Option<String>,
        /// What it may use per second.
        #[serde(default, skip_serializing_if = "Rates::is_silent")]
        rates: Rates,
    },
    /// Every number of the VM: [`Outcome::Metrics`].
    Metrics,
    /// Show the contents of pages that the residency map says are with the pager; also of others. Nothing is brought
    /// in: [`Outcome::StoredPages`]. At most [`STORED_PAGES_MAX`].
    StoredPages {
        /// Which life of the guest is meant; another one's pages are not given.
        life: u64,
        /// Indexes in the memory file.
        file_pages: Vec<u64>,
    },
    /// Tell when the guest's kernel passes these points: [`Outcome::Probing`], then lines of [`Outcome::Hits`] until the
    /// client goes or that life of the guest is over. Nothing else is answered on this connection any more.
    Probe {
        /// Which life of the guest is meant.
        life: u64,
        /// Where, and what to take down there.
        points: Vec<Point>,
    },
    /// Which pages were written since they were asked for last, which is not known of them the first time:
    /// [`Outcome::WrittenPages`].
    WrittenPages {
        /// Stretches of the memory file: first page and count. At most [`WRITTEN_PAGES_MAX`] pages in all.
        stretches: Vec<(u64, u64)>,
    },
}

impl Command {
    /// Whether it changes nothing of the guest and reaches nothing in it. A rest ends with its connection, and leaves the guest
    /// as it was.
    pub fn only_looks(&self) -> bool {
        match self {
            Command::Status
            | Command::OnlyLook
            | Command::Rest
            | Command::Release
            | Command::View
            | Command::Registers
            | Command::Books
            | Command::Metrics
            | Command::StoredPages { .. }
            | Command::Probe { .. }
            | Command::WrittenPages { .. } => true,
            Command::Stop { .. }
            | Command::Kill
            | Command::Pause
            | Command::Resume
            | Command::Nmi
            | Command::Switch { .. }
            | Command::Balloon { .. }
            | Command::Link { .. }
            | Command::Console { .. }
            | Command::Resize { .. }
            | Command::Connect { .. }
            | Command::Wait
            | Command::State
            | Command::Limit { .. } => false,
        }
    }
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
        /// The whole of it.
        status: Box<VmStatus>,
    },
    /// The VM has ended.
    Ended {
        /// How it ended.
        end: VmEnd,
    },
    /// Where guest memory lies in the file whose descriptor comes with this.
    View {
        /// How to read it.
        view: MemoryView,
    },
    /// What the guest is: the descriptors with this are a file of JSON, the kernel, and what is loaded with it. The JSON has
    /// `plan`, from which the VM was built, `disks`, device and inode of each, and `state`, which only a machine reads.
    State {
        /// Which life of the guest.
        life: u64,
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
        /// All of them.
        books: Box<HostBooks>,
    },
    /// Every number that is counted or measured.
    Metrics {
        /// The list.
        metrics: Vec<Metric>,
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
    /// From now on every pass is told.
    Probing,
    /// Passes, in the order in which they came; also none, now and then.
    Hits {
        /// What was passed.
        hits: Vec<Hit>,
        /// How many more there were just before, for which there was no room.
        lost: u64,
        /// That life of the guest is over, or moved to an engine that does not tell: this is the last line.
        is_over: bool,
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
    /// It cannot be had where the guest runs.
    NotHere,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A request in its words on the wire, both ways.
    fn check(command: Command, words: &str) {
        let line = format!("{{\"version\":1,{words}}}");
        let request = Request::new(command);
        assert_eq!(serde_json::to_string(&request).unwrap(), line);
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
    }

    /// A reply in its words on the wire, both ways.
    fn check_reply(outcome: Outcome, words: &str) {
        let line = format!("{{\"version\":1,{words}}}");
        let reply = Reply::new(outcome);
        assert_eq!(serde_json::to_string(&reply).unwrap(), line);
        assert_eq!(serde_json::from_str::<Reply>(&line).unwrap(), reply);
    }

    #[test]
    fn requests_keep_their_words() {
        check(Command::Status, r#""command":"status""#);
        check(
            Command::Stop { grace_ms: 10_000 },
            r#""command":"stop","grace_ms":10000"#,
        );
        check(Command::Kill, r#""command":"kill""#);
        check(Command::Pause, r#""command":"pause""#);
        check(Command::Rest, r#""command":"rest""#);
        check(Command::Release, r#""command":"release""#);
        check(Command::Resume, r#""command":"resume""#);
        check(Command::Nmi, r#""command":"nmi""#);
        check(
            Command::Switch {
                engine: "kvm".to_owned(),
            },
            r#""command":"switch","engine":"kvm""#,
        );
        check(
            Command::Link { up: false },
            r#""command":"link","up":false"#,
        );
        check(
            Command::Balloon { target_bytes: 4096 },
            r#""command":"balloon","target_bytes":4096"#,
        );
        check(
            Command::Console {
                replay_bytes: 16,
                types: true,
            },
            r#""command":"console","replay_bytes":16,"types":true"#,
        );
        check(
            Command::Resize {
                rows: 24,
                columns: 80,
            },
            r#""command":"resize","rows":24,"columns":80"#,
        );
        check(Command::Wait, r#""command":"wait""#);
        check(Command::View, r#""command":"view""#);
        check(Command::OnlyLook, r#""command":"only-look""#);
        check(Command::Registers, r#""command":"registers""#);
        check(Command::Books, r#""command":"books""#);
        check(
            Command::Limit {
                resident: Some("10%".to_owned()),
                page_memory: None,
                engine_memory: None,
                host_limit: None,
                rates: Rates::default(),
            },
            r#""command":"limit","resident":"10%","page_memory":null"#,
        );
        check(
            Command::StoredPages {
                life: 2,
                file_pages: vec![1, 7],
            },
            r#""command":"stored-pages","life":2,"file_pages":[1,7]"#,
        );
        check(
            Command::Probe {
                life: 1,
                points: vec![],
            },
            r#""command":"probe","life":1,"points":[]"#,
        );
        check(
            Command::WrittenPages {
                stretches: vec![(0, 8192)],
            },
            r#""command":"written-pages","stretches":[[0,8192]]"#,
        );
    }

    #[test]
    fn replies_keep_their_words() {
        check_reply(Outcome::Done, r#""reply":"done""#);
        let end = VmEnd {
            kind: crate::EndKind::PoweredOff,
            message: "the guest powered off".to_owned(),
            detail: None,
            exit_status: 0,
            ended_at: Some(1.5),
            uptime_seconds: None,
            cpu_seconds: None,
        };
        check_reply(
            Outcome::Ended { end },
            "\"reply\":\"ended\",\"end\":{\"kind\":\"powered-off\",\"message\":\"the guest powered off\",\
             \"detail\":null,\"exit_status\":0,\"ended_at\":1.5,\"uptime_seconds\":null,\"cpu_seconds\":null}",
        );
        check_reply(
            Outcome::StoredPages {
                pages: vec![None, Some("00".to_owned())],
            },
            r#""reply":"stored-pages","pages":[null,"00"]"#,
        );
        check_reply(
            Outcome::WrittenPages {
                stretches: vec![(3, 1)],
            },
            r#""reply":"written-pages","stretches":[[3,1]]"#,
        );
        check_reply(Outcome::Probing, r#""reply":"probing""#);
        check_reply(
            Outcome::Hits {
                hits: vec![],
                lost: 3,
                is_over: true,
            },
            r#""reply":"hits","hits":[],"lost":3,"is_over":true"#,
        );
        let code = |code: RefusalCode| serde_json::to_value(code).unwrap();
        let codes = [
            (RefusalCode::BadRequest, "bad-request"),
            (RefusalCode::Version, "version"),
            (RefusalCode::Busy, "busy"),
            (RefusalCode::WrongState, "wrong-state"),
            (RefusalCode::TimedOut, "timed-out"),
            (RefusalCode::NotHere, "not-here"),
        ];
        for (refusal, word) in codes {
            assert_eq!(code(refusal), word);
            check_reply(
                Outcome::Refused {
                    code: refusal,
                    message: "no".to_owned(),
                },
                &format!(r#""reply":"refused","code":"{word}","message":"no""#),
            );
        }
    }

    #[test]
    fn fields_of_a_newer_version_are_passed_over_and_commands_are_not() {
        let read = |line: &str| {
            serde_json::from_str::<Request>(line)
                .map(|it| it.command)
                .ok()
        };
        let newer = r#"{"version":1,"command":"kill","more":true}"#;
        assert_eq!(read(newer), Some(Command::Kill));
        let limit = r#"{"version":1,"command":"limit"}"#;
        let nothing = Command::Limit {
            resident: None,
            page_memory: None,
            engine_memory: None,
            host_limit: None,
            rates: Rates::default(),
        };
        assert_eq!(read(limit), Some(nothing));
        assert_eq!(read(r#"{"version":1,"command":"teleport"}"#), None);
        assert_eq!(read(r#"{"version":1,"command":"stop"}"#), None);
        assert_eq!(read(r#"{"command":"kill"}"#), None);
    }
}
