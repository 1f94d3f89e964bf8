//! The kdump-compressed format (makedumpfile's file IMPLEMENTATION and diskdump_mod.h), as makedumpfile, QEMU and Mother
//! write it: two bitmaps, a descriptor for each page that is in the file, and pages of their own.
//!
//! The first bitmap says which frames are memory, the second which of them are in the file; the descriptor of a page is the
//! one whose number is how many are in the file before it. Whoever left pages out (`makedumpfile -d`) left holes that nobody
//! can read: they are not zeros.

use std::fs::File;
use std::io;
use std::sync::Arc;

use flate2::{Decompress, FlushDecompress, Status};
use insight::Extent;
use x86::{Gpa, PAGE_SIZE};

use super::super::recognise::Candidate;
use super::flat::Dump;
use super::pages::{PackedMemory, Pieces};
use super::{ImageError, ImageFormat, MemoryImage, STRETCHES_MAX, number, vmcoreinfo};

pub(super) const SIGNATURE: &[u8; 8] = b"KDUMP   ";
const PAGE: usize = PAGE_SIZE as usize;
/// Where fields of the main header are: six names of 65 bytes, padding and a time before them.
const STATUS_AT: usize = 424;
const BLOCK_AT: usize = 428;
const SUB_BLOCKS_AT: usize = 432;
const BITMAP_BLOCKS_AT: usize = 436;
const FRAMES_AT: usize = 440;
/// And of the sub-header: where notes are and how long, and the number of frames since version 6.
const VERSION_AT: usize = 8;
const NOTES_AT: usize = 48;
const FRAMES_64_AT: usize = 96;
const VERSION_64: u64 = 6;
/// Ways in which pages are packed.
const ZLIB: u64 = 1;
const PACKINGS: [(u64, &str); 3] = [(2, "lzo"), (4, "snappy"), (0x20, "zstd")];
const DESCRIPTOR_BYTES: u64 = 24;
/// The longest of the two bitmaps: 2 TiB of memory.
const BITMAP_BYTES_MAX: u64 = 64 << 20;
const NOTES_MAX: u64 = 64 << 20;
/// Frames between two counts of what is in the file.
const STRIDE: u64 = 4096;

struct Packed {
    file: Dump,
    /// Frames that are in the file.
    bitmap: Vec<u8>,
    /// How many are in it before each stride.
    before: Vec<u64>,
    descriptors_at: u64,
}

impl Packed {
    fn is_in(&self, frame: u64) -> bool {
        is_set(&self.bitmap, frame)
    }

    /// The number of a frame's descriptor.
    fn place(&self, frame: u64) -> Option<u64> {
        let stride = frame / STRIDE;
        let first = (stride * STRIDE / 8) as usize;
        let last = (frame / 8) as usize;
        let whole = self.bitmap.get(first..last)?;
        let part = self.bitmap.get(last)? & ((1_u16 << (frame % 8)) - 1) as u8;
        Some(self.before.get(stride as usize)? + ones(whole) + u64::from(part.count_ones()))
    }

    fn read(&self, frame: u64) -> io::Result<Result<Vec<u8>, String>> {
        let Some(place) = self.place(frame).filter(|_| self.is_in(frame)) else {
            return Ok(Err("the page was left out of the dump".to_owned()));
        };
        let mut descriptor = [0; DESCRIPTOR_BYTES as usize];
        let at = self.descriptors_at + place * DESCRIPTOR_BYTES;
        self.file.read_exact_at(&mut descriptor, at)?;
        let offset = number::<8>(&descriptor, 0);
        let len = number::<4>(&descriptor, 8) as usize;
        let flags = number::<4>(&descriptor, 12);
        if len > PAGE {
            return Ok(Err(format!("its packed page is {len} bytes long")));
        }
        let mut packed = vec![0; len];
        self.file.read_exact_at(&mut packed, offset)?;
        Ok(match flags {
            0 if len == PAGE => Ok(packed),
            ZLIB => unpack(&packed),
            _ => Err(format!(
                "its page is packed in a way that is not known: {flags:#x}"
            )),
        })
    }
}

impl Pieces for Packed {
    const PIECE_BYTES: u64 = PAGE_SIZE;

    fn piece(&self, gpa: Gpa) -> Result<Vec<u8>, String> {
        let read = self.read(gpa.0 / PAGE_SIZE);
        read.unwrap_or_else(|error| Err(format!("the dump is cut off or damaged: {error}")))
    }

    fn is_zero(&self, gpa: Gpa) -> bool {
        // Nothing is there to be found in a page that is not in the file.
        !self.is_in(gpa.0 / PAGE_SIZE)
    }
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, String> {
    let mut page = vec![0; PAGE];
    let mut unpacker = Decompress::new(true);
    let status = unpacker.decompress(packed, &mut page, FlushDecompress::Finish);
    match status {
        Ok(Status::StreamEnd) if unpacker.total_out() == PAGE_SIZE => Ok(page),
        _ => Err("its page does not unpack".to_owned()),
    }
}

fn ones(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(byte.count_ones())).sum()
}

fn is_set(bitmap: &[u8], frame: u64) -> bool {
    let byte = usize::try_from(frame / 8).ok();
    let byte = byte.and_then(|byte| bitmap.get(byte));
    byte.is_some_and(|byte| byte >> (frame % 8) & 1 != 0)
}

