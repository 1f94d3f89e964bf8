//! How `memory` is laid out: format 1. Numbers are little-endian.
//!
//! ```text
//! header   one page   0 magic  8 format u32  12 page bytes u32  16 pages of the guest u64  24 pages of a chunk u32
//!                     28 flags u32 (0)  32 offset of the index u64  40 its bytes u64  48 its XXH3-64
//!                     56 XXH3-64 of bytes 0..56; the rest is zeros
//! chunks              of each chunk its pages that are not zeros, one behind the other: an LZ4 block, or as they are
//! index    24 a chunk 0 offset u64  8 bytes u32  12 bitmap u16: bit n, page n is there  14 flags u16: bit 0, as they are
//!                     16 XXH3-64 of those bytes in the file; all 0 for a chunk of zeros
//! ```
//!
//! The index is the file's end. The header is written last, so a file that was not finished begins with zeros.

use twox_hash::XxHash3_64;

use crate::error::{Damage, SnapshotError, damaged};

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;

/// Pages of a chunk: what is brought in at once.
pub const CHUNK_PAGES: u64 = 16;

/// Bytes of a whole chunk.
pub const CHUNK_BYTES: usize = PAGE_BYTES * CHUNK_PAGES as usize;

/// The format that is written and read here.
pub const MEMORY_FORMAT: u32 = 1;

/// What the part is called.
pub(crate) const MEMORY: &str = "memory";

/// Bytes of an entry of the index.
pub(crate) const ENTRY_BYTES: usize = 24;

/// The chunk's pages are as they are.
const RAW: u16 = 1;

const MAGIC: [u8; 8] = *b"MOTHRMEM";

/// Bytes of the header behind which its checksum stands.
const SUMMED_BYTES: usize = 56;

/// The header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// Pages of the guest.
    pub(crate) page_count: u64,
    /// Where the index begins.
    pub(crate) index_offset: u64,
    /// The index's checksum.
    pub(crate) index_sum: u64,
}

/// Where a chunk lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Entry {
    /// Where in the file.
    pub(crate) offset: u64,
    /// How many bytes of the file.
    pub(crate) len_bytes: u32,
    /// Which pages are there.
    pub(crate) bitmap: u16,
    /// They are not packed.
    pub(crate) is_raw: bool,
    /// Checksum of its bytes in the file.
    pub(crate) sum: u64,
}

/// The checksum of everything here.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// Chunks of so many pages.
pub(crate) fn chunk_count(page_count: u64) -> u64 {
    page_count.div_ceil(CHUNK_PAGES)
}

/// Pages of a chunk; the last one may have fewer.
pub(crate) fn pages_of(chunk: u64, page_count: u64) -> u64 {
    page_count
        .saturating_sub(chunk.saturating_mul(CHUNK_PAGES))
        .min(CHUNK_PAGES)
}

/// Bytes of the index, if there are so many pages in the world.
fn index_bytes(page_count: u64) -> Option<u64> {
    chunk_count(page_count).checked_mul(ENTRY_BYTES as u64)
}

