//! What an observer outside a VM's process is told about its guest: where the memory lies, what is in the registers,
//! and what the host has in its own books. Nothing here is the guest's word, but what is marked as a claim.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::{Counter, DeviceStatus};

/// The name of the virtio console's port that takes claims.
pub const CLAIMS_PORT_NAME: &str = "mother.claims";
/// The port of the host that takes claims over vsock.
pub const CLAIMS_PORT: u32 = 6684;

/// How to read guest memory: the descriptors come with the same message, opened for reading only, first the memory
/// file, then the residency map if there is one, then the kernel file if it is still what was loaded.
///
/// A reader uses `pread` and never maps: a read through a mapping would allocate guest memory. With a residency map (a
/// little-endian 32-bit number for each page of the memory file) it looks at a page's number before and after it reads:
/// even and the same means that what it read is the page, a hole being zeros; odd means that the contents are with the
/// pager; another number than before means that the page was there meanwhile.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct MemoryView {
    /// Which life of the guest this is the memory of: a guest that starts again gets another file.
    pub life: u64,
    /// Where guest physical memory lies in the file.
    pub slots: Vec<SlotView>,
    /// Whether there is a residency map.
    pub has_residency: bool,
    /// SHA-256, in hexadecimal, of the kernel file whose descriptor comes along: what was in guest memory before the first
    /// instruction. Absent if the file has been changed since.
    #[serde(default)]
    pub kernel_sha256: Option<String>,
}

/// A stretch of guest physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct SlotView {
    /// First guest physical address.
    pub gpa: u64,
    /// How long the slot is.
    pub len_bytes: u64,
    /// Where it starts in the memory file.
    pub file_offset: u64,
}

/// The registers of a vCPU that tell what it runs and where its kernel is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
#[allow(missing_docs, reason = "registers carry their own names")]
pub struct VcpuView {
    /// Which vCPU.
    pub vcpu_id: u32,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub idtr: TableView,
    pub gdtr: TableView,
    pub fs_base: u64,
    pub gs_base: u64,
    pub kernel_gs_base: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sysenter_eip: u64,
    /// DR0 to DR3: where breakpoints are.
    pub breakpoints: [u64; 4],
    /// Which of them are on.
    pub dr7: u64,
    pub rip: u64,
    pub rsp: u64,
    pub rflags: u64,
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gprs: [u64; 16],
    /// What is in the segment registers.
    pub selectors: SelectorsView,
    /// Current privilege level.
    pub cpl: u8,
    /// In HLT, until an interrupt.
    pub halted: bool,
    /// Never started, or stopped by INIT: waits for another vCPU to start it.
    pub waits_for_startup: bool,
    /// How long ago this was read. More than a moment only for a vCPU that did not answer in time.
    pub age_ms: u64,
}

/// Selectors in the segment registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
#[allow(missing_docs, reason = "registers carry their own names")]
pub struct SelectorsView {
    pub cs: u16,
    pub ss: u16,
    pub ds: u16,
    pub es: u16,
    pub fs: u16,
    pub gs: u16,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the manual's own names")]
pub struct TableView {
    pub base: u64,
    pub limit: u16,
}

/// The host's own books about one VM, exact by construction: every number was counted where the thing happened.
#[derive(Clone, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct HostBooks {
    /// Which life of the guest; numbers of vCPUs begin with it.
    pub life: u64,
    /// How often the guest started again.
    pub reboots: u64,
    /// `kvm` or `soft`.
    pub engine: String,
    /// Whether the VM is paused.
    pub paused: bool,
    /// Since the VM was started, pauses included.
    pub uptime_seconds: f64,
    /// CPU time of the VM's process: guest, devices, and Mother herself.
    pub cpu_seconds: f64,
    /// The clock that the guest was given.
    pub clock: ClockBook,
    /// What it was given, holds, and has away.
    pub memory: MemoryBook,
    /// What the VM costs the host by part, against its limit; absent where there is no limit of the whole.
    #[serde(default)]
    pub host_cost: Option<HostCostBook>,
    /// What the engine holds beside the guest's pages; absent where that is the host's kernel's.
    #[serde(default)]
    pub engine_memory: Option<EngineMemoryBook>,
    /// One for each vCPU.
    pub vcpus: Vec<VcpuBook>,
    /// What each device counted, over all lives.
    pub devices: Vec<DeviceStatus>,
    /// The balloon, with what the guest claims through it.
    pub balloon: BalloonBook,
    /// What programs in the guest claim of it, line by line.
    #[serde(default)]
    pub claims: ClaimBook,
    /// How much memory the guest used lately, by sampling; absent where nobody samples.
    #[serde(default)]
    pub working_set: Option<Estimate>,
    /// How many bytes of memory a second the guest wrote lately, each page counted once; absent where nobody samples.
    #[serde(default)]
    pub dirty_rate: Option<Estimate>,
}

/// The clock that the guest was given.
#[derive(Clone, Copy, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct ClockBook {
    /// What the guest's hardware clock said when this life began, in seconds since 1970-01-01 UTC.
    pub wall_at_start: f64,
    /// The guest's own time since then: pauses are not in it.
    pub guest_seconds: f64,
    /// How much of the host's time pauses took.
    pub paused_seconds: f64,
    /// The frequency of the guest's TSC.
    pub tsc_khz: u64,
}

