//! Guest physical memory: memslots on one memory file, copies in and out, and notes about each page.
//!
//! Guest memory is never borrowed: no reference or slice into it exists outside this crate; everything is copied
//! with volatile or atomic accesses, because vCPUs change it at any time. Addresses and lengths from a guest are
//! allegations: every access is checked against the memslots and returns an error, never a panic.
//!
//! Invariant: memslots are page-aligned, never empty, never overlap, and lie back to back in the memory file.
#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests are in no jail")
)]
#![allow(
    unsafe_code,
    reason = "guest memory is shared with running vCPUs; only raw volatile access is sound"
)]

mod error;
mod file;
mod keeper;
mod memory;
mod notes;
mod paged;
mod slots;
mod transfer;

pub use error::MemoryError;
pub use file::MemoryFile;
pub use keeper::{PageBytes, PageKeeper};
pub use memory::{GuestMemory, Hva, VmMemory};
pub use notes::{CodeWatch, PageNotes, Writers};
pub use paged::{Faults, PageMap, PagedMemory};
pub use slots::{Memslot, Slots};
pub use transfer::{Buffer, TransferError};
