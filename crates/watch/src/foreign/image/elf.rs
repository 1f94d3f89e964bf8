//! ELF cores of 64 bits (System V gABI, "Program Header"): each loadable segment is memory at its physical address.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{
    ImageError, ImageFormat, MemoryImage, STRETCHES_MAX, checked_slot, number, told, vmcoreinfo,
};

const HEADER_BYTES: u64 = 64;
const SEGMENT_BYTES: usize = 56;
/// Class and byte order, and what the file is: x86-64 core.
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const ET_CORE: u64 = 4;
const EM_X86_64: u64 = 62;
const PT_LOAD: u64 = 1;
const PT_NOTE: u64 = 4;
/// So many segments: the number is in the first section header (`sh_info`).
const PN_XNUM: u64 = 0xffff;
/// Longest notes that are looked at: registers of thousands of CPUs.
const NOTES_MAX: u64 = 64 << 20;
/// Most segments of notes that are looked at.
const NOTE_SEGMENTS_MAX: usize = 16;

/// The file's segments as memory.
pub(super) fn open(file: File, len_bytes: u64) -> Result<MemoryImage, ImageError> {
    if len_bytes < HEADER_BYTES {
        return Err(ImageError::Damaged("it ends in its header".to_owned()));
    }
    let mut header = [0; HEADER_BYTES as usize];
    file.read_exact_at(&mut header, 0)?;
    check_kind(&header)?;
    let at = number::<8>(&header, 32);
    let count = segment_count(&file, &header)?;
    let mut table = vec![0; count * SEGMENT_BYTES];
    let end = at.checked_add(table.len() as u64);
    if number::<2>(&header, 54) != SEGMENT_BYTES as u64 || end.is_none_or(|end| end > len_bytes) {
        return Err(ImageError::Damaged(
            "it is cut off or damaged: its program headers are not in it".to_owned(),
        ));
    }
    file.read_exact_at(&mut table, at)?;
    let mut slots = Vec::new();
    let mut info = None;
    let mut note_count = 0;
    for segment in table.as_chunks::<SEGMENT_BYTES>().0 {
        let offset = number::<8>(segment, 8);
        let file_bytes = number::<8>(segment, 32);
        match number::<4>(segment, 0) {
            PT_LOAD if file_bytes > 0 => {
                let gpa = number::<8>(segment, 24);
                slots.push(checked_slot(gpa, file_bytes, offset, len_bytes)?);
            }
            PT_NOTE if file_bytes <= NOTES_MAX && note_count < NOTE_SEGMENTS_MAX => {
                note_count += 1;
                checked_slot(0, file_bytes, offset, len_bytes)?;
                let mut notes = vec![0; file_bytes as usize];
                file.read_exact_at(&mut notes, offset)?;
                info = info.or_else(|| vmcoreinfo(&notes));
            }
            _ => {}
        }
    }
    told(ImageFormat::Elf, file, slots, info)
}

fn check_kind(header: &[u8]) -> Result<(), ImageError> {
    let is_64 = header[4] == CLASS_64 && header[5] == LITTLE_ENDIAN;
    let is_core = number::<2>(header, 16) == ET_CORE;
    let is_x86_64 = number::<2>(header, 18) == EM_X86_64;
    if is_64 && is_core && is_x86_64 {
        return Ok(());
    }
    let what = match is_core {
        true => "it is a core of another architecture than x86-64",
        false => "it is an ELF file and no core: no machine's memory",
    };
    Err(ImageError::Unsupported {
        what: what.to_owned(),
        help: "a core of a whole x86-64 guest is what `dump-guest-memory` and `mother dump` write",
    })
}

fn segment_count(file: &File, header: &[u8]) -> Result<usize, ImageError> {
    let mut count = number::<2>(header, 56);
    if count == PN_XNUM {
        let mut section = [0; 64];
        file.read_exact_at(&mut section, number::<8>(header, 40))?;
        count = number::<4>(&section, 44);
    }
    if count as usize > STRETCHES_MAX {
        return Err(ImageError::Damaged(format!(
            "it has {count} segments, more than any guest's memory has"
        )));
    }
    Ok(count as usize)
}
