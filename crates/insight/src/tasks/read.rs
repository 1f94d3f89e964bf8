//! One task taken apart.

use x86::Gva;

use super::{Namespaces, Process, State, Thread, container};
use crate::blind::Blind;
use crate::look::{Look, Object};
use crate::observed::Observed;

/// Most threads of one process that are read.
const MAX_THREADS: usize = 1 << 16;
/// `PF_KTHREAD`, the same in every kernel.
pub(super) const KERNEL_THREAD: u64 = 0x20_0000;
/// Page size as the kernel counts memory.
const PAGE: u64 = 4096;

impl Look<'_> {
    /// The process whose first thread is `task`.
    pub(crate) fn process(&self, task: Gva, host: Option<&Namespaces>) -> Result<Process, Blind> {
        let leader = self.object("task_struct", task)?;
        let pid = leader.i32("tgid")?;
        if !(0..=1 << 22).contains(&pid) {
            return Err(Blind::nonsense(format!(
                "task at {task} has the impossible number {pid}"
            )));
        }
        let signal = self.object("signal_struct", leader.pointer("signal")?)?;
        let threads = self.threads(&leader, signal.gva())?;
        let ended_ns = signal.number("sum_sched_runtime").unwrap_or(0);
        let cred = self.object("cred", leader.pointer("cred")?)?;
        let parent = leader.pointer("real_parent")?;
        let is_kernel = leader.number("flags")? & KERNEL_THREAD != 0;
        let mm = leader.pointer("mm")?;
        let tasks: Vec<Gva> = threads.iter().map(|thread| Gva(thread.address)).collect();
        let (resident_bytes, virtual_bytes) = if mm.0 == 0 || is_kernel {
            (0, 0)
        } else {
            self.footprint(mm, &tasks)?
        };
        let namespaces = self.namespaces(&leader);
        let cgroup = self.cgroup(&leader);
        let numbers = namespaces.as_ref().ok().map(|own| (own.pid, own.mnt));
        let container = container(numbers, cgroup.as_deref().ok(), host);
        let without = |what: &str| {
            let who = if is_kernel {
                "a thread of the kernel"
            } else {
                "a process that has ended"
            };
            format!("{who} has no {what}")
        };
        Ok(Process {
            pid,
            parent_pid: self.member("task_struct", parent, "tgid")? as i32,
            uid: cred.number("uid.val")? as u32,
            effective_uid: cred.number("euid.val")? as u32,
            comm: leader.text("comm")?,
            full_name: is_kernel.then(|| self.whole_name(&leader)).flatten(),
            is_kernel,
            state: state(&leader)?,
            cpu_time_ns: threads.iter().fold(ended_ns, |sum, thread| {
                sum.saturating_add(thread.cpu_time_ns)
            }),
            started_ns: leader.first(&["start_boottime", "real_start_time"])?,
            resident_bytes,
            virtual_bytes,
            command_line: if mm.0 == 0 {
                Observed::NotObservable {
                    why: without("command line"),
                }
            } else {
                self.observed(self.command_line(mm))
            },
            executable: if mm.0 == 0 {
                Observed::NotObservable {
                    why: without("program"),
                }
            } else {
                self.observed(self.executable(mm))
            },
            namespaces: self.observed(namespaces),
            cgroup: self.observed(cgroup),
            container,
            threads,
            address: task.0,
        })
    }

    fn threads(&self, leader: &Object<'_>, signal: Gva) -> Result<Vec<Thread>, Blind> {
        let head = Gva(signal
            .0
            .wrapping_add(self.offset("signal_struct", "thread_head")?));
        let tasks = self.steady_list(head, self.offset("task_struct", "thread_node")?);
        let mut threads = Vec::new();
        for task in tasks.unwrap_or_default().into_iter().take(MAX_THREADS) {
            let read = if task == leader.gva() {
                thread(leader)
            } else {
                self.object("task_struct", task)
                    .and_then(|object| thread(&object))
            };
            match read {
                Ok(thread) => threads.push(thread),
                Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                Err(_) => self.space().torn(),
            }
        }
        if threads.is_empty() {
            // A zombie's first thread may have left the list.
            threads.push(thread(leader)?);
        }
        Ok(threads)
    }

    /// Resident and virtual bytes of the address space of `tasks`.
    fn footprint(&self, mm: Gva, tasks: &[Gva]) -> Result<(u64, u64), Blind> {
        let object = self.object("mm_struct", mm)?;
        let mut pages = 0i64;
        for counter in ["MM_FILEPAGES", "MM_ANONPAGES", "MM_SHMEMPAGES"] {
            let index = self.layouts()?.enumerator("MM_FILEPAGES", counter)?;
            let mut count = self.mm_counter(&object, index)?;
            for task in tasks {
                count = count.saturating_add(self.own_counter(*task, index)?);
            }
            pages = pages.saturating_add(count.max(0));
        }
        Ok((
            (pages as u64).saturating_mul(PAGE),
            object.number("total_vm")?.saturating_mul(PAGE),
        ))
    }

    /// What a thread has not yet added to a counter of its address space: until 6.1 threads count for themselves and
    /// add up now and then.
    fn own_counter(&self, task: Gva, index: i64) -> Result<i64, Blind> {
        let Ok(counts) = self.place("task_struct", "rss_stat.count") else {
            return Ok(0);
        };
        let at = task
            .0
            .wrapping_add((counts.offset + counts.element * index.clamp(0, 16) as usize) as u64);
        Ok(i64::from(self.space().u32(Gva(at))? as i32))
    }

    /// One counter of an address space: a plain number until 6.1, one with parts on every CPU since.
    fn mm_counter(&self, mm: &Object<'_>, index: i64) -> Result<i64, Blind> {
        let index = index.clamp(0, 16) as usize;
        if !mm.has("rss_stat.counters") {
            let counts = mm.bytes("rss_stat.count")?;
            let bytes = counts
                .get(index * 8..index * 8 + 8)
                .and_then(|bytes| bytes.try_into().ok());
            return bytes
                .map(i64::from_le_bytes)
                .ok_or_else(|| Blind::NoType("mm_rss_stat.count".to_owned()));
        }
        let counter = Gva(mm
            .at("rss_stat")?
            .0
            .wrapping_add(index as u64 * self.layouts()?.size("percpu_counter")? as u64));
        self.percpu_counter(counter)
    }
}

fn thread(task: &Object<'_>) -> Result<Thread, Blind> {
    Ok(Thread {
        tid: task.i32("pid")?,
        comm: task.text("comm")?,
        state: state(task)?,
        cpu_time_ns: task.number("se.sum_exec_runtime")?,
        address: task.gva().0,
    })
}

/// The bits are the same since 4.14 (kernel, include/linux/sched.h).
fn state(task: &Object<'_>) -> Result<State, Blind> {
    let state = task.first(&["__state", "state"])?;
    let exit_state = task.number("exit_state")?;
    Ok(match (exit_state, state) {
        (exit, _) if exit & 0x20 != 0 => State::Zombie,
        (exit, _) if exit & 0x10 != 0 => State::Dead,
        (_, 0) => State::Running,
        (_, state) if state & 0x402 == 0x402 => State::Idle,
        (_, state) if state & 1 != 0 => State::Sleeping,
        (_, state) if state & 0xc != 0 => State::Stopped,
        (_, state) if state & 2 != 0 => State::Blocked,
        _ => State::Sleeping,
    })
}
