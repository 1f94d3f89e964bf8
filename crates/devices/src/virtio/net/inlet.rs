//! From the backend towards the guest: packets out of a stream socket or a tap.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::checksum;
use super::header::{HEADER_BYTES, Header};
use super::wire::{FRAME_BYTES_MAX, FRAME_BYTES_MIN, Lost, PREFIX_BYTES};

/// Room for what one read brings: several of the largest frames.
const BUFFER_BYTES: usize = 256 << 10;

/// A packet for the guest, its checksum verified or left to the guest as the header says.
#[derive(Debug)]
pub(super) struct Packet<'a> {
    pub(super) header: Header,
    pub(super) frame: &'a [u8],
}

/// Where packets come from.
#[derive(Debug)]
enum Source {
    /// Frames with their length before them, 32 bits in network byte order.
    Stream(UnixStream),
    /// A tap with the device's own header before each packet: a read is a packet.
    Tap(File),
}

/// The receiving half of a backend, with what has been read and not yet given to the guest.
#[derive(Debug)]
pub(super) struct Inlet {
    source: Source,
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inlet {
    /// From a socket that does not block.
    pub(super) fn stream(socket: UnixStream) -> Inlet {
        Inlet::new(Source::Stream(socket))
    }

    /// From a tap that does not block.
    pub(super) fn tap(file: File) -> Inlet {
        Inlet::new(Source::Tap(file))
    }

    fn new(source: Source) -> Inlet {
        Inlet {
            source,
            bytes: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// What was read and not given to the guest, and cannot be read again; nothing of a tap, whose packets are lost as on a wire.
    pub(super) fn unread(&self) -> Vec<u8> {
        match self.source {
            Source::Stream(_) => self.bytes[self.start..self.end].to_vec(),
            Source::Tap(_) => Vec::new(),
        }
    }

    /// Begins with these bytes, which were read before; false, and nothing is changed, if they are too many.
    pub(super) fn begin_with(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len() <= self.bytes.len();
        if fits {
            self.bytes[..bytes.len()].copy_from_slice(bytes);
            self.start = 0;
            self.end = bytes.len();
        }
        fits
    }

    /// What to wait for.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::Stream(socket) => socket.as_fd(),
            Source::Tap(file) => file.as_fd(),
        }
    }

    /// The next packet that has been read whole.
    ///
    /// # Errors
    /// [`Lost`] if the length before a frame cannot be one: from there nothing in the stream can be found.
    pub(super) fn packet(&self) -> Result<Option<Packet<'_>>, Lost> {
        let bytes = &self.bytes[self.start..self.end];
        match self.source {
            Source::Tap(_) => {
                Ok(bytes
                    .split_first_chunk::<HEADER_BYTES>()
                    .map(|(header, frame)| {
                        let header = Header(*header);
                        Packet { header, frame }
                    }))
            }
            Source::Stream(_) => {
                let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
                    return Ok(None);
                };
                let len = u32::from_be_bytes(*prefix) as usize;
                if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&len) {
                    return Err(Lost);
                }
                let packet = |frame| Packet {
                    header: Header::received(checksum::is_right(frame)),
                    frame,
                };
                Ok(rest.get(..len).map(packet))
            }
        }
    }

    /// Done with the packet that [`Inlet::packet`] gave, whose frame had this many bytes.
    pub(super) fn consume(&mut self, frame_bytes: usize) {
        match self.source {
            Source::Tap(_) => self.start = self.end,
            Source::Stream(_) => {
                self.start = (self.start + PREFIX_BYTES + frame_bytes).min(self.end)
            }
        }
    }

    /// Reads more, after every whole packet has been consumed; whether there was more.
    ///
    /// # Errors
    /// [`Lost`] at the end of the stream and when the host fails.
    pub(super) fn fill(&mut self) -> Result<bool, Lost> {
        // What is left is less than one frame, so there is room behind it.
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let room = &mut self.bytes[self.end..];
        let got = match &mut self.source {
            Source::Stream(socket) => socket.read(room),
            Source::Tap(file) => file.read(room),
        };
        match got {
            Ok(0) => Err(Lost),
            Ok(count) => {
                self.end += count;
                Ok(true)
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(false)
            }
            Err(_) => Err(Lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// What comes out of a stream into which these pieces are written one by one: lengths of frames, then `lost`.
    fn frames(pieces: &[&[u8]]) -> String {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut inlet = Inlet::stream(ours);
        let mut seen = Vec::new();
        for piece in pieces {
            theirs.write_all(piece).unwrap();
            while inlet.fill() == Ok(true) {
                loop {
                    match inlet.packet() {
                        Ok(Some(packet)) => {
                            let len = packet.frame.len();
                            seen.push(len.to_string());
                            inlet.consume(len);
                        }
                        Ok(None) => break,
                        Err(Lost) => return format!("{} lost", seen.join(" ")),
                    }
                }
            }
        }
        seen.join(" ")
    }

    fn framed(len: usize) -> Vec<u8> {
        [&(len as u32).to_be_bytes()[..], &vec![7; len]].concat()
    }

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        let all = [framed(60), framed(1514), framed(65_534), framed(14)].concat();
        assert_eq!(frames(&[&all]), "60 1514 65534 14");
        let pieces: Vec<&[u8]> = all.chunks(1000).collect();
        assert_eq!(frames(&pieces), "60 1514 65534 14");
        let bytes: Vec<&[u8]> = all[..200].chunks(1).collect();
        assert_eq!(frames(&bytes), "60");
    }

    #[test]
    fn a_length_that_cannot_be_ends_the_stream() {
        let check = |len: u32| {
            assert_eq!(
                frames(&[&framed(60), &len.to_be_bytes()]),
                "60 lost",
                "{len}"
            )
        };
        check(0);
        check(13);
        check(FRAME_BYTES_MAX as u32 + 1);
        check(u32::MAX);
    }
}
