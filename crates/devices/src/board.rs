//! The board as the machine sees it: one value that answers accesses and tells what came of them.
//!
//! The machine keeps it behind one lock. A visit is short: find the device, let it act, carry its lines to the
//! interrupt controllers. A visit to a vCPU's own local APIC needs the vCPU's number, everything else does not.

use std::io::Write;
use std::sync::Arc;

use mem::GuestMemory;
use thiserror::Error;
use x86::{Gpa, Vector};

use crate::bus::{BusCounters, MmioBus, PioBus};
use crate::clock::{GuestClock, Nanos};
use crate::event::{BoardEvent, BoardEvents};
use crate::irq::{IrqLines, IrqSink};

/// What a board is built from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BoardPlan {
    /// How many vCPUs there are, 1 to 255. vCPU `n` has APIC id `n`; vCPU 0 is the bootstrap processor.
    pub vcpu_count: u32,
    /// The guest's time.
    pub clock: GuestClock,
    /// Whether the debug-exit port is there.
    pub has_debug_exit: bool,
}

/// There is no such MSR, or not that value for it: the guest gets #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("no such MSR or value")]
pub struct MsrFault;

/// What one vCPU asked of another's power: for the machine to carry out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Startup {
    /// INIT: go to the state after INIT and wait for SIPI.
    Init,
    /// SIPI: start in real mode at `vector << 12`, if waiting for it.
    Sipi(Vector),
}

/// What the buses of a board counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BoardCounters {
    /// I/O ports.
    pub pio: BusCounters,
    /// Guest physical memory.
    pub mmio: BusCounters,
}

/// The board of one VM.
pub struct Board {
    plan: BoardPlan,
    memory: Arc<GuestMemory>,
    lines: IrqLines,
    sink: Arc<dyn IrqSink>,
    events: BoardEvents,
    pio: PioBus,
    mmio: MmioBus,
}

impl Board {
    /// A board as firmware leaves it: interrupts reach vCPU 0 through the 8259 pair. What the guest sends to COM1
    /// goes to `console`.
    pub fn new(
        plan: BoardPlan,
        memory: Arc<GuestMemory>,
        console: Box<dyn Write + Send>,
        sink: Arc<dyn IrqSink>,
    ) -> Board {
        let _ = console;
        Board {
            plan,
            memory,
            lines: IrqLines::default(),
            sink,
            events: BoardEvents::default(),
            pio: PioBus::default(),
            mmio: MmioBus::default(),
        }
    }

    /// IN.
    pub fn pio_read(&mut self, now: Nanos, port: u16, size: u8) -> u32 {
        self.pio.read(now, port, size)
    }

    /// OUT.
    pub fn pio_write(&mut self, now: Nanos, port: u16, size: u8, value: u32) {
        self.pio.write(now, port, size, value);
    }

    /// A load by vCPU `vcpu_id` from where no memory is.
    pub fn mmio_read(&mut self, vcpu_id: u32, now: Nanos, gpa: Gpa, size: u8) -> u64 {
        let _ = vcpu_id;
        self.mmio.read(now, gpa, size)
    }

    /// A store by vCPU `vcpu_id` to where no memory is.
    pub fn mmio_write(&mut self, vcpu_id: u32, now: Nanos, gpa: Gpa, size: u8, value: u64) {
        let _ = vcpu_id;
        self.mmio.write(now, gpa, size, value);
    }

    /// RDMSR of a register of the local APIC or the paravirtual clock.
    ///
    /// # Errors
    /// [`MsrFault`] for any other register, and where the APIC's mode forbids it.
    pub fn msr_read(&mut self, vcpu_id: u32, now: Nanos, msr: u32) -> Result<u64, MsrFault> {
        let _ = (vcpu_id, now, msr);
        Err(MsrFault)
    }

    /// WRMSR likewise.
    ///
    /// # Errors
    /// [`MsrFault`], also for values that the register does not take.
    pub fn msr_write(&mut self, vcpu_id: u32, now: Nanos, msr: u32, value: u64) -> Result<(), MsrFault> {
        let _ = (vcpu_id, now, msr, value);
        Err(MsrFault)
    }

    /// Whether an external interrupt waits for this vCPU, its task priority considered.
    pub fn has_interrupt(&self, vcpu_id: u32) -> bool {
        let _ = vcpu_id;
        false
    }

    /// Takes the interrupt that [`Board::has_interrupt`] announced: the caller injects it.
    pub fn acknowledge(&mut self, vcpu_id: u32) -> Option<Vector> {
        let _ = vcpu_id;
        None
    }

    /// Takes the NMI that waits for this vCPU, if there is one: the caller injects it.
    pub fn take_nmi(&mut self, vcpu_id: u32) -> bool {
        let _ = vcpu_id;
        false
    }

    /// Takes the next startup request for this vCPU.
    pub fn take_startup(&mut self, vcpu_id: u32) -> Option<Startup> {
        let _ = vcpu_id;
        None
    }

    /// The vCPU's TSC was moved: `tsc_at_start` is now what it would have been at time zero.
    pub fn set_tsc(&mut self, vcpu_id: u32, tsc_at_start: u64) {
        let _ = (vcpu_id, tsc_at_start);
    }

    /// When the board next wants [`Board::advance`], if nothing else happens.
    pub fn deadline(&self) -> Option<Nanos> {
        self.pio.deadline().into_iter().chain(self.mmio.deadline()).min()
    }

    /// It is `now`: lets timers expire.
    pub fn advance(&mut self, now: Nanos) {
        self.pio.advance(now);
        self.mmio.advance(now);
    }

    /// Takes what the guest asked of the VM as a whole. Ask after every access.
    pub fn take_event(&mut self) -> Option<BoardEvent> {
        self.events.take()
    }

    /// Types on the console. Returns how many bytes were taken; the rest has to be offered again later.
    pub fn type_console(&mut self, now: Nanos, bytes: &[u8]) -> usize {
        let _ = (now, bytes);
        0
    }

    /// Presses the power button.
    pub fn press_power_button(&mut self, now: Nanos) {
        let _ = now;
    }

    /// What the ports and the memory bus counted.
    pub fn counters(&self) -> BoardCounters {
        BoardCounters { pio: self.pio.counters(), mmio: self.mmio.counters() }
    }

    /// Puts every device in the state that [`Board::new`] left it in. Time goes on.
    pub fn reset(&mut self, now: Nanos) {
        let _ = now;
        let _ = (&self.plan, &self.memory, &self.lines, &self.sink);
    }
}
