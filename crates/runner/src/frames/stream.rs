//! Frames in a stream socket, each with its length before it, as cards have them behind a user-mode network: what was read and
//! what is to be written, both bounded.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

/// Bytes of one read, several of the largest frames.
const READ_BYTES: usize = 256 << 10;

/// What waits to be written before no more is taken.
pub(crate) const WAITING_BYTES: usize = 256 << 10;

/// The length before a frame: 32 bits in network byte order.
const PREFIX_BYTES: usize = 4;

/// Shortest and longest frame: an Ethernet header; 65,535 bytes of IP, that header and a VLAN tag.
const FRAME_BYTES_MIN: usize = 14;
pub(crate) const FRAME_BYTES_MAX: usize = 65_535 + 18;

/// What was read: less than a frame beyond what one read brings.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    read: Vec<u8>,
    /// Where the next frame begins.
    at: usize,
}

impl Incoming {
    /// Reads what there is; false at the end.
    ///
    /// # Errors
    /// What the host says.
    pub(crate) fn fill(&mut self, from: &OwnedFd) -> io::Result<bool> {
        let before = self.read.len();
        self.read.resize(before + READ_BYTES, 0);
        let got = rustix::io::read(from, &mut self.read[before..]);
        self.read.truncate(before + got.unwrap_or(0));
        match got {
            Ok(0) | Err(Errno::CONNRESET) => Ok(false),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Where the next whole frame lies, with its length before it.
    ///
    /// # Errors
    /// If a length cannot be one: from there nothing in the stream can be found.
    pub(crate) fn next_frame(&mut self) -> io::Result<Option<Range<usize>>> {
        let Some(prefix) = self.read[self.at..].first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*prefix) as usize;
        if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&len) {
            let what = format!("a frame of {len} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let whole = self.at..self.at + PREFIX_BYTES + len;
        if whole.end > self.read.len() {
            return Ok(None);
        }
        self.at = whole.end;
        Ok(Some(whole))
    }

    /// The frame that lies there.
    pub(crate) fn frame(&self, whole: &Range<usize>) -> &[u8] {
        &self.read[whole.start + PREFIX_BYTES..whole.end]
    }

    /// What lies there as it came, lengths included.
    pub(crate) fn as_read(&self, range: Range<usize>) -> &[u8] {
        &self.read[range]
    }

    /// Forgets the frames that were gone through.
    pub(crate) fn forget(&mut self) {
        self.read.drain(..self.at);
        self.at = 0;
    }

    /// What is left, for tests: the beginning of a frame.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.read.len() - self.at
    }

    /// As if these bytes had been read.
    #[cfg(test)]
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.read.extend_from_slice(bytes);
    }
}

/// What is to be written.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    waiting: Vec<u8>,
    /// How much of that is written.
    written: usize,
}

impl Outgoing {
    /// Whether so much waits that no more is taken.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() - self.written >= WAITING_BYTES
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.len() == self.written
    }

    /// Whole frames with their lengths before them, whatever waits.
    pub(crate) fn push_as_read(&mut self, frames: &[u8]) {
        self.waiting.extend_from_slice(frames);
    }

    /// A frame; lost if too much waits: whether it was taken.
    pub(crate) fn push(&mut self, frame: &[u8]) -> bool {
        let len = u32::try_from(frame.len()).ok();
        let Some(len) = len.filter(|_| frame.len() <= FRAME_BYTES_MAX && !self.is_full()) else {
            return false;
        };
        self.waiting.extend(len.to_be_bytes());
        self.waiting.extend_from_slice(frame);
        true
    }

    /// Writes what waits; false if nobody is there to take it.
    ///
    /// # Errors
    /// What the host says.
    pub(crate) fn flush(&mut self, to: &OwnedFd) -> io::Result<bool> {
        while !self.is_empty() {
            match rustix::io::write(to, &self.waiting[self.written..]) {
                Ok(count) => self.written += count,
                Err(Errno::AGAIN) => {
                    // A reader that is always a little behind would have it grow for ever.
                    if self.written >= WAITING_BYTES {
                        self.waiting.drain(..self.written);
                        self.written = 0;
                    }
                    return Ok(true);
                }
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        self.waiting.clear();
        self.written = 0;
        Ok(true)
    }

    /// What waits, for tests.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> &[u8] {
        &self.waiting[self.written..]
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_length_that_cannot_be_ends_the_stream() {
        for len in [0, 13, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
            let mut incoming = Incoming::default();
            incoming.take(&len.to_be_bytes());
            assert!(incoming.next_frame().is_err(), "{len}");
        }
    }

    #[test]
    fn what_nobody_reads_fills_no_memory_and_loses_whole_frames() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = OwnedFd::from(ours);
        let mut outgoing = Outgoing::default();
        let mut taken = 0;
        for _ in 0..100_000 {
            taken += usize::from(outgoing.push(&[7; 100]));
            assert!(outgoing.flush(&ours).unwrap());
            // What is written goes when all of it is; then there is room again.
            assert!(outgoing.waiting.len() - outgoing.written <= WAITING_BYTES + 104);
        }
        assert!(outgoing.is_full());
        drop(outgoing);
        drop(ours);
        // The reader finds frames, of which the last may be cut where the socket was full.
        let theirs = OwnedFd::from(theirs);
        let mut incoming = Incoming::default();
        let mut found = 0;
        while incoming.fill(&theirs).unwrap() {
            while let Some(whole) = incoming.next_frame().unwrap() {
                assert_eq!(incoming.frame(&whole), [7; 100]);
                found += 1;
            }
            incoming.forget();
        }
        assert!(found > 0 && found < taken, "{found} of {taken}");
    }
}
