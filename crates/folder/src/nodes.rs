//! What the guest knows by a number: one open descriptor (`O_PATH`) for each file, whatever it is called by now.
//!
//! A number is given once and never again, so one that has been forgotten means nothing. A file that has several names is one node,
//! which it stays as long as its descriptor is open: its inode's number cannot be another's until then.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

/// `FUSE_ROOT_ID`.
pub(crate) const ROOT: u64 = 1;

/// File system and inode.
type Key = (u64, u64);

#[derive(Debug)]
struct Node {
    fd: OwnedFd,
    kind: FileType,
    key: Key,
    /// How often the guest has been told this number, less what it has forgotten.
    told: u64,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Nodes {
    by_id: HashMap<u64, Node>,
    by_key: HashMap<Key, u64>,
    next: u64,
    most: usize,
}

fn key(stat: &Stat) -> Key {
    (stat.st_dev, stat.st_ino)
}

impl Nodes {
    /// The root alone.
    pub(crate) fn new(root: OwnedFd, stat: &Stat, most: usize) -> Nodes {
        let mut nodes = Nodes {
            by_id: HashMap::new(),
            by_key: HashMap::new(),
            next: ROOT,
            most,
        };
        nodes.insert(root, stat);
        nodes
    }

    /// A guest that begins anew knows nothing.
    pub(crate) fn forget_all(&mut self) {
        self.by_id.retain(|id, _| *id == ROOT);
        self.by_key.retain(|_, id| *id == ROOT);
    }

    fn insert(&mut self, fd: OwnedFd, stat: &Stat) -> u64 {
        let id = self.next;
        self.next += 1;
        let node = Node {
            fd,
            kind: FileType::from_raw_mode(stat.st_mode),
            key: key(stat),
            told: 1,
        };
        self.by_key.insert(node.key, id);
        self.by_id.insert(id, node);
        id
    }

    /// The number of what has been looked up, which is now told once more.
    ///
    /// # Errors
    /// If there are too many.
    pub(crate) fn tell(&mut self, fd: OwnedFd, stat: &Stat) -> Result<u64, Errno> {
        if let Some(id) = self.by_key.get(&key(stat)) {
            if let Some(node) = self.by_id.get_mut(id) {
                node.told = node.told.saturating_add(1);
            }
            return Ok(*id);
        }
        if self.by_id.len() >= self.most {
            return Err(Errno::NFILE);
        }
        Ok(self.insert(fd, stat))
    }

    /// The guest forgets that it was told so often.
    pub(crate) fn forget(&mut self, id: u64, count: u64) {
        let Some(node) = self.by_id.get_mut(&id).filter(|_| id != ROOT) else {
            return;
        };
        node.told = node.told.saturating_sub(count);
        if node.told == 0 {
            self.by_key.remove(&node.key);
            self.by_id.remove(&id);
        }
    }

    /// The file behind a number, and what it is.
    ///
    /// # Errors
    /// If the guest was not told that number, or has forgotten it.
    pub(crate) fn get(&self, id: u64) -> Result<(BorrowedFd<'_>, FileType), Errno> {
        let node = self.by_id.get(&id).ok_or(Errno::STALE)?;
        Ok((node.fd.as_fd(), node.kind))
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }
}
