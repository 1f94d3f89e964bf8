//! Containers: processes whose control group is named as a runtime names those of its containers.

use std::collections::BTreeMap;

use super::cgroup::Cgroup;
use super::process::{Process, ProcessBooks};
use super::{Foreign, Kind};
use insight::tasks::{Runtime, runtime_of};

/// Containers that were met so far, with their processes.
#[derive(Default)]
pub(super) struct Found(BTreeMap<Runtime, Vec<(u32, u32)>>);

impl Found {
    /// A process, which may be one of a container.
    pub(super) fn meet(&mut self, process: &Process) {
        // A line for each hierarchy: number, controllers, path (cgroups(7)).
        let paths = process
            .cgroup
            .lines()
            .filter_map(|line| line.splitn(3, ':').nth(2));
        if let Some(runtime) = paths.filter_map(runtime_of).next() {
            let processes = self.0.entry(runtime).or_default();
            processes.push((process.pid, process.uid));
        }
    }

    pub(super) fn into_list(self) -> Vec<Foreign> {
        self.0.into_iter().filter_map(container).collect()
    }
}

fn container((runtime, mut processes): (Runtime, Vec<(u32, u32)>)) -> Option<Foreign> {
    processes.sort_unstable();
    let (pid, uid) = *processes.first()?;
    let first = ProcessBooks::of(pid);
    let cgroup = Cgroup::of(pid, &runtime.path);
    let books = cgroup.as_ref().map(Cgroup::books).unwrap_or_default();
    let of_processes = || {
        let seconds = processes
            .iter()
            .filter_map(|(pid, _)| ProcessBooks::of(*pid).cpu_seconds);
        seconds.sum()
    };
    Some(Foreign {
        kind: Kind::Container,
        name: runtime.id,
        runtime: Some(runtime.runtime.to_owned()),
        pid,
        uid,
        engine: Some("none".into()),
        cpus: books.cpus,
        uptime_seconds: first.uptime_seconds,
        cpu_seconds: books.cpu_seconds.or_else(|| Some(of_processes())),
        memory_believed_bytes: books.memory_max_bytes,
        memory_held_bytes: books.memory_bytes,
        memory_swapped_bytes: books.swap_bytes,
        cgroup: Some(runtime.path),
        qmp: Vec::new(),
    })
}
