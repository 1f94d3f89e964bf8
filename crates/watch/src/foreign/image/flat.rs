//! A kdump as it is, or in the flattened form in which makedumpfile and QEMU write it to what cannot be sought: pieces, each
//! with where it belongs (makedumpfile's file IMPLEMENTATION, "the flattened format"). Numbers of that form are big-endian.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::ImageError;

pub(super) const SIGNATURE: &[u8] = b"makedumpfile\0";
const HEADER_BYTES: u64 = 4096;
const PIECE_HEADER_BYTES: u64 = 16;
/// Most pieces that a file is put together from.
const PIECES_MAX: usize = 1 << 20;

/// Bytes of a kdump, wherever they are.
pub(super) struct Dump {
    file: File,
    len_bytes: u64,
    /// Of the flattened form: where each piece belongs, how long it is, and where it is; ascending and apart.
    pieces: Option<Vec<(u64, u64, u64)>>,
}

impl Dump {
    /// A plain one.
    pub(super) fn plain(file: File, len_bytes: u64) -> Dump {
        Dump {
            file,
            len_bytes,
            pieces: None,
        }
    }

    /// A flattened one.
    pub(super) fn flattened(file: File, file_bytes: u64) -> Result<Dump, ImageError> {
        let damaged = || {
            ImageError::Damaged(
                "it is cut off or damaged: its pieces do not lead to its end".to_owned(),
            )
        };
        let mut pieces = Vec::new();
        let mut at = HEADER_BYTES;
        loop {
            if at
                .checked_add(PIECE_HEADER_BYTES)
                .is_none_or(|end| end > file_bytes)
            {
                return Err(damaged());
            }
            let mut header = [0; PIECE_HEADER_BYTES as usize];
            file.read_exact_at(&mut header, at)?;
            let number = u128::from_be_bytes(header);
            let place = (number >> 64) as u64;
            let len = number as u64;
            // The last one says minus one, twice.
            if place == u64::MAX {
                break;
            }
            at += PIECE_HEADER_BYTES;
            let is_there = at.checked_add(len).is_some_and(|end| end <= file_bytes);
            if !is_there || pieces.len() >= PIECES_MAX || place.checked_add(len).is_none() {
                return Err(damaged());
            }
            pieces.push((place, len, at));
            at += len;
        }
        pieces.sort_unstable();
        if pieces.windows(2).any(|two| two[0].0 + two[0].1 > two[1].0) {
            return Err(ImageError::Unsupported {
                what: "its pieces lie over each other".to_owned(),
                help: "`makedumpfile -R FILE` makes a plain file of it",
            });
        }
        let len_bytes = pieces.last().map_or(0, |(place, len, _)| place + len);
        Ok(Dump {
            file,
            len_bytes,
            pieces: Some(pieces),
        })
    }

    /// How long the dump is when it is put together.
    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Fills `bytes`; what no piece has is zeros, as in a file with holes.
    pub(super) fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let Some(pieces) = &self.pieces else {
            return self.file.read_exact_at(bytes, at);
        };
        let end = at.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.len_bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.fill(0);
        let mut first = pieces.partition_point(|(place, len, _)| place + len <= at);
        let end = at + bytes.len() as u64;
        while let Some(&(place, len, from)) = pieces.get(first).filter(|piece| piece.0 < end) {
            let start = place.max(at);
            let stop = (place + len).min(end);
            let part = &mut bytes[(start - at) as usize..(stop - at) as usize];
            self.file.read_exact_at(part, from + (start - place))?;
            first += 1;
        }
        Ok(())
    }
}
