//! From what the user wrote to what will be built: every field checked, every complaint collected.
//!
//! A [`VmPlan`] has nothing optional that has a default. What no host could make good has been refused when the spec
//! was read; planning compares it with this host: with its files, its ports, its engines. It reads the head of each
//! image to know what it is and how long it is, and keeps no file open: [`crate::build()`] reads again and checks
//! again, because files change.

mod disks;
mod egress;
mod folders;
pub(crate) mod host_findings;
mod image_help;
pub(crate) mod images;
mod memory;
mod network;
mod paging;
mod vsock;

use std::path::PathBuf;
use std::time::Duration;

use api::{
    AgentWish, Complaint, ConsoleKind, JailWish, MemoryLimit, MemorySize, PartialSpec, Rates,
    SpecErrors, Timeout, VcpuCount, VmSpec,
};
use probe::Operation;
use serde::{Deserialize, Serialize};

use crate::boot::Protocol;
use crate::engine::{EngineChoice, EngineFinding, EngineKind, choose};
use crate::plan::host_findings::HostFindings;

pub(crate) use api::BadText as Trouble;
#[cfg(test)]
pub(crate) use disks::DISKS_MAX;
pub use disks::{BasePlan, DiskPlan};
#[cfg(test)]
pub(crate) use folders::FOLDERS_MAX;
pub use folders::FolderPlan;
pub(crate) use memory::{engine_memory_as_written, host_limit_as_written};
pub use paging::PagingPlan;
pub(crate) use paging::{resident_limit, room};

pub use egress::{AllowedName, AllowedNetwork, EgressPlan, Served};
pub use network::{NetBackend, NetPlan, UserNetwork};

/// Kernel command line where the image does not tell its own limit: `COMMAND_LINE_SIZE` of x86 Linux.
const CMDLINE_BYTES: usize = 2048;

/// What happens when the guest resets its machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnReset {
    /// It starts again from its kernel image, as a real machine would.
    Reboot,
    /// The VM ends as if it had been powered off.
    End,
}

/// From when a guest's time goes on that is brought back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResumeClock {
    /// From now: what has passed on the host has passed in the guest.
    #[default]
    Host,
    /// From the moment of the snapshot.
    Frozen,
}

/// What a VM's first life goes on from, instead of a start.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestorePlan {
    /// The file of vCPUs, board and clock.
    #[serde(with = "api::host_path")]
    pub state: PathBuf,
    /// The file of guest memory.
    #[serde(with = "api::host_path")]
    pub memory: PathBuf,
    /// From when its time goes on.
    pub clock: ResumeClock,
}

/// How the time of vCPUs is profiled.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfilePlan {
    /// How to take down which program runs, as `insight::profile::Profile::running` says; empty where nobody knows.
    pub running: Vec<Operation>,
}

/// An image file to be loaded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagePlan {
    /// Where it is.
    #[serde(with = "api::host_path")]
    pub path: PathBuf,
    /// How long it was when the plan was made.
    pub len_bytes: u64,
    /// The string that goes with a module; empty for a plain initrd.
    pub string: String,
}

/// What will be built.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmPlan {
    /// What the VM is called in messages.
    pub name: String,
    /// The kernel image.
    pub kernel: ImagePlan,
    /// How it wants to be started, found in its bytes.
    pub protocol: Protocol,
    /// Initrd (first) and modules.
    pub modules: Vec<ImagePlan>,
    /// Kernel command line, within the kernel's limit.
    pub cmdline: String,
    /// Guest memory, whole pages.
    pub memory_bytes: u64,
    /// Number of vCPUs.
    pub vcpu_count: u32,
    /// What executes the guest, and why that.
    pub engine: EngineChoice,
    /// What this host was found to have, of which that was chosen: it is not asked again, whatever the VM does later.
    pub engines: Vec<EngineFinding>,
    /// How long the guest may run.
    pub timeout: Option<Duration>,
    /// Whether there is a debug-exit port at 0xf4.
    pub debug_exit: bool,
    /// What a reset does.
    pub on_reset: OnReset,
    /// Which console is connected.
    pub console: ConsoleKind,
    /// How much of a jail its process has.
    pub jail: JailWish,
    /// Texts to watch for on the console.
    pub markers: Vec<String>,
    /// Disks, as the guest shall see them.
    pub disks: Vec<DiskPlan>,
    /// Folders of the host that it shares.
    pub folders: Vec<FolderPlan>,
    /// The network device, if there is one.
    pub network: Option<NetPlan>,
    /// Where the socket device's socket is, if there is one.
    #[serde(with = "api::host_path")]
    pub vsock: Option<PathBuf>,
    /// Whether the guest starts the guest agent, which is reached through a socket device.
    pub agent: bool,
    /// How its memory is paged.
    pub paging: PagingPlan,
    /// How much the software CPU may hold beside the guest's pages; `None`: as much as it makes use of.
    #[serde(default)]
    pub engine_memory_bytes: Option<u64>,
    /// How much the VM may cost its host in all; `None`: no limit.
    #[serde(default)]
    pub host_limit_bytes: Option<u64>,
    /// What it may use per second.
    pub rates: Rates,
    /// How its report tells where the CPU time of its vCPUs went, if it does.
    #[serde(default)]
    pub profile: Option<ProfilePlan>,
    /// What its first life goes on from; none for a VM that starts.
    pub restore: Option<RestorePlan>,
}

