//! What other processes are told about where pages are: a byte for each in a memory file of its own.
//!
//! Zero means: read the memory file, a hole there is zeros. Anything else: ask the VM, which answers from the store and
//! from memory alike. A reader looks at the byte, reads, and looks again. The byte is set before a page leaves; when it
//! has come back the byte stays set for a while, so that a page which left and came back between the two looks of a
//! reader is not taken for one that was there all the time.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use mem::PageMap;

/// How long a reader may take between its two looks.
const GRACE: Duration = Duration::from_secs(1);

const HERE: u8 = 0;
const AWAY: u8 = 1;

#[derive(Debug)]
pub(crate) struct Residency {
    map: PageMap,
    /// Pages that came back, and when.
    back: VecDeque<(Instant, u64)>,
}

impl Residency {
    pub(crate) fn new(page_count: u64) -> io::Result<Residency> {
        Ok(Residency { map: PageMap::new(page_count)?, back: VecDeque::new() })
    }

    /// The map, for who hands it to readers.
    pub(crate) fn map(&self) -> &PageMap {
        &self.map
    }

    /// Before it leaves.
    pub(crate) fn leaves(&mut self, page: u64) {
        self.map.set(page, AWAY);
    }

    /// After it has come back.
    pub(crate) fn came_back(&mut self, page: u64) {
        self.back.push_back((Instant::now(), page));
    }

    /// Its contents are gone for good.
    pub(crate) fn is_empty(&mut self, page: u64) {
        self.came_back(page);
    }

    /// Tells that pages are here which came back long enough ago and have not left again.
    pub(crate) fn settle(&mut self, is_away: impl Fn(u64) -> bool) {
        while let Some(&(since, page)) = self.back.front() {
            if since.elapsed() < GRACE {
                return;
            }
            self.back.pop_front();
            if !is_away(page) {
                self.map.set(page, HERE);
            }
        }
    }
}
