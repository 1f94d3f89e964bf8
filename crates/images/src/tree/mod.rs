//! A file system in memory, from which archives and disk images are written.
//!
//! Whatever a guest shall find is put together here first: packages, layers of container images, files of the host.
//! Nothing is ever unpacked to the host's file system, so no name in an archive can lead anywhere on the host, and
//! owners, devices and special modes need no privilege. The bytes of files stay where they are (a spool file of
//! ours, the host's own files) until they are written.
//!
//! Names lead through symbolic links as they will in the guest: `lib/x` goes to `usr/lib/x` if `lib` is such a link.

mod bounded;
mod resolve;
mod sparse;
mod unpack;

#[cfg(test)]
mod unpack_tests;

pub use bounded::{Bounded, HeaderBounds};
pub(crate) use unpack::{Spool, UnpackError, Unpacker};

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

/// Longest name of one file (`EXT4_NAME_LEN`).
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// Longest target of a symbolic link: one block of ext4 with its ending zero.
pub(crate) const LINK_BYTES_MAX: usize = 4095;

/// Deepest path, so that walks may recurse.
const DEPTH_MAX: usize = 256;

/// Most files in one tree: what a disk of 16 GiB has inodes for.
const NODES_MAX: usize = 1 << 20;

/// What names, links and attributes of one tree may take of our memory: those of more files than any image has, or of a small
/// archive that unpacks to them.
const HELD_BYTES_MAX: usize = 256 << 20;

/// What a node takes beside its texts, and what a name in a folder does.
const NODE_BYTES: usize = 128;
const ENTRY_BYTES: usize = 96;

/// Where a node stands in the tree's list.
pub(crate) type NodeId = usize;

/// The root folder.
pub(crate) const ROOT: NodeId = 0;

/// Why something cannot be in a tree.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum TreeError {
    /// `..`, too deep, or a name that no file can have.
    #[error("{0:?} is no path of a file system")]
    BadPath(String),
    /// A part of the path is a file.
    #[error("{0:?} leads through something that is no folder")]
    NotAFolder(String),
    /// Symbolic links in a circle.
    #[error("{0:?} leads through too many symbolic links")]
    LinkLoop(String),
    /// A hard link to something that is not there or is a folder.
    #[error("{0:?} is a hard link to {1:?}, which is no file")]
    BadHardLink(String, String),
    /// More files than we take.
    #[error("there are more than {NODES_MAX} files")]
    TooMany,
    /// Longer names and attributes than we take.
    #[error("names and attributes of its files take more than {} MiB", HELD_BYTES_MAX >> 20)]
    TooLong,
}

/// Whose a file is and what may be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// The lower twelve bits of the mode.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
    /// Extended attributes with their full names.
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

impl Attributes {
    fn held_bytes(&self) -> usize {
        let xattr = |(name, value): &(String, Vec<u8>)| ENTRY_BYTES + name.len() + value.len();
        self.xattrs.iter().map(xattr).sum()
    }

    /// Root's, from 1970.
    pub(crate) fn of_root(mode: u16) -> Attributes {
        Attributes {
            mode,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: Vec::new(),
        }
    }
}

/// A file, folder or whatever else has attributes.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) attributes: Attributes,
    pub(crate) kind: Kind,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Folder(BTreeMap<Vec<u8>, Entry>),
    File(Content),
    Symlink(Vec<u8>),
    Device {
        is_block: bool,
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// A name in a folder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) node: NodeId,
    /// Which layer put it there.
    pub(crate) layer: u32,
}

/// Where the bytes of a file are.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// In memory.
    Bytes(Arc<[u8]>),
    /// In a part of an open file.
    Part {
        file: Arc<File>,
        offset: u64,
        len: u64,
    },
    /// In a file of the host, which is opened when it is needed.
    Path { path: PathBuf, len: u64 },
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Part { len, .. } | Content::Path { len, .. } => *len,
        }
    }

    /// Gives all bytes to `take`, in order. A file of the host that has shrunk is an error.
    pub(crate) fn read(&self, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        match self {
            Content::Bytes(bytes) => take(bytes),
            Content::Part { file, offset, len } => {
                let mut reader = PartReader {
                    file,
                    offset: *offset,
                };
                read_exactly(&mut reader, *len, take)
            }
            Content::Path { path, len } => read_exactly(&mut File::open(path)?, *len, take),
        }
    }
}

