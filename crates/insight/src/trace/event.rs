//! Events, and how they are read out of what was taken down.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Reach;
use super::address::SocketAddress;
use super::recipe::{LEVELS, Values, text};
use crate::tasks::{Container, Namespaces, container};

/// `SIGNAL_GROUP_EXIT` (include/linux/sched/signal.h).
const GROUP_EXIT: u64 = 4;
/// `PF_KTHREAD`, the same in every kernel.
const KERNEL_THREAD: u64 = 0x20_0000;

/// Kinds of events.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A program is started.
    Exec,
    /// A process is made.
    Fork,
    /// A process has ended.
    Exit,
    /// A process gets other users, groups or capabilities.
    Credentials,
    /// A module is loaded.
    Module,
    /// A socket is to be connected.
    Connect,
    /// A socket is to be bound.
    Bind,
    /// A connection came in.
    Accept,
    /// A file that is watched is opened.
    Open,
    /// A file system is to be mounted.
    Mount,
    /// A process attaches to another.
    Ptrace,
    /// A program of BPF is to be loaded.
    Bpf,
    /// The kernel says something.
    Log,
    /// The kernel gives up.
    Panic,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [EventKind; 14] = [
        EventKind::Exec,
        EventKind::Fork,
        EventKind::Exit,
        EventKind::Credentials,
        EventKind::Module,
        EventKind::Connect,
        EventKind::Bind,
        EventKind::Accept,
        EventKind::Open,
        EventKind::Mount,
        EventKind::Ptrace,
        EventKind::Bpf,
        EventKind::Log,
        EventKind::Panic,
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            EventKind::Exec => "exec",
            EventKind::Fork => "fork",
            EventKind::Exit => "exit",
            EventKind::Credentials => "credentials",
            EventKind::Module => "module",
            EventKind::Connect => "connect",
            EventKind::Bind => "bind",
            EventKind::Accept => "accept",
            EventKind::Open => "open",
            EventKind::Mount => "mount",
            EventKind::Ptrace => "ptrace",
            EventKind::Bpf => "bpf",
            EventKind::Log => "log",
            EventKind::Panic => "panic",
        }
    }

    /// The kind of this word.
    pub fn of(word: &str) -> Option<EventKind> {
        EventKind::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// Something that happened in a guest.
#[derive(Clone, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct Event {
    /// When, in nanoseconds since 1970-01-01 UTC, by the host's clock.
    pub at_ns: u64,
    /// On which vCPU; absent where that was not seen.
    pub vcpu: Option<u32>,
    /// Whether every event of its kind is told.
    #[serde(flatten)]
    pub reach: Reach,
    /// Who did it; absent where nobody did, or that was not seen.
    pub process: Option<Actor>,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// A process, as it was at the event.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct Actor {
    /// What the guest calls its PID.
    pub pid: i32,
    /// Which thread.
    pub tid: i32,
    /// The thread's name, 15 bytes.
    pub name: String,
    /// Whether it is the kernel's own.
    pub is_kernel: bool,
    /// When it was started, in nanoseconds of the guest's uptime: with the PID, what it is known by.
    pub started_ns: u64,
    /// Whose it is.
    pub identity: Option<Identity>,
    /// Its parent, the parent's parent, and so on.
    pub ancestors: Vec<Ancestor>,
    /// Its place in the unified cgroup hierarchy.
    pub cgroup: Option<String>,
    /// The container inside the guest that it is in.
    pub container: Option<Container>,
}

/// A process that others come from.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct Ancestor {
    /// Its PID.
    pub pid: i32,
    /// Its name, 15 bytes.
    pub name: String,
}

/// Users, groups and capabilities.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct Identity {
    /// Real user.
    pub uid: u32,
    /// Effective user.
    pub effective_uid: u32,
    /// Real group.
    pub gid: u32,
    /// Effective group.
    pub effective_gid: u32,
    /// Effective capabilities, a bit for each (capabilities(7)).
    pub capabilities: u64,
}

/// A file.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct Path {
    /// From the root of its mount namespace; ` (deleted)` behind it if it has no name any more.
    pub path: String,
    /// Whether it has none: deleted, or never in a folder (a memfd).
    pub is_nameless: bool,
}

