//! What programs read of Mother: the shape of every answer to `--json`, as types.
//!
//! From them come the answers and the schemas in `docs/schema`; `docs/json.md` says which command gives which. Fields may be
//! added; those here keep their names and meanings. Times are in seconds, sizes in bytes, and what is not known is null.

mod limits;
#[cfg(test)]
mod schema;
mod snapshots;
mod upgraded;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use api::{
    BootChoice, Complaint, DeviceStatus, DiskSpec, Estimate, FolderSpec, Forward, HostBooks, Jail,
    MemoryBook, Metric, NetSpec, VcpuView, VmEnd, VmName, VmOrigin, VmState,
};
use fleet::foreign::{CgroupBooks, Foreign};
use insight::cpu::CpuTimes;
use insight::integrity::EntryPoint;
use insight::log::LogRecord;
use insight::meminfo::MemoryCounters;
use insight::modules::Module;
use insight::mounts::MountNamespace;
use insight::sockets::Sockets;
use insight::system::System;
use insight::tasks::Process;
use insight::trace::{Event, EventKind, Reach};
use insight::verdict::{Row, Standing, Verdict};
use insight::{Cost, Observed, Rung};
use policy::Decision;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use watch::foreign::{ContainerProcess, ImageFormat, ProcessGuestBooks};
use watch::{KernelFacts, LiveCost, WatchCost};

pub use self::limits::GivenLimits;
pub use self::snapshots::{
    FreedSnapshots, InspectedSnapshot, ListedSnapshot, SnapshotDisk, VerifiedSnapshot,
};
pub use self::upgraded::UpgradedVm;

/// An answer as it is printed: indented, with a line end.
pub fn text(answer: &impl Serialize) -> String {
    line(answer, true)
}

/// An answer on one line, for those that come again and again.
pub fn short(answer: &impl Serialize) -> String {
    line(answer, false)
}

fn line(answer: &impl Serialize, is_indented: bool) -> String {
    let text = if is_indented {
        serde_json::to_string_pretty(answer)
    } else {
        serde_json::to_string(answer)
    };
    text.expect("answers have texts as keys, and no value of theirs refuses to be written") + "\n"
}

/// What failed, why, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub struct Problem {
    /// What failed, in one line.
    pub message: String,
    /// Why: a text for each cause, the nearest first.
    pub causes: Vec<String>,
    /// What to do.
    pub help: Option<String>,
    /// What is wrong with the description of a VM, all of it.
    pub complaints: Vec<Complaint>,
    /// The exit status that means the same.
    pub exit_status: u8,
}

/// Instead of an answer, from every command: nothing came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub struct Failed {
    /// What failed.
    pub error: Problem,
}

/// What `mother cp` copied.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Copied<'a> {
    /// The VM that it came from; none if it was here.
    pub from: Option<&'a str>,
    /// The VM that it went to; none if that is here.
    pub to: Option<&'a str>,
    /// Files that went over, also those that could not be put where they go.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Symbolic links.
    pub links: u64,
    /// Bytes of files that went over; holes do not.
    pub bytes: u64,
    /// How much was not copied, or not whole.
    pub left_out: u64,
    /// The first of them.
    pub named: Vec<LeftOut<'a>>,
    /// Files of a guest that lost set-user-ID, set-group-ID and sticky bits.
    pub stripped: u64,
    /// Links of a guest that lead out of what was copied.
    pub leading_out: u64,
    /// How long it took.
    pub seconds: f64,
}

/// What `mother cp` did not copy.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LeftOut<'a> {
    /// Its name.
    pub name: &'a str,
    /// Why not.
    pub why: &'a str,
}

/// What came of an order to one VM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub struct Done {
    /// The VM; of a rename its new name.
    pub name: String,
    /// Whether it was done.
    pub done: bool,
    /// Why not.
    pub error: Option<Problem>,
}

impl Done {
    /// It was done.
    pub fn well(name: &VmName) -> Done {
        Done {
            name: name.to_string(),
            done: true,
            error: None,
        }
    }
}

/// A VM that was waited for with `--for`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Reached<'a> {
    /// The VM.
    pub name: &'a VmName,
    /// Always true: else there is an error.
    pub reached: bool,
}

/// A VM whose end was waited for.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Ended<'a> {
    /// The VM.
    pub name: &'a VmName,
    /// How it ended.
    pub end: &'a VmEnd,
}

/// What a VM printed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Log<'a> {
    /// The VM.
    pub name: &'a VmName,
    /// What it is doing.
    pub state: VmState,
    /// What the guest printed; what is no UTF-8 is replaced.
    pub console: String,
    /// What the VM's processes said of themselves.
    pub messages: String,
    /// How it ended.
    pub end: Option<&'a VmEnd>,
}

