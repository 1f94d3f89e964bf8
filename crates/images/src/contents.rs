//! What is on a disk, as one number: whether an overlay still fits what it was written over.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::hexadecimal::hexadecimal;

/// How much of a disk is looked at as one piece.
const PIECE_BYTES: usize = 64 * 1024;

/// A SHA-256 of a disk: of every piece that is not all zeros, behind its offset, so that a hole and zeros that are
/// written are the same.
pub(crate) fn contents(disk: &Path) -> io::Result<String> {
    let mut file = File::open(disk)?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    loop {
        // A file system without holes has its whole length as data.
        at = match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data - data % PIECE_BYTES as u64,
            Err(rustix::io::Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        file.seek(SeekFrom::Start(at))?;
        let mut count = 0;
        while count < PIECE_BYTES {
            match file.read(&mut piece[count..])? {
                0 => break,
                read => count += read,
            }
        }
        if piece[..count].iter().any(|&byte| byte != 0) {
            hasher.update(at.to_le_bytes());
            hasher.update(&piece[..count]);
        }
        at += PIECE_BYTES as u64;
    }
    Ok(hexadecimal(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn check(bytes: &[(u64, &[u8])], size: u64) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (offset, bytes) in bytes {
            file.as_file().write_all_at(bytes, *offset).unwrap();
        }
        file.as_file().set_len(size).unwrap();
        contents(file.path()).unwrap()
    }

    #[test]
    fn a_hole_is_zeros_and_every_byte_and_its_place_count() {
        let size = 1 << 20;
        let one = check(&[(300_000, b"x")], size);
        assert_eq!(one, check(&[(0, &[0; 200_000]), (300_000, b"x")], size));
        assert_ne!(one, check(&[(300_001, b"x")], size));
        assert_ne!(one, check(&[(300_000, b"y")], size));
        assert_ne!(one, check(&[(300_000, b"x"), (size - 1, b"z")], size));
        assert_eq!(check(&[], size), check(&[(0, &[0; 1 << 20])], size));
    }
}