struct PartReader<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for PartReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

fn read_exactly(
    from: &mut impl Read,
    len: u64,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut left = len;
    while left > 0 {
        let count = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        from.read_exact(&mut buffer[..count])?;
        take(&buffer[..count])?;
        left -= count as u64;
    }
    Ok(())
}

/// The file system.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    /// Which layer is being put on now; entries remember it.
    layer: u32,
    /// What nodes and names have taken so far, also those that are hidden by now.
    held_bytes: usize,
}

impl Tree {
    /// An empty root folder.
    pub(crate) fn new() -> Tree {
        let root = Node {
            attributes: Attributes::of_root(0o755),
            kind: Kind::Folder(BTreeMap::new()),
        };
        Tree {
            nodes: vec![root],
            layer: 0,
            held_bytes: 0,
        }
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// Puts a folder there, or gives the one that is there these attributes.
    pub(crate) fn put_folder(
        &mut self,
        path: &[u8],
        attributes: Attributes,
    ) -> Result<NodeId, TreeError> {
        let Some((parent, name)) = self.parent_of(path)? else {
            self.nodes[ROOT].attributes = attributes;
            return Ok(ROOT);
        };
        let existing = self.entry(parent, &name).map(|entry| entry.node);
        if let Some(node) = existing.filter(|&node| self.is_folder(node)) {
            self.hold(attributes.held_bytes())?;
            self.nodes[node].attributes = attributes;
            self.set_entry(parent, name, node)?;
            return Ok(node);
        }
        self.add(
            parent,
            name,
            Node {
                attributes,
                kind: Kind::Folder(BTreeMap::new()),
            },
        )
    }

    /// Puts something there that is no folder, in place of whatever is there.
    pub(crate) fn put(
        &mut self,
        path: &[u8],
        attributes: Attributes,
        kind: Kind,
    ) -> Result<NodeId, TreeError> {
        let place = self.parent_of(path)?;
        let (parent, name) = place.ok_or_else(|| TreeError::BadPath(text(path)))?;
        self.add(parent, name, Node { attributes, kind })
    }

    /// A file of root's with these bytes.
    pub(crate) fn put_bytes(
        &mut self,
        path: &str,
        mode: u16,
        bytes: impl Into<Arc<[u8]>>,
    ) -> Result<(), TreeError> {
        let kind = Kind::File(Content::Bytes(bytes.into()));
        self.put(path.as_bytes(), Attributes::of_root(mode), kind)
            .map(drop)
    }

    /// A symbolic link of root's.
    pub(crate) fn put_symlink(&mut self, path: &str, target: &str) -> Result<(), TreeError> {
        let kind = Kind::Symlink(target.as_bytes().to_vec());
        self.put(path.as_bytes(), Attributes::of_root(0o777), kind)
            .map(drop)
    }

    /// A second name for a file.
    pub(crate) fn put_hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), TreeError> {
        let bad = || TreeError::BadHardLink(text(path), text(target));
        let node = self.find(target, false).ok_or_else(bad)?;
        if self.is_folder(node) {
            return Err(bad());
        }
        let (parent, name) = self.parent_of(path)?.ok_or_else(bad)?;
        self.set_entry(parent, name, node)
    }