fn wrong(what: impl Into<String>) -> SnapshotError {
    damaged(MEMORY, Damage::Layout(what.into()))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

impl Header {
    /// Bytes of the index.
    pub(crate) fn index_bytes(&self) -> u64 {
        index_bytes(self.page_count).expect("checked when it was made")
    }

    /// As it is written.
    pub(crate) fn to_page(self) -> [u8; PAGE_BYTES] {
        let mut page = [0; PAGE_BYTES];
        page[..8].copy_from_slice(&MAGIC);
        page[8..12].copy_from_slice(&MEMORY_FORMAT.to_le_bytes());
        page[12..16].copy_from_slice(&(PAGE_BYTES as u32).to_le_bytes());
        page[16..24].copy_from_slice(&self.page_count.to_le_bytes());
        page[24..28].copy_from_slice(&(CHUNK_PAGES as u32).to_le_bytes());
        page[32..40].copy_from_slice(&self.index_offset.to_le_bytes());
        page[40..48].copy_from_slice(&self.index_bytes().to_le_bytes());
        page[48..56].copy_from_slice(&self.index_sum.to_le_bytes());
        let sum = checksum(&page[..SUMMED_BYTES]);
        page[SUMMED_BYTES..SUMMED_BYTES + 8].copy_from_slice(&sum.to_le_bytes());
        page
    }

    /// Reads and checks it, against the pages that the guest has and the bytes that the file has.
    pub(crate) fn read(
        page: &[u8; PAGE_BYTES],
        page_count: u64,
        file_bytes: u64,
    ) -> Result<Header, SnapshotError> {
        if page[..8] != MAGIC {
            return Err(damaged(MEMORY, Damage::Magic));
        }
        // Before the checksum: another format may have another one.
        let format = u32_at(page, 8);
        if format != MEMORY_FORMAT {
            return Err(SnapshotError::OtherFormat {
                snapshot: None,
                part: MEMORY.to_owned(),
                found: format,
                known: MEMORY_FORMAT,
            });
        }
        let is_summed = u64_at(page, SUMMED_BYTES) == checksum(&page[..SUMMED_BYTES]);
        if !is_summed || page[SUMMED_BYTES + 8..].iter().any(|byte| *byte != 0) {
            return Err(damaged(MEMORY, Damage::Checksum("its header".to_owned())));
        }
        let sizes = [u32_at(page, 12), u32_at(page, 24)];
        if sizes != [PAGE_BYTES as u32, CHUNK_PAGES as u32] {
            let [bytes, pages] = sizes;
            return Err(wrong(format!(
                "it has pages of {bytes} bytes in chunks of {pages}"
            )));
        }
        let flags = u32_at(page, 28);
        if flags != 0 {
            return Err(wrong(format!(
                "it has the flags {flags:#x}, and format {MEMORY_FORMAT} knows none"
            )));
        }
        let found = u64_at(page, 16);
        if found != page_count {
            return Err(wrong(format!(
                "it has {found} pages where the guest has {page_count}"
            )));
        }
        let index_offset = u64_at(page, 32);
        let expected = index_bytes(page_count);
        if Some(u64_at(page, 40)) != expected || index_offset < PAGE_BYTES as u64 {
            return Err(wrong("its index is not where one can be"));
        }
        let end = expected.and_then(|bytes| index_offset.checked_add(bytes));
        match end {
            Some(end) if end == file_bytes => {}
            Some(expected) => {
                let found = file_bytes;
                return Err(damaged(MEMORY, Damage::Length { found, expected }));
            }
            None => return Err(wrong("its index is not where one can be")),
        }
        Ok(Header {
            page_count,
            index_offset,
            index_sum: u64_at(page, 48),
        })
    }
}

impl Entry {
    /// Pages that are there.
    pub(crate) fn stored_pages(self) -> u32 {
        self.bitmap.count_ones()
    }

    /// Bytes of those.
    pub(crate) fn stored_bytes(self) -> usize {
        self.stored_pages() as usize * PAGE_BYTES
    }

    /// As it is written.
    pub(crate) fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let flags = if self.is_raw { RAW } else { 0 };
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len_bytes.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.bitmap.to_le_bytes());
        bytes[14..16].copy_from_slice(&flags.to_le_bytes());
        bytes[16..].copy_from_slice(&self.sum.to_le_bytes());
        bytes
    }

    /// Reads and checks that of `chunk`: its bytes lie between header and index, and can be what its pages are packed to.
    pub(crate) fn read(
        bytes: &[u8; ENTRY_BYTES],
        chunk: u64,
        header: &Header,
    ) -> Result<Entry, SnapshotError> {
        let flags = u16_at(bytes, 14);
        let entry = Entry {
            offset: u64_at(bytes, 0),
            len_bytes: u32_at(bytes, 8),
            bitmap: u16_at(bytes, 12),
            is_raw: flags == RAW,
            sum: u64_at(bytes, 16),
        };
        if flags & !RAW != 0 {
            return Err(wrong(format!(
                "chunk {chunk} has the flags {flags:#x}, and format {MEMORY_FORMAT} knows {RAW:#x}"
            )));
        }
        if entry.bitmap == 0 {
            return if bytes.iter().all(|byte| *byte == 0) {
                Ok(entry)
            } else {
                Err(wrong(format!("chunk {chunk} is empty and lies somewhere")))
            };
        }
        let pages = pages_of(chunk, header.page_count);
        if u64::from(entry.bitmap) >> pages != 0 {
            return Err(wrong(format!(
                "chunk {chunk} has pages that the guest has not"
            )));
        }
        let fits = if entry.is_raw {
            entry.len_bytes as usize == entry.stored_bytes()
        } else {
            (1..entry.stored_bytes()).contains(&(entry.len_bytes as usize))
        };
        if !fits {
            return Err(wrong(format!(
                "chunk {chunk} has {} bytes for {} pages",
                entry.len_bytes,
                entry.stored_pages()
            )));
        }
        let end = entry.offset.checked_add(u64::from(entry.len_bytes));
        let is_inside =
            entry.offset >= PAGE_BYTES as u64 && end.is_some_and(|end| end <= header.index_offset);
        if !is_inside {
            return Err(wrong(format!("chunk {chunk} lies outside")));
        }
        Ok(entry)
    }
}

/// Reads and checks the index: bytes of no two chunks overlap.
pub(crate) fn read_index(bytes: &[u8], header: &Header) -> Result<Box<[Entry]>, SnapshotError> {
    if checksum(bytes) != header.index_sum {
        return Err(damaged(MEMORY, Damage::Checksum("its index".to_owned())));
    }
    let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
    let mut index = Vec::with_capacity(entries.len());
    let mut places = Vec::with_capacity(entries.len());
    for (chunk, bytes) in entries.iter().enumerate() {
        let entry = Entry::read(bytes, chunk as u64, header)?;
        if entry.bitmap != 0 {
            places.push((entry.offset, entry.offset + u64::from(entry.len_bytes)));
        }
        index.push(entry);
    }
    places.sort_unstable();
    if places.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(wrong("chunks of it overlap"));
    }
    Ok(index.into_boxed_slice())
}
