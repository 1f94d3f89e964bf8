//! Notes about each guest page: does it hold translated code, was it written.
//!
//! vCPUs of the software engine write guest memory without passing here: their TLB sends writes to a code page
//! the slow way. Devices write through `GuestMemory` or through rust-vmm's queues, and both end in
//! [`PageNotes::wrote`], so that a disk read into a page that was executed drops its translations.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};
use x86::{Gfn, PAGE_SIZE};

/// The page holds guest code that an engine has translated.
const CODE: u8 = 1 << 0;
/// The page was written since dirty notes were last taken.
const DIRTY: u8 = 1 << 1;

/// One byte of notes for each page of a VM's memory, by page index in the memory file.
#[derive(Debug)]
pub struct PageNotes {
    pages: Box<[AtomicU8]>,
    /// First frame of each slot and its first page index, lowest first.
    slots: Vec<(Gfn, usize, usize)>,
    code_written: AtomicBool,
    written: Mutex<Vec<Gfn>>,
}

impl PageNotes {
    pub(crate) fn new(slots: Vec<(Gfn, usize, usize)>) -> PageNotes {
        let count = slots.iter().map(|&(_, first, count)| first + count).max().unwrap_or(0);
        let pages = (0..count).map(|_| AtomicU8::new(0)).collect();
        PageNotes { pages, slots, code_written: AtomicBool::new(false), written: Mutex::new(Vec::new()) }
    }

    fn page(&self, gfn: Gfn) -> Option<&AtomicU8> {
        let &(first_gfn, first, count) = self.slots.iter().rev().find(|(first, ..)| *first <= gfn)?;
        let offset = (gfn.0 - first_gfn.0) as usize;
        if offset < count { self.pages.get(first + offset) } else { None }
    }

    /// Marks a frame as holding translated code. Returns whether it was not marked before.
    pub fn add_code(&self, gfn: Gfn) -> bool {
        self.page(gfn).is_some_and(|page| page.fetch_or(CODE, Ordering::AcqRel) & CODE == 0)
    }

    /// Takes the mark of [`PageNotes::add_code`] away.
    pub fn remove_code(&self, gfn: Gfn) {
        if let Some(page) = self.page(gfn) {
            page.fetch_and(!CODE, Ordering::AcqRel);
        }
    }

    /// Whether the frame holds translated code.
    pub fn is_code(&self, gfn: Gfn) -> bool {
        self.page(gfn).is_some_and(|page| page.load(Ordering::Acquire) & CODE != 0)
    }

    /// Notes a write by somebody who is not a vCPU.
    pub fn wrote(&self, gfn: Gfn) {
        let Some(page) = self.page(gfn) else { return };
        if page.fetch_or(DIRTY, Ordering::AcqRel) & CODE != 0 {
            self.written.lock().unwrap_or_else(PoisonError::into_inner).push(gfn);
            self.code_written.store(true, Ordering::Release);
        }
    }

    /// Whether a device wrote to code pages since [`PageNotes::take_code_writes`].
    pub fn has_code_writes(&self) -> bool {
        self.code_written.load(Ordering::Acquire)
    }

    /// The code pages that devices wrote to, each to be dropped from translation caches.
    pub fn take_code_writes(&self) -> Vec<Gfn> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        self.code_written.store(false, Ordering::Release);
        std::mem::take(&mut written)
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
        self.notes.page(gfn).is_some_and(|page| page.load(Ordering::Acquire) & DIRTY != 0)
    }

    fn slice_at(&self, offset: usize) -> SlotNotes {
        SlotNotes { notes: Arc::clone(&self.notes), base: self.base + offset as u64 }
    }
}
