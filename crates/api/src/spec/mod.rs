//! A VM as its user writes it down: on the command line, in a file, or in a message.
//!
//! There is one type, [`VmSpec`], and each of its fields is written once: clap reads it from options, serde from TOML
//! and JSON, schemars makes the schema of it, and the first line of its documentation is the option's help. A value
//! that is there is one that a VM can have as far as that can be told without looking at the host; what only a look
//! at the host can tell (files, ports, engines) `machine::plan` says.
//!
//! | who writes | read by | all complaints at once, because |
//! |---|---|---|
//! | a person, options | clap, in the command line | each option is read on its own |
//! | a person, a file | [`PartialSpec::from_file`] | each key is read on its own |
//! | a program, a message | serde | a program is told one thing at a time |

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "what may be left out stands in brackets in the options' help, which is this documentation"
)]

mod amounts;
mod complaint;
mod disk;
mod egress;
mod file;
mod folder;
mod in_force;
mod keys;
mod memory_limit;
mod name;
mod network;
mod printed;
mod rates;
mod schema;
mod text;
mod words;

use std::path::PathBuf;

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use amounts::{ByteSize, MemorySize, ResidentLimit, StoreSize, Timeout};
pub use complaint::{Complaint, SpecErrors};
pub use disk::{DiskFormat, DiskSerial, DiskSpec};
pub use egress::{EgressPlace, EgressRule, EgressSpec};
pub use file::{PartialSpec, nearest};
pub use folder::FolderSpec;
pub use in_force::LimitsSaid;
pub use memory_limit::MemoryLimit;
pub use name::{NameError, VmName};
pub use network::{Forward, Mac, NetSpec, Transport};
pub use rates::{ByteRate, CountRate, CpuLimit, CpuWeight, Rates};
pub use schema::schema;
pub use text::{BadText, Text};
pub use words::{
    AgentWish, ConsoleKind, EngineWish, HostName, JailWish, Label, Marker, ModuleSpec, VcpuCount,
};

use crate::host_path::Written;

