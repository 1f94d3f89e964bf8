//! How often guest code stopped, by kind.

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
