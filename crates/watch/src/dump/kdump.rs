//! The compressed format of makedumpfile (its file IMPLEMENTATION, "the kdump-compressed format", and diskdump_mod.h): what
//! crash reads most.
//!
//! ```text
//! block 0    the main header
//! block 1..  the sub-header, VMCOREINFO, notes
//!            first bitmap: frames that are memory; second bitmap: frames whose page is in the file
//!            a descriptor for each page in the file, in the order of frames: where, how long, how compressed
//!            the pages
//! ```
//!
//! All pages of zeros are one page in the file, to which their descriptors lead, as makedumpfile has it: a page without a
//! descriptor is one that nobody can read, not one of zeros. Every page of memory has a descriptor, so that it is known
//! before where what lies, and both bitmaps are the same.

use std::io::{self, Seek, SeekFrom, Write};

use flate2::{Compress, Compression, FlushCompress, Status};
use insight::Extent;
use x86::PAGE_SIZE;

use crate::dump::notes::{notes, vmcoreinfo};
use crate::dump::output::Output;
use crate::dump::pages::{Pages, Piece};
use crate::dump::{DumpError, Dumped, DumpedKernel, Guest};

const SIGNATURE: &[u8; 8] = b"KDUMP   ";
/// The one with 64-bit frame numbers.
const VERSION: u32 = 6;
const BLOCK: u64 = PAGE_SIZE;
const PAGE: usize = PAGE_SIZE as usize;
/// Also the bit in the header that says that pages are compressed so.
const ZLIB: u32 = 1;
/// Pages of zeros are left out, which for makedumpfile is that they are one.
const DUMP_LEVEL: u32 = 1;
const SUB_HEADER_BYTES: u64 = 104;
const DESCRIPTOR_BYTES: usize = 24;
/// A field of `struct new_utsname`; there are six of them.
const NAME_BYTES: usize = 65;
/// Descriptors that are kept until they are written.
const DESCRIPTORS: usize = 1 << 16;

/// Where what lies in the file.
struct Plan {
    frame_count: u64,
    sub_blocks: u64,
    /// Of both bitmaps.
    bitmap_blocks: u64,
    /// Frames that are memory.
    memory: Vec<u8>,
    notes: Vec<u8>,
    text: Vec<u8>,
}

impl Plan {
    fn new(guest: &Guest<'_>, extents: &[Extent]) -> Plan {
        let ends = extents
            .iter()
            .map(|extent| extent.start.0 + extent.len_bytes);
        let frame_count = ends.max().unwrap_or(0) / PAGE_SIZE;
        let notes = notes(guest);
        let text = vmcoreinfo(guest).unwrap_or_default().as_bytes().to_vec();
        let sub_bytes = SUB_HEADER_BYTES + (text.len() + notes.len()) as u64;
        let bitmap_bytes = frame_count.div_ceil(8).next_multiple_of(BLOCK);
        let mut memory = vec![0; bitmap_bytes as usize];
        for extent in extents {
            let first = extent.start.0 / PAGE_SIZE;
            (first..first + extent.len_bytes / PAGE_SIZE).for_each(|frame| set(&mut memory, frame));
        }
        Plan {
            frame_count,
            sub_blocks: sub_bytes.div_ceil(BLOCK),
            bitmap_blocks: 2 * bitmap_bytes / BLOCK,
            memory,
            notes,
            text,
        }
    }

    fn bitmaps_at(&self) -> u64 {
        (1 + self.sub_blocks) * BLOCK
    }

    fn descriptors_at(&self) -> u64 {
        self.bitmaps_at() + self.bitmap_blocks * BLOCK
    }

    fn page_count(&self) -> u64 {
        let ones = |byte: &u8| u64::from(byte.count_ones());
        self.memory.iter().map(ones).sum()
    }

    fn header(&self, guest: &Guest<'_>) -> Vec<u8> {
        let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        for name in names(guest) {
            let mut field = [0; NAME_BYTES];
            let len = name.len().min(NAME_BYTES - 1);
            field[..len].copy_from_slice(&name.as_bytes()[..len]);
            bytes.extend(field);
        }
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(guest.taken_at.as_secs().to_le_bytes());
        bytes.extend(u64::from(guest.taken_at.subsec_micros()).to_le_bytes());
        for number in [
            ZLIB,
            BLOCK as u32,
            short(self.sub_blocks),
            short(self.bitmap_blocks),
            short(self.frame_count),
            short(self.page_count()),
            // Blocks of a dump device, written ones, the CPU that crashed.
            0,
            short(self.page_count()),
            0,
            guest.vcpus.len() as u32,
        ] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.resize(BLOCK as usize, 0);
        bytes.extend(self.sub_header(guest.kernel));
        bytes.extend(&self.text);
        bytes.extend(&self.notes);
        bytes.resize(self.bitmaps_at() as usize, 0);
        bytes
    }

