//! Reads a guest's memory, a chunk at a time, on any thread.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;

use host::at::FileAt;
use lz4_flex::block::decompress_into;

use crate::error::{Damage, SnapshotError, damaged};
use crate::format::{
    CHUNK_BYTES, CHUNK_PAGES, Entry, Header, MEMORY, PAGE_BYTES, checksum, pages_of, read_index,
};

/// Reads `memory`. The index is checked when it is opened, each chunk when it is read.
#[derive(Debug)]
pub struct MemoryReader {
    file: File,
    header: Header,
    index: Box<[Entry]>,
    /// Which snapshot it is, for errors.
    name: Option<String>,
}

impl MemoryReader {
    /// Reads the index of the memory of a guest of so many pages.
    ///
    /// # Errors
    /// If the file is no such memory, or cannot be read.
    pub fn open(file: File, page_count: u64) -> Result<MemoryReader, SnapshotError> {
        let file_bytes = file.metadata().map_err(|error| unread(error, None))?.len();
        let mut page = [0; PAGE_BYTES];
        if file_bytes < PAGE_BYTES as u64 {
            let expected = PAGE_BYTES as u64;
            let found = file_bytes;
            return Err(damaged(MEMORY, Damage::Length { found, expected }));
        }
        file.read_exact_at(&mut page, 0)
            .map_err(|error| unread(error, None))?;
        let header = Header::read(&page, page_count, file_bytes)?;
        // Not more than the file has.
        let mut bytes = vec![0; header.index_bytes() as usize];
        file.read_exact_at(&mut bytes, header.index_offset)
            .map_err(|error| unread(error, None))?;
        let index = read_index(&bytes, &header)?;
        Ok(MemoryReader {
            file,
            header,
            index,
            name: None,
        })
    }

    /// Says which snapshot it is, for errors.
    #[must_use]
    pub fn named(mut self, name: &str) -> MemoryReader {
        self.name = Some(name.to_owned());
        self
    }

    /// Pages of the guest.
    pub fn page_count(&self) -> u64 {
        self.header.page_count
    }

    /// Chunks of those.
    pub fn chunk_count(&self) -> u64 {
        self.index.len() as u64
    }

    /// Pages that are not zeros.
    pub fn stored_pages(&self) -> u64 {
        let pages = self.index.iter().map(|entry| entry.stored_pages());
        pages.map(u64::from).sum()
    }

    /// Bit n: page n of the chunk is not zeros. A chunk beyond the guest's memory has none.
    pub fn stored(&self, chunk: u64) -> u16 {
        self.entry(chunk).map_or(0, |entry| entry.bitmap)
    }

    /// Bytes of a chunk: fewer of the last one if memory ends in it.
    pub fn chunk_bytes(&self, chunk: u64) -> usize {
        pages_of(chunk, self.header.page_count) as usize * PAGE_BYTES
    }

    /// Reads a whole chunk, zeros included.
    ///
    /// # Errors
    /// If its checksum differs, it does not unpack, or the host cannot read. What is in `into` is to be thrown away then.
    ///
    /// # Panics
    /// If there is no such chunk, or `into` has not [as many bytes](MemoryReader::chunk_bytes) as it.
    pub fn read(&self, chunk: u64, into: &mut [u8]) -> Result<(), SnapshotError> {
        let entry = self.entry(chunk).expect("a chunk of this memory");
        assert!(
            into.len() == self.chunk_bytes(chunk),
            "room for exactly one chunk"
        );
        self.fill(chunk, entry, into)
            .map_err(|error| match &self.name {
                Some(name) => error.of_snapshot(name),
                None => error,
            })
    }

    /// Reads everything that is there and throws it away; `progress` hears how many chunks are done, and may stop it.
    ///
    /// # Errors
    /// As [`MemoryReader::read`], of the first chunk that is not right, or [`SnapshotError::Stopped`].
    pub fn verify(
        &self,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), SnapshotError> {
        let mut bytes = vec![0; CHUNK_BYTES];
        for chunk in 0..self.chunk_count() {
            self.read(chunk, &mut bytes[..self.chunk_bytes(chunk)])?;
            if progress(chunk + 1).is_break() {
                return Err(SnapshotError::Stopped);
            }
        }
        Ok(())
    }

    fn entry(&self, chunk: u64) -> Option<Entry> {
        let place = usize::try_from(chunk).ok()?;
        self.index.get(place).copied()
    }

    fn fill(&self, chunk: u64, entry: Entry, into: &mut [u8]) -> Result<(), SnapshotError> {
        if entry.bitmap == 0 {
            into.fill(0);
            return Ok(());
        }
        let mut packed = vec![0; entry.len_bytes as usize];
        self.file
            .read_exact_at(&mut packed, entry.offset)
            .map_err(|error| unread(error, Some(chunk)))?;
        if checksum(&packed) != entry.sum {
            let what = format!("chunk {chunk}");
            return Err(damaged(MEMORY, Damage::Checksum(what)));
        }
        let stored = &mut into[..entry.stored_bytes()];
        if entry.is_raw {
            stored.copy_from_slice(&packed);
        } else if decompress_into(&packed, stored).ok() != Some(stored.len()) {
            let what = format!("chunk {chunk}");
            return Err(damaged(MEMORY, Damage::Unpacking(what)));
        }
        spread(into, entry.bitmap);
        Ok(())
    }
}

/// Moves pages that stand one behind the other to where they belong, the last one first, with zeros between them.
fn spread(chunk: &mut [u8], bitmap: u16) {
    let mut left = bitmap.count_ones() as usize;
    let pages = (chunk.len() / PAGE_BYTES).min(CHUNK_PAGES as usize);
    for page in (0..pages).rev() {
        let at = page * PAGE_BYTES;
        if bitmap & (1 << page) == 0 {
            chunk[at..at + PAGE_BYTES].fill(0);
            continue;
        }
        left -= 1;
        if left == page {
            // All below it are there, and where they belong.
            return;
        }
        let from = left * PAGE_BYTES;
        chunk.copy_within(from..from + PAGE_BYTES, at);
    }
}

/// What the host says; a file that became shorter since it was opened is damaged.
fn unread(error: io::Error, chunk: Option<u64>) -> SnapshotError {
    if error.kind() != io::ErrorKind::UnexpectedEof {
        return crate::error::error("read", MEMORY.as_ref())(error);
    }
    let what = match chunk {
        Some(chunk) => format!("it ends before chunk {chunk} does"),
        None => "it became shorter while it was read".to_owned(),
    };
    damaged(MEMORY, Damage::Layout(what))
}
