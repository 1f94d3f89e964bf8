//! Observers of running VMs: what a guest's kernel says about itself, what the host's books say, and which claim is wrong.
//!
//! An [`Observer`] reads a guest's memory over descriptors that the VM's process gives, so the parser (`insight`) runs
//! here, outside that process, and nothing is paused. A [`Watcher`] looks again and again and judges what it saw:
//!
//! ```text
//! VM's process ──descriptors, registers, books──> LiveMemory, Observer ──Look──> reading, checks ──> Watcher ──> Assessment
//! ```
//!
//! This crate links nothing of the machine: it knows VMs by the words of `api` alone and reaches them through `fleet`.
#![forbid(unsafe_code)]

mod checks;
mod code;
pub mod dump;
pub mod foreign;
mod hidden;
mod live;
mod observer;
mod people;
mod reading;
mod stored;
mod trace;
mod views;
mod watcher;

pub use live::{LiveCost, LiveMemory};
pub use observer::{Observer, Snapshot};
pub use trace::{Listener, Tracer};
pub use watcher::{Assessment, KernelFacts, LoadedFacts, WatchCost, Watcher};
