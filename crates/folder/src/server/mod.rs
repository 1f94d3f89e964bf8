//! What becomes of each message.

mod attributes;
mod entries;
mod files;
mod lists;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat};
use rustix::io::Errno;

use crate::message::{Body, DATA_BYTES_MAX, Header, Writer, answer, split};
use crate::nodes::Nodes;
use crate::owners::Owners;

/// The body of an answer.
type Outcome = Result<Vec<u8>, Errno>;

/// The version that is spoken.
const MAJOR: u32 = 7;
const MINOR: u32 = 31;

/// The oldest that is understood: virtio-fs came with it (Linux 5.4).
const MINOR_LEAST: u32 = 31;

/// `FUSE_ASYNC_READ`, `FUSE_BIG_WRITES`, `FUSE_AUTO_INVAL_DATA`, `FUSE_DO_READDIRPLUS`, `FUSE_READDIRPLUS_AUTO`,
/// `FUSE_PARALLEL_DIROPS`, `FUSE_MAX_PAGES`. Without `FUSE_POSIX_LOCKS` and `FUSE_FLOCK_LOCKS` a guest keeps its locks itself; without
/// `FUSE_WRITEBACK_CACHE` each write arrives, so the host sees it.
const AGREED: u32 = 1 | 1 << 5 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 18 | MAX_PAGES;
const MAX_PAGES: u32 = 1 << 22;

/// What a message may carry where `FUSE_MAX_PAGES` is not offered.
const DATA_BYTES_OF_OLD: u32 = 128 << 10;

const PAGE_BYTES: usize = 4096;

/// Whether the guest may write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It may.
    Write,
    /// It may not: whatever would change something is refused (`EROFS`).
    Read,
}

/// How much a guest may make a server keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Files that it knows by a number; each takes a descriptor.
    pub nodes: usize,
    /// Files and folders that it has open; each takes a descriptor.
    pub handles: usize,
}

/// One folder, for one guest.
#[derive(Debug)]
pub struct Server {
    access: Access,
    owners: Owners,
    bounds: Bounds,
    nodes: Nodes,
    handles: HashMap<u64, Handle>,
    next_handle: u64,
    /// `/proc/self/fd`: what a descriptor is for is changed by opening it again by its own number.
    own: OwnedFd,
    has_begun: bool,
}

/// Something open.
#[derive(Debug)]
struct Handle {
    fd: OwnedFd,
    node_id: u64,
    /// Whatever is written goes to the end of the file, wherever it was to go.
    appends: bool,
}

impl Server {
    /// Serves `folder`. To be called before the process locks itself in, as it needs `/proc/self/fd`; the umask of the process is
    /// taken from what is made, so it should be 0.
    ///
    /// # Errors
    /// If it is no folder, or there is no `/proc`.
    pub fn new(
        folder: OwnedFd,
        access: Access,
        owners: Owners,
        bounds: Bounds,
    ) -> io::Result<Server> {
        let stat = fstat(&folder)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let own = open("/proc/self/fd", flags, Mode::empty())?;
        Ok(Server {
            access,
            owners,
            bounds,
            nodes: Nodes::new(folder, &stat, bounds.nodes),
            handles: HashMap::new(),
            next_handle: 1,
            own,
            has_begun: false,
        })
    }

    /// The answer to one message, if it gets one: what is forgotten gets none, and neither does what is no message.
    pub fn answer(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let (header, body) = split(message)?;
        let outcome = match header.opcode {
            opcode::FORGET => {
                self.forget(header, body);
                return None;
            }
            opcode::BATCH_FORGET => {
                let _ = self.forget_many(body);
                return None;
            }
            opcode::INTERRUPT => return None,
            opcode::INIT => self.begin(body),
            _ if !self.has_begun => Err(Errno::IO),
            opcode if opcode::changes(opcode) && self.access == Access::Read => Err(Errno::ROFS),
            _ => self.outcome(header, body),
        };
        Some(answer(header.unique, outcome))
    }

    fn outcome(&mut self, header: Header, body: Body<'_>) -> Outcome {
        match header.opcode {
            opcode::LOOKUP => self.look_up(header, body),
            opcode::GETATTR => self.get_attributes(header, body),
            opcode::SETATTR => self.set_attributes(header, body),
            opcode::READLINK => self.read_link(header),
            opcode::SYMLINK => self.make_symlink(header, body),
            opcode::MKNOD => self.make_node(header, body),
            opcode::MKDIR => self.make_folder(header, body),
            opcode::UNLINK => self.remove(header, body, false),
            opcode::RMDIR => self.remove(header, body, true),
            opcode::RENAME => self.rename(header, body, false),
            opcode::RENAME2 => self.rename(header, body, true),
            opcode::LINK => self.link(header, body),
            opcode::OPEN => self.open_file(header, body),
            opcode::CREATE => self.create(header, body),
            opcode::READ => self.read(header, body),
            opcode::WRITE => self.write(header, body),
            opcode::STATFS => self.file_system(),
            opcode::RELEASE | opcode::RELEASEDIR => self.release(header, body),
            opcode::FSYNC | opcode::FSYNCDIR => self.sync(header, body),
            // Each write has arrived already.
            opcode::FLUSH => Ok(Vec::new()),
            opcode::SETXATTR => self.set_attribute(header, body),
            opcode::GETXATTR => self.get_attribute(header, body),
            opcode::LISTXATTR => self.list_attributes(header, body),
            opcode::REMOVEXATTR => self.remove_attribute(header, body),
            opcode::OPENDIR => self.open_folder(header),
            opcode::READDIR => self.list(header, body, false),
            opcode::READDIRPLUS => self.list(header, body, true),
            opcode::FALLOCATE => self.allocate(header, body),
            opcode::LSEEK => self.seek(header, body),
            opcode::COPY_FILE_RANGE => self.copy_range(header, body),
            opcode::DESTROY => {
                self.end();
                Ok(Vec::new())
            }
            _ => Err(Errno::NOSYS),
        }
    }