    fn sub_header(&self, kernel: Option<&DumpedKernel>) -> Vec<u8> {
        let text_at = BLOCK + SUB_HEADER_BYTES;
        let text_len = self.text.len() as u64;
        let mut bytes = kernel
            .map_or(0, |kernel| kernel.phys_base)
            .to_le_bytes()
            .to_vec();
        bytes.extend(DUMP_LEVEL.to_le_bytes());
        // One file of one; its first and last frame matter to others only.
        bytes.extend(0_u32.to_le_bytes());
        for number in [
            0,
            0,
            if text_len > 0 { text_at } else { 0 },
            text_len,
            text_at + text_len,
            self.notes.len() as u64,
            // Nothing is erased.
            0,
            0,
            0,
            0,
            self.frame_count,
        ] {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }
}

/// The six fields of `struct new_utsname`. Readers take a header for none in which one of the first five is empty.
fn names<'a>(guest: &Guest<'a>) -> [&'a str; 6] {
    const UNKNOWN: &str = "unknown";
    let of_kernel = |text: &'a str| if text.is_empty() { UNKNOWN } else { text };
    let (release, version) = guest.kernel.map_or((UNKNOWN, UNKNOWN), |kernel| {
        (of_kernel(&kernel.release), of_kernel(&kernel.version))
    });
    let hostname = guest.kernel.and_then(|kernel| kernel.hostname.as_deref());
    let hostname = hostname.filter(|name| !name.is_empty());
    let hostname = hostname.unwrap_or(guest.name);
    ["Linux", hostname, release, version, "x86_64", ""]
}

fn set(bitmap: &mut [u8], frame: u64) {
    bitmap[frame as usize / 8] |= 1 << (frame % 8);
}

/// Writes pages and descriptors side by side.
struct Writer<'a, W> {
    to: &'a mut W,
    compress: Compress,
    descriptors: Vec<u8>,
    /// Where the next of them go.
    descriptors_at: u64,
    /// Where the next page goes, what is in `pages` included.
    data_at: u64,
    pages: Vec<u8>,
    /// The descriptor of every page of zeros.
    zero: Option<[u8; DESCRIPTOR_BYTES]>,
}

impl<W: Write + Seek> Writer<'_, W> {
    fn page(&mut self, page: &[u8]) -> Result<(), DumpError> {
        let descriptor = self.pack(page)?;
        self.describe(descriptor)
    }

    fn zero(&mut self) -> Result<(), DumpError> {
        let descriptor = match self.zero {
            Some(descriptor) => descriptor,
            None => self.pack(&[0; PAGE])?,
        };
        self.zero = Some(descriptor);
        self.describe(descriptor)
    }

    fn describe(&mut self, descriptor: [u8; DESCRIPTOR_BYTES]) -> Result<(), DumpError> {
        self.descriptors.extend(descriptor);
        match self.descriptors.len() < DESCRIPTORS * DESCRIPTOR_BYTES {
            true => Ok(()),
            false => self.flush(),
        }
    }

    /// Puts a page behind the others; its descriptor.
    fn pack(&mut self, page: &[u8]) -> Result<[u8; DESCRIPTOR_BYTES], DumpError> {
        let start = self.pages.len();
        self.pages.resize(start + PAGE, 0);
        self.compress.reset();
        let place = &mut self.pages[start..];
        let status = self.compress.compress(page, place, FlushCompress::Finish);
        let status = status.map_err(|error| DumpError::Write(io::Error::other(error)))?;
        let is_smaller = status == Status::StreamEnd && self.compress.total_out() < PAGE_SIZE;
        let len = if is_smaller {
            self.compress.total_out() as usize
        } else {
            place.copy_from_slice(page);
            PAGE
        };
        self.pages.truncate(start + len);
        let flags = if is_smaller { ZLIB } else { 0 };
        let mut descriptor = [0; DESCRIPTOR_BYTES];
        descriptor[..8].copy_from_slice(&self.data_at.to_le_bytes());
        descriptor[8..12].copy_from_slice(&(len as u32).to_le_bytes());
        descriptor[12..16].copy_from_slice(&flags.to_le_bytes());
        self.data_at += len as u64;
        Ok(descriptor)
    }

    fn flush(&mut self) -> Result<(), DumpError> {
        let pages_at = self.data_at - self.pages.len() as u64;
        self.to.seek(SeekFrom::Start(pages_at))?;
        self.to.write_all(&self.pages)?;
        self.pages.clear();
        self.to.seek(SeekFrom::Start(self.descriptors_at))?;
        self.to.write_all(&self.descriptors)?;
        self.descriptors_at += self.descriptors.len() as u64;
        self.descriptors.clear();
        Ok(())
    }
}

pub(super) fn write<W: Output + Seek>(
    guest: &Guest<'_>,
    to: &mut W,
    progress: &mut dyn FnMut(u64),
) -> Result<Dumped, DumpError> {
    let extents = guest.memory.extents();
    let plan = Plan::new(guest, &extents);
    to.write_all(&plan.header(guest))?;
    to.write_all(&plan.memory)?;
    to.write_all(&plan.memory)?;
    let descriptors_at = plan.descriptors_at();
    let mut writer = Writer {
        to,
        compress: Compress::new(Compression::fast(), true),
        descriptors: Vec::new(),
        descriptors_at,
        data_at: descriptors_at + plan.page_count() * DESCRIPTOR_BYTES as u64,
        pages: Vec::new(),
        zero: None,
    };
    let mut pages = Pages::new(guest.memory, progress);
    for extent in extents {
        pages.read(extent, &mut |_, piece| match piece {
            Piece::Zeros(len) => (0..len / PAGE_SIZE).try_for_each(|_| writer.zero()),
            Piece::Bytes(bytes) => bytes.chunks(PAGE).try_for_each(|page| writer.page(page)),
        })?;
    }
    writer.flush()?;
    let end = writer.data_at;
    to.seek(SeekFrom::Start(end))?;
    Ok(pages.dumped())
}