    /// Copies what is below a folder of another tree into a folder of this one.
    pub(crate) fn graft(
        &mut self,
        path: &str,
        from: &Tree,
        folder: NodeId,
    ) -> Result<(), TreeError> {
        for (name, entry) in from.folder(folder) {
            let path = format!("{path}/{}", text(name));
            let node = from.node(entry.node).clone();
            match node.kind {
                Kind::Folder(_) => {
                    self.put_folder(path.as_bytes(), node.attributes)?;
                    self.graft(&path, from, entry.node)?;
                }
                kind => self.put(path.as_bytes(), node.attributes, kind).map(drop)?,
            }
        }
        Ok(())
    }

    /// Everything that is put from now on belongs to the next layer.
    pub(crate) fn next_layer(&mut self) {
        self.layer += 1;
    }

    /// Takes away what lower layers have put under this name of a folder. Where there is no such folder, or this layer
    /// has something else in its place, there is nothing to take away.
    pub(crate) fn white_out(&mut self, folder: &[u8], name: &[u8]) {
        if let Some(folder) = self.find(folder, true).filter(|&node| self.is_folder(node)) {
            self.hide(folder, name);
        }
    }

    /// Takes away what lower layers have put into this folder.
    pub(crate) fn white_out_inside(&mut self, path: &[u8]) {
        if let Some(folder) = self.find(path, true).filter(|&node| self.is_folder(node)) {
            self.hide_inside(folder);
        }
    }

    /// Hides one name. A lower layer's folder stays if this layer has put something into it.
    fn hide(&mut self, folder: NodeId, name: &[u8]) {
        let Some(entry) = self.entry(folder, name) else {
            return;
        };
        let is_folder = self.is_folder(entry.node);
        if is_folder {
            self.hide_inside(entry.node);
        }
        let is_empty = !is_folder || self.folder(entry.node).is_empty();
        if entry.layer < self.layer && is_empty {
            self.folder_mut(folder).remove(name);
        }
    }

    fn hide_inside(&mut self, folder: NodeId) {
        let names: Vec<Vec<u8>> = self.folder(folder).keys().cloned().collect();
        for name in names {
            self.hide(folder, &name);
        }
    }

    /// The names in a folder.
    pub(crate) fn folder(&self, id: NodeId) -> &BTreeMap<Vec<u8>, Entry> {
        match &self.nodes[id].kind {
            Kind::Folder(entries) => entries,
            _ => unreachable!("only folders are asked for their names"),
        }
    }

    fn folder_mut(&mut self, id: NodeId) -> &mut BTreeMap<Vec<u8>, Entry> {
        match &mut self.nodes[id].kind {
            Kind::Folder(entries) => entries,
            _ => unreachable!("only folders are asked for their names"),
        }
    }

    pub(crate) fn is_folder(&self, id: NodeId) -> bool {
        matches!(self.nodes[id].kind, Kind::Folder(_))
    }

    fn entry(&self, folder: NodeId, name: &[u8]) -> Option<Entry> {
        self.folder(folder).get(name).copied()
    }

    fn add(&mut self, folder: NodeId, name: Vec<u8>, node: Node) -> Result<NodeId, TreeError> {
        if self.nodes.len() >= NODES_MAX {
            return Err(TreeError::TooMany);
        }
        let link_bytes = match &node.kind {
            Kind::Symlink(target) => target.len(),
            _ => 0,
        };
        self.hold(NODE_BYTES + link_bytes + node.attributes.held_bytes())?;
        self.nodes.push(node);
        let id = self.nodes.len() - 1;
        self.set_entry(folder, name, id)?;
        Ok(id)
    }

    fn set_entry(&mut self, folder: NodeId, name: Vec<u8>, node: NodeId) -> Result<(), TreeError> {
        self.hold(ENTRY_BYTES + name.len())?;
        let layer = self.layer;
        self.folder_mut(folder).insert(name, Entry { node, layer });
        Ok(())
    }

    fn hold(&mut self, bytes: usize) -> Result<(), TreeError> {
        self.held_bytes = self.held_bytes.saturating_add(bytes);
        if self.held_bytes > HELD_BYTES_MAX {
            return Err(TreeError::TooLong);
        }
        Ok(())
    }
}

/// A path as text for a message.
pub(crate) fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
