//! Which block is whose: the groups' metadata has fixed places, data comes one after the other around it.

use crate::ext4::{BLOCK_BYTES, DESCRIPTOR_BYTES, GROUP_BLOCKS, INODE_TABLE_BLOCKS};

/// Longest extent that counts as initialized (`EXT_INIT_MAX_LEN`).
const EXTENT_BLOCKS_MAX: u64 = 1 << 15;

/// Blocks that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) count: u64,
}

/// Where everything of a disk of so many groups is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) groups: u64,
}

impl Geometry {
    /// Blocks of group descriptors behind every superblock.
    pub(super) fn descriptor_blocks(self) -> u64 {
        (self.groups * DESCRIPTOR_BYTES).div_ceil(BLOCK_BYTES)
    }

    pub(super) fn blocks(self) -> u64 {
        self.groups * GROUP_BLOCKS
    }

    /// Whether a group starts with a copy of the superblock ("sparse_super").
    pub(super) fn has_superblock(group: u64) -> bool {
        let is_power = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        group <= 1 || is_power(3) || is_power(5) || is_power(7)
    }

    pub(super) fn block_bitmap(self, group: u64) -> u64 {
        let head = if Geometry::has_superblock(group) {
            1 + self.descriptor_blocks()
        } else {
            0
        };
        group * GROUP_BLOCKS + head
    }

    pub(super) fn inode_bitmap(self, group: u64) -> u64 {
        self.block_bitmap(group) + 1
    }

    pub(super) fn inode_table(self, group: u64) -> u64 {
        self.block_bitmap(group) + 2
    }

    /// The first block of a group that data may have.
    pub(super) fn data(self, group: u64) -> u64 {
        self.inode_table(group) + INODE_TABLE_BLOCKS
    }
}

/// Gives out blocks in order.
#[derive(Debug)]
pub(super) struct Allocator {
    geometry: Geometry,
    next: u64,
}

impl Allocator {
    pub(super) fn new(geometry: Geometry) -> Allocator {
        Allocator {
            geometry,
            next: geometry.data(0),
        }
    }

    /// So many blocks in as few runs as there can be; `None` if the disk is full.
    pub(super) fn take(&mut self, count: u64) -> Option<Vec<Run>> {
        let mut runs: Vec<Run> = Vec::new();
        let mut left = count;
        while left > 0 {
            let group = self.next / GROUP_BLOCKS;
            if group >= self.geometry.groups {
                return None;
            }
            // Past a group's end the next group's data begins behind its metadata.
            self.next = self.next.max(self.geometry.data(group));
            let here = left
                .min((group + 1) * GROUP_BLOCKS - self.next)
                .min(EXTENT_BLOCKS_MAX);
            runs.push(Run {
                start: self.next,
                count: here,
            });
            self.next += here;
            left -= here;
        }
        Some(runs)
    }

    /// The first block of a group that nobody has.
    pub(super) fn first_free(&self, group: u64) -> u64 {
        self.next
            .clamp(self.geometry.data(group), (group + 1) * GROUP_BLOCKS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_are_where_the_kernel_looks_for_them() {
        let with: Vec<u64> = (0..60)
            .filter(|&group| Geometry::has_superblock(group))
            .collect();
        assert_eq!(with, [0, 1, 3, 5, 7, 9, 25, 27, 49]);
    }

    #[test]
    fn a_long_file_goes_around_the_metadata_and_a_full_disk_says_so() {
        let geometry = Geometry { groups: 2 };
        let mut allocator = Allocator::new(geometry);
        let first = allocator.take(GROUP_BLOCKS).unwrap();
        assert_eq!(first.len(), 2);
        assert_eq!(first[0].start, geometry.data(0));
        assert_eq!(first[1].start, geometry.data(1));
        assert_eq!(first.iter().map(|run| run.count).sum::<u64>(), GROUP_BLOCKS);
        assert_eq!(allocator.take(GROUP_BLOCKS), None);
    }
}
