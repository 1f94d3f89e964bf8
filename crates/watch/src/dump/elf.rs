//! ELF, as a crashed kernel's /proc/vmcore is (System V gABI, "ELF Header" and "Program Header"; kernel documentation,
//! admin-guide/kdump).
//!
//! Each stretch of memory has a header with its physical address and, if the kernel says where it has all memory mapped, its
//! virtual one there. The kernel's image has one more, with the address that its symbols have; both lead to the same bytes of
//! the file. It comes first, as there: Volatility finds stretches by bisection, which passes the first one over if it is not
//! the lowest, and would find nothing above the image if it stood among the others.

use insight::{Extent, Placement};
use x86::{Gpa, PAGE_SIZE};

use crate::dump::notes::notes;
use crate::dump::output::Output;
use crate::dump::pages::{Pages, Piece};
use crate::dump::{DumpError, Dumped, Guest};

const HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Readable, writable, executable.
const ALL_FLAGS: u32 = 7;

/// What a program header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    kind: u32,
    offset: u64,
    gva: u64,
    gpa: u64,
    len_bytes: u64,
}

impl Segment {
    fn bytes(self) -> Vec<u8> {
        let flags = if self.kind == PT_LOAD { ALL_FLAGS } else { 0 };
        let mut bytes = Vec::new();
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        for number in [
            self.offset,
            self.gva,
            self.gpa,
            self.len_bytes,
            self.len_bytes,
            // No alignment: crash takes a core with one for a netdump, in which kernels are not moved.
            0,
        ] {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }
}

fn header(segment_count: usize) -> Vec<u8> {
    const ET_CORE: u16 = 4;
    const EM_X86_64: u16 = 62;
    // 64 bits, little-endian, version 1, System V.
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend(ET_CORE.to_le_bytes());
    bytes.extend(EM_X86_64.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    // Entry, program headers, section headers.
    for number in [0, HEADER_BYTES, 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(0_u32.to_le_bytes());
    let sizes = [
        HEADER_BYTES,
        PROGRAM_HEADER_BYTES,
        segment_count as u64,
        0,
        0,
        0,
    ];
    for number in sizes {
        bytes.extend((number as u16).to_le_bytes());
    }
    bytes
}

/// The segment of the kernel's image, if it lies in one stretch.
fn image(placement: Placement, extents: &[(Extent, u64)]) -> Option<Segment> {
    let Placement {
        gva,
        gpa,
        len_bytes,
    } = placement;
    let holds = |extent: &Extent| {
        let inside = gpa.0.checked_sub(extent.start.0)?;
        (inside.checked_add(len_bytes)? <= extent.len_bytes).then_some(inside)
    };
    let offset = extents
        .iter()
        .find_map(|(extent, offset)| Some(offset + holds(extent)?))?;
    Some(Segment {
        kind: PT_LOAD,
        offset,
        gva: gva.0,
        gpa: gpa.0,
        len_bytes,
    })
}

pub(super) fn write(
    guest: &Guest<'_>,
    to: &mut dyn Output,
    progress: &mut dyn FnMut(u64),
) -> Result<Dumped, DumpError> {
    let extents = guest.memory.extents();
    let notes = notes(guest);
    let kernel = guest.kernel;
    let placement = kernel.and_then(|kernel| kernel.image);
    let segment_count = 1 + usize::from(placement.is_some()) + extents.len();
    let notes_at = HEADER_BYTES + PROGRAM_HEADER_BYTES * segment_count as u64;
    let memory_at = (notes_at + notes.len() as u64).next_multiple_of(PAGE_SIZE);
    let mut offset = memory_at;
    let placed: Vec<(Extent, u64)> = extents
        .iter()
        .map(|extent| {
            let at = offset;
            offset += extent.len_bytes;
            (*extent, at)
        })
        .collect();
    let direct_map = kernel.and_then(|kernel| kernel.direct_map);
    let mapped = |gpa: Gpa| direct_map.map_or(0, |start| start.0.wrapping_add(gpa.0));
    let load = |(extent, offset): &(Extent, u64)| Segment {
        kind: PT_LOAD,
        offset: *offset,
        gva: mapped(extent.start),
        gpa: extent.start.0,
        len_bytes: extent.len_bytes,
    };
    let note = Segment {
        kind: PT_NOTE,
        offset: notes_at,
        gva: 0,
        gpa: 0,
        len_bytes: notes.len() as u64,
    };
    let image = placement.and_then(|placement| image(placement, &placed));
    let segments: Vec<Segment> = [Some(note), image]
        .into_iter()
        .flatten()
        .chain(placed.iter().map(load))
        .collect();
    let mut head = header(segments.len());
    head.extend(segments.iter().flat_map(|segment| segment.bytes()));
    head.resize(notes_at as usize, 0);
    head.extend(notes);
    head.resize(memory_at as usize, 0);
    to.write_all(&head)?;
    let mut pages = Pages::new(guest.memory, progress);
    for extent in extents {
        pages.read(extent, &mut |_, piece| put(to, piece))?;
    }
    Ok(pages.dumped())
}

/// The next piece of the file.
pub(super) fn put(to: &mut dyn Output, piece: Piece<'_>) -> Result<(), DumpError> {
    match piece {
        Piece::Zeros(len) => to.zeros(len)?,
        Piece::Bytes(bytes) => to.write_all(bytes)?,
    }
    Ok(())
}
