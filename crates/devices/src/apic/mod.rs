//! The local APIC, one per vCPU (SDM vol. 3, chapter 11): priorities, timer, interprocessor interrupts, in its
//! memory-mapped (xAPIC) and its MSR (x2APIC) form.
//!
//! A local APIC is a value. What a register write means for others comes back as an [`Effect`]; whether something
//! waits for the vCPU is asked with [`LocalApic::pending`] and friends. It knows neither its vCPU nor other APICs.

mod base;
mod local;
mod message;
mod registers;
mod state;
mod timer;
mod vectors;

pub use local::{Effect, LocalApic, LvtEntry};
pub use message::{Delivery, Destination, Message};
pub use registers::RegisterFault;
pub use timer::{ApicTimer, BUS_HZ, TimerMode};
pub use vectors::VectorSet;

#[cfg(test)]
mod tests;
