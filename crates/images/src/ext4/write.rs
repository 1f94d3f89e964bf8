//! Writing the image: first every file gets its inode, then folder by folder the blocks, then what counts them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use thiserror::Error;

use crate::ext4::allocate::{Allocator, Geometry, Run};
use crate::ext4::folder::{FileType, FolderBlocks};
use crate::ext4::inode::{FAST_LINK_BYTES, Inode};
use crate::ext4::superblock::{self, Facts};
use crate::ext4::{
    BLOCK_BYTES, DESCRIPTOR_BYTES, DISK_BYTES_MAX, Fields, GROUP_BLOCKS, GROUP_BYTES, GROUP_INODES,
    INODE_BYTES, JOURNAL_BLOCKS, JOURNAL_INODE, LOST_AND_FOUND_INODE, ROOT_INODE, low16, low32,
};
use crate::tree::{Attributes, Content, Kind, NodeId, ROOT, Tree};

/// File types in a mode (stat(2)).
const TYPE_FIFO: u16 = 0o010_000;
const TYPE_CHARACTER: u16 = 0o020_000;
const TYPE_FOLDER: u16 = 0o040_000;
const TYPE_BLOCK: u16 = 0o060_000;
const TYPE_FILE: u16 = 0o100_000;
const TYPE_SYMLINK: u16 = 0o120_000;

/// Blocks of `lost+found`.
const LOST_AND_FOUND_BLOCKS: usize = 4;

/// Why there is no image.
#[derive(Debug, Error)]
pub enum Ext4Error {
    /// The host's disk, or a file that was to be copied.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The files do not fit.
    #[error("the files do not fit on a disk of {} MiB", .0 >> 20)]
    Full(u64),
    /// The size is not one that we make.
    #[error("a disk cannot have {0} bytes")]
    Size(u64),
}

/// What is to be made.
pub(crate) struct Ext4Options<'a> {
    /// Whole groups of 128 MiB.
    pub(crate) len_bytes: u64,
    /// At most 16 bytes.
    pub(crate) label: &'a str,
    /// Something random.
    pub(crate) uuid: [u8; 16],
    /// Seconds since 1970.
    pub(crate) made: u32,
}

/// Writes a tree into an empty file.
///
/// # Errors
/// If the files do not fit, cannot be read, or the host's disk is full.
pub(crate) fn write(tree: &Tree, options: &Ext4Options<'_>, to: &File) -> Result<(), Ext4Error> {
    let groups = options.len_bytes / GROUP_BYTES;
    if groups == 0
        || !options.len_bytes.is_multiple_of(GROUP_BYTES)
        || options.len_bytes > DISK_BYTES_MAX
    {
        return Err(Ext4Error::Size(options.len_bytes));
    }
    to.set_len(options.len_bytes)?;
    let geometry = Geometry { groups };
    let mut image = Image {
        tree,
        to,
        options,
        geometry,
        allocator: Allocator::new(geometry),
        numbers: HashMap::new(),
        links: HashMap::new(),
        next_number: LOST_AND_FOUND_INODE + 1,
        folders_in: vec![0; groups as usize],
    };
    image.number(ROOT);
    image.numbers.insert(ROOT, ROOT_INODE);
    let journal = image.journal()?;
    image.lost_and_found()?;
    image.folder(ROOT, ROOT_INODE)?;
    image.finish(journal)
}

struct Image<'a> {
    tree: &'a Tree,
    to: &'a File,
    options: &'a Ext4Options<'a>,
    geometry: Geometry,
    allocator: Allocator,
    numbers: HashMap<NodeId, u32>,
    /// Names that lead to a node.
    links: HashMap<NodeId, u32>,
    next_number: u32,
    /// Folders with an inode in each group.
    folders_in: Vec<u16>,
}

