//! Pages that lie in a base: a guest that was brought back from a snapshot has not used them yet.
//!
//! They are away as those in the store are, with one difference: nobody's bytes have to be kept of them, so they never
//! leave the base, they only come. Once one has come it is a page like any other.

use std::io;
use std::sync::Arc;

use super::{Broken, Core, Page, Served};
use crate::base::{Base, CHUNK_BYTES, CHUNK_PAGES, stored_pages};
use crate::memory::{Memory, PAGE_BYTES, PageBytes};

/// Pages kept free below a limit that are not spent on neighbours nobody asked for.
const SPARE_PAGES: u64 = CHUNK_PAGES;

impl<M: Memory> Core<M> {
    /// All that the guest has lies in `base` from now on. Before anybody has touched its memory, which is empty.
    pub(crate) fn stand_on(&mut self, base: Arc<dyn Base>) -> io::Result<()> {
        self.start_tracking()?;
        for page in stored_pages(&*base, self.page_count()) {
            if self.page(page) != Page::Empty {
                return Err(io::Error::other(
                    "guest memory has been used before it was brought back",
                ));
            }
            self.pages[page as usize] = Page::Base;
            self.residency.leaves(page);
            self.in_base += 1;
        }
        self.base = Some(base);
        Ok(())
    }

    /// Pages that lie in the base.
    pub(crate) fn in_base(&self) -> u64 {
        self.in_base
    }

    /// The base, as long as a page lies in it.
    pub(crate) fn base(&self) -> Option<Arc<dyn Base>> {
        self.base.clone()
    }

    /// The first page from `page` on that lies in the base.
    pub(crate) fn next_in_base(&self, page: u64) -> Option<u64> {
        let rest = self.pages.get(page as usize..)?;
        let behind = rest.iter().position(|page| *page == Page::Base)?;
        Some(page + behind as u64)
    }

    /// The first page from `page` on that lies in the store.
    pub(crate) fn next_out(&self, page: u64) -> Option<u64> {
        let rest = self.pages.get(page as usize..)?;
        let behind = rest.iter().position(|page| matches!(page, Page::Out(_)))?;
        Some(page + behind as u64)
    }

    /// Whether a page is on its way out.
    pub(crate) fn is_leaving(&self) -> bool {
        self.pages.contains(&Page::Leaving)
    }

    /// The chunk of `page` was read, while anything may have happened to its pages: those that still lie in the base
    /// come, `page` first, and the others as far as there is room to spare.
    pub(crate) fn arrive(
        &mut self,
        page: u64,
        chunk: &[u8; CHUNK_BYTES],
    ) -> Result<Served, Broken> {
        if self.page(page) != Page::Base {
            return self.fault(page, false);
        }
        if self.room() == 0 {
            return Ok(Served::NoRoom);
        }
        self.come(page, chunk)?;
        self.counts.page_ins += 1;
        let first = page / CHUNK_PAGES * CHUNK_PAGES;
        let end = (first + CHUNK_PAGES).min(self.page_count());
        for other in first..end {
            if self.page(other) == Page::Base && self.room() > SPARE_PAGES {
                self.come(other, chunk)?;
                self.counts.prefetched += 1;
            }
        }
        Ok(Served::Back)
    }

    fn come(&mut self, page: u64, chunk: &[u8; CHUNK_BYTES]) -> Result<(), Broken> {
        let at = (page % CHUNK_PAGES * PAGE_BYTES) as usize;
        let (pages, _) = chunk[at..].as_chunks::<{ PAGE_BYTES as usize }>();
        let bytes: &PageBytes = &pages[0];
        let protected = self.watches.wants(page);
        self.memory
            .fill(page, bytes, protected)
            .map_err(super::refused("bring back", page))?;
        self.pages[page as usize] = Page::Resident;
        self.resident += 1;
        self.leaves_base();
        self.residency.is_in_file(page);
        Ok(())
    }

    /// One page less lies in it; with the last one it goes.
    pub(super) fn leaves_base(&mut self) {
        self.in_base -= 1;
        if self.in_base == 0 {
            self.base = None;
        }
    }
}
