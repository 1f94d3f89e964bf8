//! The host's side of running VMs: which there are, how to talk to one, and what the ended ones left behind.
//!
//! Every VM is a process of its own and a folder below the user's runtime folder:
//!
//! ```text
//! $XDG_RUNTIME_DIR/mother/     0700, ours
//!     register                 locked for the moment in which somebody looks, takes a name, or removes one
//!     .networks/NAME           where the network NAME between VMs is reached
//!     NAME/
//!         alive                locked by the VM's process for as long as it lives
//!         control              the control socket
//!         vm.json              what it is (`api::VmInfo`)
//!         console, console.old what the guest printed, the older half apart: bounded
//!         messages             what a detached VM's process said about itself
//!         end.json             how it ended (`api::VmEnd`)
//! ```
//!
//! Whether a VM lives is a question to the kernel, never to a file: its process holds the lock on `alive`, and the
//! kernel gives that back however the process ends. A folder without a holder and without `end.json` is one whose
//! process vanished.
//!
//! VMs and containers that others run on the host are found by [`foreign`], which reads `/proc` and control groups alone.
//!
//! This crate links nothing of the machine: it knows VMs by the words of `api` alone. What a guest does inside is read
//! by the crate `watch`, over descriptors that a [`Client`] gets from the VM's process.
#![forbid(unsafe_code)]

mod agent;
mod claim;
mod client;
pub mod foreign;
mod inventory;
mod log;
mod network;
mod one;
mod place;
mod reach;
mod record;

pub use agent::{Agent, AgentError, Message};
pub use claim::{Claim, ClaimError};
pub use client::{Client, ClientError, MemoryFiles, Passes, SomePasses, StateFiles};
pub use inventory::{Inventory, InventoryError, Vm, speak_of};
pub use log::{Follow, LogWriter, Tail, follow};
pub use network::NetworkDoor;
pub use one::OneVm;
pub use place::{PlaceError, UsersPlace, of_everybody};
pub use reach::{Known, Reach, reach_by};
pub use record::Record;