impl Image<'_> {
    /// Numbers everything below a folder, and counts names.
    fn number(&mut self, folder: NodeId) {
        for (name, entry) in self.tree.folder(folder) {
            if folder == ROOT && name == b"lost+found" {
                continue;
            }
            *self.links.entry(entry.node).or_default() += 1;
            if !self.numbers.contains_key(&entry.node) {
                self.numbers.insert(entry.node, self.next_number);
                self.next_number += 1;
                if self.tree.is_folder(entry.node) {
                    self.number(entry.node);
                }
            }
        }
    }

    /// The journal is a file like others, but for its number and that no name leads to it.
    fn journal(&mut self) -> Result<[u8; 60], Ext4Error> {
        let mut inode = Inode::new(TYPE_FILE, &Attributes::of_root(0o600), 1);
        let runs = self.allocate(JOURNAL_BLOCKS)?;
        self.to.write_all_at(
            &superblock::journal(self.options.uuid),
            runs[0].start * BLOCK_BYTES,
        )?;
        inode.set_len(JOURNAL_BLOCKS * BLOCK_BYTES);
        self.set_extents(&mut inode, &runs)?;
        self.put_inode(JOURNAL_INODE, &inode)?;
        Ok(inode.block_array())
    }

    fn lost_and_found(&mut self) -> Result<(), Ext4Error> {
        let mut blocks = FolderBlocks::new(LOST_AND_FOUND_INODE, ROOT_INODE);
        blocks.reserve(LOST_AND_FOUND_BLOCKS - 1);
        self.put_folder(
            LOST_AND_FOUND_INODE,
            &Attributes::of_root(0o700),
            2,
            &blocks.into_bytes(),
        )
    }

    fn folder(&mut self, folder: NodeId, parent: u32) -> Result<(), Ext4Error> {
        let own = self.numbers[&folder];
        let mut blocks = FolderBlocks::new(own, parent);
        let mut links = 2;
        if folder == ROOT {
            blocks.add(b"lost+found", LOST_AND_FOUND_INODE, FileType::Folder);
            links += 1;
        }
        for (name, entry) in self.tree.folder(folder) {
            if folder == ROOT && name == b"lost+found" {
                continue;
            }
            let file_type = file_type(&self.tree.node(entry.node).kind);
            links += u32::from(file_type == FileType::Folder);
            blocks.add(name, self.numbers[&entry.node], file_type);
        }
        let attributes = &self.tree.node(folder).attributes;
        self.put_folder(own, attributes, links, &blocks.into_bytes())?;
        for (name, entry) in self.tree.folder(folder) {
            if folder == ROOT && name == b"lost+found" {
                continue;
            }
            if self.tree.is_folder(entry.node) {
                self.folder(entry.node, own)?;
            } else if let Some(links) = self.links.remove(&entry.node) {
                // The first of its names brings a file; the others only lead to it.
                self.file(entry.node, links)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, node: NodeId, links: u32) -> Result<(), Ext4Error> {
        let number = self.numbers[&node];
        let node = self.tree.node(node);
        let new = |file_type: u16| Inode::new(file_type, &node.attributes, links);
        let inode = match &node.kind {
            Kind::Folder(_) => unreachable!("folders are written as folders"),
            Kind::File(content) => {
                let mut inode = new(TYPE_FILE);
                self.content(&mut inode, content)?;
                inode
            }
            Kind::Symlink(target) => {
                let mut inode = new(TYPE_SYMLINK);
                if target.len() <= FAST_LINK_BYTES {
                    inode.set_link(target);
                } else {
                    self.content(&mut inode, &Content::Bytes(target.as_slice().into()))?;
                }
                inode
            }
            Kind::Device {
                is_block,
                major,
                minor,
            } => {
                let mut inode = new(if *is_block {
                    TYPE_BLOCK
                } else {
                    TYPE_CHARACTER
                });
                inode.set_device(*major, *minor);
                inode
            }
            Kind::Fifo => new(TYPE_FIFO),
        };
        self.put_inode(number, &inode)
    }

    /// Writes a file's bytes and says in its inode where they are.
    fn content(&mut self, inode: &mut Inode, content: &Content) -> Result<(), Ext4Error> {
        let runs = self.allocate(content.len().div_ceil(BLOCK_BYTES))?;
        let to = self.to;
        let mut places = runs.iter();
        let mut at = 0;
        let mut left = 0;
        content.read(|mut bytes| {
            while !bytes.is_empty() {
                if left == 0 {
                    let run = places.next().expect("the runs are as long as the content");
                    (at, left) = (run.start * BLOCK_BYTES, run.count * BLOCK_BYTES);
                }
                let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                // What is not written of a new file is zeros, and takes nothing.
                if bytes[..count].iter().any(|&byte| byte != 0) {
                    to.write_all_at(&bytes[..count], at)?;
                }
                at += count as u64;
                left -= count as u64;
                bytes = &bytes[count..];
            }
            Ok(())
        })?;
        inode.set_len(content.len());
        self.set_extents(inode, &runs)
    }

    fn put_folder(
        &mut self,
        number: u32,
        attributes: &Attributes,
        links: u32,
        bytes: &[u8],
    ) -> Result<(), Ext4Error> {
        let mut inode = Inode::new(TYPE_FOLDER, attributes, links);
        self.content(&mut inode, &Content::Bytes(bytes.into()))?;
        self.put_inode(number, &inode)?;
        let group = u64::from(number - 1) / GROUP_INODES;
        self.folders_in[group as usize] += 1;
        Ok(())
    }

    fn allocate(&mut self, blocks: u64) -> Result<Vec<Run>, Ext4Error> {
        self.allocator
            .take(blocks)
            .ok_or(Ext4Error::Full(self.options.len_bytes))
    }

    fn set_extents(&mut self, inode: &mut Inode, runs: &[Run]) -> Result<(), Ext4Error> {
        let allocator = &mut self.allocator;
        let leaf = inode.set_extents(runs, || allocator.take(1).map(|runs| runs[0].start));
        if let Some((block, bytes)) = leaf.map_err(|_| Ext4Error::Full(self.options.len_bytes))? {
            self.to.write_all_at(&bytes, block * BLOCK_BYTES)?;
        }
        Ok(())
    }

    fn put_inode(&mut self, number: u32, inode: &Inode) -> Result<(), Ext4Error> {
        let group = u64::from(number - 1) / GROUP_INODES;
        let index = u64::from(number - 1) % GROUP_INODES;
        if group >= self.geometry.groups {
            return Err(Ext4Error::Full(self.options.len_bytes));
        }
        let at = self.geometry.inode_table(group) * BLOCK_BYTES + index * INODE_BYTES;
        Ok(self.to.write_all_at(&inode.to_bytes(), at)?)
    }

    /// Bitmaps, descriptors and superblocks.
    fn finish(self, journal: [u8; 60]) -> Result<(), Ext4Error> {
        let geometry = self.geometry;
        let mut descriptors = vec![0; (geometry.descriptor_blocks() * BLOCK_BYTES) as usize];
        let mut free_blocks = 0;
        let mut free_inodes = 0;
        let used_inodes = u64::from(self.next_number - 1);
        for group in 0..geometry.groups {
            let start = group * GROUP_BLOCKS;
            let first_free = self.allocator.first_free(group);
            let blocks = GROUP_BLOCKS - (first_free - start);
            self.to.write_all_at(
                &bitmap(first_free - start),
                geometry.block_bitmap(group) * BLOCK_BYTES,
            )?;
            let used = used_inodes
                .saturating_sub(group * GROUP_INODES)
                .min(GROUP_INODES);
            let mut inodes = bitmap(used);
            // Bits behind the group's inodes stand for nothing and are set.
            inodes[(GROUP_INODES / 8) as usize..].fill(0xff);
            self.to
                .write_all_at(&inodes, geometry.inode_bitmap(group) * BLOCK_BYTES)?;
            let descriptor = &mut descriptors[(group * DESCRIPTOR_BYTES) as usize..];
            descriptor.put32(0, low32(geometry.block_bitmap(group)));
            descriptor.put32(4, low32(geometry.inode_bitmap(group)));
            descriptor.put32(8, low32(geometry.inode_table(group)));
            descriptor.put16(12, low16(low32(blocks)));
            descriptor.put16(14, low16(low32(GROUP_INODES - used)));
            descriptor.put16(16, self.folders_in[group as usize]);
            free_blocks += blocks;
            free_inodes += GROUP_INODES - used;
        }
        let mut hash_seed = self.options.uuid;
        hash_seed.reverse();
        let label = self.options.label;
        let uuid = self.options.uuid;
        let made = self.options.made;
        let facts = Facts {
            geometry,
            free_blocks,
            free_inodes,
            label,
            uuid,
            hash_seed,
            made,
            journal,
        };
        for group in (0..geometry.groups).filter(|&group| Geometry::has_superblock(group)) {
            let block = group * GROUP_BLOCKS;
            // The first 1024 bytes of the disk are the boot loader's.
            let at = if group == 0 {
                1024
            } else {
                block * BLOCK_BYTES
            };
            self.to
                .write_all_at(&superblock::superblock(&facts, group), at)?;
            self.to
                .write_all_at(&descriptors, (block + 1) * BLOCK_BYTES)?;
        }
        Ok(self.to.sync_all()?)
    }
}

fn file_type(kind: &Kind) -> FileType {
    match kind {
        Kind::Folder(_) => FileType::Folder,
        Kind::File(_) => FileType::File,
        Kind::Symlink(_) => FileType::Symlink,
        Kind::Device { is_block: true, .. } => FileType::BlockDevice,
        Kind::Device { .. } => FileType::CharacterDevice,
        Kind::Fifo => FileType::Fifo,
    }
}

/// One block in which the first `count` bits are set.
fn bitmap(count: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_BYTES as usize];
    let whole = (count / 8) as usize;
    bytes[..whole].fill(0xff);
    if !count.is_multiple_of(8) {
        bytes[whole] = (1 << (count % 8)) - 1;
    }
    bytes
}