    /// `FUSE_INIT`: a guest mounts the folder, perhaps anew.
    fn begin(&mut self, mut body: Body<'_>) -> Outcome {
        let major = body.u32()?;
        let minor = body.u32()?;
        let readahead_bytes = body.u32()?;
        let offered = body.u32()?;
        if major < MAJOR || major == MAJOR && minor < MINOR_LEAST {
            return Err(Errno::PROTO);
        }
        self.end();
        self.has_begun = true;
        let agreed = offered & AGREED;
        let write_bytes = match agreed & MAX_PAGES {
            0 => DATA_BYTES_OF_OLD,
            _ => DATA_BYTES_MAX as u32,
        };
        let answer = Writer::default().u32(MAJOR).u32(MINOR).u32(readahead_bytes);
        let answer = answer
            .u32(agreed)
            .u16(BACKGROUND)
            .u16(CONGESTED)
            .u32(write_bytes);
        // Times in nanoseconds; pages of a message; alignment, further flags, depth and what is not used.
        let answer = answer.u32(1).u16((DATA_BYTES_MAX / PAGE_BYTES) as u16);
        Ok(answer.zeros(2 + 8 * 4).0)
    }

    /// The guest has nothing open and knows nothing.
    fn end(&mut self) {
        self.has_begun = false;
        self.handles.clear();
        self.nodes.forget_all();
    }

    /// Opens what a descriptor (`O_PATH` or not) is, again.
    fn again(&self, fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
        let number = fd.as_raw_fd().to_string();
        openat(&self.own, number, flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// Opens a node to be read or written, if it is of a kind that is.
    fn open_node(&self, node_id: u64, flags: OFlags) -> Result<OwnedFd, Errno> {
        let (fd, kind) = self.nodes.get(node_id)?;
        match kind {
            // A wait in `open` is for pipes; what takes a lease of a file from its holder is told to the guest.
            FileType::RegularFile | FileType::Directory => self.again(fd, flags | OFlags::NONBLOCK),
            FileType::Symlink => Err(Errno::LOOP),
            _ => Err(Errno::NXIO),
        }
    }

    /// Keeps something open for the guest, which was opened like this; its number.
    fn keep(&mut self, fd: OwnedFd, node_id: u64, flags: OFlags) -> Result<u64, Errno> {
        if self.handles.len() >= self.bounds.handles {
            return Err(Errno::NFILE);
        }
        let handle = self.next_handle;
        self.next_handle += 1;
        let kept = Handle {
            fd,
            node_id,
            appends: flags.contains(OFlags::APPEND),
        };
        self.handles.insert(handle, kept);
        Ok(handle)
    }

    /// What the guest has open under this number, as this node.
    fn handle(&self, handle: u64, node_id: u64) -> Result<BorrowedFd<'_>, Errno> {
        Ok(self.kept(handle, node_id)?.fd.as_fd())
    }

    fn kept(&self, handle: u64, node_id: u64) -> Result<&Handle, Errno> {
        let found = self.handles.get(&handle);
        let found = found.filter(|handle| handle.node_id == node_id);
        found.ok_or(Errno::BADF)
    }

    fn release(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let handle = body.u64()?;
        self.handle(handle, header.node_id)?;
        self.handles.remove(&handle);
        Ok(Vec::new())
    }
}

/// Whether a message of this kind gets an answer. What is forgotten gets none; nothing is waited for, so there is nothing to break off,
/// and who asks for that gets none either.
pub fn is_answered(opcode: u32) -> bool {
    !matches!(
        opcode,
        opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT
    )
}

/// Requests that nobody waits for: so many at once, and how many make the guest slow down.
const BACKGROUND: u16 = 64;
const CONGESTED: u16 = 48;

/// `enum fuse_opcode`.
pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;

    /// Whether it changes something whatever it says. `OPEN` depends on what for.
    pub(super) fn changes(opcode: u32) -> bool {
        matches!(
            opcode,
            SETATTR
                | SYMLINK
                | MKNOD
                | MKDIR
                | UNLINK
                | RMDIR
                | RENAME
                | RENAME2
                | LINK
                | CREATE
                | WRITE
                | SETXATTR
                | REMOVEXATTR
                | FALLOCATE
                | COPY_FILE_RANGE
        )
    }
}