/// A guest's balloon.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BalloonState<'a> {
    /// The VM.
    pub name: &'a VmName,
    /// What the balloon shall hold.
    pub target_bytes: u64,
    /// What it holds.
    pub balloon_bytes: u64,
    /// Whether these are the same.
    pub reached: bool,
    /// What the guest believes to have.
    pub memory_given_bytes: u64,
    /// What the host holds of it.
    pub memory_resident_bytes: Option<u64>,
}

/// An image, or what was kept of one.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ListedImage {
    /// What `mother run` calls it.
    pub name: String,
    /// What it is.
    pub what: String,
    /// What its registry has under this name, if it is of one: `sha256:` and 64 hexadecimal digits.
    pub digest: Option<String>,
    /// What it takes of the disk.
    pub size_bytes: u64,
    /// When it was used last, in seconds since 1970-01-01 UTC.
    pub used: u64,
    /// Whether a guest runs on it.
    pub in_use: bool,
}

/// A network between VMs.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ListedNetwork {
    /// Its name.
    pub name: String,
    /// Its addresses, such as `10.91.22.0/24`.
    pub subnet: String,
    /// Who gives addresses there and answers names.
    pub resolver: Ipv4Addr,
    /// Who is on it, by name.
    pub vms: Vec<NetworkMember>,
}

/// A VM on a network between VMs.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct NetworkMember {
    /// The VM.
    pub name: String,
    /// Its guest's address, by DHCP.
    pub address: Ipv4Addr,
}

/// An image that `mother images pull` has got.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PulledImage {
    /// Its name, in full.
    pub name: String,
    /// What its registry has under this name: `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// What its parts take, as they were pulled.
    pub size_bytes: u64,
}

/// What `mother images rm` and `prune` removed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FreedImages<'a> {
    /// Images that are gone.
    pub removed: &'a [String],
    /// What that gave back.
    pub freed_bytes: u64,
}

/// What a VM was asked for and given; null where it is not known.
#[derive(Clone, Default, Debug, Serialize, JsonSchema)]
pub struct Given<'a> {
    /// As `--net` has it.
    pub network: Option<NetSpec>,
    /// The guest's address on its network between VMs (`net:NAME`), while it runs there.
    pub address: Option<Ipv4Addr>,
    /// Ports of this host that lead into the guest, such as `8080:80`.
    pub ports: Option<&'a [Forward]>,
    /// Disks, the image's own first.
    pub disks: Option<&'a [DiskSpec]>,
    /// Folders of this host that the guest shares, such as `./data:/data:ro`.
    pub folders: Option<&'a [FolderSpec]>,
    /// The boot entry of its disk that it was started by, in the disk's own words.
    pub boot: Option<&'a BootChoice>,
    /// What bounds it.
    pub limits: Option<GivenLimits>,
    /// Its labels.
    pub labels: Option<BTreeMap<&'a str, &'a str>>,
    /// The command that started it.
    pub words: Option<&'a [String]>,
    /// Where that was; with `ps --all-users` where that user's VMs lie.
    pub folder: Option<String>,
    /// What it asked for, as `mother run --config` reads it (vm.json).
    pub asked: Option<Map<String, Value>>,
}

impl Given<'_> {
    /// From what was written down when it was started.
    pub fn of(origin: Option<&VmOrigin>, address: Option<Ipv4Addr>) -> Given<'_> {
        let Some(VmOrigin {
            given,
            asked,
            words,
            folder,
            boot,
        }) = origin
        else {
            return Given {
                address,
                ..Given::default()
            };
        };
        let labels = given
            .labels
            .iter()
            .map(|label| (label.key(), label.value()));
        Given {
            network: Some(given.net.clone().unwrap_or_default()),
            address,
            ports: Some(&given.forwards),
            disks: Some(&given.disks),
            folders: Some(&given.folders),
            boot: boot.as_ref(),
            limits: Some(GivenLimits::of(given)),
            labels: Some(labels.collect()),
            words: Some(words),
            folder: Some(folder.display().to_string()),
            asked: Some(asked.said()),
        }
    }
}

