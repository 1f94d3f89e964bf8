//! `mother serve`: one daemon for one host, or for one user on it.
//!
//! ```text
//!            clients: mother, browsers, curl, Prometheus, Redfish
//!                 |  HTTP on a Unix socket, or over TLS with a token
//!   http ─── who may (auth), what was asked (audit), what is wrong (errors)
//!     |  reads                                   |  has done
//!   sight ── what there is: one table of VMs     orders ── long work, with progress and cancel
//!     ^  the runtime folder, control sockets       |  `mother run`, `stop`, ... as processes of their own
//!     ^  an observer, a process of its own       keeper ── declared VMs become what they are wanted to be
//!                                                  |
//!   store ── declared VMs, events, audit, tokens: one file, written before anything is done
//! ```
//!
//! **The daemon owns no VM.** A VM is a process that lives without it and is found again by its folder and its lock
//! (`fleet`); so the daemon may be killed, replaced and started at any moment, and nobody stops. What it must not forget
//! is in the store, a file that a loss of power leaves whole.
//!
//! **The daemon does nothing to a VM by itself.** It starts this program's own commands with `--json`: the same words,
//! the same checks, the same errors as a person gets, and who reads a guest's memory is another process than who holds
//! tokens and descriptions. It links nothing of machines and insight.
//!
//! **What is declared** is a description, whether it shall run, and what follows when it ends. A loop (`keeper`)
//! compares that with what is there and takes one step at a time; what a step is, is a function of plain values
//! ([`keeper`]), tested as a table.
//!
//! **What is sent to others** (`otlp` to a collector, Redfish's events to their listeners) goes by one POST (`post`).
//!
//! **Reading never waits for a VM**: lists come from the table that `sight` renews once a second.
#![forbid(unsafe_code)]

mod client;
mod daemon;
mod doors;
mod error;
mod events;
mod fetch;
mod host_view;
mod http;
mod keeper;
mod media;
mod metrics;
mod options;
mod orders;
mod otlp;
mod packed;
mod post;
mod sight;
mod snmp;
mod store;
mod subscribers;
mod trust;
mod words;

pub use client::{Answer, ClientError, Target};
pub use error::ServeError;
pub use options::{BY_DAEMON, Collector, Options};
pub use post::{Answered, Place, PostError, Trusted};
pub use words::{Declaration, Desired, Event, Problem, Restart, Role, Severity};

/// Serves until it is told to end (SIGTERM, SIGINT).
///
/// # Errors
/// [`ServeError`]: it cannot begin, or its store cannot be written.
pub fn run(options: Options) -> Result<(), ServeError> {
    http::run(options)
}
