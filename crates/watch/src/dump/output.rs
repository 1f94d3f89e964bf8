//! Where a dump goes: bytes, and stretches of zeros that need not be there.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use x86::PAGE_SIZE;

/// Zeros that a pipe is given at once.
static ZEROS: [u8; 16 * PAGE_SIZE as usize] = [0; 16 * PAGE_SIZE as usize];

/// Takes a dump from front to back.
pub trait Output: Write {
    /// So many zeros.
    ///
    /// # Errors
    /// As `write`.
    fn zeros(&mut self, len_bytes: u64) -> io::Result<()>;
}

/// A new file, in which zeros are holes.
#[derive(Debug)]
pub struct HoleFile(File);

impl HoleFile {
    /// `file` has nothing in it.
    pub fn new(file: File) -> HoleFile {
        HoleFile(file)
    }

    /// The file, as long as what was written to it, a hole at its end too. Its position is at its end.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn finish(mut self) -> io::Result<File> {
        let end = self.0.stream_position()?;
        if self.0.metadata()?.len() < end {
            self.0.set_len(end)?;
        }
        Ok(self.0)
    }
}

impl Write for HoleFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Seek for HoleFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

impl Output for HoleFile {
    fn zeros(&mut self, len_bytes: u64) -> io::Result<()> {
        let by = i64::try_from(len_bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.0.seek(SeekFrom::Current(by)).map(|_| ())
    }
}

/// Somebody who reads it as it comes.
#[derive(Debug)]
pub struct Pipe<W>(pub W);

impl<W: Write> Write for Pipe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write> Output for Pipe<W> {
    fn zeros(&mut self, mut len_bytes: u64) -> io::Result<()> {
        while len_bytes > 0 {
            let len = len_bytes.min(ZEROS.len() as u64);
            self.0.write_all(&ZEROS[..len as usize])?;
            len_bytes -= len;
        }
        Ok(())
    }
}