/// A plain dump's pages as memory.
pub(super) fn open(file: File, len_bytes: u64) -> Result<MemoryImage, ImageError> {
    pages_of(Dump::plain(file, len_bytes))
}

/// The same of one in the flattened form.
pub(super) fn open_flattened(file: File, len_bytes: u64) -> Result<MemoryImage, ImageError> {
    let dump = Dump::flattened(file, len_bytes)?;
    let mut magic = [0; SIGNATURE.len()];
    dump.read_exact_at(&mut magic, 0)?;
    if magic != *SIGNATURE {
        return Err(ImageError::Unsupported {
            what: "what it is the flattened form of is no kdump".to_owned(),
            help: "`makedumpfile -R FILE` makes a plain file of it",
        });
    }
    pages_of(dump)
}

fn pages_of(file: Dump) -> Result<MemoryImage, ImageError> {
    let len_bytes = file.len_bytes();
    let cut =
        || ImageError::Damaged("it is cut off or damaged: its bitmaps are not in it".to_owned());
    let mut head = vec![0; 2 * PAGE];
    if len_bytes < head.len() as u64 {
        return Err(cut());
    }
    file.read_exact_at(&mut head, 0)?;
    let (main, sub) = head.split_at(PAGE);
    check_form(main)?;
    let frames = match number::<4>(main, VERSION_AT) {
        VERSION_64.. => number::<8>(sub, FRAMES_64_AT),
        _ => number::<4>(main, FRAMES_AT),
    };
    let sub_blocks = number::<4>(main, SUB_BLOCKS_AT);
    let half = number::<4>(main, BITMAP_BLOCKS_AT) * PAGE_SIZE / 2;
    let bitmaps_at = (1 + sub_blocks) * PAGE_SIZE;
    let is_there = bitmaps_at + 2 * half <= len_bytes;
    if !is_there || half > BITMAP_BYTES_MAX || frames.div_ceil(8) > half {
        return Err(cut());
    }
    let mut memory = vec![0; half as usize];
    let mut bitmap = memory.clone();
    file.read_exact_at(&mut memory, bitmaps_at)?;
    file.read_exact_at(&mut bitmap, bitmaps_at + half)?;
    let notes = read_notes(&file, sub, len_bytes)?;
    let strides = bitmap.chunks(STRIDE as usize / 8).scan(0, |sum, stride| {
        let before = *sum;
        *sum += ones(stride);
        Some(before)
    });
    let packed = Packed {
        file,
        before: strides.collect(),
        descriptors_at: bitmaps_at + 2 * half,
        bitmap,
    };
    let extents = runs(&memory, frames)?;
    Ok(MemoryImage {
        format: ImageFormat::Kdump,
        candidates: vec![Candidate {
            memory: Arc::new(PackedMemory::new(packed, extents)),
            words: "as the file says".to_owned(),
        }],
        told: vmcoreinfo(&notes),
    })
}

/// Notes as far as they are in the file.
fn read_notes(file: &Dump, sub: &[u8], len_bytes: u64) -> io::Result<Vec<u8>> {
    let at = number::<8>(sub, NOTES_AT);
    let len = number::<8>(sub, NOTES_AT + 8);
    let is_there = at.checked_add(len).is_some_and(|end| end <= len_bytes);
    let len = if is_there { len.min(NOTES_MAX) } else { 0 };
    let mut notes = vec![0; len as usize];
    file.read_exact_at(&mut notes, at)?;
    Ok(notes)
}

fn check_form(main: &[u8]) -> Result<(), ImageError> {
    if number::<4>(main, BLOCK_AT) != PAGE_SIZE {
        return Err(ImageError::Damaged("its pages are not of 4 KiB".to_owned()));
    }
    let status = number::<4>(main, STATUS_AT);
    match PACKINGS.iter().find(|(bit, _)| status & bit != 0) {
        None => Ok(()),
        Some((_, name)) => Err(ImageError::Unsupported {
            what: format!("its pages are packed with {name}, which is not read here"),
            help: "write it with zlib: `dump-guest-memory -z FILE`, `makedumpfile -c`",
        }),
    }
}

/// Frames that are memory, as stretches.
fn runs(memory: &[u8], frames: u64) -> Result<Vec<Extent>, ImageError> {
    let mut found: Vec<Extent> = Vec::new();
    let mut frame = 0;
    while frame < frames {
        let byte = memory[(frame / 8) as usize];
        // Whole bytes of nothing, or of one stretch, are most of them.
        if frame.is_multiple_of(8) && byte == 0 {
            frame += 8;
            continue;
        }
        let count = match byte {
            0xff if frame.is_multiple_of(8) => 8.min(frames - frame),
            byte => u64::from(byte >> (frame % 8) & 1),
        };
        let is_full = found.len() >= STRETCHES_MAX;
        match found.last_mut() {
            _ if count == 0 => {}
            Some(last) if last.start.0 + last.len_bytes == frame * PAGE_SIZE => {
                last.len_bytes += count * PAGE_SIZE;
            }
            _ if is_full => {
                return Err(ImageError::Damaged(
                    "its memory is in more stretches than any guest's is".to_owned(),
                ));
            }
            _ => found.push(Extent {
                start: Gpa(frame * PAGE_SIZE),
                len_bytes: count * PAGE_SIZE,
            }),
        }
        frame += count.max(1);
    }
    Ok(found)
}
