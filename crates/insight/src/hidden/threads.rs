//! Threads of the kernel that are not what their names say: each started in some function, and says in which.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::blind::Blind;
use crate::look::Look;
use crate::observed::Observed;
use crate::tasks::KernelThread;

/// Functions that threads start in whose names begin so (kernel/workqueue.c, kernel/smpboot.c).
const STARTS: [(&str, &[&str]); 4] = [
    ("kworker/", &["worker_thread", "rescuer_thread"]),
    ("ksoftirqd/", &["smpboot_thread_fn"]),
    ("migration/", &["smpboot_thread_fn"]),
    ("cpuhp/", &["smpboot_thread_fn"]),
];

/// A thread of the kernel that started where it should not have.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct StrangeThread {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// What is strange about it.
    pub what: String,
}

impl Look<'_> {
    /// Threads of the kernel that started in nobody's code, or elsewhere than their names say.
    pub fn strange_threads(&self) -> Observed<Vec<StrangeThread>> {
        self.observed(self.read_strange_threads())
    }

    fn read_strange_threads(&self) -> Result<Vec<StrangeThread>, Blind> {
        let modules = self.read_modules()?;
        let is_code = |address: u64| {
            self.is_text(address)
                || modules
                    .iter()
                    .any(|module| module.memory.iter().any(|part| part.contains(address)))
        };
        let strange = |thread: KernelThread| {
            let names = STARTS
                .iter()
                .find(|(prefix, _)| thread.comm.starts_with(prefix))
                .map(|(_, names)| *names);
            let known = names.unwrap_or_default();
            let starts = known.iter().filter_map(|name| self.symbol(name).ok());
            let starts: Vec<u64> = starts.map(|start| start.0).collect();
            let is_named_so = !starts.is_empty() && !starts.contains(&thread.start);
            let place = self.whereabouts(thread.start);
            let what = match is_code(thread.start) {
                false => format!("it started at {place}"),
                true if is_named_so => format!("it started at {place}, not at {}", known[0]),
                true => return None,
            };
            Some(StrangeThread {
                pid: thread.pid,
                comm: thread.comm,
                what,
            })
        };
        Ok(self
            .kernel_threads()?
            .into_iter()
            .filter_map(strange)
            .collect())
    }
}