/// What happened.
#[derive(Clone, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// A program is in place and about to begin. `process` is what it is now.
    Exec {
        /// The program.
        executable: Option<Path>,
        /// How it was asked for.
        given: Option<String>,
        /// What runs it, if it is a script.
        interpreter: Option<String>,
        /// Its arguments, the first one included; the first 2 KiB of them.
        arguments: Vec<String>,
    },
    /// A process has been made.
    Fork {
        /// Its PID.
        child_pid: i32,
        /// Whether it is the kernel's own.
        is_kernel: bool,
    },
    /// A process is at its end.
    Exit {
        /// What it returned; absent if a signal ended it.
        status: Option<i32>,
        /// Which signal ended it.
        signal: Option<i32>,
        /// Whether it left a core dump.
        has_core: bool,
    },
    /// A process gets other users, groups or capabilities. `process` is what it was before.
    Credentials {
        /// What they are from now on.
        new: Option<Identity>,
    },
    /// A module is in place, and its own code runs next.
    Module {
        /// Its name.
        module: String,
        /// Its parameters.
        parameters: Option<String>,
        /// How it taints the kernel, a bit for each (Documentation/admin-guide/tainted-kernels.rst).
        taints: u64,
    },
    /// A socket is to be connected.
    Connect {
        /// Whereto.
        address: SocketAddress,
        /// `SOCK_STREAM` is 1, `SOCK_DGRAM` 2.
        socket_type: u64,
    },
    /// A socket is to be bound.
    Bind {
        /// Where.
        address: SocketAddress,
        /// As above.
        socket_type: u64,
    },
    /// A connection came in and got a socket.
    Accept {
        /// From where.
        peer: SocketAddress,
        /// Whereto.
        own: SocketAddress,
    },
    /// A file is about to be opened.
    Open {
        /// Which.
        file: Path,
        /// For reading, writing, or both.
        access: String,
    },
    /// A file system is about to be mounted.
    Mount {
        /// What, if it is told.
        source: Option<String>,
        /// Where.
        at: Path,
        /// Its type.
        file_system: Option<String>,
    },
    /// A process attaches to another one, or reads or writes its memory.
    Ptrace {
        /// Which.
        target: Ancestor,
    },
    /// A program of BPF is about to be loaded.
    Bpf {
        /// Its name.
        program: String,
        /// `BPF_PROG_TYPE_…`, by its number.
        program_type: u64,
        /// How many instructions it has.
        instructions: u64,
    },
    /// The kernel said something.
    Log {
        /// The record's number.
        sequence: u64,
        /// When, in nanoseconds of the guest's uptime.
        time_ns: u64,
        /// 0 emergency to 7 debug.
        level: u8,
        /// What.
        text: String,
    },
    /// The kernel gives up.
    Panic {
        /// Why, with what would have been put into it left open (printf(3)).
        format: Option<String>,
    },
}

impl What {
    /// Its kind.
    pub fn kind(&self) -> EventKind {
        match self {
            What::Exec { .. } => EventKind::Exec,
            What::Fork { .. } => EventKind::Fork,
            What::Exit { .. } => EventKind::Exit,
            What::Credentials { .. } => EventKind::Credentials,
            What::Module { .. } => EventKind::Module,
            What::Connect { .. } => EventKind::Connect,
            What::Bind { .. } => EventKind::Bind,
            What::Accept { .. } => EventKind::Accept,
            What::Open { .. } => EventKind::Open,
            What::Mount { .. } => EventKind::Mount,
            What::Ptrace { .. } => EventKind::Ptrace,
            What::Bpf { .. } => EventKind::Bpf,
            What::Log { .. } => EventKind::Log,
            What::Panic { .. } => EventKind::Panic,
        }
    }
}

/// The address of a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mount {
    /// Its `struct vfsmount`, which files point to.
    Shown(u64),
    /// Its `struct mount`, in which that lies.
    Whole(u64),
}

/// A hit, and what else is needed to understand it.
pub(super) struct Facts<'a> {
    /// Where a mount's root is seen, and where it is in its file system.
    pub(super) mounted_at: &'a dyn Fn(Mount) -> Option<(String, String)>,
    pub(super) values: Values<'a>,
    /// Files whose opening is told.
    pub(super) files: &'a [String],
    /// Namespaces of the guest's first process.
    pub(super) host: Option<&'a Namespaces>,
}

