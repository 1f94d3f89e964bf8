//! Inodes ("Index Nodes") and their extent trees ("Extent Tree").

use crate::ext4::allocate::Run;
use crate::ext4::{BLOCK_BYTES, Fields, INODE_BYTES, low16, low32, xattr};
use crate::tree::Attributes;

/// The file's blocks are found through extents (`EXT4_EXTENTS_FL`).
const EXTENTS_FLAG: u32 = 0x8_0000;

/// Bytes behind the old inode's 128 that have fixed fields (`i_extra_isize`).
const EXTRA_BYTES: u16 = 32;

/// Where the fixed fields end and extended attributes may begin.
const XATTR_START: usize = 128 + EXTRA_BYTES as usize;

const EXTENT_MAGIC: u16 = 0xf30a;

/// Extents that fit into the inode, and into a block.
const INODE_EXTENTS: usize = 4;
const BLOCK_EXTENTS: usize = (BLOCK_BYTES as usize - 12) / 12;

/// Longest target of a symbolic link that is kept in the inode.
pub(super) const FAST_LINK_BYTES: usize = 59;

/// An inode in the making.
pub(super) struct Inode {
    bytes: [u8; INODE_BYTES as usize],
    blocks: u64,
}

impl Inode {
    /// An inode of this type (`S_IFMT`) with these attributes.
    pub(super) fn new(file_type: u16, attributes: &Attributes, links: u32) -> Inode {
        let mut bytes = [0; INODE_BYTES as usize];
        bytes.put16(0, file_type | attributes.mode);
        bytes.put16(2, low16(attributes.uid));
        bytes.put16(24, low16(attributes.gid));
        // A folder with more subfolders than can be counted has one link ("dir_nlink").
        bytes.put16(
            26,
            u16::try_from(links)
                .ok()
                .filter(|&links| links < 65_000)
                .unwrap_or(1),
        );
        bytes.put16(120, low16(attributes.uid >> 16));
        bytes.put16(122, low16(attributes.gid >> 16));
        bytes.put16(128, EXTRA_BYTES);
        let (seconds, epoch) = time(attributes.mtime);
        for (at, extra_at) in [(8, 140), (12, 132), (16, 136), (144, 148)] {
            bytes.put32(at, seconds);
            bytes.put32(extra_at, epoch);
        }
        xattr::write(&attributes.xattrs, &mut bytes[XATTR_START..]);
        Inode { bytes, blocks: 0 }
    }

    /// A device's numbers, in the old form if they fit (`old_encode_dev`, `new_encode_dev`).
    pub(super) fn set_device(&mut self, major: u32, minor: u32) {
        if major < 256 && minor < 256 {
            self.bytes.put32(40, major << 8 | minor);
        } else {
            self.bytes.put32(
                44,
                (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12,
            );
        }
    }

    /// The target of a short symbolic link.
    pub(super) fn set_link(&mut self, target: &[u8]) {
        self.set_len(target.len() as u64);
        self.bytes[40..40 + target.len()].copy_from_slice(target);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.bytes.put32(4, low32(len));
        self.bytes.put32(108, low32(len >> 32));
    }

    /// Where the file's blocks are. `new_leaf` gives a block if the inode has no room; what must stand in it is
    /// returned.
    pub(super) fn set_extents(
        &mut self,
        runs: &[Run],
        new_leaf: impl FnOnce() -> Option<u64>,
    ) -> Result<Option<(u64, Vec<u8>)>, NoRoom> {
        self.bytes.put32(32, EXTENTS_FLAG);
        self.blocks += runs.iter().map(|run| run.count).sum::<u64>();
        if runs.len() <= INODE_EXTENTS {
            extents(&mut self.bytes[40..100], runs, INODE_EXTENTS);
            return Ok(None);
        }
        if runs.len() > BLOCK_EXTENTS {
            return Err(NoRoom);
        }
        let block = new_leaf().ok_or(NoRoom)?;
        self.blocks += 1;
        let mut leaf = vec![0; BLOCK_BYTES as usize];
        extents(&mut leaf, runs, BLOCK_EXTENTS);
        let root = &mut self.bytes[40..100];
        head(root, 1, INODE_EXTENTS, 1);
        root.put32(12, 0);
        root.put32(16, low32(block));
        root.put16(20, low16(low32(block >> 32)));
        Ok(Some((block, leaf)))
    }

    /// What stands in the i_block array: a copy for the superblock's backup of the journal's.
    pub(super) fn block_array(&self) -> [u8; 60] {
        self.bytes[40..100]
            .try_into()
            .expect("the array has 15 numbers of four bytes")
    }

    pub(super) fn to_bytes(&self) -> [u8; INODE_BYTES as usize] {
        let mut bytes = self.bytes;
        let sectors = self.blocks * (BLOCK_BYTES / 512);
        bytes.put32(28, low32(sectors));
        bytes.put16(116, low16(low32(sectors >> 32)));
        bytes
    }
}

/// The disk is full, or the file is in more pieces than an extent tree of one level has room for.
#[derive(Debug)]
pub(super) struct NoRoom;

fn head(to: &mut [u8], count: usize, max: usize, depth: u16) {
    to.put16(0, EXTENT_MAGIC);
    to.put16(2, count as u16);
    to.put16(4, max as u16);
    to.put16(6, depth);
}

fn extents(to: &mut [u8], runs: &[Run], max: usize) {
    head(to, runs.len(), max, 0);
    let mut logical = 0;
    for (index, run) in runs.iter().enumerate() {
        let at = 12 + 12 * index;
        to.put32(at, low32(logical));
        to.put16(at + 4, run.count as u16);
        to.put16(at + 6, low16(low32(run.start >> 32)));
        to.put32(at + 8, low32(run.start));
        logical += run.count;
    }
}

/// Seconds since 1970 as the 32 lower bits and the two that say which 136 years are meant ("Inode Timestamps").
fn time(seconds: i64) -> (u32, u32) {
    let seconds = seconds.clamp(i64::from(i32::MIN), (3 << 32) + i64::from(i32::MAX));
    let low = seconds as u32;
    let epoch = (seconds - i64::from(low as i32)) >> 32;
    (low, (epoch & 3) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_2038_are_told_apart() {
        let check =
            |seconds: i64, expected: (u32, u32)| assert_eq!(time(seconds), expected, "{seconds}");
        check(0, (0, 0));
        check(-1, (0xffff_ffff, 0));
        check(0x7fff_ffff, (0x7fff_ffff, 0));
        check(0x8000_0000, (0x8000_0000, 1));
        check(0x1_0000_0000, (0, 1));
        check(i64::MAX, (0x7fff_ffff, 3));
    }
}
