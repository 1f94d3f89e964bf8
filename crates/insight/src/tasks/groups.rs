//! Namespaces and cgroups of a process, and the container that these make.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x86::Gva;

use crate::blind::Blind;
use crate::look::{Look, Object};
use crate::tasks::runtime::runtime_of;

/// Numbers of namespaces, as `/proc/PID/ns` shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Namespaces {
    /// Of process numbers.
    pub pid: u32,
    /// Of mounts.
    pub mnt: u32,
    /// Of network interfaces.
    pub net: u32,
    /// Of the host name.
    pub uts: u32,
    /// Of System V IPC and message queues.
    pub ipc: u32,
    /// Of users and capabilities.
    pub user: u32,
    /// Absent where a kernel has none.
    pub cgroup: Option<u32>,
    /// PID inside its own PID namespace.
    pub inner_pid: i32,
}

/// A container inside the guest.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Container {
    /// What runs it, if its cgroup tells: `docker`, `podman`, `kubernetes`, `lxc`, `containerd`.
    pub runtime: Option<String>,
    /// Its name: an identifier of the runtime's, or the number of its PID namespace.
    pub id: String,
}

impl Look<'_> {
    /// The namespaces of the guest's first process.
    pub(crate) fn host_namespaces(&self) -> Result<Namespaces, Blind> {
        let init = self.object("task_struct", self.symbol("init_task")?)?;
        self.namespaces(&init)
    }

    pub(super) fn namespaces(&self, task: &Object<'_>) -> Result<Namespaces, Blind> {
        let proxy = task.pointer("nsproxy")?;
        if proxy.0 == 0 {
            return Err(Blind::NotGiven(
                "a process that has ended is in no namespaces",
            ));
        }
        let proxy = self.object("nsproxy", proxy)?;
        let number = |pointer: u64, of: &str| {
            self.member(of, Gva(pointer), "ns.inum")
                .map(|inum| inum as u32)
        };
        let cred = self.object("cred", task.pointer("cred")?)?;
        let (pid, inner_pid) = self.pid_namespace(task.pointer("thread_pid")?)?;
        Ok(Namespaces {
            pid,
            mnt: number(proxy.number("mnt_ns")?, "mnt_namespace")?,
            net: number(proxy.number("net_ns")?, "net")?,
            uts: number(proxy.number("uts_ns")?, "uts_namespace")?,
            ipc: number(proxy.number("ipc_ns")?, "ipc_namespace")?,
            user: number(cred.number("user_ns")?, "user_namespace")?,
            cgroup: proxy
                .number("cgroup_ns")
                .and_then(|pointer| number(pointer, "cgroup_namespace"))
                .ok(),
            inner_pid,
        })
    }

    /// Number of the innermost PID namespace of a `struct pid`, and the PID in it.
    fn pid_namespace(&self, pid: Gva) -> Result<(u32, i32), Blind> {
        let level = self.member("pid", pid, "level")?;
        if level > 32 {
            return Err(Blind::nonsense(
                "PID namespaces are nested deeper than they can be",
            ));
        }
        let size = self.layouts()?.size("upid")? as u64;
        let upid = Gva(pid
            .0
            .wrapping_add(self.offset("pid", "numbers")? + level * size));
        let namespace = self.member("upid", upid, "ns")?;
        let inum = self.member("pid_namespace", Gva(namespace), "ns.inum")? as u32;
        Ok((inum, self.member("upid", upid, "nr")? as i32))
    }

    pub(super) fn cgroup(&self, task: &Object<'_>) -> Result<String, Blind> {
        let set = task.pointer("cgroups")?;
        let group = self.member("css_set", set, "dfl_cgrp")?;
        let node = self.member("cgroup", Gva(group), "kn")?;
        self.kernfs_path(Gva(node))
    }
}

/// The container of a process with these numbers of its PID and its mount namespace, in this cgroup.
pub(crate) fn container(
    namespaces: Option<(u32, u32)>,
    cgroup: Option<&str>,
    host: Option<&Namespaces>,
) -> Option<Container> {
    if let Some(found) = cgroup.and_then(runtime_of) {
        return Some(Container {
            runtime: Some(found.runtime.to_owned()),
            id: found.id,
        });
    }
    // A PID namespace and a mount namespace of its own: what a container is to its processes.
    let (pid, mnt) = namespaces?;
    let host = host?;
    (pid != host.pid && mnt != host.mnt).then(|| Container {
        runtime: None,
        id: format!("pid:[{pid}]"),
    })
}
