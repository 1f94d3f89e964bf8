//! Where the memory of a guest lies that was brought back from a snapshot, until it is used.
//!
//! A guest that goes on from a snapshot has all its pages away, in the snapshot's file, and nothing in its own memory. From
//! there on it is a guest whose pages were put away: whoever touches one waits in a fault, and the pager's thread brings it.
//! Devices, observers, dumps, limits and accounts need to know nothing more, because none of them knows where a page that is
//! away lies.
//!
//! What is different from a store: it is read only, somebody else's too (many guests may go on from one snapshot), and
//! it is read in chunks of neighbours, because they are packed together and used together: the pages of a chunk that are
//! still away come with the one that somebody waits for.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use thiserror::Error;

use crate::memory::PAGE_BYTES;

/// Pages of a chunk.
pub const CHUNK_PAGES: u64 = 16;
/// Bytes of a chunk.
pub const CHUNK_BYTES: usize = (CHUNK_PAGES * PAGE_BYTES) as usize;

/// Why a chunk cannot be read.
#[derive(Debug, Error)]
pub enum BaseError {
    /// The file cannot be read.
    #[error("cannot read the snapshot")]
    Read(#[source] io::Error),
    /// What is in it is not what was written.
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
}

/// Pages by their index in the memory file, in chunks of [`CHUNK_PAGES`]. Never changes.
pub trait Base: Send + Sync + Debug {
    /// Which pages of a chunk are in it, the first one in the lowest bit; the others are zeros.
    fn stored(&self, chunk: u64) -> u16;

    /// Reads all pages of a chunk, those of zeros too.
    ///
    /// # Errors
    /// [`BaseError`].
    fn read(&self, chunk: u64, bytes: &mut [u8; CHUNK_BYTES]) -> Result<(), BaseError>;
}

/// A chunk that has to be read.
#[derive(Clone, Debug)]
pub(crate) struct InBase {
    base: Arc<dyn Base>,
    chunk: u64,
}

impl InBase {
    /// The chunk that `page` is in.
    pub(crate) fn of_page(base: Arc<dyn Base>, page: u64) -> InBase {
        InBase {
            base,
            chunk: page / CHUNK_PAGES,
        }
    }

    /// Reads it. Slow; needs no lock.
    pub(crate) fn read(&self) -> Result<Box<[u8; CHUNK_BYTES]>, BaseError> {
        let mut bytes = Box::new([0; CHUNK_BYTES]);
        self.base.read(self.chunk, &mut bytes)?;
        Ok(bytes)
    }
}

/// The first pages of all chunks and which of their pages are stored.
pub(crate) fn stored_pages(base: &dyn Base, page_count: u64) -> impl Iterator<Item = u64> {
    (0..page_count.div_ceil(CHUNK_PAGES)).flat_map(move |chunk| {
        let stored = base.stored(chunk);
        (0..CHUNK_PAGES)
            .filter(move |bit| stored >> bit & 1 != 0)
            .map(move |bit| chunk * CHUNK_PAGES + bit)
            .filter(move |page| *page < page_count)
    })
}
