//! The engine contract: plain vCPU state, [`Exit`], [`Reply`] and one short trait. No engine lives here.
//!
//! A vCPU thread of the machine does nothing but this:
//!
//! ```text
//! loop {
//!     if interrupt controller has something:
//!         if vcpu.can_inject()  -> acknowledge it there, vcpu.inject(..)
//!         else                  -> vcpu.set_interrupt_window(true)
//!     exit  = vcpu.run(reply)     guest code runs in here
//!     reply = buses.answer(exit)
//! }
//! ```
//!
//! Invariants: an engine never calls a device, it returns an [`Exit`]; whatever an `Exit` says has been made
//! precise, so that [`Vcpu::state`] is the architectural state at that moment; the next [`Vcpu::run`] must bring
//! the [`Reply`] that the last `Exit` asked for. State, exits and replies are plain values, so a paused VM may change
//! engine.
//!
//! An engine and the devices share one process. What else passes between them needs that: notes about pages lie on the
//! heap (`mem::PageNotes`), a write to a page of translated code is told by a call that ends before the write does, and
//! [`Kick`], [`LocalApics`], [`Wires`], [`EngineMemory`] and [`ProbeSink`] are objects that are called.
#![forbid(unsafe_code)]

mod exit;
mod local_apic;
mod memory;
mod probes;
mod spot;
mod state;
mod statistics;
#[cfg(test)]
mod tests;
mod wires;

use std::sync::Arc;

use thiserror::Error;

pub use exit::{Exit, Injection, Reply, TripleFault, Unrunnable};
pub use local_apic::{LOCAL_APIC_REGISTERS, LocalApicState, LocalApics};
pub use memory::EngineMemory;
pub use probes::{Pass, ProbeSink, Probes};
pub use spot::{At, Marker, Places, Seen, Spot, What};
pub use state::{DebugRegisters, Msrs, VcpuState, XSAVE_BYTES, gpr};
pub use statistics::{EngineStatistics, Unit};
pub use wires::{Wire, Wires};

/// One virtual CPU, driven by one thread at a time.
pub trait Vcpu: Send {
    /// Runs guest code until the machine is needed. `reply` answers the exit that the last call returned.
    ///
    /// # Errors
    /// Only what is nobody's but the host's or the engine's own fault; guest mistakes are exits or exceptions.
    fn run(&mut self, reply: Reply) -> Result<Exit, EngineError>;

    /// Whether an external interrupt would be taken now: RFLAGS.IF is set, no shadow, nothing already injected.
    fn can_inject(&self) -> bool;

    /// Gives an event to the vCPU; it is delivered before the next guest instruction. An interrupt may only be
    /// given when [`Vcpu::can_inject`]; an NMI always (it waits inside while another is being handled).
    fn inject(&mut self, event: Injection);

    /// Asks for [`Exit::InterruptWindow`] as soon as [`Vcpu::can_inject`] becomes true, or takes that back.
    fn set_interrupt_window(&mut self, wanted: bool);

    /// The architectural state. Complete: another engine can go on from it.
    ///
    /// # Errors
    /// If the engine cannot read its own state.
    fn state(&mut self) -> Result<VcpuState, EngineError>;

    /// Replaces the architectural state, pending events included.
    ///
    /// # Errors
    /// If the state is one that no processor can be in, or the engine refuses it.
    fn set_state(&mut self, state: &VcpuState) -> Result<(), EngineError>;

    /// Takes `ticks` away from the guest's TSC, of a guest that did not run for so long.
    ///
    /// # Errors
    /// As [`Vcpu::set_state`].
    fn hold_tsc_back(&mut self, ticks: u64) -> Result<(), EngineError> {
        let mut state = self.state()?;
        state.msrs.tsc_offset = state.msrs.tsc_offset.wrapping_sub(ticks);
        self.set_state(&state)
    }

    /// A handle that makes [`Vcpu::run`] come back soon with [`Exit::Kicked`]. A kick is never lost: one that
    /// comes while the vCPU is not running ends the next run at once.
    fn kicker(&self) -> Arc<dyn Kick>;

    /// Whether the engine has this vCPU's local APIC. If so, startup requests, halting and interrupts of the APIC are
    /// the engine's own affair, and the machine injects only what the 8259 pair gives.
    fn has_local_apic(&self) -> bool {
        false
    }

    /// At how many addresses the engine may be given probes.
    fn probes_max(&self) -> usize {
        0
    }

    /// From now on these probes and no others, for this vCPU at least; called between two runs. Whether the engine tells of
    /// every pass: one that cannot tells of none.
    fn set_probes(&mut self, _probes: &Arc<Probes>) -> bool {
        false
    }

    /// Gives back what the engine holds beyond its limit ([`EngineMemory::set_limit`]), if that was changed; called between two
    /// runs, also while the vCPU rests.
    fn keep_memory_limit(&mut self) {}

    /// From now on the vCPU's thread writes there where it is; who knows of the engine's own places, if it tells any.
    fn tell_where(&mut self, _spot: &Arc<Spot>) -> Option<Arc<dyn Places>> {
        None
    }

    /// What the engine counted so far.
    fn statistics(&self) -> EngineStatistics;
}

/// The vCPUs of one VM on one engine.
pub struct Engine {
    /// All of them, in the order of their ids.
    pub vcpus: Vec<Box<dyn Vcpu>>,
    /// Their local APICs, if the engine has its own.
    pub local_apics: Option<Arc<dyn LocalApics>>,
    /// Who takes notifications to devices, if the engine can.
    pub wires: Option<Arc<dyn Wires>>,
    /// What it holds of the host's memory, if that is worth a limit.
    pub memory: Option<Arc<dyn EngineMemory>>,
}

/// Makes a running vCPU come back. Any thread may do so.
pub trait Kick: Send + Sync {
    /// See [`Vcpu::kicker`].
    fn kick(&self);
}

/// Why an engine cannot go on. Never the guest's fault.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The host refused something the engine needs.
    #[error("{what}")]
    Host {
        /// What the engine was doing.
        what: &'static str,
        /// What the host said.
        source: std::io::Error,
    },
    /// A state was set that no processor can be in.
    #[error("vCPU state is impossible: {0}")]
    State(&'static str),
    /// The engine noticed that its own invariant does not hold.
    #[error("engine broke its own rule: {0}")]
    Internal(String),
}
