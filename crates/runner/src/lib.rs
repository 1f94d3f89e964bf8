//! A VM's processes: from a plan and descriptors to a guest that runs, can be reached, ends, and leaves its report.
//!
//! ```text
//! client   start(Order, Streams) -> Running        the command line, or whatever else starts a VM
//!   |  wire
//! launcher launcher::State: an event in, acts out  the VM's folder, its name, paths, new sockets
//!   |  wire
//! VM       vm::live: build, serve, run, end        the guest; no path, no terminal, no environment
//! ```
//!
//! Each folder that a guest shares is served by a process of its own (`sharing`). A command that shall run in a unit of its own hands itself over to a `starter`. Beside them a [`Reader`] reads foreign files before there is a VM, in a jail of its own.
//!
//! All are this program: [`role::take`] is what its `main` calls first. What each process may ask of the next is in
//! `wire`; why there are three, and how each one's end is heard of, in decision 19.
#![forbid(unsafe_code)]

mod ask;
mod client;
mod egress;
mod ending;
mod frames;
mod launcher;
mod network;
mod observer;
mod own_log;
pub mod profile;
mod reader;
pub mod report;
pub mod role;
mod sharing;
mod spawn;
mod starter;
mod trial;
mod trouble;
mod vm;
mod warning;
mod wire;

pub use ask::{Ask, Asked, Echo, GRACE, OnTerm};
pub use client::{Handle, Held, Order, Running, Streams, start, upgrade};
pub use ending::{CRASHED, KILLED, TIMED_OUT};
pub use launcher::Means;
pub use observer::{Observer, ObserverEnd, Observing, tell_refused};
pub use own_log::log_to;
pub use reader::Reader;
pub use starter::{STARTER, elsewhere, starter};
pub use trial::jail_here;
pub use trouble::{CLOSED_PIPE, OUR_FAULT, RunError, Trouble, causes};
pub use vm::input::each_chunk;
pub use wire::{AfterExit, Ended, Guest, Outcome, Program, Ran, Refused, Upgraded};