/// A VM as it was asked for. `None`, an empty list and `false` mean that the user said nothing and the default holds.
///
/// In files and messages the keys are the names of the options; where an option may be given again, the key is an array.
/// Paths are looked for from the folder in which the command runs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema, Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct VmSpec {
    /// What to run: debian, debian:12 or debian:13, a disk (./disk.qcow2, ./disk.raw), a container image (an OCI
    /// layout folder or a `docker save` archive), or something kept [default: a small guest with a shell]
    #[arg(value_name = "IMAGE")]
    pub image: Option<String>,
    /// Keep what this run writes under NAME; `mother run NAME` goes on with it [with an IMAGE]
    #[arg(long, value_name = "NAME")]
    pub keep: Option<String>,
    /// Run one program of this host as the guest, with its standard streams and its exit status
    #[arg(long, value_name = "PROGRAM")]
    #[serde(with = "crate::host_path")]
    #[schemars(with = "Option<Written>")]
    pub app: Option<PathBuf>,
    /// File or folder of this host that the program needs too; may be given again [with --app]
    #[arg(long, value_name = "PATH")]
    #[serde(with = "crate::host_path")]
    #[schemars(with = "Vec<Written>")]
    pub include: Vec<PathBuf>,
    /// Set a variable in the program's environment; may be given again [with programs and container images]
    #[arg(long = "env", value_name = "NAME=VALUE")]
    #[serde(rename = "env")]
    pub environment: Vec<String>,
    /// Folder in the guest where the program starts [with programs and container images; default: / or the image's own]
    #[arg(long, value_name = "FOLDER")]
    #[serde(with = "crate::host_path")]
    #[schemars(with = "Option<Written>")]
    pub workdir: Option<PathBuf>,
    /// The program's own arguments, behind `--`; a container image runs them in place of its own, and the small guest
    /// runs them as a command
    #[arg(last = true, value_name = "ARGUMENT")]
    #[serde(rename = "arguments")]
    pub words: Vec<String>,
    /// Kernel: a bzImage, an ELF kernel with a PVH note, or a multiboot kernel [default: Debian's cloud kernel]
    #[arg(long, value_name = "FILE")]
    #[serde(with = "crate::host_path")]
    #[schemars(with = "Option<Written>")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk [default: a shell, if the kernel is the default one]
    #[arg(long, value_name = "FILE")]
    #[serde(with = "crate::host_path")]
    #[schemars(with = "Option<Written>")]
    pub initrd: Option<PathBuf>,
    /// Boot module with its string; may be given again [multiboot and PVH kernels]
    #[arg(long = "module", value_name = "\"FILE WORDS\"")]
    #[serde(rename = "module")]
    pub modules: Vec<ModuleSpec>,
    /// Kernel command line; for the default kernel it is added to what that needs [default: console=ttyS0]
    #[arg(long, value_name = "STR", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// Guest memory, from 32M to 16G; what the guest never touches costs the host nothing [default: 512M]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory: Option<MemorySize>,
    /// How much of its memory the host may hold: a size, a share such as 10%, or none; the rest is compressed or put
    /// into the page file, and the guest does not know [default: none]
    #[arg(long, value_name = "SIZE|SHARE", help_heading = "Memory")]
    pub resident_limit: Option<ResidentLimit>,
    /// Memory that compressed pages may take [default: as much as the guest has]
    #[arg(long, value_name = "SIZE", help_heading = "Memory")]
    pub page_memory: Option<StoreSize>,
    /// Folder of the page file, where pages go when there is no room for them in memory; the file has no name, so
    /// nothing is left of it [default: there is no page file]
    #[arg(long, value_name = "FOLDER", help_heading = "Memory")]
    #[serde(with = "crate::host_path")]
    #[schemars(with = "Option<Written>")]
    pub page_file: Option<PathBuf>,
    /// How much may lie in the page file [default: as much as the guest has]
    #[arg(long, value_name = "SIZE", help_heading = "Memory")]
    pub page_file_size: Option<StoreSize>,
    /// How much the software CPU may hold beside the guest's pages, its code caches and tables: a size, or none; the guest is
    /// slower, and does not know [default: none]
    #[arg(long, value_name = "SIZE", help_heading = "Memory")]
    pub engine_memory: Option<MemoryLimit>,
    /// How much the VM may cost the host in all, guest memory, compressed pages, engine and Mother's own together: a size, or
    /// none; the guest is slower, and does not know [default: none]
    #[arg(long, value_name = "SIZE", help_heading = "Memory")]
    pub host_limit: Option<MemoryLimit>,
    /// Take guest memory in huge pages of 2 MiB, where the host has them: fast on KVM; the guest gets no resident limit
    #[arg(long, help_heading = "Memory")]
    pub huge_pages: bool,
    /// CPU time of its process, vCPUs and devices together, as a share of one core of the host: 50%, 150%, or none [default: none]
    #[arg(long, value_name = "SHARE", help_heading = "Limits")]
    pub cpu_limit: Option<CpuLimit>,
    /// How much CPU time it gets against others when all want more than there is, from 1 to 10000 [default: 100, which others
    /// have too]
    #[arg(long, value_name = "WEIGHT", help_heading = "Limits")]
    pub cpu_weight: Option<CpuWeight>,
    /// Bytes per second that its disks read and write together: a size such as 20M, or none [default: none]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub disk_rate: Option<ByteRate>,
    /// Requests per second that its disks serve together, or none [default: none]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub disk_ops: Option<CountRate>,
    /// Bytes per second that its network card sends, and as many that it receives: a size such as 5M, or none [default:
    /// none]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub net_rate: Option<ByteRate>,
    /// Packets per second that its network card sends, and as many that it receives, or none [default: none]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub net_packets: Option<CountRate>,
    /// Bytes per second that come from its consoles: a size such as 64K, or none [default: none]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub console_rate: Option<ByteRate>,
    /// Number of vCPUs [default: 1]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub cpus: Option<VcpuCount>,
    /// What executes the guest: auto, kvm or soft [default: auto]
    #[arg(long, value_name = "ENGINE", value_parser = text::closed::<EngineWish>(), hide_possible_values = true)]
    pub engine: Option<EngineWish>,
    /// A disk: FILE[,format=raw|qcow2][,readonly][,boot][,serial=S][,base=FILE[,base-format=F]]; may be given again; the VM
    /// starts from the one with boot, as its boot entries say
    #[arg(long = "disk", value_name = "FILE[,OPTIONS]")]
    #[serde(rename = "disk")]
    #[schemars(with = "Vec<disk::DiskShape>")]
    pub disks: Vec<DiskSpec>,
    /// A folder of this host in the guest, by virtio-fs: HOST:GUEST, or HOST:GUEST:ro if the guest may only read it; may be
    /// given again; guests that Mother makes mount it by themselves
    #[arg(short = 'v', long = "volume", value_name = "HOST:GUEST[:ro]")]
    #[serde(rename = "volume")]
    pub folders: Vec<FolderSpec>,
    /// What cloud-init in the guest shall do: a file that begins with #cloud-config, #! or as cloud-init knows it otherwise [disks
    /// with cloud-init]
    #[arg(long, value_name = "FILE", help_heading = "cloud-init")]
    #[serde(with = "crate::host_path")]
    #[schemars(with = "Option<Written>")]
    pub user_data: Option<PathBuf>,
    /// Public keys whose owners may log in as the image's usual user, as authorized_keys has them; may be given again [disks with
    /// cloud-init]
    #[arg(long = "ssh-key", value_name = "FILE", help_heading = "cloud-init")]
    #[serde(rename = "ssh-key", with = "crate::host_path")]
    #[schemars(with = "Vec<Written>")]
    pub ssh_keys: Vec<PathBuf>,
    /// What the guest is called in itself [disks with cloud-init; default: its --name]
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "cloud-init",
        allow_hyphen_values = true
    )]
    pub hostname: Option<HostName>,
    /// How long the guest may run, such as 60s, 5m or 1h [default: no limit]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub timeout: Option<Timeout>,
    /// What the guest is called in messages [default: guest]
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub name: Option<VmName>,
    /// A label KEY=VALUE for people and programs, shown by `mother inspect` and `ps --json`; may be given again
    #[arg(long = "label", value_name = "KEY=VALUE")]
    #[serde(rename = "label")]
    pub labels: Vec<Label>,
    /// What is behind the guest's network card: user (NAT without privileges), user,host (the same, and the
    /// gateway's address leads to this host's own services), net:NAME (a network between your VMs that say
    /// the same name, and to nowhere else), tap=NAME, or none [default: none]
    #[arg(long, value_name = "NETWORK", help_heading = "Network")]
    pub net: Option<NetSpec>,
    /// Where the guest may send to, on the network `user`: deny, or allow=PLACE[,PLACE...] with addresses, networks (10.1.0.0/16) and
    /// names, each with :PORT if only that is meant; names are looked up once, when it starts [default: whatever the host
    /// reaches]
    #[arg(long, value_name = "LIST", help_heading = "Network")]
    pub egress: Option<EgressSpec>,
    /// The program passt, for the network `user` [default: the one on the PATH, or Debian's]
    #[arg(skip)]
    #[serde(with = "crate::host_path")]
    #[schemars(with = "Option<Written>")]
    pub passt: Option<PathBuf>,
    /// Let a port of this host lead into the guest: [ADDRESS:]HOST:GUEST[/udp]; on 127.0.0.1 if no address is given;
    /// may be given again
    #[arg(
        short = 'p',
        long = "publish",
        value_name = "PORTS",
        help_heading = "Network"
    )]
    #[serde(rename = "publish")]
    pub forwards: Vec<Forward>,
    /// The guest's MAC address [default: made of the VM's name]
    #[arg(long, value_name = "MAC", help_heading = "Network")]
    pub mac: Option<Mac>,
    /// Give the guest a vsock device behind the Unix socket FILE: connect to it and say CONNECT PORT
    #[arg(long, value_name = "FILE", help_heading = "Network")]
    #[serde(with = "crate::host_path")]
    #[schemars(with = "Option<Written>")]
    pub vsock: Option<PathBuf>,
    /// The guest agent, which `mother exec` and clones need, reached over a socket device: on or off [default: on in
    /// guests that Mother makes, off where a kernel or an initrd of your own starts]
    #[arg(long, value_name = "AGENT", value_parser = text::closed::<AgentWish>(), hide_possible_values = true)]
    pub agent: Option<AgentWish>,
    /// Which console of the guest is here: serial (ttyS0), or virtio (hvc0), which is fast and knows the size of the
    /// window but needs a driver [default: serial]
    #[arg(long, value_name = "KIND", value_parser = text::closed::<ConsoleKind>(), hide_possible_values = true)]
    pub console: Option<ConsoleKind>,
    /// Tell at the end where the CPU time of the vCPUs went: translated code, translator, misses, instructions, exits, and the
    /// guest's hottest functions; it is in the file of --report too [the software CPU]
    #[arg(long)]
    pub profile: bool,
    /// Text to watch for on the guest's console; the report says when it was first seen
    #[arg(skip)]
    #[serde(rename = "marker")]
    pub markers: Vec<Marker>,
    /// Give the guest a debug-exit port at 0xf4: a write ends it with exit status (value << 1) | 1
    #[arg(long)]
    pub debug_exit: bool,
    /// The jail around the VM's process: auto takes all walls that the host has, require starts no VM without namespaces of
    /// its own, off has none, for whoever looks for a mistake [default: auto]
    #[arg(long, value_name = "JAIL", value_parser = text::closed::<JailWish>(), hide_possible_values = true)]
    pub jail: Option<JailWish>,
    /// End the guest when it resets itself, instead of starting it again
    #[arg(long)]
    pub no_reboot: bool,
}

