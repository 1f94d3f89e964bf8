//! The blocks of a folder: names in a row ("Linear (Classic) Directories"). The kernel makes an index of a folder
//! when it outgrows a block.

use crate::ext4::{BLOCK_BYTES, Fields};

/// Inode, length, length of the name, type.
const HEAD_BYTES: usize = 8;

/// What an entry leads to (`EXT4_FT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum FileType {
    File = 1,
    Folder = 2,
    CharacterDevice = 3,
    BlockDevice = 4,
    Fifo = 5,
    Symlink = 7,
}

/// A folder's blocks, filled entry by entry.
pub(super) struct FolderBlocks {
    bytes: Vec<u8>,
    /// Where the last entry starts: it reaches to the end of its block.
    last: usize,
}

impl FolderBlocks {
    /// A folder with its two own names.
    pub(super) fn new(own: u32, parent: u32) -> FolderBlocks {
        let mut blocks = FolderBlocks {
            bytes: Vec::new(),
            last: 0,
        };
        blocks.add(b".", own, FileType::Folder);
        blocks.add(b"..", parent, FileType::Folder);
        blocks
    }

    /// Adds a name of at most 255 bytes.
    pub(super) fn add(&mut self, name: &[u8], inode: u32, file_type: FileType) {
        let block = BLOCK_BYTES as usize;
        let needed = entry_bytes(name.len());
        let mut at = 0;
        if !self.bytes.is_empty() {
            at = self.last + entry_bytes(usize::from(self.bytes[self.last + 6]));
            let end = self.bytes.len();
            if at + needed > end {
                at = end;
            } else {
                self.bytes.put16(self.last + 4, (at - self.last) as u16);
            }
        }
        if at == self.bytes.len() {
            self.bytes.resize(at + block, 0);
        }
        let rest = self.bytes.len() - at;
        self.bytes.put32(at, inode);
        self.bytes.put16(at + 4, rest as u16);
        self.bytes[at + 6] = name.len() as u8;
        self.bytes[at + 7] = file_type as u8;
        self.bytes[at + HEAD_BYTES..at + HEAD_BYTES + name.len()].copy_from_slice(name);
        self.last = at;
    }

    /// Adds blocks without names, for who must not wait for space: `lost+found`.
    pub(super) fn reserve(&mut self, blocks: usize) {
        for _ in 0..blocks {
            let at = self.bytes.len();
            self.bytes.resize(at + BLOCK_BYTES as usize, 0);
            self.bytes.put16(at + 4, BLOCK_BYTES as u16);
        }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

fn entry_bytes(name_bytes: usize) -> usize {
    HEAD_BYTES + name_bytes.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_fill_their_blocks_without_gaps() {
        let mut blocks = FolderBlocks::new(2, 2);
        let names: Vec<String> = (0..300)
            .map(|number| format!("{number}{}", "x".repeat(number % 200)))
            .collect();
        for name in &names {
            blocks.add(name.as_bytes(), 12, FileType::File);
        }
        let bytes = blocks.into_bytes();
        let mut seen = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let len = usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
            assert!(len >= 12 && len % 4 == 0 && at / 4096 == (at + len - 1) / 4096);
            let name = &bytes[at + 8..at + 8 + usize::from(bytes[at + 6])];
            seen.push(String::from_utf8(name.to_vec()).unwrap());
            at += len;
        }
        assert_eq!(seen[..2], [".", ".."]);
        assert_eq!(seen[2..], names);
    }
}
