//! What other processes are told about where pages are: a number for each in a memory file of its own.
//!
//! Even means: read the memory file, a hole there is zeros. Odd means: ask the VM, which answers from the store and
//! from memory alike. A reader looks at the number, reads, and looks again: what it read is the page if the number was
//! even and still is the same. It is counted up before a page leaves and when it has come back, so a page that left and
//! came back between the two looks shows, however long the reader takes: the number comes round after 2^31 journeys.

use std::io;

use mem::PageMap;

#[derive(Debug)]
pub(crate) struct Residency {
    map: PageMap,
}

impl Residency {
    pub(crate) fn new(page_count: u64) -> io::Result<Residency> {
        Ok(Residency {
            map: PageMap::new(page_count)?,
        })
    }

    /// The map, for who hands it to readers.
    pub(crate) fn map(&self) -> &PageMap {
        &self.map
    }

    /// Before it leaves.
    pub(crate) fn leaves(&self, page: u64) {
        self.map.make(page, true);
    }

    /// After it has come back, or its contents are gone for good and it is a hole.
    pub(crate) fn is_in_file(&self, page: u64) {
        self.map.make(page, false);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_page_that_left_and_came_back_shows_however_late_one_looks() {
        let residency = Residency::new(3000).unwrap();
        let number = |page: u64| {
            let mut bytes = [0; 4];
            residency
                .map()
                .file()
                .read_exact_at(&mut bytes, page * 4)
                .unwrap();
            u32::from_le_bytes(bytes)
        };
        let first = number(2999);
        assert_eq!(first, 0);
        residency.leaves(2999);
        residency.leaves(2999);
        assert_eq!(number(2999), 1, "leaving twice is leaving");
        residency.is_in_file(2999);
        assert_eq!(number(2999), 2, "it is here as before, and not as before");
        residency.is_in_file(2999);
        assert_eq!((number(2999), number(2998)), (2, 0));
    }
}
