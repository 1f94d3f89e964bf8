//! From what the user wrote to what will be built: every field checked, every complaint collected.
//!
//! A [`VmPlan`] has no text left to parse and nothing optional that has a default. Planning reads the head of each
//! image to know what it is and how long it is, and keeps no file open: [`crate::build()`] reads again and checks
//! again, because files change.

mod amounts;
mod disks;
mod image_help;
mod images;
mod network;
mod paging;
mod vsock;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use api::{NameError, VmName, VmSpec};
use serde::{Deserialize, Serialize};

use crate::boot::Protocol;
use crate::engine::{EngineChoice, HostFindings, choose};

pub use disks::{BasePlan, DiskPlan};
pub use paging::PagingPlan;
pub(crate) use paging::{resident_limit, room};

pub use network::{Forward, NetBackend, NetPlan, Transport, UserNetwork};

/// Kernel command line where the image does not tell its own limit: `COMMAND_LINE_SIZE` of x86 Linux.
const CMDLINE_BYTES: usize = 2048;
/// vCPUs that a VM can have: as many as have been tried.
const VCPUS_MAX: u32 = 8;

/// What happens when the guest resets its machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnReset {
    /// It starts again from its kernel image, as a real machine would.
    Reboot,
    /// The VM ends as if it had been powered off.
    End,
}

/// Which of the guest's consoles the VM's terminal or pipe is connected to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsoleKind {
    /// COM1: `ttyS0` in Linux. Every kernel knows it, from its first line on.
    Serial,
    /// virtio-console: `hvc0` in Linux. Fast, and knows the size of the window.
    Virtio,
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
    /// How long the guest may run.
    pub timeout: Option<Duration>,
    /// Whether there is a debug-exit port at 0xf4.
    pub debug_exit: bool,
    /// What a reset does.
    pub on_reset: OnReset,
    /// Which console is connected.
    pub console: ConsoleKind,
    /// Texts to watch for on the console.
    pub markers: Vec<String>,
    /// Disks, as the guest shall see them.
    pub disks: Vec<DiskPlan>,
    /// The network device, if there is one.
    pub network: Option<NetPlan>,
    /// Where the socket device's socket is, if there is one.
    #[serde(with = "api::host_path")]
    pub vsock: Option<PathBuf>,
    /// How its memory is paged.
    pub paging: PagingPlan,
}

/// One thing that is wrong with a spec.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Complaint {
    /// The field, as the command line names it.
    pub field: &'static str,
    /// What is wrong, with the object and the reason.
    pub what: String,
    /// What to do.
    pub help: String,
}

/// Everything that is wrong with a spec. Prints itself without a leading `error:` and without a last newline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpecErrors {
    /// The VM's name as it was asked for.
    pub name: String,
    /// At least one.
    pub complaints: Vec<Complaint>,
}

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot start VM \"{}\"", self.name.escape_debug())?;
        for Complaint { field, what, help } in &self.complaints {
            write!(f, "\n  {field}: {}\n  help: {help}", visible(what))?;
        }
        Ok(())
    }
}

/// Control characters as escapes: the name of a file must not move the cursor of who reads about it.
fn visible(text: &str) -> String {
    let show = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(show).collect()
}

impl std::error::Error for SpecErrors {}

/// Gathers complaints, so that a check can go on after one.
#[derive(Default)]
struct Complaints(Vec<Complaint>);

impl Complaints {
    /// The value, or a complaint about `field` and nothing.
    fn take<T>(&mut self, field: &'static str, checked: Result<T, Trouble>) -> Option<T> {
        match checked {
            Ok(value) => Some(value),
            Err(Trouble { what, help }) => {
                self.0.push(Complaint { field, what, help });
                None
            }
        }
    }
}

/// What is wrong with one value and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Trouble {
    pub(crate) what: String,
    pub(crate) help: String,
}

fn trouble<T>(what: impl Into<String>, help: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble {
        what: what.into(),
        help: help.into(),
    })
}

