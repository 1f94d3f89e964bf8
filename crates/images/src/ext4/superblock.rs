//! The superblock ("The Super Block") and the journal's own ("Journal (jbd2)", "Super Block").

use crate::ext4::allocate::Geometry;
use crate::ext4::{
    BLOCK_BYTES, FIRST_INODE, Fields, GROUP_BLOCKS, GROUP_INODES, INODE_BYTES, JOURNAL_BLOCKS,
    JOURNAL_INODE, low32,
};

/// Bytes of a superblock.
pub(super) const SUPERBLOCK_BYTES: usize = 1024;

/// has_journal, ext_attr, dir_index.
const COMPATIBLE: u32 = 0x4 | 0x8 | 0x20;
/// filetype, extents.
const INCOMPATIBLE: u32 = 0x2 | 0x40;
/// sparse_super, large_file, dir_nlink, extra_isize.
const READ_ONLY_COMPATIBLE: u32 = 0x1 | 0x2 | 0x20 | 0x40;

/// Default mount options: user extended attributes and ACLs.
const MOUNT_OPTIONS: u32 = 0x4 | 0x8;

/// What the superblock tells of one image.
pub(super) struct Facts<'a> {
    pub(super) geometry: Geometry,
    pub(super) free_blocks: u64,
    pub(super) free_inodes: u64,
    pub(super) label: &'a str,
    pub(super) uuid: [u8; 16],
    pub(super) hash_seed: [u8; 16],
    pub(super) made: u32,
    /// The journal's block array, for a fsck that finds its inode broken.
    pub(super) journal: [u8; 60],
}

/// The superblock as it stands in `group`.
pub(super) fn superblock(facts: &Facts<'_>, group: u64) -> [u8; SUPERBLOCK_BYTES] {
    let mut bytes = [0; SUPERBLOCK_BYTES];
    let geometry = facts.geometry;
    bytes.put32(0, low32(geometry.groups * GROUP_INODES));
    bytes.put32(4, low32(geometry.blocks()));
    // Reserved for root, as mke2fs has it: a twentieth.
    bytes.put32(8, low32(geometry.blocks() / 20));
    bytes.put32(12, low32(facts.free_blocks));
    bytes.put32(16, low32(facts.free_inodes));
    bytes.put32(24, BLOCK_BYTES.trailing_zeros() - 10);
    bytes.put32(28, BLOCK_BYTES.trailing_zeros() - 10);
    bytes.put32(32, low32(GROUP_BLOCKS));
    bytes.put32(36, low32(GROUP_BLOCKS));
    bytes.put32(40, low32(GROUP_INODES));
    bytes.put32(48, facts.made);
    bytes.put16(54, u16::MAX);
    bytes.put16(56, 0xef53);
    // Cleanly unmounted; errors are survived read-only, so that nothing gets worse.
    bytes.put16(58, 1);
    bytes.put16(60, 2);
    bytes.put32(64, facts.made);
    bytes.put32(76, 1);
    bytes.put32(84, FIRST_INODE);
    bytes.put16(88, INODE_BYTES as u16);
    bytes.put16(90, (group & 0xffff) as u16);
    bytes.put32(92, COMPATIBLE);
    bytes.put32(96, INCOMPATIBLE);
    bytes.put32(100, READ_ONLY_COMPATIBLE);
    bytes[104..120].copy_from_slice(&facts.uuid);
    let label = &facts.label.as_bytes()[..facts.label.len().min(16)];
    bytes[120..120 + label.len()].copy_from_slice(label);
    bytes.put32(224, JOURNAL_INODE);
    bytes[236..252].copy_from_slice(&facts.hash_seed);
    // Half MD4; the journal's blocks are backed up below.
    bytes[252] = 1;
    bytes[253] = 1;
    bytes.put32(256, MOUNT_OPTIONS);
    bytes.put32(264, facts.made);
    bytes[268..328].copy_from_slice(&facts.journal);
    bytes.put32(328, 0);
    bytes.put32(332, low32(JOURNAL_BLOCKS * BLOCK_BYTES));
    bytes.put16(348, 32);
    bytes.put16(350, 32);
    // Folder hashes take characters as signed, as on every PC.
    bytes.put32(352, 1);
    bytes
}

/// The first block of an empty journal. Its numbers have the highest byte first.
pub(super) fn journal(uuid: [u8; 16]) -> [u8; SUPERBLOCK_BYTES] {
    let mut bytes = [0; SUPERBLOCK_BYTES];
    let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    put(0, 0xc03b_3998);
    put(4, 4);
    put(12, low32(BLOCK_BYTES));
    put(16, low32(JOURNAL_BLOCKS));
    // The log begins behind this block, with transaction one, and is empty.
    put(20, 1);
    put(24, 1);
    put(64, 1);
    bytes[48..64].copy_from_slice(&uuid);
    bytes
}
