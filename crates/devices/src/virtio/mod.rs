//! Virtio: the devices a guest uses for everything that is not a PC's own.
//!
//! Sources: Virtual I/O Device (VIRTIO) Version 1.2; section numbers below are of that document.
//!
//! ```text
//!             visit (vCPU, board's lock)                    thread of the machine
//! driver ──> transport (PCI) ──> VirtioDevice  ··activate··>  Worker ──> backend (file, socket)
//!                │ notify                                      ^   │
//!                └──────────────> Doorbell ────────────────────┘   └──> Interrupt ──> MSI to the board
//! ```
//!
//! A device has two halves. The **front** ([`VirtioDevice`]) lives on the board: features, configuration space, and
//! what to do when the driver says `DRIVER_OK`. It is asked under the board's lock and never waits for anything. The
//! **back** is one or more [`Worker`]s, values that own their virtqueues and their part of the backend from
//! `DRIVER_OK` to reset. A worker runs on a thread of the machine ([`StartWorkers`]), never on a vCPU's, and nobody
//! else touches its queues: one owner per state, no lock around it. Unit tests run workers in place.
//!
//! The transport checks every register write against the device's status; what a driver may not do is counted, and
//! where the specification says so the device asks for a reset (`DEVICE_NEEDS_RESET`, 2.1.1). A worker that finds its
//! queue broken says so with [`Broken`] and is stopped: same end. Nothing a driver writes panics.

pub mod balloon;
pub mod blk;
pub mod console;
mod device;
pub mod entropy;
pub mod folder;
mod function;
mod interrupt;
mod mac;
mod metrics;
mod msix;
pub mod net;
mod registers;
mod segments;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod transport;
mod virtqueue;
pub mod vsock;
mod worker;

pub use device::{Setup, VirtioDevice, VirtioKind};
pub use function::VirtioFunction;
pub use interrupt::{Interrupt, SendMsi};
pub use metrics::{DeviceMetrics, DeviceRates, LatencyHistogram, MetricsReading};
pub use shared::Links;
pub use state::{
    Back, FrontState, QueuePosition, StreamState, VirtioState, VsockState, WorkerState,
};
pub use virtqueue::{Chain, Virtqueue};
pub use worker::{Broken, Doorbell, RunningWorkers, StartWorkers, Wake, Worker};
