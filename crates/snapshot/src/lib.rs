//! Snapshots on disk: a VM as a folder of files that are checked before they are used.
//!
//! ```text
//! $XDG_DATA_HOME/mother/snapshots/
//!   NAME/                 a snapshot: whole, since it got its name last
//!     snapshot.json       what it is (`manifest`), the last file that was written; held by whoever uses it
//!     state               vCPUs and board, opaque here (`packed`)
//!     memory              pages that are not zeros, in chunks (`format`)
//!     kernel, module0 …   what a reset of the guest loads again: hard links into .blobs
//!     disk0 …             disks, as far as they are the snapshot's own
//!   .NAME.PID.tmp/        a draft, locked as long as its process lives
//!   .blobs/SHA256         kernels and modules, kept once (`blobs`)
//!   .lock                 held for moments: by who gives names or takes them
//! ```
//!
//! Invariants:
//! - **Whole or not there.** A draft gets its name by one rename, after all that is in it is on the disk. What dies before
//!   that leaves a hidden folder, which the next one that looks removes.
//! - **Nothing read is believed.** A snapshot may come from anybody: every length is compared with the file's before it is
//!   used, every byte that is used has a checksum, links are not followed, and memory taken is bounded by what the manifest
//!   says the guest has.
//! - **Nothing leads out of it by itself.** Parts are named by plain names below the folder. Paths of the host are in what the VM
//!   was asked for alone, which is opaque here.
#![forbid(unsafe_code)]

mod blobs;
mod digest;
mod draft;
mod error;
mod folder;
mod format;
mod locks;
mod manifest;
#[cfg(test)]
mod memory_tests;
mod packed;
mod prune;
mod reader;
#[cfg(test)]
mod sample_tests;
mod shelf;
#[cfg(test)]
mod shelf_tests;
mod snapshot;
#[cfg(test)]
mod speed_tests;
mod writer;

pub use draft::{Draft, Unnamed};
pub use error::{Damage, SnapshotError};
pub use format::{CHUNK_BYTES, CHUNK_PAGES, MEMORY_FORMAT, PAGE_BYTES};
pub use manifest::{
    Disk, DiskHow, Image, ImageRole, Kind, MANIFEST_FORMAT, Manifest, Part, fresh_id,
};
pub use packed::{pack, unpack};
pub use prune::Prune;
pub use reader::MemoryReader;
pub use shelf::{Freed, Listed, Shelf};
pub use snapshot::{Held, MemoryParts, Snapshot};
pub use writer::{MemorySummary, MemoryWriter, PackedChunk};
