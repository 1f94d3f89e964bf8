//! Threads of the kernel: their whole names, and the function that each started in.

use x86::Gva;

use super::read::KERNEL_THREAD;
use crate::blind::Blind;
use crate::look::{Look, Object};

/// Longest name of a thread that has one beside its `comm`.
const MAX_NAME: usize = 64;

/// A thread of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelThread {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// The function that it started in.
    pub start: u64,
}

impl Look<'_> {
    /// Threads of the kernel that say where they started.
    pub(crate) fn kernel_threads(&self) -> Result<Vec<KernelThread>, Blind> {
        let mut threads = Vec::new();
        for task in self.listed_tasks()? {
            match self.kernel_thread(task) {
                Ok(thread) => threads.extend(thread),
                Err(Blind::Unmapped(_) | Blind::Unreadable(_)) => self.space().torn(),
                Err(blind) => return Err(blind),
            }
        }
        Ok(threads)
    }

    fn kernel_thread(&self, address: Gva) -> Result<Option<KernelThread>, Blind> {
        if self.member("task_struct", address, "flags")? & KERNEL_THREAD == 0 {
            return Ok(None);
        }
        let task = self.object("task_struct", address)?;
        let Some(own) = own(&task)? else {
            return Ok(None);
        };
        let start = self.member("kthread", own, "threadfn")?;
        Ok((start != 0).then_some(KernelThread {
            pid: task.i32("pid")?,
            comm: task.text("comm")?,
            start,
        }))
    }

    /// The name of a thread of the kernel that is longer than `comm` holds, if it has one (since 5.17).
    pub(super) fn whole_name(&self, task: &Object<'_>) -> Option<String> {
        let own = own(task).ok()??;
        let name = self.member("kthread", own, "full_name").ok()?;
        let name = (name != 0).then(|| self.space().text(Gva(name), MAX_NAME).ok())??;
        let comm = task.text("comm").ok()?;
        (name.starts_with(&comm) && !name.chars().any(char::is_control)).then_some(name)
    }
}

/// Where a thread of the kernel keeps what only such a thread has (`to_kthread`, kernel/kthread.c); the first one, and
/// those that the kernel made by itself, have none.
fn own(task: &Object<'_>) -> Result<Option<Gva>, Blind> {
    let own = match task.has("worker_private") {
        true => task.pointer("worker_private")?,
        false => task.pointer("set_child_tid")?,
    };
    Ok((own.0 >> 63 != 0).then_some(own))
}
