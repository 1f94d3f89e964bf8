//! SHA-256 of files and bytes, as text.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

/// Digits of a digest.
const DIGITS: usize = 64;

/// How much of a file is taken at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Of bytes.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Of a whole file, each piece given to `also` too; and how many bytes that were.
pub(crate) fn sha256_of_file(
    file: &File,
    mut also: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<(u64, String)> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    loop {
        let count = match file.read_at(&mut piece, at) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&piece[..count]);
        also(at, &piece[..count])?;
        at += count as u64;
    }
    Ok((at, hexadecimal(&hasher.finalize())))
}

/// Whether a text is a digest as we write one, so that it can be a file's name.
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == DIGITS && is_hexadecimal(text)
}

/// Whether a text is of hexadecimal digits as we write them.
pub(crate) fn is_hexadecimal(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Bytes in hexadecimal.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
