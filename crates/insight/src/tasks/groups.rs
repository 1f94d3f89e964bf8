//! Namespaces and cgroups of a process, and the container that these make.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x86::Gva;

use crate::blind::Blind;
use crate::look::{Look, Object};

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
    if let Some(container) = cgroup.and_then(container_of_cgroup) {
        return Some(container);
    }
    // A PID namespace and a mount namespace of its own: what a container is to its processes.
    let (pid, mnt) = namespaces?;
    let host = host?;
    (pid != host.pid && mnt != host.mnt).then(|| Container {
        runtime: None,
        id: format!("pid:[{pid}]"),
    })
}

/// What runtimes call the cgroups of their containers.
fn container_of_cgroup(path: &str) -> Option<Container> {
    let found = |runtime: &str, id: &str| {
        Some(Container {
            runtime: Some(runtime.to_owned()),
            id: id.to_owned(),
        })
    };
    let is_kubernetes = path.contains("kubepods");
    for part in path.split('/').rev() {
        let name = part.strip_suffix(".scope").unwrap_or(part);
        for (prefix, runtime) in [
            ("docker-", "docker"),
            ("libpod-", "podman"),
            ("cri-containerd-", "containerd"),
            ("crio-", "cri-o"),
        ] {
            if let Some(id) = name.strip_prefix(prefix).filter(|id| is_id(id)) {
                return found(if is_kubernetes { "kubernetes" } else { runtime }, id);
            }
        }
        if let Some(id) = name.strip_prefix("lxc.payload.") {
            return found("lxc", id);
        }
        if is_id(name) && (path.contains("/docker/") || is_kubernetes) {
            return found(
                if is_kubernetes {
                    "kubernetes"
                } else {
                    "docker"
                },
                name,
            );
        }
    }
    None
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_known_by_their_cgroups() {
        let id = "0123456789abcdef".repeat(4);
        let check = |path: String, expected: Option<(&str, &str)>| {
            let found = container_of_cgroup(&path);
            let found = found.as_ref().map(|container| {
                (
                    container.runtime.as_deref().unwrap_or(""),
                    container.id.as_str(),
                )
            });
            assert_eq!(found, expected, "{path}");
        };
        check(
            format!("/system.slice/docker-{id}.scope"),
            Some(("docker", &id)),
        );
        check(format!("/docker/{id}"), Some(("docker", &id)));
        check(
            format!("/kubepods.slice/x/cri-containerd-{id}.scope"),
            Some(("kubernetes", &id)),
        );
        check(
            format!("/machine.slice/libpod-{id}.scope/container"),
            Some(("podman", &id)),
        );
        check(
            "/lxc.payload.web1/init.scope".to_owned(),
            Some(("lxc", "web1")),
        );
        check("/system.slice/docker.service".to_owned(), None);
        check("/".to_owned(), None);
    }
}
