//! What Mother knows of a VM that has ended. Measured, never estimated; what could not be measured is `None`.

use std::time::Duration;

use api::DeviceStatus;
use vcpu::EngineStatistics;

use crate::control::StopCause;
use crate::crash::Crash;
use crate::engine::EngineChoice;

/// Why a VM ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The guest powered itself off, or reset itself where a reset ends it.
    PoweredOff,
    /// The guest ended itself through the debug-exit port, with this exit status.
    DebugExit(u8),
    /// A triple fault, or something that no engine could carry out.
    Crashed(Box<Crash>),
    /// The time was up.
    TimedOut,
    /// Somebody stopped it.
    Stopped(StopCause),
}

/// How often guest code stopped, by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExitCounts {
    /// IN.
    pub pio_read: u64,
    /// OUT.
    pub pio_write: u64,
    /// Loads from the board.
    pub mmio_read: u64,
    /// Stores to the board.
    pub mmio_write: u64,
    /// RDMSR that the machine answers.
    pub msr_read: u64,
    /// WRMSR that the machine answers.
    pub msr_write: u64,
    /// HLT.
    pub halt: u64,
    /// Interrupt windows.
    pub interrupt_window: u64,
    /// Kicks.
    pub kicked: u64,
    /// Ends of level-triggered interrupts, where the engine has the local APICs.
    pub end_of_interrupt: u64,
    /// Triple faults.
    pub triple_fault: u64,
    /// What the engine could not carry out.
    pub unrunnable: u64,
}

impl ExitCounts {
    /// How many kinds there are.
    pub const KINDS: usize = 12;

    /// Every kind with its name and count.
    pub fn by_kind(&self) -> [(&'static str, u64); Self::KINDS] {
        [
            ("pio read", self.pio_read),
            ("pio write", self.pio_write),
            ("mmio read", self.mmio_read),
            ("mmio write", self.mmio_write),
            ("msr read", self.msr_read),
            ("msr write", self.msr_write),
            ("halt", self.halt),
            ("interrupt window", self.interrupt_window),
            ("kicked", self.kicked),
            ("end of interrupt", self.end_of_interrupt),
            ("triple fault", self.triple_fault),
            ("unrunnable", self.unrunnable),
        ]
    }

    /// Adds the counts of another run.
    pub(crate) fn add(&mut self, more: &ExitCounts) {
        self.pio_read += more.pio_read;
        self.pio_write += more.pio_write;
        self.mmio_read += more.mmio_read;
        self.mmio_write += more.mmio_write;
        self.msr_read += more.msr_read;
        self.msr_write += more.msr_write;
        self.halt += more.halt;
        self.interrupt_window += more.interrupt_window;
        self.kicked += more.kicked;
        self.end_of_interrupt += more.end_of_interrupt;
        self.triple_fault += more.triple_fault;
        self.unrunnable += more.unrunnable;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.by_kind().iter().map(|(_, count)| count).sum()
    }
}

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
    /// Ports.
    pub pio: u64,
    /// Physical addresses.
    pub mmio: u64,
    /// MSRs that got #GP.
    pub msr: u64,
}

/// What is known of a VM that has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The VM's name.
    pub name: String,
    /// Why it ended.
    pub ending: Ending,
    /// The engine, and why that one.
    pub engine: EngineChoice,
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
}
