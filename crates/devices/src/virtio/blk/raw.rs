//! A raw image: the file's bytes are the disk's. Every act is a system call on the worker's thread.

use host::at::FileAt;
use std::fs::File;
use std::io;

use mem::{Buffer, GuestMemory, TransferError};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::head::SECTOR_BYTES;

/// Zeros written at once where the host's file system knows no quicker way.
const ZEROS_BYTES: usize = 1 << 20;

/// A raw image.
#[derive(Debug)]
pub struct RawImage {
    file: File,
    size_bytes: u64,
}

impl RawImage {
    /// A disk in `file`. A last sector that the file has only the start of is there; its rest reads as zeros.
    pub(super) fn new(file: File, file_bytes: u64) -> RawImage {
        RawImage {
            file,
            size_bytes: file_bytes.next_multiple_of(SECTOR_BYTES),
        }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn read(
        &self,
        memory: &GuestMemory,
        buffers: &[Buffer],
        offset: u64,
    ) -> Result<(), TransferError> {
        let moved = memory.read_from_file(buffers, &self.file, offset)?;
        zero_behind(memory, buffers, moved)
    }

    pub(super) fn write(
        &self,
        memory: &GuestMemory,
        buffers: &[Buffer],
        offset: u64,
    ) -> Result<(), TransferError> {
        memory.write_to_file(buffers, &self.file, offset)
    }

    pub(super) fn read_bytes(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self
                .file
                .read_at(&mut bytes[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // The file may end within the disk's last sector.
        bytes[filled..].fill(0);
        Ok(())
    }

    pub(super) fn write_bytes(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn discard(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        match self.punch(offset, len_bytes) {
            Err(error) if is_unsupported(error) => Ok(()),
            done => Ok(done?),
        }
    }

    pub(super) fn write_zeroes(
        &self,
        offset: u64,
        len_bytes: u64,
        may_unmap: bool,
    ) -> io::Result<()> {
        if may_unmap && self.punch(offset, len_bytes).is_ok() {
            return Ok(());
        }
        let keep_size = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, keep_size, offset, len_bytes) {
            Err(error) if is_unsupported(error) => self.write_zeros_out(offset, len_bytes),
            done => Ok(done?),
        }
    }

    fn punch(&self, offset: u64, len_bytes: u64) -> Result<(), Errno> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, punch, offset, len_bytes)
    }

    fn write_zeros_out(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        write_zeros(offset, len_bytes, |zeros, at| self.write_bytes(zeros, at))
    }
}

/// Has `write` write so many zeros from `offset` on, piece by piece: where a file has no better way.
pub(super) fn write_zeros(
    offset: u64,
    len_bytes: u64,
    write: impl Fn(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES.min(len_bytes as usize)];
    let mut done = 0;
    while done < len_bytes {
        let now = (len_bytes - done).min(zeros.len() as u64);
        write(&zeros[..now as usize], offset + done)?;
        done += now;
    }
    Ok(())
}

fn is_unsupported(error: Errno) -> bool {
    error == Errno::OPNOTSUPP || error == Errno::NOSYS || error == Errno::NODEV
}

/// Zeros in `buffers` behind their first `filled` bytes: the disk goes on where the file has ended.
fn zero_behind(memory: &GuestMemory, buffers: &[Buffer], filled: u64) -> Result<(), TransferError> {
    let mut start = 0;
    for buffer in buffers {
        let keep = filled.saturating_sub(start).min(buffer.len_bytes);
        if keep < buffer.len_bytes {
            let gpa = x86::Gpa(buffer.gpa.0 + keep);
            memory.write(gpa, &vec![0; (buffer.len_bytes - keep) as usize])?;
        }
        start += buffer.len_bytes;
    }
    Ok(())
}
