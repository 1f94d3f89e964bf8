//! What is in folders. A list is read from the host as far as one answer has room, from where the guest says that it was, so
//! nothing of it is kept.

use std::os::fd::AsFd;

use rustix::fs::{FileType, OFlags, RawDir, SeekFrom, fstat, seek};
use rustix::io::fcntl_dupfd_cloexec;

use super::{Outcome, Server};
use crate::message::{Body, DATA_BYTES_MAX, Header, Writer};
use crate::nodes::ROOT;

/// What is read of a folder at once.
const READ_BYTES: usize = 32 << 10;

/// Bytes of `fuse_entry_out`, and of `fuse_dirent` without its name.
const ENTRY_BYTES: usize = 128;
const LINE_BYTES: usize = 24;

/// Of what `fuse_dirent` is a multiple.
const ALIGNMENT: usize = 8;

/// One line of a folder.
struct Line {
    name: Vec<u8>,
    inode: u64,
    next: u64,
    kind: FileType,
}

impl Line {
    fn is_way(&self) -> bool {
        self.name == b"." || self.name == b".."
    }

    fn len_bytes(&self) -> usize {
        (LINE_BYTES + self.name.len()).next_multiple_of(ALIGNMENT)
    }

    fn write(&self, writer: Writer) -> Writer {
        // `DT_*`: the kind as modes have it.
        let kind = self.kind.as_raw_mode() >> 12;
        let writer = writer.u64(self.inode).u64(self.next);
        let writer = writer
            .u32(self.name.len() as u32)
            .u32(kind)
            .bytes(&self.name);
        writer.zeros(self.len_bytes() - LINE_BYTES - self.name.len())
    }
}

impl Server {
    pub(super) fn open_folder(&mut self, header: Header) -> Outcome {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let folder = self.open_node(header.node_id, flags)?;
        let handle = self.keep(folder, header.node_id, flags)?;
        Ok(Writer::default().u64(handle).zeros(8).0)
    }

    /// `FUSE_READDIR`, and `FUSE_READDIRPLUS` if each line comes `with_entry`.
    pub(super) fn list(&mut self, header: Header, mut body: Body<'_>, with_entry: bool) -> Outcome {
        let handle = body.u64()?;
        let offset = body.u64()?;
        let room_bytes = (body.u32()? as usize).min(DATA_BYTES_MAX);
        let before = if with_entry { ENTRY_BYTES } else { 0 };
        // What is told needs all of the server.
        let folder = fcntl_dupfd_cloexec(self.handle(handle, header.node_id)?, 0)?;
        let inode = fstat(&folder)?.st_ino;
        seek(&folder, SeekFrom::Start(offset))?;
        let mut buffer = Vec::with_capacity(READ_BYTES);
        let mut lines = RawDir::new(folder.as_fd(), buffer.spare_capacity_mut());
        let mut answer = Writer::default();
        while let Some(line) = lines.next() {
            // What has been told already is not to be lost with the answer.
            let line = match line {
                Err(_) if !answer.0.is_empty() => break,
                line => line?,
            };
            let mut line = Line {
                name: line.file_name().to_bytes().to_vec(),
                inode: line.ino(),
                next: line.next_entry_cookie(),
                kind: line.file_type(),
            };
            if answer.0.len() + before + line.len_bytes() > room_bytes {
                break;
            }
            if header.node_id == ROOT && line.name == b".." {
                line.inode = inode;
            }
            if with_entry {
                // What cannot be told is there, and is looked up by who wants it: number 0.
                let told = (!line.is_way()).then(|| self.entry(header.node_id, &line.name));
                let entry = told.and_then(Result::ok);
                answer = answer.bytes(&entry.unwrap_or_else(|| vec![0; ENTRY_BYTES]));
            }
            answer = line.write(answer);
        }
        Ok(answer.0)
    }
}