impl VmPlan {
    /// Whether the guest has a socket device.
    pub fn has_vsock(&self) -> bool {
        self.vsock.is_some() || self.agent
    }
}

/// Gathers complaints, so that a check can go on after one.
#[derive(Default)]
struct Complaints(Vec<Complaint>);

impl Complaints {
    /// The value, or a complaint about `field` and nothing.
    fn take<T>(&mut self, field: &'static str, checked: Result<T, Trouble>) -> Option<T> {
        match checked {
            Ok(value) => Some(value),
            Err(trouble) => {
                self.0.push(Complaint::of(field, trouble));
                None
            }
        }
    }

    /// Whether `field` was complained of: then nothing that depends on it can be said.
    fn is_about(&self, field: &str) -> bool {
        self.0.iter().any(|complaint| complaint.key() == field)
    }
}

fn trouble<T>(what: impl Into<String>, help: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble {
        what: what.into(),
        help: help.into(),
    })
}

/// Whether everything is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// A kernel and passt may yet be brought.
    Draft,
    /// What is not there now is missing.
    Final,
}

/// Complains about everything that can be told before a kernel or passt is fetched: what is wrong with what was
/// written, and with what was understood of it. Files and ports that were right here are looked at once more by
/// [`plan()`]: between the two there may be minutes of fetching, and a disk that was brought.
///
/// # Errors
/// Every complaint at once.
pub fn check(written: &PartialSpec, host: &HostFindings) -> Result<(), SpecErrors> {
    let mut complaints = Complaints(written.complaints.clone());
    judge(&written.spec, host, Stage::Draft, &mut complaints);
    match complaints.0.is_empty() {
        true => Ok(()),
        false => Err(SpecErrors {
            name: written.shown_name().to_owned(),
            complaints: complaints.0,
        }),
    }
}

/// Checks `spec` against what `host` has, and against its files and ports.
///
/// # Errors
/// Every complaint at once.
pub fn plan(spec: &VmSpec, host: &HostFindings) -> Result<VmPlan, SpecErrors> {
    let mut complaints = Complaints::default();
    match judge(spec, host, Stage::Final, &mut complaints) {
        Some(plan) if complaints.0.is_empty() => Ok(plan),
        _ => Err(SpecErrors {
            name: spec.shown_name().to_owned(),
            complaints: complaints.0,
        }),
    }
}

/// The plan, if there is one; what was complained of before is in `complaints` already.
fn judge(
    spec: &VmSpec,
    host: &HostFindings,
    stage: Stage,
    complaints: &mut Complaints,
) -> Option<VmPlan> {
    let memory_bytes = spec.memory.unwrap_or(MemorySize::DEFAULT).bytes();
    let engine = complaints.take("engine", engine(spec, host));
    let disks = disks::disks(&spec.disks, complaints);
    let folders = folders::folders(&spec.folders, complaints);
    let network = network::network(spec, stage, complaints);
    let vsock = complaints.take("vsock", vsock::vsock(spec.vsock.as_deref()));
    let is_memory_known = !complaints.is_about("memory");
    if is_memory_known {
        complaints.take(
            "memory",
            check_file_limit(memory_bytes, host.file_bytes_max),
        );
    }
    let kind = engine.as_ref().map(|choice| choice.kind);
    let paging =
        is_memory_known.then(|| paging::paging(spec, host, kind, memory_bytes, complaints));
    let vcpu_count = spec.cpus.unwrap_or(VcpuCount::ONE).get();
    let (engine_memory, host_limit) = limits(spec, host, kind, complaints);
    complaints.take("profile", profile(spec, kind));
    let kernel = match (&spec.kernel, stage) {
        (None, Stage::Draft) => None,
        (path, _) => complaints.take("kernel", images::kernel(path.as_deref())),
    };
    let modules = images::modules(spec, kernel.as_ref(), complaints);
    let cmdline = complaints.take("cmdline", cmdline(spec, kernel.as_ref()));
    if let (Some(kernel), Some(modules), true) = (&kernel, &modules, is_memory_known) {
        images::check_fit(kernel, modules, memory_bytes, complaints);
    }
    let kernel = kernel?;
    Some(VmPlan {
        name: spec.shown_name().to_owned(),
        protocol: kernel.protocol,
        kernel: kernel.image,
        modules: modules?,
        cmdline: cmdline?,
        memory_bytes,
        vcpu_count,
        engine: engine?,
        engines: host.engines.clone(),
        timeout: spec.timeout.map(Timeout::duration),
        debug_exit: spec.debug_exit,
        on_reset: if spec.no_reboot {
            OnReset::End
        } else {
            OnReset::Reboot
        },
        console: spec.console.unwrap_or_default(),
        jail: spec.jail.unwrap_or_default(),
        markers: spec.markers.iter().map(ToString::to_string).collect(),
        disks: disks?,
        folders: folders?,
        network: network?,
        vsock: vsock?,
        agent: spec.agent == Some(AgentWish::On),
        paging: paging??,
        engine_memory_bytes: engine_memory?,
        host_limit_bytes: host_limit?,
        rates: spec.rates(),
        profile: spec.profile.then(ProfilePlan::default),
        restore: None,
    })
}

