//! The bytes of a disk, whatever its image's format, and parts of it.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::rc::Rc;

/// A disk that is read.
pub trait ReadDisk {
    /// Its size.
    fn len_bytes(&self) -> u64;

    /// Fills `bytes` with what lies at `offset`.
    ///
    /// # Errors
    /// What the host or the image says; [`io::ErrorKind::UnexpectedEof`] behind the end.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
}

/// A part of a disk, as libraries read it: a stream that can be sought in, and is not written.
#[derive(Clone)]
pub(super) struct Section {
    disk: Rc<dyn ReadDisk>,
    start: u64,
    len_bytes: u64,
    at: u64,
}

impl Section {
    /// The part of `disk` from `start` on, of `len_bytes` or as much as there is.
    pub(super) fn new(disk: &Rc<dyn ReadDisk>, start: u64, len_bytes: u64) -> Section {
        Section {
            disk: Rc::clone(disk),
            start,
            len_bytes: len_bytes.min(disk.len_bytes().saturating_sub(start)),
            at: 0,
        }
    }

    /// Fills `bytes` with what lies at `offset` of the part.
    pub(super) fn fill(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.len_bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.disk.read_at(self.start + offset, bytes)
    }
}

impl Read for Section {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = self.len_bytes.saturating_sub(self.at);
        let len = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.fill(self.at, &mut bytes[..len])?;
        self.at += len as u64;
        Ok(len)
    }
}

impl Seek for Section {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len_bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl Write for Section {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
