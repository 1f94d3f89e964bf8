//! Streams that know their SHA-256, and streams that were compressed.

use std::io::{self, BufRead, BufReader, Read};

use sha2::{Digest, Sha256};

/// How compressed streams start (RFC 1952, RFC 8878).
pub(super) const GZIP: [u8; 2] = [0x1f, 0x8b];
pub(super) const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The SHA-256 of bytes, in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

/// What a stream was before it was compressed, if it was.
pub(super) fn decompress<'a>(from: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut from = BufReader::with_capacity(1 << 16, from);
    let head = from.fill_buf()?;
    if head.starts_with(&GZIP) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(from)));
    }
    if head.starts_with(&ZSTD) {
        let decoder = ruzstd::decoding::StreamingDecoder::new(from).map_err(io::Error::other)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(from))
}