/// A VM in a list.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ListedVm<'a> {
    /// Its name.
    pub name: &'a VmName,
    /// What it is doing.
    pub state: VmState,
    /// `kvm` or `soft`.
    pub engine: Option<&'a str>,
    /// The process that has the guest, of a VM that runs.
    pub pid: Option<u32>,
    /// The version of Mother that this process is of, or was.
    pub mother: Option<&'a str>,
    /// What stands around that process.
    pub jail: Option<&'a Jail>,
    /// Number of vCPUs.
    pub vcpus: Option<u32>,
    /// Whether it was started with `-d`.
    pub detached: Option<bool>,
    /// Whether its guest is one program.
    pub program: Option<bool>,
    /// When it was started, in seconds since 1970-01-01 UTC.
    pub started_at: Option<f64>,
    /// Since its start, pauses included.
    pub uptime_seconds: Option<f64>,
    /// CPU time of the whole process.
    pub cpu_seconds: Option<f64>,
    /// What the guest believes to have.
    pub memory_given_bytes: Option<u64>,
    /// What the host holds of it.
    pub memory_resident_bytes: Option<u64>,
    /// How often the guest started again.
    pub reboots: Option<u64>,
    /// How many consoles are attached.
    pub consoles: Option<u64>,
    /// What each device counted.
    pub devices: Option<&'a [DeviceStatus]>,
    /// Every number of a VM that runs.
    pub metrics: Option<Vec<Metric>>,
    /// How it ended.
    pub end: Option<&'a VmEnd>,
    /// What it was asked for and given.
    #[serde(flatten)]
    pub given: Given<'a>,
    /// Whose it is, with `--all-users`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// A snapshot that was taken.
#[derive(Serialize, JsonSchema)]
pub struct TakenSnapshot<'a> {
    /// What it is called.
    pub snapshot: &'a str,
    /// The VM that it is of.
    pub vm: &'a VmName,
    /// Its folder.
    pub path: &'a str,
    /// Memory that the guest believes to have.
    pub memory_bytes: u64,
    /// Bytes of the file that has it.
    pub stored_bytes: u64,
    /// How long the guest stood still; of a VM that is suspended, until it was written.
    pub rested_seconds: f64,
    /// How long all of it took.
    pub seconds: f64,
    /// Its disks.
    pub disks: Vec<TakenDisk>,
}

/// A disk of a snapshot.
#[derive(Serialize, JsonSchema)]
pub struct TakenDisk {
    /// Which one, from 0 on.
    pub slot: u32,
    /// `reflink`: shared with the file it was; `copy`; `own`: stays where it is.
    pub how: &'static str,
    /// Bytes that its file takes in the snapshot.
    pub bytes: u64,
}

/// A VM that goes on from a snapshot.
#[derive(Serialize, JsonSchema)]
pub struct RestoredVm {
    /// What it is called.
    pub name: String,
    /// What it goes on from.
    pub snapshot: String,
    /// From the command until its guest ran.
    pub seconds: f64,
}

/// A dump that was written.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DumpedVm<'a> {
    /// The VM, as it was named.
    pub name: &'a str,
    /// The file.
    pub file: &'a str,
    /// `elf`, `kdump`, `lime` or `raw`.
    pub format: &'static str,
    /// Whether the guest ran on meanwhile: then its parts are not of one moment.
    pub torn: bool,
    /// How long the guest stood still.
    pub rested_seconds: Option<f64>,
    /// How long it took, the looking before it included.
    pub seconds: f64,
    /// Memory that the guest has.
    pub memory_bytes: u64,
    /// Memory of it that is not zero.
    pub data_bytes: u64,
    /// How long the file is.
    pub file_bytes: Option<u64>,
    /// What it takes of its disk.
    pub disk_bytes: Option<u64>,
    /// vCPUs whose registers were read.
    pub vcpus: usize,
    /// The release of the guest's kernel.
    pub release: Option<&'a str>,
    /// Whether that kernel has VMCOREINFO; it is in `elf` and `kdump`.
    pub vmcoreinfo: bool,
    /// Why the kernel is not known.
    pub why_not: Option<&'a str>,
}

/// A profile that was written.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct WrittenProfile<'a> {
    /// The VM.
    pub name: &'a VmName,
    /// The file.
    pub file: &'a str,
    /// `isf`, `btf` or `kallsyms`.
    pub form: &'static str,
    /// How long it is.
    pub file_bytes: Option<u64>,
    /// The release of the guest's kernel.
    pub release: &'a str,
    /// Its build-id, in hexadecimal.
    pub build_id: Option<String>,
    /// On what that stands.
    pub rung: Rung,
    /// How many types it describes.
    pub types: Option<usize>,
    /// How many symbols it has.
    pub symbols: Option<usize>,
    /// How many of these have a type.
    pub typed_symbols: Option<usize>,
}

