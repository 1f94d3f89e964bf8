//! Pages that a pager has given, for the next one who reads them.
//!
//! A look reads a page in many small pieces, and each question to the VM's process brings the whole of it. What a pager has
//! does not change as long as it has it, and the residency map counts how often a page went and came: so a page that was
//! given under a number is that page for as long as the map says this number.

use std::collections::HashMap;

use x86::PAGE_SIZE;

/// Most pages that are kept: 8 MiB.
const PAGES_MAX: usize = 2048;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct StoredPages(HashMap<u64, (u32, Vec<u8>)>);

impl StoredPages {
    /// The page of the file, as it is under this number.
    pub(crate) fn get(&self, file_page: u64, number: u32) -> Option<&[u8]> {
        let (given, page) = self.0.get(&file_page)?;
        (*given == number).then_some(page)
    }

    /// Keeps a page; what is no whole one is not kept.
    pub(crate) fn keep(&mut self, file_page: u64, number: u32, page: &[u8]) {
        if page.len() as u64 != PAGE_SIZE {
            return;
        }
        // Which of them will be wanted again nobody knows; to begin anew costs little now and then.
        if self.0.len() >= PAGES_MAX {
            self.0.clear();
        }
        self.0.insert(file_page, (number, page.to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_known_until_it_has_come_and_gone() {
        let mut pages = StoredPages::default();
        let page = |byte: u8| vec![byte; PAGE_SIZE as usize];
        pages.keep(7, 1, &page(1));
        assert_eq!(pages.get(7, 1), Some(&page(1)[..]));
        assert_eq!(
            pages.get(7, 3),
            None,
            "it was in the guest's hands meanwhile"
        );
        assert_eq!(pages.get(8, 1), None);
        pages.keep(7, 3, &page(3));
        assert_eq!(pages.get(7, 3), Some(&page(3)[..]));
        assert_eq!(pages.get(7, 1), None);
        pages.keep(9, 1, &[0; 10]);
        assert_eq!(pages.get(9, 1), None, "it is no page");
    }

    #[test]
    fn no_guest_makes_an_observer_keep_more_than_so_much() {
        let mut pages = StoredPages::default();
        for number in 0..3 * PAGES_MAX as u64 {
            pages.keep(number, 1, &[0; PAGE_SIZE as usize]);
            assert!(pages.0.len() <= PAGES_MAX);
            assert!(pages.get(number, 1).is_some());
        }
    }
}
