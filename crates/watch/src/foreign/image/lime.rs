//! LiME's format (LiME's documentation, "LiME Memory Range Header"): a header before each stretch of memory. Version 2 is
//! AVML's, which packs what follows, and is not read.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{ImageError, ImageFormat, MemoryImage, STRETCHES_MAX, checked_slot, number, told};

pub(super) const MAGIC: u32 = 0x4c69_4d45;
const VERSION: u64 = 1;
const HEADER_BYTES: u64 = 32;

/// The file's stretches as memory.
pub(super) fn open(file: File, len_bytes: u64) -> Result<MemoryImage, ImageError> {
    let mut slots = Vec::new();
    let mut at = 0;
    while at < len_bytes {
        if len_bytes - at < HEADER_BYTES || slots.len() >= STRETCHES_MAX {
            return Err(damaged(at));
        }
        let mut header = [0; HEADER_BYTES as usize];
        file.read_exact_at(&mut header, at)?;
        if number::<4>(&header, 0) != u64::from(MAGIC) {
            return Err(damaged(at));
        }
        if number::<4>(&header, 4) != VERSION {
            return Err(ImageError::Unsupported {
                what: "it is a LiME dump of another version than 1, which is packed".to_owned(),
                help: "`avml-convert` makes one of version 1 of it",
            });
        }
        let first = number::<8>(&header, 8);
        // The last byte, not the one behind it.
        let len = number::<8>(&header, 16).wrapping_sub(first).wrapping_add(1);
        at += HEADER_BYTES;
        slots.push(checked_slot(first, len, at, len_bytes)?);
        if len == 0 {
            return Err(damaged(at));
        }
        at += len;
    }
    told(ImageFormat::Lime, file, slots, None)
}

fn damaged(at: u64) -> ImageError {
    ImageError::Damaged(format!(
        "it is cut off or damaged: there is no header of a stretch at {at:#x}"
    ))
}