impl VmSpec {
    /// The keys that a file can have, in the order in which they are printed.
    pub fn keys() -> &'static [&'static str] {
        keys::of(|catcher| VmSpec::deserialize(catcher).map(drop))
    }

    /// What was said, by key; what was not said has no entry.
    pub fn said(&self) -> Map<String, Value> {
        let silent = table(&VmSpec::default());
        let mut said = table(self);
        said.retain(|key, value| silent.get(key) != Some(value));
        said
    }

    /// What this says, and where it says nothing what `below` says. A list is one thing: it replaces a list.
    #[must_use]
    pub fn over(&self, below: &VmSpec) -> VmSpec {
        let mut said = below.said();
        said.extend(self.said());
        serde_json::from_value(Value::Object(said)).expect("each value was one of a spec")
    }

    /// The first key of what is for cloud-init in the guest, if something was said for that.
    pub fn for_cloud_init(&self) -> Option<&'static str> {
        let said = [
            ("user-data", self.user_data.is_some()),
            ("ssh-key", !self.ssh_keys.is_empty()),
            ("hostname", self.hostname.is_some()),
        ];
        said.into_iter()
            .find_map(|(key, is_said)| is_said.then_some(key))
    }

    /// What it may use per second.
    pub fn rates(&self) -> Rates {
        Rates {
            cpu_limit: self.cpu_limit,
            cpu_weight: self.cpu_weight,
            disk_rate: self.disk_rate,
            disk_ops: self.disk_ops,
            net_rate: self.net_rate,
            net_packets: self.net_packets,
            console_rate: self.console_rate,
        }
    }

    /// What the VM is called in messages.
    pub fn shown_name(&self) -> &str {
        self.name.as_ref().map_or("guest", VmName::as_str)
    }
}

fn table(spec: &VmSpec) -> Map<String, Value> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(table)) => table,
        other => unreachable!("a struct of plain values is an object of JSON: {other:?}"),
    }
}

#[cfg(test)]
mod tests;
