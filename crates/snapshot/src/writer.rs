//! Writes a guest's memory, a chunk at a time and in any order.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use lz4_flex::block::{compress_into, get_maximum_output_size};
use sha2::{Digest, Sha256};

use crate::digest::hexadecimal;
use crate::format::{
    CHUNK_BYTES, CHUNK_PAGES, ENTRY_BYTES, Entry, Header, PAGE_BYTES, checksum, chunk_count,
    pages_of,
};
use crate::manifest::Part;

/// A chunk that saves less than this part of itself is kept as it is: unpacking it would cost time for nothing.
const WORTHWHILE_PART: usize = 16;

const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemorySummary {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Pages that are in it.
    pub stored_pages: u64,
    /// Pages that are not, since they are zeros.
    pub zero_pages: u64,
    /// Bytes in the file that nothing leads to: of chunks that were written again.
    pub garbage_bytes: u64,
    /// SHA-256 of the header, which has the checksum of the index, which has those of all chunks.
    pub header_sha256: [u8; 32],
}

impl MemorySummary {
    /// As the manifest has it.
    pub fn part(&self) -> Part {
        Part {
            bytes: self.file_bytes,
            sha256: Some(hexadecimal(&self.header_sha256)),
        }
    }
}

/// A chunk's pages without those of zeros, packed: what can be done on any thread while another one writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackedChunk {
    bytes: Vec<u8>,
    len_of_pages: usize,
    bitmap: u16,
    is_raw: bool,
    sum: u64,
}

impl PackedChunk {
    /// Packs whole pages, at most a chunk of them.
    ///
    /// # Panics
    /// If `bytes` are not 1 to 16 whole pages.
    pub fn of(bytes: &[u8]) -> PackedChunk {
        assert!(
            bytes.len().is_multiple_of(PAGE_BYTES) && (1..=CHUNK_BYTES).contains(&bytes.len()),
            "a chunk is 1 to {CHUNK_PAGES} whole pages"
        );
        let mut stored = Vec::new();
        let mut bitmap = 0;
        for (page, bytes) in bytes.as_chunks::<PAGE_BYTES>().0.iter().enumerate() {
            if *bytes != ZEROS {
                bitmap |= 1 << page;
                stored.extend_from_slice(bytes);
            }
        }
        let mut packed = vec![0; get_maximum_output_size(stored.len())];
        let is_packed = match compress_into(&stored, &mut packed) {
            Ok(len) if len < stored.len() - stored.len() / WORTHWHILE_PART => {
                packed.truncate(len);
                true
            }
            _ => false,
        };
        let is_raw = bitmap != 0 && !is_packed;
        let kept = if is_packed { packed } else { stored };
        PackedChunk {
            sum: if bitmap == 0 { 0 } else { checksum(&kept) },
            bytes: kept,
            len_of_pages: bytes.len(),
            bitmap,
            is_raw,
        }
    }

    /// Bytes that it takes in the file.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes `memory`. Chunks come in any order, and those that never come are zeros; a chunk that is written twice is what it
/// was the second time.
#[derive(Debug)]
pub struct MemoryWriter {
    file: File,
    page_count: u64,
    index: Vec<Entry>,
    end: u64,
    garbage_bytes: u64,
}

impl MemoryWriter {
    /// Writes into `file`, which is emptied, the memory of a guest of so many pages.
    ///
    /// # Errors
    /// What the host says.
    pub fn new(file: File, page_count: u64) -> io::Result<MemoryWriter> {
        file.set_len(0)?;
        let count = usize::try_from(chunk_count(page_count)).map_err(io::Error::other)?;
        Ok(MemoryWriter {
            file,
            page_count,
            index: vec![Entry::default(); count],
            end: PAGE_BYTES as u64,
            garbage_bytes: 0,
        })
    }

    /// Writes a chunk: `bytes` are its pages, of which the last chunk may have fewer. Pages of zeros cost nothing.
    ///
    /// # Errors
    /// What the host says; [`io::ErrorKind::InvalidInput`] if there is no such chunk, or it has not so many bytes.
    pub fn put(&mut self, chunk: u64, bytes: &[u8]) -> io::Result<()> {
        let pages = pages_of(chunk, self.page_count) as usize;
        if pages == 0 || bytes.len() != pages * PAGE_BYTES {
            return Err(no_chunk(chunk, bytes.len()));
        }
        self.put_packed(chunk, &PackedChunk::of(bytes))
    }

    /// Writes a chunk that was packed.
    ///
    /// # Errors
    /// What the host says; [`io::ErrorKind::InvalidInput`] if there is no such chunk, or it has not so many bytes.
    pub fn put_packed(&mut self, chunk: u64, packed: &PackedChunk) -> io::Result<()> {
        let pages = pages_of(chunk, self.page_count) as usize;
        let place = usize::try_from(chunk).ok();
        let entry = place.and_then(|place| self.index.get_mut(place));
        let Some(entry) = entry.filter(|_| packed.len_of_pages == pages * PAGE_BYTES) else {
            return Err(no_chunk(chunk, packed.len_of_pages));
        };
        let mut new = Entry::default();
        if packed.bitmap != 0 {
            self.file.write_all_at(&packed.bytes, self.end)?;
            new = Entry {
                offset: self.end,
                len_bytes: packed.bytes.len() as u32,
                bitmap: packed.bitmap,
                is_raw: packed.is_raw,
                sum: packed.sum,
            };
            self.end += packed.bytes.len() as u64;
        }
        self.garbage_bytes += u64::from(entry.len_bytes);
        *entry = new;
        Ok(())
    }

    /// Bytes that the file has by now.
    pub fn written_bytes(&self) -> u64 {
        self.end
    }

    /// Writes index and header, and has the host put all of it on the disk.
    ///
    /// # Errors
    /// What the host says.
    pub fn finish(self) -> io::Result<MemorySummary> {
        let mut bytes = Vec::with_capacity(self.index.len() * ENTRY_BYTES);
        for entry in &self.index {
            bytes.extend_from_slice(&entry.to_bytes());
        }
        let header = Header {
            page_count: self.page_count,
            index_offset: self.end,
            index_sum: checksum(&bytes),
        };
        self.file.write_all_at(&bytes, self.end)?;
        let header = header.to_page();
        self.file.write_all_at(&header, 0)?;
        self.file.sync_all()?;
        let stored = self.index.iter().map(|entry| entry.stored_pages());
        let stored_pages = stored.map(u64::from).sum();
        Ok(MemorySummary {
            file_bytes: self.end + bytes.len() as u64,
            stored_pages,
            zero_pages: self.page_count - stored_pages,
            garbage_bytes: self.garbage_bytes,
            header_sha256: Sha256::digest(header).into(),
        })
    }
}

fn no_chunk(chunk: u64, bytes: usize) -> io::Error {
    let what = format!("this memory has no chunk {chunk} of {bytes} bytes");
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
