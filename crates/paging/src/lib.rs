//! Gives a guest less memory than it believes to have, without the guest knowing.
//!
//! ```text
//!  guest, devices ──fault──> service ──> core <── reclaim ──> clock: which pages are cold?
//!                                         |  \
//!                                       store  residency map, for who looks from outside
//! ```
//!
//! `core` is the state machine of every page, and says why no byte is lost; `service` is the thread that answers
//! faults, `reclaim` the one that puts pages away and keeps `store` in order, and `guard` sees whether they live; `clock` and
//! `estimate` are their choices and measures, as plain values. [`Pager`] is all of it around one guest memory.
#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests are in no jail")
)]
#![forbid(unsafe_code)]

mod base;
mod clock;
mod core;
mod estimate;
mod guard;
mod memory;
mod pager;
mod reclaim;
mod residency;
mod service;
mod shared;
mod stall;
mod store;
mod watch;

pub use crate::core::{Broken, Counts};
pub use base::{Base, BaseError, CHUNK_BYTES, CHUNK_PAGES};
pub use estimate::Estimate;
pub use memory::{PAGE_BYTES, PageBytes};
pub use pager::{AHEAD_PAGES, Books, Pager, Settings, StartError};
pub use shared::{Event, with_causes};
pub use store::{PageFile, ReadError, StoreTotals};
