//! The board of a Mother VM: buses, interrupt controllers, timers, serial port, ACPI, PCI.
//!
//! As little as stock Linux kernels need, and all of it real. [`Board`] is the whole: the machine brings it every
//! exit of a vCPU together with the time, takes interrupts and [`BoardEvent`]s from it, and asks when it next
//! wants to be visited. Everything else here is a part of it that can be used and tested alone.
//!
//! ```text
//! machine ──Exit, now──> Board ──> PioBus / MmioBus ──> device ──IrqLine──┐
//!    ^                     │                                              │
//!    │                     └── local APICs <── IOAPIC, 8259 pair <────────┘
//!    └── IrqSink::notify(vcpu): "ask me for an interrupt"
//! ```
//!
//! Invariants: no threads and no path in a device; what is asked under the board's lock reads no clock and waits for
//! nothing (a virtio device's workers, on the machine's threads, read the monotonic clock, and one asks the host for
//! random numbers); a device knows its lines and its own state, never a vCPU or another device; whatever a guest
//! writes, nothing here panics.
#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests are in no jail")
)]
#![forbid(unsafe_code)]

pub mod acpi;
pub mod apic;
pub mod board;
pub mod bus;
pub mod clock;
pub mod console;
pub mod controllers;
pub mod event;
pub mod fixed;
pub mod generation;
pub mod i8042;
pub mod ioapic;
pub mod irq;
pub mod kvmclock;
pub mod layout;
pub mod pci;
pub mod pic;
pub mod pit;
mod plan;
pub mod pm;
pub mod ports;
pub mod rate;
pub mod rtc;
pub mod saved;
pub mod serial;
pub mod smbios;
pub mod virtio;
mod vmclock;

pub use board::{Board, BoardCounters, BoardPlan, BoardState, MsrFault};
pub use bus::{BusCounters, MmioBus, MmioDevice, Overlap, PioBus, PioDevice};
pub use clock::{GuestClock, Nanos};
pub use controllers::{InterruptCounters, Startup};
pub use event::{BoardEvent, BoardEvents};
pub use irq::{IrqLine, IrqLines, IrqSink};
pub use saved::{Saved, Unfit};
