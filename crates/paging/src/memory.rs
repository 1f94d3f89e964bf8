//! What the pager needs of guest memory. Guest memory itself has it; tests have a memory that fails on purpose.

use std::io;

pub use mem::PageBytes;
use mem::PagedMemory;

/// Bytes of a page.
pub const PAGE_BYTES: u64 = size_of::<PageBytes>() as u64;

/// Pages that can be read, taken away, put back, protected and watched, by index in the memory file. See
/// [`PagedMemory`] for what each promises.
pub(crate) trait Memory: Send + Sync {
    /// How many there are.
    fn page_count(&self) -> u64;
    /// Whether faults of missing pages come to us.
    fn handle_missing(&self, missing: bool) -> io::Result<()>;
    /// Whether any faults come to us, or none.
    fn handle_any(&self, any: bool) -> io::Result<()>;
    /// Every stretch among these pages that the host holds: first page and count.
    fn each_resident(
        &self,
        first: u64,
        count: u64,
        each: &mut dyn FnMut(u64, u64),
    ) -> io::Result<()>;
    /// Puts a missing page in its place.
    fn fill(&self, page: u64, bytes: &PageBytes, protected: bool) -> io::Result<()>;
    /// Puts a page of zeros in its place.
    fn fill_with_zeros(&self, page: u64) -> io::Result<()>;
    /// Protects against writing, or no more.
    fn protect(&self, first: u64, count: u64, protected: bool) -> io::Result<()>;
    /// Has who waits try again.
    fn wake(&self, first: u64, count: u64) -> io::Result<()>;
    /// Reads without bringing in.
    fn read(&self, page: u64, bytes: &mut PageBytes) -> io::Result<()>;
    /// Gives pages back to the host.
    fn punch(&self, first: u64, count: u64) -> io::Result<()>;
    /// Has the next use of these pages show.
    fn watch_use(&self, first: u64, count: u64) -> io::Result<()>;
    /// Which pages were used since.
    fn used(&self, first: u64, used: &mut [bool]) -> io::Result<()>;
}

impl Memory for PagedMemory {
    fn page_count(&self) -> u64 {
        PagedMemory::page_count(self)
    }

    fn handle_missing(&self, missing: bool) -> io::Result<()> {
        PagedMemory::handle_missing(self, missing)
    }

    fn handle_any(&self, any: bool) -> io::Result<()> {
        if any { self.take_hold() } else { self.let_go() }
    }

    fn each_resident(
        &self,
        first: u64,
        count: u64,
        each: &mut dyn FnMut(u64, u64),
    ) -> io::Result<()> {
        PagedMemory::each_resident(self, first, count, each)
    }

    fn fill(&self, page: u64, bytes: &PageBytes, protected: bool) -> io::Result<()> {
        PagedMemory::fill(self, page, bytes, protected)
    }

    fn fill_with_zeros(&self, page: u64) -> io::Result<()> {
        PagedMemory::fill_with_zeros(self, page)
    }

    fn protect(&self, first: u64, count: u64, protected: bool) -> io::Result<()> {
        PagedMemory::protect(self, first, count, protected)
    }

    fn wake(&self, first: u64, count: u64) -> io::Result<()> {
        PagedMemory::wake(self, first, count)
    }

    fn read(&self, page: u64, bytes: &mut PageBytes) -> io::Result<()> {
        PagedMemory::read(self, page, bytes)
    }

    fn punch(&self, first: u64, count: u64) -> io::Result<()> {
        PagedMemory::punch(self, first, count)
    }

    fn watch_use(&self, first: u64, count: u64) -> io::Result<()> {
        PagedMemory::watch_use(self, first, count)
    }

    fn used(&self, first: u64, used: &mut [bool]) -> io::Result<()> {
        PagedMemory::used(self, first, used)
    }
}
