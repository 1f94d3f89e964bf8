//! How much the headers of one file of an archive may be.
//!
//! A tar archive says in headers of their own what does not fit into a file's header: a long name, extended attributes. The
//! library reads them whole, however long they say they are, and a few kilobytes of a packed archive can be gigabytes of
//! those. So what it reads until it has the next file is bounded; what it reads of a file then is not, that goes to where the
//! file goes. Whoever unpacks reads each file to its end first, so that it has nothing to skip.

use std::cell::Cell;
use std::io::{self, Read, Seek, SeekFrom};

/// What all headers of one file may take: names are shorter than 4 KiB, and Linux takes attributes of 64 KiB.
const HEADER_BYTES_MAX: u64 = 1 << 20;

/// How much may be read; see the module.
#[derive(Debug)]
pub struct HeaderBounds(Cell<u64>);

impl Default for HeaderBounds {
    fn default() -> HeaderBounds {
        HeaderBounds::new()
    }
}

impl HeaderBounds {
    /// Those of headers.
    pub fn new() -> HeaderBounds {
        HeaderBounds(Cell::new(HEADER_BYTES_MAX))
    }

    /// Headers come next.
    pub fn begin(&self) {
        self.0.set(HEADER_BYTES_MAX);
    }

    /// The file itself comes next.
    pub fn end(&self) {
        self.0.set(u64::MAX);
    }

    /// Keeps who reads to them.
    pub fn around<R>(&self, from: R) -> Bounded<'_, R> {
        Bounded { from, bounds: self }
    }
}

/// What is read from within bounds.
#[derive(Debug)]
pub struct Bounded<'a, R> {
    from: R,
    bounds: &'a HeaderBounds,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.bounds.0.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the headers of a file are longer than {HEADER_BYTES_MAX} bytes"),
            ));
        }
        let len = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.from.read(&mut buffer[..len])?;
        if left != u64::MAX {
            self.bounds.0.set(left - count as u64);
        }
        Ok(count)
    }
}

impl<R: Seek> Seek for Bounded<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.from.seek(to)
    }
}
