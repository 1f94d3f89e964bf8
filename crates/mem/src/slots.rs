//! Where guest physical memory lies, and where in its file.

use x86::{Gpa, PAGE_SIZE};

/// A stretch of guest physical memory backed by host memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memslot {
    /// First address.
    pub gpa: Gpa,
    /// Its length.
    pub len_bytes: u64,
    /// Where it starts in the memory file.
    pub file_offset: u64,
}

impl Memslot {
    /// First address behind the slot.
    pub fn end(&self) -> Gpa {
        Gpa(self.gpa.0 + self.len_bytes)
    }
}

/// Every memslot of a VM, lowest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Slots(pub(crate) Vec<Memslot>);

impl Slots {
    /// Adds a slot behind the others.
    ///
    /// # Panics
    /// If it is empty, not page-aligned, or not above the last slot: the plan lays slots out in order.
    pub fn push(&mut self, gpa: Gpa, len_bytes: u64) {
        assert!(
            gpa.is_page_aligned() && len_bytes.is_multiple_of(PAGE_SIZE),
            "the plan rounds slots to pages"
        );
        assert!(len_bytes > 0, "a slot has pages");
        let (end, file_offset) = self.0.last().map_or((Gpa(0), 0), |last| {
            (last.end(), last.file_offset + last.len_bytes)
        });
        assert!(gpa >= end, "slots are laid out lowest first");
        self.0.push(Memslot {
            gpa,
            len_bytes,
            file_offset,
        });
    }

    /// The slots.
    pub fn as_slice(&self) -> &[Memslot] {
        &self.0
    }

    /// Bytes in all slots.
    pub fn len_bytes(&self) -> u64 {
        self.0.iter().map(|slot| slot.len_bytes).sum()
    }
}
