//! A tree as an ext4 disk image (kernel documentation, filesystems/ext4: "Data Structures and Algorithms").
//!
//! The image is what `mke2fs` would make of a blank disk, with the files already in it: a journal, so that a guest
//! that dies leaves a file system that mounts; extents; indexed folders are left to the kernel. Metadata checksums
//! are left out: they guard against disks that lie, and this one is a file of the host. The image is sparse: what
//! is free takes nothing.
//!
//! ```text
//! group 0..n, 128 MiB each:
//!   [superblock, group descriptors]  in group 0, 1 and powers of 3, 5, 7
//!   block bitmap, inode bitmap, inode table, data
//! ```
//!
//! Data is placed in order, from the first free block on, so files are contiguous but for the metadata of groups.

mod allocate;
mod folder;
mod inode;
mod superblock;
mod write;
mod xattr;

#[cfg(test)]
mod tests;

pub use write::Ext4Error;
pub(crate) use write::{Ext4Options, write};

/// Bytes in a block.
const BLOCK_BYTES: u64 = 4096;

/// Blocks in a group: as many as one block of bitmap has bits.
const GROUP_BLOCKS: u64 = 8 * BLOCK_BYTES;

/// Bytes in a group.
pub(crate) const GROUP_BYTES: u64 = GROUP_BLOCKS * BLOCK_BYTES;

/// Inodes in a group: one for 16 KiB, as `mke2fs` has it.
const GROUP_INODES: u64 = 8192;

/// Bytes of an inode (`s_inode_size`).
const INODE_BYTES: u64 = 256;

/// Blocks of a group's inode table.
const INODE_TABLE_BLOCKS: u64 = GROUP_INODES * INODE_BYTES / BLOCK_BYTES;

/// Bytes of a group's descriptor without the 64-bit feature.
const DESCRIPTOR_BYTES: u64 = 32;

/// Inode numbers below this have fixed meanings ("Special inodes").
const FIRST_INODE: u32 = 11;
const ROOT_INODE: u32 = 2;
const JOURNAL_INODE: u32 = 8;
/// `lost+found` is the first of the others, where e2fsck expects it.
const LOST_AND_FOUND_INODE: u32 = FIRST_INODE;

/// Blocks of the journal: 32 MiB.
const JOURNAL_BLOCKS: u64 = 8192;

/// How much of a disk may be planned for: what 32-bit block numbers with room to spare reach.
pub(crate) const DISK_BYTES_MAX: u64 = 1 << 40;

/// Writes numbers, the lowest byte first, at fixed places of a structure.
trait Fields {
    fn put16(&mut self, at: usize, value: u16);
    fn put32(&mut self, at: usize, value: u32);
}

impl Fields for [u8] {
    fn put16(&mut self, at: usize, value: u16) {
        self[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32) {
        self[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// The lower half of a number that is stored in two.
fn low16(value: u32) -> u16 {
    (value & 0xffff) as u16
}

fn low32(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}
