//! Reading all of a guest's memory once, page by page, with what is zero told apart.

use insight::{Extent, Memory};
use x86::{Gpa, PAGE_SIZE};

use crate::dump::{DumpError, Dumped};

/// Memory that is read at once.
const STRETCH: u64 = 1 << 20;
const PAGE: usize = PAGE_SIZE as usize;

/// Whole pages that follow each other.
pub(super) enum Piece<'a> {
    /// So many bytes of zeros.
    Zeros(u64),
    /// Pages of which none is zero.
    Bytes(&'a [u8]),
}

/// Reads stretches of memory.
pub(super) struct Pages<'a> {
    memory: &'a dyn Memory,
    buffer: Vec<u8>,
    progress: &'a mut dyn FnMut(u64),
    dumped: Dumped,
}

impl<'a> Pages<'a> {
    pub(super) fn new(memory: &'a dyn Memory, progress: &'a mut dyn FnMut(u64)) -> Pages<'a> {
        Pages {
            memory,
            buffer: vec![0; STRETCH as usize],
            progress,
            dumped: Dumped::default(),
        }
    }

    /// Has `act` take a stretch, which begins and ends with a page, from its front to its end.
    pub(super) fn read(
        &mut self,
        extent: Extent,
        act: &mut dyn FnMut(Gpa, Piece<'_>) -> Result<(), DumpError>,
    ) -> Result<(), DumpError> {
        let end = extent.start.0.saturating_add(extent.len_bytes);
        let mut at = extent.start.0;
        while at < end {
            let data = self.memory.next_data(Gpa(at));
            let data = data.map_or(end, |data| (data.0 & !(PAGE_SIZE - 1)).clamp(at, end));
            if data > at {
                act(Gpa(at), Piece::Zeros(data - at))?;
                self.is_done(data - at, 0);
                at = data;
                continue;
            }
            let len = STRETCH.min(end - at);
            let mut buffer = std::mem::take(&mut self.buffer);
            let bytes = &mut buffer[..len as usize];
            self.memory.read(Gpa(at), bytes)?;
            let data_bytes = split(Gpa(at), bytes, act)?;
            self.buffer = buffer;
            self.is_done(len, data_bytes);
            at += len;
        }
        Ok(())
    }

    fn is_done(&mut self, memory_bytes: u64, data_bytes: u64) {
        self.dumped.memory_bytes += memory_bytes;
        self.dumped.data_bytes += data_bytes;
        (self.progress)(self.dumped.memory_bytes);
    }

    /// How much has been read.
    pub(super) fn dumped(&self) -> Dumped {
        self.dumped
    }
}

/// Hands out runs of pages; how many bytes are in those that are not zero.
fn split(
    gpa: Gpa,
    bytes: &[u8],
    act: &mut dyn FnMut(Gpa, Piece<'_>) -> Result<(), DumpError>,
) -> Result<u64, DumpError> {
    let mut data_bytes = 0;
    let mut at = gpa;
    let (pages, _) = bytes.as_chunks::<PAGE>();
    let is_zero: Vec<bool> = pages.iter().map(is_zero).collect();
    let mut first = 0;
    for run in is_zero.chunk_by(|one, next| one == next) {
        let len = run.len() * PAGE;
        if run[0] {
            act(at, Piece::Zeros(len as u64))?;
        } else {
            act(at, Piece::Bytes(&bytes[first..first + len]))?;
            data_bytes += len as u64;
        }
        first += len;
        at = Gpa(at.0 + len as u64);
    }
    Ok(data_bytes)
}

fn is_zero(page: &[u8; PAGE]) -> bool {
    let (words, _) = page.as_chunks::<32>();
    words.iter().all(|word| *word == [0; 32])
}
