//! virtio-blk: the guest's disks (VIRTIO 1.2, 5.2).
//!
//! ```text
//! chain ──parse──> Request ──> BlockWorker ──> Image: raw file, or qcow2 over an optional base
//! ```
//!
//! A [`Disk`] is an opened image with what the guest may know of it. It outlives the guest's resets; each life of the
//! guest gets a new front ([`VirtioBlock`]) for it. After `DRIVER_OK` every virtqueue has a worker of its own,
//! and all of them share the disk: a raw file needs no lock, a qcow2 image has its own inside.
//!
//! Bytes of a raw disk move between file and guest memory in one system call and are never copied by us. A request
//! is answered when the host's file has taken it; `FLUSH` is answered when `fdatasync` has come back. A driver that
//! did not negotiate a way to flush gets a write-through disk (5.2.6.2).
//!
//! Invariants: nothing in here opens a file, and no image leads to a second file by itself: a base is handed in,
//! opened, by whoever checked what the user named.

mod config;
mod device;
mod disk;
mod error;
mod formats;
mod head;
mod image;
mod qcow2;
mod qcow2_head;
mod raw;
mod request;
#[cfg(test)]
mod tests;
mod worker;

pub use device::VirtioBlock;
pub use disk::{Disk, DiskOptions, SERIAL_BYTES};
pub use error::ImageError;
pub use formats::{Head, HeadError, ImageFormat, Obstacle, OtherFormat, Packer};
pub use head::SECTOR_BYTES;
pub use image::Image;
pub use qcow2::{OverlayError, create_overlay};
