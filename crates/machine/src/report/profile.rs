//! Where the CPU time of the vCPUs' threads went.

use std::time::Duration;

/// What a profile says. The times of its parts sum to its CPU time, and so do those of its places with what is at none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cpu {
    /// From one look to the next.
    pub period: Duration,
    /// How often CPU time was charged to something.
    pub samples: u64,
    /// CPU time of all vCPUs' threads while they were looked at.
    pub cpu_time: Duration,
    /// How long they slept, because their vCPU had executed HLT or waited to be started.
    pub waited: Duration,
    /// How long they ran nothing else: for want of a core, in a pause, for a lock.
    pub kept: Duration,
    /// By what they were at.
    pub parts: Vec<Part>,
    /// By where the guest was.
    pub places: Vec<Place>,
    /// While the guest was nowhere that is known or told apart.
    pub unplaced: Duration,
    /// Names of the guest's programs, as its kernel says.
    pub programs: Vec<String>,
    /// SHA-256 of the kernel file that was loaded.
    pub kernel: Option<[u8; 32]>,
}

/// One thing that vCPUs' threads are at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// What.
    pub what: &'static str,
    /// Which of that: an instruction, a kind of exit.
    pub detail: Option<String>,
    /// CPU time.
    pub time: Duration,
    /// How often it began, where that is counted.
    pub count: Option<u64>,
}

/// One place in the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The address space: CR3 without its low 12 bits, and bit 0 for user code; 0 in the kernel's half, which all have.
    pub space: u64,
    /// Where a translated piece of code begins, or the instruction.
    pub rip: u64,
    /// Where that life's kernel had its entry for system calls (`IA32_LSTAR`), if it had one.
    pub entry: Option<u64>,
    /// Which of the guest's programs it is, if that is known, and whether its own code: then `rip` counts from where that begins.
    pub program: Option<(u32, bool)>,
    /// CPU time.
    pub time: Duration,
}
