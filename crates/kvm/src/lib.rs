//! Engine one: vCPUs on the host's `/dev/kvm`.
//!
//! ```text
//! host::look_at ──> Findings       can this host's KVM do what we need, and is it real?
//! engine ─────────> vcpu::Engine   a VM with the guest's memory: KvmVcpu for each vCPU, and their local APICs
//! ```
//!
//! The interrupt controllers are split: local APICs are in the host's kernel, close to the vCPUs, where their timers,
//! interprocessor interrupts and HLT cost no way to this process; the IOAPIC, the 8259 pair and the PIT are the
//! board's, as on the software CPU, and speak to the local APICs in messages (`apic`). MSRs are split the same way: the
//! processor's own are KVM's, everything else comes out as an exit, so that a guest finds the same registers on both
//! engines (`vm`). The paravirtual clock is one of those, so there is one implementation of it, the board's. Of stores to
//! devices, KVM takes the notifications (`wires`). Of addresses that somebody wants to hear of, the processor compares with
//! four (`breakpoints`).
//!
//! Invariants: the memory that KVM maps is kept alive by whoever keeps a vCPU; a kick only ever writes one byte of the
//! shared page and sends a signal whose handler does nothing (`kick`); nothing that a guest does is an error of
//! ours, it is an exit.
#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests are in no jail")
)]
#![allow(
    unsafe_code,
    reason = "ioctls on /dev/kvm and its shared page have no safe form; every block says why it holds"
)]

mod apic;
mod breakpoints;
mod cpuid;
mod debugged;
mod error;
mod kick;
mod probe;
mod slots;
mod state;
mod statistics;
mod support;
#[cfg(test)]
mod tests;
mod vcpu_fd;
mod vm;
mod wires;

pub use kick::prepare_kicks;
pub use probe::{Speed, measure};
pub use support::{Findings, Node, look};
pub use vm::{Device, Kvm};
