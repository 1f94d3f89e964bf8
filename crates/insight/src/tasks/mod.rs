//! Processes and threads, as the kernel's list of tasks has them.
//!
//! [`read`] takes one task apart, [`memory`] reads what lies in a process's own address space, [`groups`] namespaces and
//! cgroups, by which containers are recognised.

mod groups;
mod kernel;
mod memory;
mod read;
mod runtime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x86::Gva;

use crate::blind::Blind;
use crate::look::Look;
use crate::observed::Observed;

pub(crate) use groups::container;
pub use groups::{Container, Namespaces};
pub(crate) use kernel::KernelThread;
pub use runtime::{Runtime, runtime_of};

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// On a CPU, or waiting for one.
    Running,
    /// Waiting, and a signal wakes it.
    Sleeping,
    /// Waiting, and no signal wakes it.
    Blocked,
    /// Waiting for work of the kernel's own.
    Idle,
    /// Stopped by a signal or a tracer.
    Stopped,
    /// Ended, and its parent has not asked how.
    Zombie,
    /// About to be gone.
    Dead,
}

impl State {
    /// The letter that ps(1) shows.
    pub fn letter(self) -> char {
        match self {
            State::Running => 'R',
            State::Sleeping => 'S',
            State::Blocked => 'D',
            State::Idle => 'I',
            State::Stopped => 'T',
            State::Zombie => 'Z',
            State::Dead => 'X',
        }
    }
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Thread {
    /// Its own number.
    pub tid: i32,
    /// Its name.
    pub comm: String,
    /// What it is doing.
    pub state: State,
    /// Time it ran on CPUs.
    pub cpu_time_ns: u64,
    /// Where its `task_struct` is.
    pub address: u64,
}

/// A process: a group of threads.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize, Deserialize)]
pub struct Process {
    /// What the guest calls its PID (the kernel: TGID).
    pub pid: i32,
    /// Its parent's PID.
    pub parent_pid: i32,
    /// Real user.
    pub uid: u32,
    /// Effective user.
    pub effective_uid: u32,
    /// Name of its first thread, 15 bytes.
    pub comm: String,
    /// The whole name of a thread of the kernel, where that is longer.
    pub full_name: Option<String>,
    /// Whether it is the kernel's own and has no program.
    pub is_kernel: bool,
    /// What its first thread is doing.
    pub state: State,
    /// Time all its threads ran on CPUs, those that ended too.
    pub cpu_time_ns: u64,
    /// When it was started, in nanoseconds of the guest's uptime.
    pub started_ns: u64,
    /// Bytes of memory that are mapped and there.
    pub resident_bytes: u64,
    /// Bytes of address space.
    pub virtual_bytes: u64,
    /// What it was started with, read through its own page tables. The process may overwrite it.
    pub command_line: Observed<Vec<String>>,
    /// Path of its program; ` (deleted)` behind it if there is no such file any more.
    pub executable: Observed<String>,
    /// The namespaces it is in.
    pub namespaces: Observed<Namespaces>,
    /// Its place in the unified cgroup hierarchy.
    pub cgroup: Observed<String>,
    /// The container it is in, if it is in one.
    pub container: Option<Container>,
    /// Its threads, the first one too.
    pub threads: Vec<Thread>,
    /// Where the first thread's `task_struct` is.
    pub address: u64,
}

impl Look<'_> {
    /// Every process in the kernel's list of tasks, in the order of the list, the idle task not among them.
    pub fn processes(&self) -> Observed<Vec<Process>> {
        self.observed(self.read_processes())
    }

    /// Addresses of the first threads of all processes, as the list of tasks has them.
    pub(crate) fn listed_tasks(&self) -> Result<Vec<Gva>, Blind> {
        let offset = self.offset("task_struct", "tasks")?;
        let head = Gva(self.symbol("init_task")?.0.wrapping_add(offset));
        self.steady_list(head, offset)
    }

    fn read_processes(&self) -> Result<Vec<Process>, Blind> {
        let host = self.host_namespaces();
        let mut processes = Vec::new();
        for task in self.listed_tasks()? {
            match self.process(task, host.as_ref().ok()) {
                Ok(process) => processes.push(process),
                Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                // Gone or changing while it was read.
                Err(Blind::Unmapped(_) | Blind::Unreadable(_) | Blind::Nonsense(_)) => {
                    self.space().torn()
                }
                Err(blind) => return Err(blind),
            }
        }
        Ok(processes)
    }
}