/// Checks `spec` against what `host` has, and against its files and ports.
///
/// # Errors
/// Every complaint at once.
pub fn plan(spec: &VmSpec, host: &HostFindings) -> Result<VmPlan, SpecErrors> {
    let mut complaints = Complaints::default();
    let asked_name = spec.name.clone().unwrap_or_else(|| "guest".to_owned());
    let name = complaints.take("name", check_name(&asked_name));
    let memory = complaints.take(
        "memory",
        amounts::memory(spec.memory.as_deref().unwrap_or("512M")),
    );
    let cpus = complaints.take("cpus", check_cpus(spec.cpus.as_deref().unwrap_or("1")));
    let wanted = spec.engine.as_deref().unwrap_or("auto");
    let engine = choose(wanted, &host.engines).map_err(|none| Trouble {
        what: none.what,
        help: none.help,
    });
    let engine = complaints.take("engine", engine);
    let timeout = spec.timeout.as_deref().map(amounts::timeout).transpose();
    let timeout = complaints.take("timeout", timeout);
    let markers = complaints.take("marker", check_markers(&spec.markers));
    let disks = disks::disks(&spec.disks, &mut complaints);
    let network = network::network(spec, &asked_name, &mut complaints);
    let vsock = complaints.take("vsock", vsock::vsock(spec.vsock.as_deref()));
    let paging = memory.and_then(|bytes| paging::paging(spec, bytes, &mut complaints));
    let console = complaints.take(
        "console",
        check_console(spec.console.as_deref().unwrap_or("serial")),
    );
    let kernel = complaints.take("kernel", images::kernel(spec.kernel.as_deref()));
    let modules = images::modules(spec, kernel.as_ref(), &mut complaints);
    let room = kernel.as_ref().and_then(|kernel| kernel.cmdline_bytes);
    let text = spec.cmdline.as_deref().unwrap_or("");
    let checked = check_cmdline(text, room.unwrap_or(CMDLINE_BYTES));
    let cmdline = complaints.take("cmdline", checked);
    if let (Some(kernel), Some(modules), Some(memory_bytes)) = (&kernel, &modules, memory) {
        images::check_fit(kernel, modules, memory_bytes, &mut complaints);
    }
    let checked = (|| {
        let kernel = kernel?;
        Some(VmPlan {
            name: name?,
            protocol: kernel.protocol,
            kernel: kernel.image,
            modules: modules?,
            cmdline: cmdline?,
            memory_bytes: memory?,
            vcpu_count: cpus?,
            engine: engine?,
            timeout: timeout?,
            debug_exit: spec.debug_exit,
            on_reset: if spec.no_reboot {
                OnReset::End
            } else {
                OnReset::Reboot
            },
            console: console?,
            markers: markers?,
            disks: disks?,
            network: network?,
            vsock: vsock?,
            paging: paging?,
        })
    })();
    match checked {
        Some(plan) if complaints.0.is_empty() => Ok(plan),
        _ => Err(SpecErrors {
            name: asked_name,
            complaints: complaints.0,
        }),
    }
}

fn check_name(name: &str) -> Result<String, Trouble> {
    match VmName::new(name) {
        Ok(name) => Ok(name.to_string()),
        Err(error) => trouble(error.what, NameError::help()),
    }
}

fn check_cpus(text: &str) -> Result<u32, Trouble> {
    let help = format!("write a number from 1 to {VCPUS_MAX}");
    match text.parse::<u32>() {
        Err(_) => trouble(
            format!("\"{}\" is not a number of vCPUs", text.escape_debug()),
            help,
        ),
        Ok(0) => trouble("a guest needs a vCPU", help),
        Ok(count) if count > VCPUS_MAX => trouble(
            format!("{count} vCPUs are more than a guest can have"),
            help,
        ),
        Ok(count) => Ok(count),
    }
}

fn check_console(text: &str) -> Result<ConsoleKind, Trouble> {
    match text {
        "serial" => Ok(ConsoleKind::Serial),
        "virtio" => Ok(ConsoleKind::Virtio),
        _ => trouble(
            format!("there is no console \"{}\"", text.escape_debug()),
            "write `--console serial` or `--console virtio`",
        ),
    }
}

fn check_markers(markers: &[String]) -> Result<Vec<String>, Trouble> {
    match markers
        .iter()
        .find(|marker| marker.is_empty() || marker.contains('\n'))
    {
        Some(bad) => trouble(
            format!(
                "\"{}\" can never be seen in one line of the console",
                bad.escape_debug()
            ),
            "give a part of a line",
        ),
        None => Ok(markers.to_vec()),
    }
}

fn check_cmdline(text: &str, limit_bytes: usize) -> Result<String, Trouble> {
    if text.contains('\0') {
        return trouble(
            "the command line has a NUL byte, where the guest would stop reading",
            "remove it",
        );
    }
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