impl Facts<'_> {
    /// Who was running.
    pub(super) fn actor(&self) -> Option<Actor> {
        let values = &self.values;
        let pids = values.names("parent pids").unwrap_or_default().iter();
        let names = values.names("parent names").unwrap_or_default().iter();
        let ancestor = |(pid, name): (&probe::Bytes, &probe::Bytes)| {
            let pid = pid.0.as_slice().try_into().ok()?;
            Some(Ancestor {
                pid: i32::from_le_bytes(pid),
                name: text(&name.0),
            })
        };
        let cgroup = values.names("cgroup").map(path);
        let namespaces = values
            .number("pid namespace")
            .zip(values.number("mount namespace"))
            .map(|(pid, mnt)| (pid as u32, mnt as u32));
        Some(Actor {
            pid: values.i32("pid")?,
            tid: values.i32("tid")?,
            name: values.text("comm")?,
            is_kernel: values.number("flags")? & KERNEL_THREAD != 0,
            started_ns: values.number("started").unwrap_or(0),
            identity: self.identity(["uid", "euid", "gid", "egid", "caps"]),
            ancestors: pids.zip(names).filter_map(ancestor).collect(),
            container: container(namespaces, cgroup.as_deref(), self.host),
            cgroup,
        })
    }

    fn identity(&self, [uid, euid, gid, egid, caps]: [&str; 5]) -> Option<Identity> {
        let number = |name: &str| self.values.number(name);
        Some(Identity {
            uid: number(uid)? as u32,
            effective_uid: number(euid)? as u32,
            gid: number(gid)? as u32,
            effective_gid: number(egid)? as u32,
            capabilities: number(caps)?,
        })
    }

    /// What happened; `None` if nothing that is to be told.
    pub(super) fn what(&self, kind: EventKind) -> Option<What> {
        let values = &self.values;
        Some(match kind {
            EventKind::Exec => self.exec(),
            EventKind::Fork => {
                let child_pid = values.i32("child pid")?;
                if values.i32("child tid")? != child_pid {
                    return None;
                }
                What::Fork {
                    child_pid,
                    is_kernel: values.number("child flags")? & KERNEL_THREAD != 0,
                }
            }
            EventKind::Exit => self.exit()?,
            EventKind::Credentials => {
                let names = ["new uid", "new euid", "new gid", "new egid", "new caps"];
                let new = self.identity(names);
                if new == self.identity(["uid", "euid", "gid", "egid", "caps"]) {
                    return None;
                }
                What::Credentials { new }
            }
            EventKind::Module => What::Module {
                module: values.text("module")?,
                parameters: values.text("parameters"),
                taints: values.number("taints")?,
            },
            EventKind::Connect => What::Connect {
                address: SocketAddress::parse(values.bytes("address")?)?,
                socket_type: values.number("type")?,
            },
            EventKind::Bind => What::Bind {
                address: SocketAddress::parse(values.bytes("address")?)?,
                socket_type: values.number("type")?,
            },
            EventKind::Accept => self.accept()?,
            EventKind::Open => {
                let file = self.file()?;
                if !self.files.contains(&file.path) {
                    return None;
                }
                What::Open {
                    file,
                    access: access(values.number("open flags")?).to_owned(),
                }
            }
            EventKind::Mount => What::Mount {
                source: values.text("source"),
                at: self.file()?,
                file_system: values.text("file system"),
            },
            EventKind::Ptrace => What::Ptrace {
                target: Ancestor {
                    pid: values.i32("target pid")?,
                    name: values.text("target comm")?,
                },
            },
            EventKind::Bpf => What::Bpf {
                program: values.text("program")?,
                program_type: values.number("program type")?,
                instructions: values.number("instructions")?,
            },
            EventKind::Log => return None,
            EventKind::Panic => What::Panic {
                format: values.text("format"),
            },
        })
    }

    fn exec(&self) -> What {
        let values = &self.values;
        let given = values.text("given");
        let interpreter = values.text("interpreter");
        let arguments = values.bytes("arguments").unwrap_or_default();
        let arguments = arguments.strip_suffix(&[0]).unwrap_or(arguments);
        What::Exec {
            executable: self.file(),
            interpreter: interpreter.filter(|interpreter| Some(interpreter) != given.as_ref()),
            given,
            arguments: match arguments {
                [] => Vec::new(),
                some => some.split(|&byte| byte == 0).map(text).collect(),
            },
        }
    }

    /// What a parent would be told (wait(2), `wait_task_zombie` in kernel/exit.c).
    fn exit(&self) -> Option<What> {
        let values = &self.values;
        let is_group = values.number("group flags")? & GROUP_EXIT != 0;
        let code = values.i32(if is_group { "group code" } else { "code" })?;
        let signal = code & 0x7f;
        Some(What::Exit {
            status: (signal == 0).then_some(code >> 8 & 0xff),
            signal: (signal != 0).then_some(signal),
            has_core: code & 0x80 != 0,
        })
    }

    fn accept(&self) -> Option<What> {
        let values = &self.values;
        let port = |name: &str| Some(values.number(name)? as u16);
        let peer_port = port("peer port")?.swap_bytes();
        let own_port = port("own port")?;
        let address = |v4: &str, v6: &str, port: u16| {
            if values.number("family")? == 2 {
                let ip = (values.number(v4)? as u32).to_le_bytes();
                return Some(SocketAddress::Inet {
                    ip: std::net::Ipv4Addr::from(ip).into(),
                    port,
                });
            }
            Some(SocketAddress::v6(values.bytes(v6)?.try_into().ok()?, port))
        };
        Some(What::Accept {
            peer: address("peer v4", "peer v6", peer_port)?,
            own: address("own v4", "own v6", own_port)?,
        })
    }

    /// The file that was taken down, with the names of that moment.
    fn file(&self) -> Option<Path> {
        let names = self.values.names("path")?;
        let own = self.values.text("own name").unwrap_or_default();
        if names.is_empty() && own != "/" && !own.is_empty() {
            // It was never in a folder (`simple_dname`, fs/d_path.c).
            return Some(Path {
                path: format!("/{own} (deleted)"),
                is_nameless: true,
            });
        }
        let mut path = self.seen(path(names))?;
        let is_nameless = self.values.number("hashed") == Some(0) && !names.is_empty();
        if is_nameless {
            path.push_str(" (deleted)");
        }
        Some(Path { path, is_nameless })
    }

    /// A path in its file system, as it was seen from the root of its mount namespace. What was not taken down is asked now.
    fn seen(&self, path_there: String) -> Option<String> {
        let mut below = path_there;
        let mut lower = "/".to_owned();
        let mut mount = Mount::Shown(self.values.number("mount")?);
        for level in &LEVELS {
            let names = |name: &str| self.values.names(name).map(path);
            let (Some(part), Some(point)) = (names(level.part), names(level.point)) else {
                break;
            };
            let Some(parent) = self.values.number(level.parent) else {
                break;
            };
            lower = joined(&within(&below, &part), &lower);
            // The uppermost one is its own parent, and lies on its own root.
            if parent == 0 || Mount::Whole(parent) == mount {
                return Some(lower);
            }
            below = point;
            mount = Mount::Whole(parent);
        }
        let (root, part) = (self.mounted_at)(mount).unwrap_or_default();
        let upper = joined(&root, &within(&below, &part));
        Some(joined(&upper, &lower))
    }
}

/// A path of a file system where only a part of it is mounted.
fn within(path: &str, part: &str) -> String {
    match path.strip_prefix(part) {
        Some("") => "/".to_owned(),
        Some(rest) if rest.starts_with('/') && part.len() > 1 => rest.to_owned(),
        _ => path.to_owned(),
    }
}

/// A path below another one.
fn joined(root: &str, below: &str) -> String {
    match (root, below) {
        ("/" | "", below) => below.to_owned(),
        (root, "/") => root.to_owned(),
        (root, below) => format!("{root}{below}"),
    }
}

/// Names, the innermost first, as a path.
fn path(names: &[probe::Bytes]) -> String {
    if names.is_empty() {
        return "/".to_owned();
    }
    let all = names.iter().rev().map(|name| format!("/{}", text(&name.0)));
    all.collect()
}

/// What a file is opened for (open(2)).
fn access(flags: u64) -> &'static str {
    match flags & 3 {
        0 => "read",
        1 => "write",
        _ => "read-write",
    }
}