/// A guest as `mother truth NAME` sees it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Truth<'a> {
    /// The VM.
    pub name: &'a VmName,
    /// The worst of the rows.
    pub worst: Verdict,
    /// How the guest stands; the exit status says the same.
    pub standing: Standing,
    /// The guest's kernel.
    pub kernel: &'a KernelFacts,
    /// Claim, kernel's book and truth of each subject, and what comes of it.
    pub rows: &'a [Row],
    /// The host's books of its memory.
    pub memory: &'a MemoryBook,
    /// An estimate of the memory that it works on.
    pub working_set: Option<Estimate>,
    /// What looking cost.
    pub cost: &'a WatchCost,
}

/// All guests as `mother truth` sees them.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Truths<'a> {
    /// What they believe together, beside what the host has.
    pub rows: [&'a Row; 1],
    /// Each of them.
    pub guests: Vec<TruthOfOne<'a>>,
}

/// One of all guests: seen, or `why_not`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum TruthOfOne<'a> {
    /// It was seen.
    Seen {
        /// The VM.
        name: &'a VmName,
        /// What it is doing.
        state: VmState,
        /// The worst of the rows.
        worst: Verdict,
        /// How the guest stands.
        standing: Standing,
        /// Claim, kernel's book and truth of each subject.
        rows: &'a [Row],
        /// The guest's kernel.
        kernel: &'a KernelFacts,
        /// What looking cost.
        cost: &'a WatchCost,
    },
    /// It does not answer.
    Unseen {
        /// The VM.
        name: &'a VmName,
        /// What it is doing.
        state: VmState,
        /// Why nothing is known of it.
        why_not: &'a str,
    },
}

/// One of all guests, as `mother truth --watch` sees it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Sighted<'a> {
    /// What was seen, or why nothing.
    #[serde(flatten)]
    pub seen: TruthOfOne<'a>,
    /// The host's books of its memory.
    pub memory: Option<&'a MemoryBook>,
    /// An estimate of the memory that it works on.
    pub working_set: Option<Estimate>,
    /// Memory in use, as the guest's balloon driver says.
    pub claimed_used_bytes: Option<u64>,
    /// Memory in use, as the guest's kernel has it in its books.
    pub kernel_used_bytes: Option<u64>,
}

/// Everything that is known of a VM: with what it was asked for and given, and, while it runs, with what is in its guest.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Inspected<'a> {
    /// The VM.
    pub name: &'a VmName,
    /// What it is doing.
    pub state: VmState,
    /// The version of Mother whose process has the guest, or had it last.
    pub mother: Option<&'a str>,
    /// How it ended.
    pub end: Option<&'a VmEnd>,
    /// Of a VM that runs.
    #[serde(flatten)]
    pub running: Option<InspectedNow<'a>>,
    /// What it was asked for and given.
    #[serde(flatten)]
    pub given: Given<'a>,
}

/// Everything that is known of a guest that Mother does not run, or of one whose memory is in a file.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct InspectedForeign<'a> {
    /// As it was named.
    pub name: &'a str,
    /// What kind of file it is, of one in a file.
    pub format: Option<ImageFormat>,
    /// The VM, of one that runs.
    pub vm: Option<&'a Foreign>,
    /// The host's own books, of one that runs.
    pub books: Option<ProcessGuestBooks>,
    /// How its memory is laid out, in words.
    pub layout: Option<&'a str>,
    /// Why the kernel's memory map does not prove the layout, if it does not.
    pub layout_unproven: Option<&'a str>,
    /// RAM that is there.
    pub memory_bytes: u64,
    /// The guest's kernel.
    pub kernel: KernelFacts,
    /// What is in the guest, if its kernel is known.
    pub guest: Option<InsideGuest>,
    /// To find the kernel.
    pub attach_cost: Option<Cost>,
    /// To look at everything.
    pub cost: Option<Cost>,
}

/// A VM that Mother does not run, as `mother truth` sees it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TruthForeign<'a> {
    /// As it was named.
    pub name: &'a str,
    /// The VM.
    pub vm: &'a Foreign,
    /// The worst of the rows.
    pub worst: Verdict,
    /// How the guest stands; the exit status says the same.
    pub standing: Standing,
    /// The guest's kernel.
    pub kernel: &'a KernelFacts,
    /// Claim, kernel's book and truth of each subject, and what comes of it.
    pub rows: &'a [Row],
    /// The host's own books.
    pub books: &'a ProcessGuestBooks,
    /// What the last look cost.
    pub cost: Cost,
    /// How long the last reading took, the host's books included.
    pub seconds: f64,
}

