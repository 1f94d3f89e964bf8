//! Notes about each guest page: does it hold translated code, who may write it unseen, was it written.
//!
//! vCPUs of the software engine write guest memory through their own TLBs, unseen, except where a page holds
//! translated code: such writes take a slow way that drops the translations. So a page must not be in anybody's write
//! TLB from before its bytes are read for translation until the last translation is gone. The code mark and the set
//! of vCPUs that may have the page in their write TLB are one atomic word: either who enters the page into a TLB sees
//! the mark and does not, or who marks it sees the writer and calls it to order. Neither can miss the other.
//!
//! Devices write through `GuestMemory` or through rust-vmm's queues, and both end in [`PageNotes::wrote`], which tells
//! the engine before the write returns: whoever learns from a device that its data has arrived finds no translation
//! of what was there before.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Weak};

use host::lock::SharedLock;
use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};
use x86::{Gfn, PAGE_SIZE};

/// The page holds guest code that an engine has translated.
const CODE: u16 = 1 << 0;
/// The page was written since dirty notes were last taken.
const DIRTY: u16 = 1 << 1;
/// Position of the writers' bits.
const WRITERS_SHIFT: u32 = 8;
/// Writers that are told apart; those with the same remainder share a bit.
const WRITER_BITS: u32 = 8;

/// vCPUs that may write a page unseen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Writers(u8);

impl Writers {
    /// No thread writes the page unseen.
    pub const NONE: Writers = Writers(0);

    /// Whether vCPU `index` may be one of them.
    pub fn may_have(self, index: usize) -> bool {
        self.0 & 1 << (index as u32 % WRITER_BITS) != 0
    }
}

/// Who keeps translations of guest code.
pub trait CodeWatch: Send + Sync {
    /// Somebody who is no vCPU wrote to a page that is marked as code. Called on the writer's thread, after the write.
    fn code_written(&self, gfn: Gfn);
}

/// A few notes for each page of a VM's memory, by page index in the memory file.
pub struct PageNotes {
    pages: Box<[AtomicU16]>,
    /// First frame of each slot and its first page index, lowest first.
    slots: Vec<(Gfn, usize, usize)>,
    watchers: SharedLock<Vec<Weak<dyn CodeWatch>>>,
}

impl std::fmt::Debug for PageNotes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageNotes")
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

impl PageNotes {
    pub(crate) fn new(slots: Vec<(Gfn, usize, usize)>) -> PageNotes {
        let count = slots
            .iter()
            .map(|&(_, first, count)| first + count)
            .max()
            .unwrap_or(0);
        let pages = (0..count).map(|_| AtomicU16::new(0)).collect();
        PageNotes {
            pages,
            slots,
            watchers: SharedLock::default(),
        }
    }

    fn page(&self, gfn: Gfn) -> Option<&AtomicU16> {
        let &(first_gfn, first, count) =
            self.slots.iter().rev().find(|(first, ..)| *first <= gfn)?;
        let offset = (gfn.0 - first_gfn.0) as usize;
        if offset < count {
            self.pages.get(first + offset)
        } else {
            None
        }
    }

    /// From now on `watcher` hears of writes to code pages, as long as it lives.
    pub fn watch_code(&self, watcher: Weak<dyn CodeWatch>) {
        let mut watchers = self.watchers.write();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(watcher);
    }

    /// Marks a frame as holding translated code. Returns who may still write it unseen and must be kept from that
    /// before its bytes are read; they are forgotten here.
    pub fn add_code(&self, gfn: Gfn) -> Writers {
        let Some(page) = self.page(gfn) else {
            return Writers::NONE;
        };
        let mark = |old| Some((old | CODE) & ((1 << WRITERS_SHIFT) - 1));
        let old = page
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, mark)
            .unwrap_or(0);
        Writers((old >> WRITERS_SHIFT) as u8)
    }

    /// Takes the mark of [`PageNotes::add_code`] away.
    pub fn remove_code(&self, gfn: Gfn) {
        if let Some(page) = self.page(gfn) {
            page.fetch_and(!CODE, Ordering::SeqCst);
        }
    }

    /// Whether the frame holds translated code.
    pub fn is_code(&self, gfn: Gfn) -> bool {
        self.page(gfn)
            .is_some_and(|page| page.load(Ordering::SeqCst) & CODE != 0)
    }

    /// Notes that vCPU `index` is going to write the frame unseen; false if it must not, because of its code.
    pub fn add_writer(&self, gfn: Gfn, index: usize) -> bool {
        let Some(page) = self.page(gfn) else {
            return false;
        };
        let writer = 1 << (WRITERS_SHIFT + index as u32 % WRITER_BITS);
        // The usual case costs no locked instruction. Marking the page takes the bit away, so the bit says that
        // whoever marks it later knows of this writer.
        let is_known = page.load(Ordering::SeqCst) & (writer | CODE) == writer;
        is_known || page.fetch_or(writer, Ordering::SeqCst) & CODE == 0
    }

    /// Notes a write by somebody who is not a vCPU. Its bytes are there already.
    pub fn wrote(&self, gfn: Gfn) {
        let Some(page) = self.page(gfn) else { return };
        // A locked instruction: the look at the mark comes after the write, for everybody.
        if page.fetch_or(DIRTY, Ordering::SeqCst) & CODE != 0 {
            let watchers = self.watchers.read();
            for watcher in watchers.iter().filter_map(Weak::upgrade) {
                watcher.code_written(gfn);
            }
        }
    }
}

/// The notes of one slot, in the form that vm-memory calls after each of its writes.
#[derive(Clone, Debug)]
pub struct SlotNotes {
    notes: Arc<PageNotes>,
    /// Guest physical address of offset 0.
    base: u64,
}

impl SlotNotes {
    pub(crate) fn new(notes: Arc<PageNotes>, base: u64) -> SlotNotes {
        SlotNotes { notes, base }
    }
}

impl WithBitmapSlice<'_> for SlotNotes {
    type S = SlotNotes;
}

impl BitmapSlice for SlotNotes {}

impl Bitmap for SlotNotes {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let first = (self.base + offset as u64) / PAGE_SIZE;
        let last = (self.base + (offset + len - 1) as u64) / PAGE_SIZE;
        for gfn in first..=last {
            self.notes.wrote(Gfn(gfn));
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let gfn = Gfn((self.base + offset as u64) / PAGE_SIZE);
        self.notes
            .page(gfn)
            .is_some_and(|page| page.load(Ordering::SeqCst) & DIRTY != 0)
    }

    fn slice_at(&self, offset: usize) -> SlotNotes {
        SlotNotes {
            notes: Arc::clone(&self.notes),
            base: self.base + offset as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_becomes_code_knows_its_writers_and_takes_no_new_ones() {
        let notes = PageNotes::new(vec![(Gfn(0), 0, 4)]);
        let page = Gfn(2);
        assert!(
            notes.add_writer(page, 1) && notes.add_writer(page, 1) && notes.add_writer(page, 3)
        );
        let writers = notes.add_code(page);
        let found: Vec<usize> = (0..8).filter(|&index| writers.may_have(index)).collect();
        assert_eq!(found, [1, 3]);
        assert!(!notes.add_writer(page, 1), "it is code");
        notes.remove_code(page);
        assert!(notes.add_writer(page, 1));
        assert!(notes.add_writer(Gfn(3), 0), "other pages are not touched");
        assert!(!notes.add_writer(Gfn(9), 0), "there is no such page");
    }
}
