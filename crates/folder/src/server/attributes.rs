//! What is known of a file: times, modes, owners, sizes, extended attributes.

use std::os::fd::AsRawFd;

use rustix::fs::{
    AtFlags, FileType, Gid, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
    XattrFlags, chmodat, chownat, fgetxattr, flistxattr, fremovexattr, fsetxattr, fstat, fstatvfs,
    ftruncate, utimensat,
};
use rustix::io::Errno;

use super::{Outcome, Server};
use crate::message::{Body, Header, Writer};
use crate::nodes::ROOT;
use crate::owners::given_mode;

/// `FUSE_GETATTR_FH`.
const BY_HANDLE: u32 = 1;

/// `FATTR_*`: what is to be set.
const MODE: u32 = 1;
const UID: u32 = 1 << 1;
const GID: u32 = 1 << 2;
const SIZE: u32 = 1 << 3;
const ATIME: u32 = 1 << 4;
const MTIME: u32 = 1 << 5;
const HANDLE: u32 = 1 << 6;
const ATIME_NOW: u32 = 1 << 7;
const MTIME_NOW: u32 = 1 << 8;

const NANOSECONDS: u32 = 1_000_000_000;

/// `XATTR_SIZE_MAX`, `XATTR_LIST_MAX`.
const ATTRIBUTE_BYTES_MAX: usize = 64 << 10;

/// The attributes that users may give to files; others mean something to the host's kernel.
const OF_USERS: &[u8] = b"user.";

impl Server {
    /// `fuse_attr`. A device has no number: it would be one of the guest's.
    pub(super) fn attributes(&self, writer: Writer, stat: &Stat) -> Writer {
        let (uid, gid) = self.owners.seen(stat);
        let writer = writer
            .u64(stat.st_ino)
            .u64(stat.st_size as u64)
            .u64(stat.st_blocks as u64)
            .u64(stat.st_atime as u64)
            .u64(stat.st_mtime as u64)
            .u64(stat.st_ctime as u64)
            .u32(stat.st_atime_nsec as u32)
            .u32(stat.st_mtime_nsec as u32)
            .u32(stat.st_ctime_nsec as u32)
            .u32(self.owners.seen_mode(stat))
            .u32(u32::try_from(stat.st_nlink).unwrap_or(u32::MAX));
        writer
            .u32(uid)
            .u32(gid)
            .u32(0)
            .u32(stat.st_blksize as u32)
            .u32(0)
    }

    pub(super) fn get_attributes(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let flags = body.u32()?;
        body.skip(4)?;
        let handle = body.u64()?;
        let stat = match flags & BY_HANDLE {
            0 => fstat(self.nodes.get(header.node_id)?.0)?,
            _ => fstat(self.handle(handle, header.node_id)?)?,
        };
        Ok(self.attributes_of(&stat))
    }

    /// `fuse_setattr_in`.
    pub(super) fn set_attributes(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let valid = body.u32()?;
        body.skip(4)?;
        let handle = body.u64()?;
        let size_bytes = body.u64()?;
        body.skip(8)?;
        let mut seconds = [0; 3];
        for second in &mut seconds {
            *second = body.u64()?;
        }
        let mut nanoseconds = [0; 3];
        for nanosecond in &mut nanoseconds {
            *nanosecond = body.u32()?;
        }
        let mode = body.u32()?;
        body.skip(4)?;
        let uid = body.u32()?;
        let gid = body.u32()?;
        let has = |bit| valid & bit != 0;
        let (file, kind) = self.nodes.get(header.node_id)?;
        // Who may speak to a program of the host through a pipe, a socket or a device is not a guest's to say.
        if (has(MODE) || has(UID) || has(GID)) && !is_plain(kind) {
            return Err(Errno::PERM);
        }
        if has(MODE) {
            if kind == FileType::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            let mode = given_mode(mode, kind == FileType::Directory);
            let number = file.as_raw_fd().to_string();
            chmodat(&self.own, number, mode, AtFlags::empty())?;
        }
        let (uid, gid) = self
            .owners
            .given(has(UID).then_some(uid), has(GID).then_some(gid))?;
        if uid.is_some() || gid.is_some() {
            let uid = uid.map(Uid::from_raw);
            chownat(file, "", uid, gid.map(Gid::from_raw), AtFlags::EMPTY_PATH)?;
        }
        if has(SIZE) {
            if has(HANDLE) {
                ftruncate(self.handle(handle, header.node_id)?, size_bytes)?;
            } else {
                ftruncate(self.open_node(header.node_id, OFlags::WRONLY)?, size_bytes)?;
            }
        }
        let times = Timestamps {
            last_access: time(has(ATIME), has(ATIME_NOW), seconds[0], nanoseconds[0])?,
            last_modification: time(has(MTIME), has(MTIME_NOW), seconds[1], nanoseconds[1])?,
        };
        if has(ATIME) || has(MTIME) {
            utimensat(file, "", &times, AtFlags::EMPTY_PATH)?;
        }
        let stat = fstat(file)?;
        Ok(self.attributes_of(&stat))
    }

