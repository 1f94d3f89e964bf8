//! What is in files.

use std::os::fd::AsFd;

use rustix::fs::{
    FallocateFlags, FileType, OFlags, SeekFrom, copy_file_range, fallocate, fdatasync, fstat,
    fsync, seek,
};
use rustix::io::{Errno, pread, pwrite};

use super::entries::find;
use super::{Outcome, Server};
use crate::message::{Body, DATA_BYTES_MAX, Header, Writer};

/// `FUSE_FSYNC_FDATASYNC`.
const DATA_ALONE: u32 = 1;

/// `FUSE_WRITE_CACHE`: pages of the guest's that were written where the file is mapped, through whatever it has open to write.
pub(super) const OF_PAGES: u32 = 1;

/// `SEEK_DATA`, `SEEK_HOLE`.
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

/// What one message may have copied: others wait for it.
const COPY_BYTES_MAX: u64 = 16 << 20;

/// Of how a guest opens something, what is for the host. What is opened to be read keeps its length, which Linux would not let it.
fn for_host(flags: u32) -> OFlags {
    let flags = OFlags::from_bits_retain(flags) & (OFlags::RWMODE | OFlags::APPEND | OFlags::TRUNC);
    match flags & OFlags::RWMODE {
        OFlags::RDONLY => OFlags::RDONLY,
        _ => flags,
    }
}

/// `fuse_open_out`.
fn opened(handle: u64) -> Writer {
    Writer::default().u64(handle).zeros(8)
}

impl Server {
    pub(super) fn open_file(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let flags = for_host(body.u32()?);
        self.may(flags)?;
        if self.nodes.get(header.node_id)?.1 == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        let file = self.open_node(header.node_id, flags)?;
        Ok(opened(self.keep(file, header.node_id, flags)?).0)
    }

    /// `fuse_create_in`: makes a file and opens it, or opens the one that is there.
    pub(super) fn create(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let wanted = body.u32()?;
        let mode = body.u32()?;
        body.skip(8)?;
        let name = body.name()?;
        let flags = for_host(wanted);
        if self.handles.len() >= self.bounds.handles {
            return Err(Errno::NFILE);
        }
        let is_new = OFlags::from_bits_retain(wanted).contains(OFlags::EXCL);
        let (entry, file) = match self.new_file(header, name, mode, flags) {
            Err(Errno::EXIST) if !is_new => {
                let (folder, _) = self.nodes.get(header.node_id)?;
                let found = find(folder, name)?;
                let kind = FileType::from_raw_mode(fstat(&found)?.st_mode);
                if kind != FileType::RegularFile {
                    return Err(Errno::EXIST);
                }
                let file = self.again(found.as_fd(), flags | OFlags::NONBLOCK)?;
                (self.told(found)?, file)
            }
            made => {
                let file = made?;
                let found = self.again(file.as_fd(), OFlags::PATH)?;
                (self.told(found)?, file)
            }
        };
        let mut id = [0; 8];
        id.copy_from_slice(&entry[..8]);
        let handle = self.keep(file, u64::from_le_bytes(id), flags)?;
        Ok(Writer(entry).bytes(&opened(handle).0).0)
    }

    pub(super) fn read(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let handle = body.u64()?;
        let offset = body.u64()?;
        let count = (body.u32()? as usize).min(DATA_BYTES_MAX);
        let file = self.handle(handle, header.node_id)?;
        let mut bytes = vec![0; count];
        let mut done = 0;
        while done < count {
            let at = offset.checked_add(done as u64).ok_or(Errno::INVAL)?;
            match pread(file, &mut bytes[done..], at) {
                Ok(0) => break,
                Ok(more) => done += more,
                Err(Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    pub(super) fn write(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let handle = body.u64()?;
        let offset = body.u64()?;
        let count = body.u32()? as usize;
        let flags = body.u32()?;
        body.skip(16)?;
        let bytes = body.bytes(count)?;
        let kept = self.kept(handle, header.node_id)?;
        // A page has its place, also where what programs write goes to the end.
        let elsewhere = match flags & OF_PAGES != 0 && kept.appends {
            true => Some(self.again(kept.fd.as_fd(), OFlags::WRONLY | OFlags::NONBLOCK)?),
            false => None,
        };
        let file = elsewhere.as_ref().unwrap_or(&kept.fd);
        let mut done = 0;
        while done < count {
            let at = offset.checked_add(done as u64).ok_or(Errno::FBIG)?;
            match pwrite(file, &bytes[done..], at) {
                Ok(0) => break,
                Ok(more) => done += more,
                Err(Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written(done))
    }

    /// `fuse_fsync_in`, of files and folders.
    pub(super) fn sync(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let handle = body.u64()?;
        let flags = body.u32()?;
        let file = self.handle(handle, header.node_id)?;
        match flags & DATA_ALONE {
            0 => fsync(file)?,
            _ => fdatasync(file)?,
        }
        Ok(Vec::new())
    }

    pub(super) fn allocate(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let handle = body.u64()?;
        let offset = body.u64()?;
        let len_bytes = body.u64()?;
        let known =
            FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        let flags = FallocateFlags::from_bits_retain(body.u32()?);
        if !known.contains(flags) {
            return Err(Errno::OPNOTSUPP);
        }
        fallocate(
            self.handle(handle, header.node_id)?,
            flags,
            offset,
            len_bytes,
        )?;
        Ok(Vec::new())
    }

    /// Where data or a hole begins; any other place a guest knows itself.
    pub(super) fn seek(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let handle = body.u64()?;
        let offset = body.u64()?;
        let to = match body.u32()? {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        let found = seek(self.handle(handle, header.node_id)?, to)?;
        Ok(Writer::default().u64(found).0)
    }

    /// `fuse_copy_file_range_in`.
    pub(super) fn copy_range(&mut self, header: Header, mut body: Body<'_>) -> Outcome {
        let from = body.u64()?;
        let mut from_offset = body.u64()?;
        let to_node = body.u64()?;
        let to = body.u64()?;
        let mut to_offset = body.u64()?;
        let count = body.u64()?.min(COPY_BYTES_MAX) as usize;
        if body.u64()? != 0 {
            return Err(Errno::INVAL);
        }
        let from = self.handle(from, header.node_id)?;
        let to = self.handle(to, to_node)?;
        let done = copy_file_range(
            from,
            Some(&mut from_offset),
            to,
            Some(&mut to_offset),
            count,
        )?;
        Ok(written(done))
    }
}

/// `fuse_write_out`.
fn written(count: usize) -> Vec<u8> {
    Writer::default().u32(count as u32).u32(0).0
}
