//! Who else runs VMs and containers on this host: found from `/proc` and control groups alone, without anybody's help.
//!
//! ```text
//! /proc/PID  ──comm, cmdline──> vms         which hypervisor, and what it was told on its command line
//!            ──cgroup─────────> containers  which container its control group is one of
//! ```
//!
//! Nothing of it is proven: a command line is what its process says of itself, and a control group is named by who made it.
//! What is measured of a process and of a control group is the kernel's word. One walk over `/proc` serves both, reads a few
//! small files of each process, and asks nobody.

mod cgroup;
mod containers;
mod process;
mod vms;

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use cgroup::{Cgroup, CgroupBooks};
pub use process::{ProcessBooks, pids};

/// What kind of thing has a guest.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A VM of Mother's own.
    Mother,
    /// A process of QEMU that somebody started.
    Qemu,
    /// A domain of libvirt's, whose process is QEMU's.
    Libvirt,
    /// Firecracker.
    Firecracker,
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// crosvm.
    Crosvm,
    /// A container, whoever runs it.
    Container,
}

impl Kind {
    /// All that Mother does not run.
    pub const FOREIGN: [Kind; 6] = [
        Kind::Qemu,
        Kind::Libvirt,
        Kind::Firecracker,
        Kind::CloudHypervisor,
        Kind::Crosvm,
        Kind::Container,
    ];

    /// As it is typed before a name.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Mother => "mother",
            Kind::Qemu => "qemu",
            Kind::Libvirt => "libvirt",
            Kind::Firecracker => "firecracker",
            Kind::CloudHypervisor => "cloud-hypervisor",
            Kind::Crosvm => "crosvm",
            Kind::Container => "container",
        }
    }
}

/// A VM or a container of the host.
#[derive(Clone, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct Foreign {
    /// What it is.
    pub kind: Kind,
    /// As its owner calls it; the number of its process if it has no name, the identifier of a container.
    pub name: String,
    /// Who runs a container: `docker`, `podman`, `kubernetes`, `lxc`, `systemd-nspawn`, …
    pub runtime: Option<String>,
    /// The VM's process, or the container's first one.
    pub pid: u32,
    /// The number of the user whose process that is.
    pub uid: u32,
    /// `kvm`, `tcg`, or `none` of a container; null where the command line does not say.
    pub engine: Option<Cow<'static, str>>,
    /// How many vCPUs it was told to have, or how many CPUs a container may use.
    pub cpus: Option<f64>,
    /// Since its process started.
    pub uptime_seconds: Option<f64>,
    /// CPU time of its process, or of all of a container's.
    pub cpu_seconds: Option<f64>,
    /// Memory that a VM was told to have, or that a container may use; null without a limit.
    pub memory_believed_bytes: Option<u64>,
    /// Memory that the host holds for it.
    pub memory_held_bytes: Option<u64>,
    /// Of that, what is in the host's swap beside it.
    pub memory_swapped_bytes: Option<u64>,
    /// A container's control group: of version 2, or of version 1's memory controller.
    pub cgroup: Option<String>,
    /// Sockets on which QEMU listens for QMP, by its command line.
    #[serde(skip)]
    pub qmp: Vec<std::path::PathBuf>,
}

/// Why nothing is called so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FindError {
    /// There is none that this user may see.
    #[error("no {kind} of this host is called \"{}\" or has this number", .word.escape_debug())]
    None {
        /// What was looked for.
        kind: &'static str,
        /// What was typed.
        word: String,
    },
    /// There are several.
    #[error("several are called so; their processes are {}", .0.iter().map(u32::to_string).collect::<Vec<_>>().join(", "))]
    Several(Vec<u32>),
}

/// The one of this kind that is called so, has a process of this number, or an identifier that begins so (of a container,
/// 8 signs of it at least). A libvirt domain is one of QEMU's too.
///
/// # Errors
/// If there is none, or there are several.
pub fn find(kind: Kind, word: &str) -> Result<Foreign, FindError> {
    let is_kind =
        |found: &Foreign| found.kind == kind || (kind == Kind::Qemu && found.kind == Kind::Libvirt);
    let is_called = |found: &Foreign| {
        let is_id =
            found.kind == Kind::Container && word.len() >= 8 && found.name.starts_with(word);
        found.name == word || is_id || word.parse() == Ok(found.pid)
    };
    let mut all = foreign();
    all.retain(|found| is_kind(found) && is_called(found));
    match all.len() {
        1 => Ok(all.remove(0)),
        0 => Err(FindError::None {
            kind: kind.as_str(),
            word: word.to_owned(),
        }),
        _ => Err(FindError::Several(
            all.iter().map(|found| found.pid).collect(),
        )),
    }
}

/// Every VM and container of the host that this user may see and Mother does not run, by kind and name.
pub fn foreign() -> Vec<Foreign> {
    let mut found = Vec::new();
    let mut containers = containers::Found::default();
    for pid in pids() {
        let Some(process) = process::Process::read(pid) else {
            continue;
        };
        if let Some(vm) = vms::vm(&process) {
            found.push(vm);
        }
        containers.meet(&process);
    }
    found.extend(containers.into_list());
    found.sort_by(|one, next| {
        (one.kind, &one.name, one.pid).cmp(&(next.kind, &next.name, next.pid))
    });
    found
}
