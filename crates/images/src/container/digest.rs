//! Streams that know their SHA-256, and streams that were compressed.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use sha2::{Digest, Sha256};

use crate::hexadecimal::hexadecimal;

/// How compressed streams start (RFC 1952, RFC 8878).
pub(super) const GZIP: [u8; 2] = [0x1f, 0x8b];
pub(super) const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The SHA-256 of bytes, in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Passes bytes on and remembers their digest.
pub(super) struct Digesting<R> {
    from: R,
    hasher: Sha256,
}

impl<R: Read> Digesting<R> {
    pub(super) fn new(from: R) -> Digesting<R> {
        Digesting {
            from,
            hasher: Sha256::new(),
        }
    }

    /// Reads what is left; the digest of everything.
    pub(super) fn finish(mut self) -> io::Result<String> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(hexadecimal(&self.hasher.finalize()))
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// Whether a stream that starts with this is of zstd: a frame, or one to skip, which some writers begin with.
pub(super) fn is_zstd(head: &[u8]) -> bool {
    head.starts_with(&ZSTD) || head.len() >= 4 && is_skippable(&head[..4])
}

/// The sixteen numbers of frames that carry no content (RFC 8878, 3.1.2).
fn is_skippable(magic: &[u8]) -> bool {
    matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18])
}

/// What a stream was before it was compressed, if it was.
pub(super) fn decompress<'a>(from: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut from = BufReader::with_capacity(1 << 16, from);
    let head = from.fill_buf()?;
    if head.starts_with(&GZIP) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(from)));
    }
    if is_zstd(head) {
        return Ok(Box::new(Frames::Between(from)));
    }
    Ok(Box::new(from))
}

/// A frame whose number was read already.
type Frame<R> = StreamingDecoder<Chain<Cursor<[u8; 4]>, R>, FrameDecoder>;

/// Frames of zstd one after another, and between them frames to skip (RFC 8878, 3.1): what writers with several
/// threads and those that compress each file apart make of one stream.
enum Frames<R: Read> {
    /// Before a frame, or at the end.
    Between(R),
    /// In a frame.
    Inside(Box<Frame<R>>),
    /// An error was told.
    Broken,
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(self, Frames::Broken) {
                Frames::Between(from) => match next_frame(from)? {
                    Frames::Between(from) => {
                        *self = Frames::Between(from);
                        return Ok(0);
                    }
                    inside => *self = inside,
                },
                Frames::Inside(mut frame) => {
                    let count = frame.read(buffer)?;
                    if count > 0 || buffer.is_empty() {
                        *self = Frames::Inside(frame);
                        return Ok(count);
                    }
                    *self = Frames::Between(frame.into_inner().into_inner().1);
                }
                Frames::Broken => return Err(io::Error::other("the stream is broken")),
            }
        }
    }
}

/// Goes into the next frame with content; still between frames at the end.
fn next_frame<R: Read>(mut from: R) -> io::Result<Frames<R>> {
    loop {
        let mut magic = [0; 4];
        // The first byte may be missing, the others not.
        if from.by_ref().take(1).read(&mut magic)? == 0 {
            return Ok(Frames::Between(from));
        }
        from.read_exact(&mut magic[1..])?;
        if !is_skippable(&magic) {
            let frame = StreamingDecoder::new(Cursor::new(magic).chain(from));
            return Ok(Frames::Inside(Box::new(frame.map_err(io::Error::other)?)));
        }
        let mut len = [0; 4];
        from.read_exact(&mut len)?;
        let len = u64::from(u32::from_le_bytes(len));
        if io::copy(&mut from.by_ref().take(len), &mut io::sink())? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