/// What the engine may hold, and what the VM may cost in all.
#[expect(
    clippy::option_option,
    reason = "the outer is whether it was understood"
)]
fn limits(
    spec: &VmSpec,
    host: &HostFindings,
    kind: Option<EngineKind>,
    complaints: &mut Complaints,
) -> (Option<Option<u64>>, Option<Option<u64>>) {
    let memory_bytes = spec.memory.unwrap_or(MemorySize::DEFAULT).bytes();
    let vcpu_count = spec.cpus.unwrap_or(VcpuCount::ONE).get();
    let wanted = spec.engine_memory.unwrap_or(MemoryLimit::None);
    let engine_memory = memory::engine_memory(wanted, vcpu_count);
    let wanted = spec.host_limit.unwrap_or(MemoryLimit::None);
    let host_limit = memory::host_limit(wanted, memory_bytes, vcpu_count, 0)
        .and_then(|limit| paging::can_be_limited(spec, host, kind, limit));
    (
        complaints.take("engine-memory", engine_memory),
        complaints.take("host-limit", host_limit),
    )
}

fn engine(spec: &VmSpec, host: &HostFindings) -> Result<EngineChoice, Trouble> {
    let wanted = spec.engine.unwrap_or_default();
    choose(wanted.as_str(), &host.engines).map_err(|none| Trouble {
        what: none.what,
        help: none.help,
    })
}

/// Only the software CPU's thread says what it is at: on KVM guest code is one thing.
fn profile(spec: &VmSpec, kind: Option<EngineKind>) -> Result<(), Trouble> {
    match kind {
        Some(EngineKind::Kvm) if spec.profile => trouble(
            "a profile tells where the software CPU's time goes, and this guest would run on KVM",
            "--engine soft; on KVM, perf-kvm(1) of the host tells where a guest's time goes",
        ),
        _ => Ok(()),
    }
}

/// Guest memory is a file, and the kernel kills a process whose file becomes longer than its limit.
fn check_file_limit(memory_bytes: u64, limit_bytes: Option<u64>) -> Result<(), Trouble> {
    match limit_bytes {
        Some(limit) if limit < memory_bytes => trouble(
            format!(
                "guest memory of {} MiB is a file to the host, and this process may not have files of more than {} KiB",
                memory_bytes >> 20,
                limit >> 10
            ),
            "lift the limit on file sizes: `ulimit -f unlimited`, or LimitFSIZE=infinity in a service's unit",
        ),
        _ => Ok(()),
    }
}

/// The word by which Linux finds the console that is connected.
pub fn console_word(console: Option<ConsoleKind>) -> &'static str {
    match console.unwrap_or_default() {
        ConsoleKind::Serial => "console=ttyS0",
        ConsoleKind::Virtio => "console=hvc0",
    }
}

/// The command line, within the kernel's limit; that of a Linux for which nothing was said has its console.
fn cmdline(spec: &VmSpec, kernel: Option<&images::Kernel>) -> Result<String, Trouble> {
    let may_be_linux = kernel.is_some_and(|kernel| kernel.protocol != Protocol::Multiboot);
    let usual = if may_be_linux {
        console_word(spec.console)
    } else {
        ""
    };
    let text = spec.cmdline.as_deref().unwrap_or(usual);
    if text.contains('\0') {
        return trouble(
            "the command line has a NUL byte, where the guest would stop reading",
            "remove it",
        );
    }
    let limit_bytes = kernel.and_then(|kernel| kernel.cmdline_bytes);
    let limit_bytes = limit_bytes.unwrap_or(CMDLINE_BYTES);
    if text.len() > limit_bytes {
        return trouble(
            format!(
                "the command line has {} bytes; this kernel takes {limit_bytes}",
                text.len()
            ),
            format!("shorten it by {} bytes", text.len() - limit_bytes),
        );
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
