//! Reads and writes of files at a place, by the calls that take many places of memory (preadv(2), pwritev(2)): who serves a guest's
//! disk needs these, and may make no others ([`crate::jail`]).

use std::fs::File;
use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};

use rustix::io::{Errno, preadv, pwritev};

/// What the standard library's `FileExt` does, by other system calls. No file's own position is moved.
pub trait FileAt {
    /// Reads what is at `offset`, at most as much as `bytes` hold; how much came, 0 at the end of the file.
    ///
    /// # Errors
    /// What `preadv` says.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize>;

    /// Writes at `offset` what is in `bytes`; how much went.
    ///
    /// # Errors
    /// What `pwritev` says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize>;

    /// Reads as much as `bytes` hold.
    ///
    /// # Errors
    /// What `preadv` says; [`ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_exact_at(&self, mut bytes: &mut [u8], mut offset: u64) -> Result<()> {
        while !bytes.is_empty() {
            match self.read_at(bytes, offset) {
                Ok(0) => {
                    return Err(Error::new(ErrorKind::UnexpectedEof, "the file ends before"));
                }
                Ok(count) => {
                    bytes = &mut bytes[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// What `pwritev` says; [`ErrorKind::WriteZero`] if nothing goes.
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(Error::new(ErrorKind::WriteZero, "the file takes nothing")),
                Ok(count) => {
                    bytes = &bytes[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A place that no file has is told as such, as by the standard library: the kernel takes the number for a negative one.
fn place(offset: u64) -> Result<u64> {
    match i64::try_from(offset) {
        Ok(_) => Ok(offset),
        Err(_) => Err(Errno::INVAL.into()),
    }
}

impl FileAt for File {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize> {
        Ok(preadv(self, &mut [IoSliceMut::new(bytes)], place(offset)?)?)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize> {
        Ok(pwritev(self, &[IoSlice::new(bytes)], place(offset)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_written_at_places_as_by_the_standard_library() {
        let memory = crate::MemFd::new(c"at", 0).unwrap();
        let file = memory.file();
        file.write_all_at(b"mother", 3).unwrap();
        let read = |offset, len: usize| {
            let mut ours = vec![0; len];
            let mut theirs = vec![0; len];
            let said = file.read_exact_at(&mut ours, offset);
            let expected = std::os::unix::fs::FileExt::read_exact_at(file, &mut theirs, offset);
            assert_eq!(
                said.map_err(|error| error.kind()),
                expected.map_err(|error| error.kind()),
                "{offset}"
            );
            assert_eq!(ours, theirs, "{offset}");
            ours
        };
        assert_eq!(read(3, 6), b"mother");
        assert_eq!(read(0, 4), b"\0\0\0m");
        read(4, 6);
        read(9, 1);
        read(9, 0);
        read(u64::MAX - 3, 2);
        assert_eq!(file.read_at(&mut [0; 8], 5).unwrap(), 4);
        assert_eq!(file.read_at(&mut [0; 8], 9).unwrap(), 0);
    }
}
