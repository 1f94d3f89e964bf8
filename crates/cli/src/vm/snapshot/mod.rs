//! `mother snapshot`, `suspend`, `restore` and `fork`: a VM as a folder of files, and a folder of files as a VM.
//!
//! ```text
//! running VM ── take ──> draft ── commit ──> snapshot ── restore ──> a VM that goes on there
//!               rest: state, memory, disks               its memory stays in the snapshot until it is used
//! ```
//!
//! Who takes a snapshot is an observer: the VM's process is asked for rest, says what board and vCPUs are, and gives
//! descriptors of its memory that can only be read. It writes no file and learns of none. The rest lasts as long as the
//! connection it was asked for on: however this process ends, the guest goes on, and a draft without an owner is no
//! snapshot.
//!
//! A snapshot that somebody goes on from is never written: its disks are given as what an overlay lies over, or copied.

mod disks;
mod ground;
mod identity;
mod restore;
mod restored;
mod still;
mod take;

pub use restore::{ForkArguments, RestoreArguments, fork, order_from, restore};
pub use take::{SnapshotArguments, SuspendArguments, snapshot, suspend};
