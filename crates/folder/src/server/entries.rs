//! Names: looking them up, making, removing and changing them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Uid, chownat, fstat,
    linkat, mkdirat, openat2, readlinkat, renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::{Access, Outcome, Server};
use crate::message::{Body, Header, Writer};
use crate::owners::{Owners, given_mode};

/// How long a guest may believe a name and what is known of a file, in seconds: so long it may see what was.
const BELIEVED_S: u64 = 1;

/// Beneath one folder, through no link, and not to another file system.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Bit of a folder whose files belong to its group.
const SET_GROUP: u32 = 0o2000;

/// `PATH_MAX`.
const LINK_BYTES_MAX: usize = 4096;

/// What this name is in an open folder, neither read nor written.
pub(super) fn find(folder: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(folder, name, flags, Mode::empty(), BENEATH)
}

impl Server {
    pub(super) fn look_up(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let name = body.name()?;
        self.entry(header.node_id, name)
    }

    /// `fuse_entry_out` of a name.
    pub(super) fn entry(&mut self, folder: u64, name: &[u8]) -> Outcome {
        let (folder, _) = self.nodes.get(folder)?;
        let found = find(folder, name)?;
        self.told(found)
    }

    /// The same of what has been found.
    pub(super) fn told(&mut self, found: OwnedFd) -> Outcome {
        let stat = fstat(&found)?;
        let id = self.nodes.tell(found, &stat)?;
        Ok(self.entry_of(id, &stat))
    }

    fn entry_of(&self, id: u64, stat: &Stat) -> Vec<u8> {
        let times = Writer::default()
            .u64(id)
            .u64(0)
            .u64(BELIEVED_S)
            .u64(BELIEVED_S);
        self.attributes(times.zeros(8), stat).0
    }

    /// `fuse_attr_out`.
    pub(super) fn attributes_of(&self, stat: &Stat) -> Vec<u8> {
        self.attributes(Writer::default().u64(BELIEVED_S).zeros(8), stat)
            .0
    }

    pub(super) fn forget(&mut self, header: Header, mut body: Body<'_>) {
        if let Ok(count) = body.u64() {
            self.nodes.forget(header.node_id, count);
        }
    }

    pub(super) fn forget_many(&mut self, mut body: Body<'_>) -> Result<(), Errno> {
        let count = body.u32()?;
        body.skip(4)?;
        for _ in 0..count {
            let id = body.u64()?;
            self.nodes.forget(id, body.u64()?);
        }
        Ok(())
    }

    pub(super) fn read_link(&mut self, header: Header) -> Outcome {
        let (link, _) = self.nodes.get(header.node_id)?;
        let target = readlinkat(link, "", Vec::with_capacity(256))?;
        Ok(target.into_bytes())
    }

    pub(super) fn make_folder(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let mode = given_mode(body.u32()?, true);
        body.skip(4)?;
        let name = body.name()?;
        let (folder, _) = self.nodes.get(header.node_id)?;
        mkdirat(folder, name, mode)?;
        self.made(header, name, FileType::Directory)
    }

    pub(super) fn make_symlink(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let name = body.name()?;
        let target = body.text()?;
        if target.is_empty() || target.len() >= LINK_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let (folder, _) = self.nodes.get(header.node_id)?;
        symlinkat(target, folder, name)?;
        self.made(header, name, FileType::Symlink)
    }

    /// Files only: who opens a pipe, a socket or a device that a guest has made would wait for that guest, or worse.
    pub(super) fn make_node(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let mode = body.u32()?;
        body.skip(12)?;
        let name = body.name()?;
        if FileType::from_raw_mode(mode) != FileType::RegularFile {
            return Err(Errno::PERM);
        }
        let made = self.new_file(header, name, mode, OFlags::WRONLY)?;
        let found = self.again(made.as_fd(), OFlags::PATH)?;
        self.told(found)
    }

    /// A file that was not there, opened.
    pub(super) fn new_file(
        &self,
        header: Header,
        name: &[u8],
        mode: u32,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let (folder, _) = self.nodes.get(header.node_id)?;
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat2(folder, name, flags, given_mode(mode, false), BENEATH)?;
        self.give(header, folder, made.as_fd())?;
        Ok(made)
    }

    /// What has just been made under a name, which is of this kind unless somebody on the host was quicker.
    fn made(&mut self, header: Header, name: &[u8], kind: FileType) -> Outcome {
        let (folder, _) = self.nodes.get(header.node_id)?;
        let found = find(folder, name)?;
        if FileType::from_raw_mode(fstat(&found)?.st_mode) != kind {
            return Err(Errno::IO);
        }
        self.give(header, folder, found.as_fd())?;
        self.told(found)
    }

    /// Gives what was made to who asked for it, where numbers are kept.
    fn give(
        &self,
        header: Header,
        folder: BorrowedFd<'_>,
        made: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        if self.owners != Owners::Numbers {
            return Ok(());
        }
        let (uid, gid) = self.owners.given(Some(header.uid), Some(header.gid))?;
        // In a folder of a group what is made belongs to that group already.
        let is_of_group = fstat(folder)?.st_mode & SET_GROUP != 0;
        let group = gid.filter(|_| !is_of_group).map(Gid::from_raw);
        chownat(made, "", uid.map(Uid::from_raw), group, AtFlags::EMPTY_PATH)
    }

    pub(super) fn remove(
        &mut self,
        header: Header,
        mut body: Body<'_>,
        is_folder: bool,
    ) -> Outcome {
        let name = body.name()?;
        let (folder, _) = self.nodes.get(header.node_id)?;
        let flags = match is_folder {
            true => AtFlags::REMOVEDIR,
            false => AtFlags::empty(),
        };
        unlinkat(folder, name, flags)?;
        Ok(Vec::new())
    }

    pub(super) fn rename(
        &mut self,
        header: Header,
        mut body: Body<'_>,
        has_flags: bool,
    ) -> Outcome {
        let to = body.u64()?;
        let mut flags = RenameFlags::empty();
        if has_flags {
            flags = RenameFlags::from_bits_retain(body.u32()?);
            body.skip(4)?;
        }
        // A whiteout is a device.
        if !(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE).contains(flags) {
            return Err(Errno::INVAL);
        }
        let old = body.name()?;
        let new = body.name()?;
        let (from, _) = self.nodes.get(header.node_id)?;
        let (to, _) = self.nodes.get(to)?;
        renameat_with(from, old, to, new, flags)?;
        Ok(Vec::new())
    }

    pub(super) fn link(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let old = body.u64()?;
        let name = body.name()?;
        let (file, _) = self.nodes.get(old)?;
        let (folder, _) = self.nodes.get(header.node_id)?;
        let number = file.as_raw_fd().to_string();
        linkat(&self.own, number, folder, name, AtFlags::SYMLINK_FOLLOW)?;
        self.entry(header.node_id, name)
    }

    /// Whether something may be opened with these flags.
    pub(super) fn may(&self, flags: OFlags) -> Result<(), Errno> {
        let is_read = flags & OFlags::RWMODE == OFlags::RDONLY;
        match self.access {
            Access::Read if !is_read => Err(Errno::ROFS),
            _ => Ok(()),
        }
    }
}