/// Memory of the guest. `given = resident + given back + paged out`, always.
#[derive(Clone, PartialEq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct MemoryBook {
    /// What the guest was told it has.
    pub configured_bytes: u64,
    /// What the host ever gave, a page that was given back and taken again counted again.
    pub given_bytes: u64,
    /// What the host holds in memory now.
    pub resident_bytes: u64,
    /// What the guest gave back, through its balloon or by reporting free pages, that the host had given.
    pub given_back_bytes: u64,
    /// What lies somewhere else than in memory now, by place; empty where nothing is.
    #[serde(default)]
    pub paged_out: Vec<Counter>,
    /// What paging costs and does; absent where the host allows none.
    #[serde(default)]
    pub paging: Option<PagingBook>,
}

/// What a VM costs its host in memory, by part, where that has a limit. As the VM's process last looked, some tenths of a second
/// ago. What is mapped of its program is counted as a whole, though VMs share it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct HostCostBook {
    /// What all of it may be.
    pub limit_bytes: u64,
    /// The sum of the parts.
    pub total_bytes: u64,
    /// Guest memory that the host holds.
    pub guest_bytes: u64,
    /// Compressed pages of the guest.
    pub store_bytes: u64,
    /// Code that the engine made, and its tables.
    pub engine_bytes: u64,
    /// What else is the process's own: devices, tables of the pager, stacks.
    pub own_bytes: u64,
    /// Its program and libraries.
    pub program_bytes: u64,
    /// The least that all of it costs as things are: a limit below it is not kept.
    pub least_bytes: u64,
    /// The most that it cost since the limit was set.
    pub highest_bytes: u64,
    /// For how long it cost more than the limit since then, in milliseconds.
    pub over_ms: u64,
}

/// What the engine holds of the host's memory beside the guest's pages: code made of the guest's, tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct EngineMemoryBook {
    /// By the engine's own count.
    pub held_bytes: u64,
    /// How much it may be; absent: as much as it makes use of.
    pub limit_bytes: Option<u64>,
}

/// Paging: pages of the guest that lie somewhere else than in memory, without the guest knowing.
#[derive(Clone, PartialEq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct PagingBook {
    /// How much of the guest's memory the host may hold; absent: all of it.
    pub limit_bytes: Option<u64>,
    /// Memory that the store of compressed pages takes: not a part of what is resident.
    pub store_memory_bytes: u64,
    /// How much it may take.
    pub store_memory_budget_bytes: u64,
    /// What the page file takes.
    pub store_file_bytes: u64,
    /// CPU time of the pager's threads.
    pub cpu_seconds: f64,
    /// From hearing of a fault to having the page back: half of all took no longer than this.
    pub fault_in_median_us: Option<u64>,
    /// 99 of 100.
    pub fault_in_p99_us: Option<u64>,
    /// Why the guest waits for room for its pages, if it does.
    pub waits: Option<String>,
    /// What happened so far, in pages.
    pub counters: Vec<Counter>,
}

impl MemoryBook {
    /// What is paged out, wherever.
    pub fn paged_out_bytes(&self) -> u64 {
        self.paged_out.iter().map(|place| place.value).sum()
    }
}

/// What one vCPU did in this life.
#[derive(Clone, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct VcpuBook {
    /// Which vCPU.
    pub vcpu_id: u32,
    /// CPU time of its thread: guest code and what its exits cost. Absent where the host does not tell.
    pub run_seconds: Option<f64>,
    /// How long its thread was ready and the host did not run it: what a guest calls steal. Absent where the host does
    /// not tell.
    pub wait_seconds: Option<f64>,
    /// How long it was halted by its own will.
    pub halted_seconds: f64,
    /// How long it waited to be started.
    pub waiting_for_startup_seconds: f64,
    /// How often guest code stopped, by kind.
    pub exits: Vec<Counter>,
}

/// The balloon: what the host asked and saw, and what the guest claims.
#[derive(Clone, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct BalloonBook {
    /// What the host wants in it.
    pub target_bytes: u64,
    /// What the guest says is in it: a claim.
    pub claimed_bytes: u64,
    /// What inflating asked the host to take, counted again each time.
    pub inflated_bytes: u64,
    /// What reports of free pages asked the host to take, likewise.
    pub reported_bytes: u64,
    /// What the guest's driver says about its memory: claims, named as in the specification.
    pub claims: Vec<Counter>,
    /// How long ago it said so.
    #[serde(default)]
    pub claims_age_ms: Option<u64>,
}

/// What programs in the guest said of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct ClaimBook {
    /// The last value of each key.
    pub claims: Vec<GuestClaim>,
    /// Lines that were no claim, or one too many.
    pub refused_lines: u64,
}

/// One thing that a program in the guest said: `claim KEY VALUE`.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct GuestClaim {
    /// What it is about.
    pub key: String,
    /// What it said, without characters that could move a cursor.
    pub value: String,
    /// `port` (the console's port `mother.claims`) or `vsock`.
    pub way: String,
    /// How long ago.
    pub age_ms: u64,
    /// How often in this life.
    pub times: u64,
}

/// A number with its error bar.
#[derive(Clone, Copy, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct Estimate {
    /// The middle.
    pub value: f64,
    /// One standard error.
    pub error: f64,
    /// The time it is about.
    pub period_seconds: f64,
    /// How long ago that time ended.
    pub age_ms: u64,
}

#[cfg(test)]
#[path = "observe_tests.rs"]
mod tests;