/// A container, as `mother truth` sees it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TruthContainer<'a> {
    /// As it was named.
    pub name: &'a str,
    /// The container.
    pub container: &'a Foreign,
    /// The worst of the rows.
    pub worst: Verdict,
    /// How it stands; the exit status says the same.
    pub standing: Standing,
    /// What it sees, what it may have, what the host holds, and what comes of it.
    pub rows: &'a [Row],
    /// What is in its control group's books.
    pub cgroup: CgroupBooks,
    /// Its processes.
    pub processes: &'a [ContainerProcess],
    /// What is not known, and why.
    pub missing: &'a [String],
}

/// What is known of a VM that runs.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct InspectedNow<'a> {
    /// The host's own books.
    pub books: &'a HostBooks,
    /// Registers of each vCPU.
    pub registers: &'a [VcpuView],
    /// The guest's kernel.
    pub kernel: &'a KernelFacts,
    /// What is in the guest, if its kernel is known.
    pub guest: Option<InsideGuest>,
    /// As `mother truth` has them.
    pub verdicts: &'a [Row],
    /// How the guest stands.
    pub standing: Standing,
    /// What looking cost.
    pub cost: LookingCost,
}

/// What was read of a guest's memory.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct InsideGuest {
    /// Name, command line, load, clocks.
    pub system: System,
    /// The numbers of `/proc/meminfo`.
    pub memory: Observed<MemoryCounters>,
    /// Where its CPUs' time went.
    pub cpu: Observed<CpuTimes>,
    /// Processes and their threads.
    pub processes: Observed<Vec<Process>>,
    /// Loaded modules.
    pub modules: Observed<Vec<Module>>,
    /// Sockets and whose they are.
    pub sockets: Observed<Sockets>,
    /// Mounts, by namespace.
    pub mounts: Observed<Vec<MountNamespace>>,
    /// Where system calls and interrupts enter.
    pub entries: Observed<Vec<EntryPoint>>,
    /// The kernel's log.
    pub log: Observed<Vec<LogRecord>>,
}

/// What it cost to look, part by part.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct LookingCost {
    /// To find the kernel.
    pub attach: Cost,
    /// A look for verdicts.
    pub verdicts: Cost,
    /// The look for everything.
    pub everything: Option<Cost>,
    /// All that was read of the guest by this command.
    pub memory: LiveCost,
}

/// The keys of an object of an answer.
#[cfg(test)]
pub fn keys(value: &Value) -> Vec<String> {
    let object = value.as_object().expect("an answer's parts are objects");
    object.keys().cloned().collect()
}

/// A line of `mother trace --json`: an event.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Traced<'a> {
    /// The VM.
    pub name: &'a VmName,
    /// When, by the host's clock, in RFC 3339's words.
    pub at: String,
    /// What, in which process.
    #[serde(flatten)]
    pub what: &'a Event,
}

/// A line of `mother trace --json`: the first one, and the first one of each life of the guest.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TraceBegins<'a> {
    /// The VM.
    pub name: &'a VmName,
    /// `begins`.
    pub event: &'static str,
    /// Which life of the guest, counted from 0.
    pub life: u64,
    /// What is told, and how far.
    pub kinds: Vec<TracedKind>,
}

/// How far events of a kind are told.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TracedKind {
    /// Which kind.
    pub kind: EventKind,
    /// How far.
    #[serde(flatten)]
    pub reach: Reach,
}

/// A line of `mother trace --json`: passes of the guest's kernel that were not told.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TraceLost<'a> {
    /// The VM.
    pub name: &'a VmName,
    /// `lost`.
    pub event: &'static str,
    /// How many, of those that are watched.
    pub count: u64,
}

/// The answer of `mother policy check`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CheckedPolicy {
    /// Names of the rules.
    pub rules: Vec<String>,
    /// How many exceptions there are.
    pub exceptions: usize,
    /// Kinds of events that rules are about.
    pub events: Vec<EventKind>,
    /// Whether nothing will be done.
    pub dry_run: bool,
}

/// What came of an action.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Outcome {
    /// The time of the decision, by which it is known.
    pub decided_ns: u64,
    /// When it was done, in nanoseconds since 1970-01-01 UTC.
    pub at_ns: u64,
    /// The VM.
    pub vm: String,
    /// The rule.
    pub rule: String,
    /// What was to be done.
    pub action: &'static str,
    /// Whether it was.
    pub done: bool,
    /// Why not.
    pub why: Option<String>,
}

/// A line of the journal, and of `mother watch --json`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JournalEntry<'a> {
    /// What was decided.
    Decision(&'a Decision),
    /// What came of a part of it.
    Outcome(&'a Outcome),
}
