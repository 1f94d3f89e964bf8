//! What Mother knows of a VM that has ended. Measured, never estimated; what could not be measured is `None`.

pub(crate) mod footprint;
pub(crate) mod metrics;
pub mod profile;
pub(crate) mod sums;

use std::time::Duration;

use api::{DeviceStatus, HostCostBook, Metric};
use vcpu::EngineStatistics;

use crate::engine::EngineChoice;
use crate::outcome::ending::Ending;
use crate::outcome::exits::ExitCounts;

/// Guest memory, given and taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryReport {
    /// What the guest believes to have.
    pub configured_bytes: u64,
    /// What the host holds for it: the pages ever touched.
    pub resident_bytes: u64,
}

/// Host memory of the VM process by its parts, as `/proc/self/smaps` has it (proportional set size).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VmmMemory {
    /// Everything, guest pages included.
    pub total_bytes: u64,
    /// Guest pages.
    pub guest_bytes: u64,
    /// Generated code.
    pub code_cache_bytes: u64,
    /// Heap and other anonymous memory: tables of the engine, devices, stacks.
    pub heap_bytes: u64,
    /// Program and libraries.
    pub program_bytes: u64,
}

impl VmmMemory {
    /// What the VM costs beyond its guest's pages.
    pub fn overhead_bytes(&self) -> u64 {
        self.total_bytes - self.guest_bytes.min(self.total_bytes)
    }
}

/// What was measured at one moment of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Since the start of the VM.
    pub at: Duration,
    /// Guest memory that the host held.
    pub resident_bytes: Option<u64>,
    /// Host memory of the VM process.
    pub vmm_memory: Option<VmmMemory>,
    /// CPU time of the vCPU's thread.
    pub vcpu_time: Duration,
    /// What the engine counted.
    pub statistics: EngineStatistics,
}

/// A text that was watched for on the console.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Marker {
    /// The text.
    pub text: String,
    /// What was measured when it first stood in a line; `None` if it never did.
    pub seen: Option<Sample>,
}

/// Accesses to addresses where the board has nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Unmapped {
    /// Accesses to I/O ports.
    pub pio: u64,
    /// Physical addresses.
    pub mmio: u64,
    /// MSRs that got #GP.
    pub msr: u64,
}

/// What is known of a VM that has ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// The VM's name.
    pub name: String,
    /// Why it ended.
    pub ending: Ending,
    /// Why an init of ours did not go on to start the guest, in its words (the claim `start_failed`).
    pub start_failed: Option<String>,
    /// The engine, and why that one.
    pub engine: EngineChoice,
    /// How much the software CPU might hold beside the guest's pages, in bytes.
    pub engine_limit_bytes: Option<u64>,
    /// What the VM cost its host when it was last looked at, and against what limit, if there was one.
    pub host_cost: Option<HostCostBook>,
    /// From the start to the first byte on the console.
    pub first_output: Option<Duration>,
    /// The texts that were watched for, in the order of the plan.
    pub markers: Vec<Marker>,
    /// Guest memory.
    pub memory: MemoryReport,
    /// Host memory of the VM process at the end.
    pub vmm_memory: Option<VmmMemory>,
    /// Exits by kind.
    pub exits: ExitCounts,
    /// CPU time of the vCPU's thread: the guest's and what its exits cost.
    pub vcpu_time: Duration,
    /// CPU time of the whole process.
    pub cpu_time: Duration,
    /// How long the VM ran.
    pub wall_time: Duration,
    /// What the engine counted.
    pub statistics: EngineStatistics,
    /// How often the guest started again.
    pub reboots: u64,
    /// Accesses to nothing.
    pub unmapped: Unmapped,
    /// What each virtio device counted, over all lives.
    pub devices: Vec<DeviceStatus>,
    /// Every number that was counted or measured, over all lives.
    pub metrics: Vec<Metric>,
    /// Where the CPU time of the vCPUs' threads went, if that was asked for.
    pub profile: Option<profile::Cpu>,
}
