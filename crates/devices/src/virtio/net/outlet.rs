//! From the guest towards the backend: packets into a stream socket or a tap.
//!
//! Bounded by its buffer: when the backend takes nothing, the buffer fills, the device stops taking packets from the
//! guest, the guest's queue fills, and its TCP slows down. Nothing is dropped on the way.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::header::{HEADER_BYTES, Header};
use super::wire::{FRAME_BYTES_MAX, Lost, PREFIX_BYTES};

/// When this many bytes wait they are written, so that a busy guest's packets go out in few system calls.
const FLUSH_BYTES: usize = 128 << 10;

/// The longest that can stand before a frame.
const LEAD_BYTES: usize = if HEADER_BYTES > PREFIX_BYTES {
    HEADER_BYTES
} else {
    PREFIX_BYTES
};

/// Where packets go.
#[derive(Debug)]
enum Sink {
    /// Frames with their length before them, 32 bits in network byte order.
    Stream(UnixStream),
    /// A tap that takes the device's own header before each packet: a packet is a write.
    Tap(File),
}

/// The sending half of a backend, with what waits to be written.
#[derive(Debug)]
pub(super) struct Outlet {
    sink: Sink,
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Outlet {
    /// Into a socket that does not block.
    pub(super) fn stream(socket: UnixStream) -> Outlet {
        Outlet::new(Sink::Stream(socket))
    }

    /// Into a tap that does not block.
    pub(super) fn tap(file: File) -> Outlet {
        Outlet::new(Sink::Tap(file))
    }

    fn new(sink: Sink) -> Outlet {
        let bytes = vec![0; FLUSH_BYTES + LEAD_BYTES + FRAME_BYTES_MAX].into_boxed_slice();
        Outlet {
            sink,
            bytes,
            start: 0,
            end: 0,
        }
    }

    /// What waits to be written; nothing of a tap, whose packets are lost as on a wire.
    pub(super) fn unwritten(&self) -> Vec<u8> {
        match self.sink {
            Sink::Stream(_) => self.bytes[self.start..self.end].to_vec(),
            Sink::Tap(_) => Vec::new(),
        }
    }

    /// Begins with these bytes, which were to be written before; false, and nothing is changed, if they are too many.
    pub(super) fn begin_with(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len() <= self.bytes.len();
        if fits {
            self.bytes[..bytes.len()].copy_from_slice(bytes);
            self.start = 0;
            self.end = bytes.len();
        }
        fits
    }

    /// What to wait for when something waits.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match &self.sink {
            Sink::Stream(socket) => socket.as_fd(),
            Sink::Tap(file) => file.as_fd(),
        }
    }

    /// Whether the backend has its own way with segments and checksums.
    pub(super) fn is_tap(&self) -> bool {
        matches!(self.sink, Sink::Tap(_))
    }

    /// Whether the next frame must wait for [`Outlet::flush`].
    pub(super) fn is_full(&self) -> bool {
        match self.sink {
            Sink::Stream(_) => self.end >= FLUSH_BYTES,
            Sink::Tap(_) => self.end > 0,
        }
    }

    /// Whether anything waits to be written.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Takes a frame that `fill` writes, unless that says no. It must not be full, and the frame within the limit.
    pub(super) fn push(
        &mut self,
        header: Header,
        frame_bytes: usize,
        fill: impl FnOnce(&mut [u8]) -> Option<()>,
    ) -> Option<()> {
        assert!(
            frame_bytes <= FRAME_BYTES_MAX && !self.is_full(),
            "the caller asks before"
        );
        let lead: &[u8] = match self.sink {
            Sink::Stream(_) => &(frame_bytes as u32).to_be_bytes(),
            Sink::Tap(_) => &header.0,
        };
        let at = self.end + lead.len();
        self.bytes[self.end..at].copy_from_slice(lead);
        fill(&mut self.bytes[at..at + frame_bytes])?;
        self.end = at + frame_bytes;
        Some(())
    }

    /// Writes what the backend takes; whether nothing waits any more.
    ///
    /// # Errors
    /// [`Lost`] when nobody is there.
    pub(super) fn flush(&mut self) -> Result<bool, Lost> {
        while self.start < self.end {
            let bytes = &self.bytes[self.start..self.end];
            let wrote = match &mut self.sink {
                Sink::Stream(socket) => socket.write(bytes),
                Sink::Tap(file) => file.write(bytes),
            };
            match wrote {
                Ok(count) => self.start += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.bytes.copy_within(self.start..self.end, 0);
                    self.end -= self.start;
                    self.start = 0;
                    return Ok(false);
                }
                // A tap refuses packets that it cannot parse, and all while the interface is down: they are lost as
                // on a wire, and the tap lives.
                Err(_) if self.is_tap() => self.start = self.end,
                Err(_) => return Err(Lost),
            }
        }
        self.start = 0;
        self.end = 0;
        Ok(true)
    }
}
