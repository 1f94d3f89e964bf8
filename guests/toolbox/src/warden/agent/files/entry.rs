//! A file, folder or link as a message has it: `crates/api/src/entry.rs`, the same for who links nothing of the product.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Bytes before the name.
const HEAD_BYTES: usize = 35;

/// What it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    Link,
}

pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
    pub(super) len: u64,
    pub(super) name: Vec<u8>,
    pub(super) target: Vec<u8>,
}

impl Entry {
    /// Of what has these attributes; nothing of a device and the like.
    pub(super) fn of(metadata: &Metadata, name: Vec<u8>) -> Option<Entry> {
        let kind = metadata.file_type();
        let kind = match (kind.is_file(), kind.is_dir(), kind.is_symlink()) {
            (true, _, _) => Kind::File,
            (_, true, _) => Kind::Folder,
            (_, _, true) => Kind::Link,
            _ => return None,
        };
        Some(Entry {
            kind,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec() as u32,
            len: if kind == Kind::File {
                metadata.len()
            } else {
                0
            },
            name,
            target: Vec::new(),
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            Kind::File => b'f',
            Kind::Folder => b'd',
            Kind::Link => b'l',
        };
        let mut bytes = vec![kind];
        bytes.extend(self.mode.to_le_bytes());
        bytes.extend(self.uid.to_le_bytes());
        bytes.extend(self.gid.to_le_bytes());
        bytes.extend(self.seconds.to_le_bytes());
        bytes.extend(self.nanoseconds.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        bytes.extend((self.name.len() as u16).to_le_bytes());
        bytes.extend(&self.name);
        bytes.extend(&self.target);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Entry> {
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let kind = match head[0] {
            b'f' => Kind::File,
            b'd' => Kind::Folder,
            b'l' => Kind::Link,
            _ => return None,
        };
        let four = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let eight = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
        let name_len = usize::from(u16::from_le_bytes([head[33], head[34]]));
        let (name, target) = rest.split_at_checked(name_len)?;
        Some(Entry {
            kind,
            mode: four(1)? & 0o7777,
            uid: four(5)?,
            gid: four(9)?,
            seconds: eight(13)?.cast_signed(),
            nanoseconds: four(21)?,
            len: eight(25)?,
            name: name.to_vec(),
            target: target.to_vec(),
        })
    }
}