    /// `fuse_kstatfs`.
    pub(super) fn file_system(&mut self) -> Outcome {
        let found = fstatvfs(self.nodes.get(ROOT)?.0)?;
        let answer = Writer::default()
            .u64(found.f_blocks)
            .u64(found.f_bfree)
            .u64(found.f_bavail)
            .u64(found.f_files)
            .u64(found.f_ffree)
            .u32(found.f_bsize as u32)
            .u32(found.f_namemax as u32)
            .u32(found.f_frsize as u32);
        Ok(answer.zeros(4 + 6 * 4).0)
    }

    pub(super) fn set_attribute(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let bytes = body.u32()? as usize;
        let flags = XattrFlags::from_bits(body.u32()?).ok_or(Errno::INVAL)?;
        let name = of_users(&mut body)?;
        let value = body.bytes(bytes)?;
        self.may_have(header, Errno::PERM)?;
        let file = self.open_node(header.node_id, OFlags::RDONLY)?;
        fsetxattr(file, name, value, flags)?;
        Ok(Vec::new())
    }

    pub(super) fn get_attribute(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let room_bytes = body.u32()? as usize;
        body.skip(4)?;
        let name = of_users(&mut body)?;
        self.may_have(header, Errno::NODATA)?;
        let file = self.open_node(header.node_id, OFlags::RDONLY)?;
        let mut value = vec![0; ATTRIBUTE_BYTES_MAX];
        let bytes = fgetxattr(file, name, &mut value[..])?;
        value.truncate(bytes);
        sized(value, room_bytes)
    }

    pub(super) fn list_attributes(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let room_bytes = body.u32()? as usize;
        if self.may_have(header, Errno::NODATA) == Err(Errno::NODATA) {
            return sized(Vec::new(), room_bytes);
        }
        let file = self.open_node(header.node_id, OFlags::RDONLY)?;
        let mut names = vec![0; ATTRIBUTE_BYTES_MAX];
        let bytes = flistxattr(file, &mut names[..])?;
        let names = names[..bytes].split_inclusive(|byte| *byte == 0);
        let ours: Vec<&[u8]> = names.filter(|name| name.starts_with(OF_USERS)).collect();
        sized(ours.concat(), room_bytes)
    }

    pub(super) fn remove_attribute(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let name = of_users(&mut body)?;
        self.may_have(header, Errno::PERM)?;
        let file = self.open_node(header.node_id, OFlags::RDONLY)?;
        fremovexattr(file, name)?;
        Ok(Vec::new())
    }
}

impl Server {
    /// Files and folders alone have attributes of users (xattr(7)); `error` is what Linux says of others.
    fn may_have(&self, header: Header, error: Errno) -> Result<(), Errno> {
        match self.nodes.get(header.node_id)?.1 {
            FileType::RegularFile | FileType::Directory => Ok(()),
            _ => Err(error),
        }
    }
}

/// Whether something is data, and not a way to a program or a device of the host.
fn is_plain(kind: FileType) -> bool {
    matches!(
        kind,
        FileType::RegularFile | FileType::Directory | FileType::Symlink
    )
}

fn of_users<'a>(body: &mut Body<'a>) -> Result<&'a [u8], Errno> {
    let name = body.text()?;
    if name.starts_with(OF_USERS) {
        Ok(name)
    } else {
        Err(Errno::OPNOTSUPP)
    }
}

/// What was asked for, if there is room for it; or, without room, how much that is.
fn sized(value: Vec<u8>, room_bytes: usize) -> Outcome {
    match room_bytes {
        0 => Ok(Writer::default().u32(value.len() as u32).u32(0).0),
        room if room < value.len() => Err(Errno::RANGE),
        _ => Ok(value),
    }
}

fn time(is_set: bool, is_now: bool, seconds: u64, nanoseconds: u32) -> Result<Timespec, Errno> {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    match (is_set, is_now) {
        (false, _) => Ok(special(UTIME_OMIT)),
        (true, true) => Ok(special(UTIME_NOW)),
        // More would be one of the two above.
        (true, false) if nanoseconds >= NANOSECONDS => Err(Errno::INVAL),
        (true, false) => Ok(Timespec {
            tv_sec: seconds as i64,
            tv_nsec: nanoseconds.into(),
        }),
    }
}
