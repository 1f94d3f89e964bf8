//! Private memory of a process, read through `/proc/PID/mem`, and only where that changes nothing.
//!
//! The page map (kernel documentation, admin-guide/mm/pagemap) says of each page whether it is there. One that its process
//! never touched is zeros and is not read: the kernel would make it. One that is in swap is not read either: it would come
//! back. Between the map's word and the read a page may go; then one page is brought back, which is told nowhere and
//! costs what the process itself would have paid.

use std::fs::File;
use std::os::unix::fs::FileExt;

use insight::{Extent, FileSlot, Memory, Unreadable};
use x86::{Gpa, PAGE_SIZE};

/// Pages that are asked about at once.
const ASKED_PAGES: u64 = 1 << 16;
/// Pages that are read at once.
const STRETCH_PAGES: u64 = 256;
const ENTRY: usize = 8;
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;

/// See the module's head.
pub(super) struct ProcessMemory {
    mem: File,
    pagemap: File,
    /// Places are addresses in the process.
    slots: Vec<FileSlot>,
}

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whereabouts {
    Untouched,
    There,
    Swapped,
}

fn whereabouts(entry: u64) -> Whereabouts {
    match entry {
        entry if entry & PRESENT != 0 => Whereabouts::There,
        entry if entry & SWAPPED != 0 => Whereabouts::Swapped,
        _ => Whereabouts::Untouched,
    }
}

impl ProcessMemory {
    /// Memory at these addresses of the process whose files these are.
    pub(super) fn new(mem: File, pagemap: File, mut slots: Vec<FileSlot>) -> ProcessMemory {
        slots.sort_by_key(|slot| slot.gpa);
        ProcessMemory {
            mem,
            pagemap,
            slots,
        }
    }

    fn slot(&self, gpa: Gpa) -> Option<&FileSlot> {
        FileSlot::of(&self.slots, gpa)
    }

    fn pages(&self, gpa: Gpa, address: u64, count: u64) -> Result<Vec<Whereabouts>, Unreadable> {
        let mut bytes = vec![0; count as usize * ENTRY];
        let read = self
            .pagemap
            .read_exact_at(&mut bytes, address / PAGE_SIZE * ENTRY as u64);
        read.map_err(|error| Unreadable::Host(gpa, format!("its page map: {error}")))?;
        let entries = bytes.as_chunks::<ENTRY>().0.iter();
        Ok(entries
            .map(|entry| whereabouts(u64::from_le_bytes(*entry)))
            .collect())
    }

    /// Fills `bytes`, which lie in one slot at this address of the process.
    fn read_stretch(&self, gpa: Gpa, address: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let skip = address % PAGE_SIZE;
        let count = (skip + bytes.len() as u64).div_ceil(PAGE_SIZE);
        let pages = self.pages(gpa, address, count)?;
        let mut at = 0;
        for run in pages.chunk_by(|one, next| one == next) {
            let offset = if at == 0 { skip } else { 0 };
            let len = (run.len() as u64 * PAGE_SIZE - offset).min(bytes.len() as u64 - at);
            let part = &mut bytes[at as usize..(at + len) as usize];
            let place = Gpa(gpa.0 + at);
            match run[0] {
                Whereabouts::Untouched => part.fill(0),
                Whereabouts::There => {
                    let read = self.mem.read_exact_at(part, address + at);
                    read.map_err(|error| Unreadable::Host(place, error.to_string()))?;
                }
                Whereabouts::Swapped => {
                    let why = "it is in the host's swap, and reading it would bring it back";
                    return Err(Unreadable::PagedOut(place, why.to_owned()));
                }
            }
            at += len;
        }
        Ok(())
    }
}

impl Memory for ProcessMemory {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let mut at = gpa;
        let mut rest = bytes;
        while !rest.is_empty() {
            let slot = self.slot(at).ok_or(Unreadable::NoMemory(at))?;
            let inside = at.0 - slot.gpa.0;
            let len = (slot.len_bytes - inside)
                .min(STRETCH_PAGES * PAGE_SIZE)
                .min(rest.len() as u64);
            let (now, later) = rest.split_at_mut(len as usize);
            self.read_stretch(at, slot.file_offset + inside, now)?;
            at = Gpa(at.0 + len);
            rest = later;
        }
        Ok(())
    }

    fn extents(&self) -> Vec<Extent> {
        self.slots.iter().map(FileSlot::extent).collect()
    }

    fn next_data(&self, gpa: Gpa) -> Option<Gpa> {
        let slot = self.slot(gpa)?;
        let mut at = gpa.0 - gpa.page_offset();
        let end = slot.gpa.0 + slot.len_bytes;
        while at < end {
            let count = ((end - at).div_ceil(PAGE_SIZE)).min(ASKED_PAGES);
            let address = slot.file_offset + (at - slot.gpa.0);
            let Ok(pages) = self.pages(gpa, address, count) else {
                return Some(gpa);
            };
            let touched = |page: &Whereabouts| *page != Whereabouts::Untouched;
            if let Some(first) = pages.iter().position(touched) {
                return Some(Gpa((at + first as u64 * PAGE_SIZE).max(gpa.0)));
            }
            at += count * PAGE_SIZE;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_where_the_map_says_it_is_and_nowhere_else() {
        // Files in place of the kernel's: four pages at address 0x1000, of which the last is in swap.
        let mem = tempfile::tempfile().unwrap();
        mem.set_len(0x5000).unwrap();
        mem.write_all_at(b"here", 0x1ffe).unwrap();
        mem.write_all_at(b"never read", 0x3000).unwrap();
        let pagemap = tempfile::tempfile().unwrap();
        for (entry, page) in [PRESENT, PRESENT, 0, SWAPPED].iter().zip(1_u64..) {
            pagemap
                .write_all_at(&entry.to_le_bytes(), page * 8)
                .unwrap();
        }
        let slot = FileSlot {
            gpa: Gpa(0x10_0000),
            len_bytes: 0x4000,
            file_offset: 0x1000,
        };
        let memory = ProcessMemory::new(mem, pagemap, vec![slot]);
        let read = |gpa, len| {
            let mut bytes = vec![0xee; len];
            memory.read(Gpa(gpa), &mut bytes).map(|()| bytes)
        };
        assert_eq!(read(0x10_0ffe, 4).unwrap(), b"here");
        assert_eq!(read(0x10_1001, 4).unwrap(), b"e\0\0\0");
        assert_eq!(read(0x10_2000, 10).unwrap(), [0; 10], "untouched is zeros");
        assert!(matches!(
            read(0x10_2ff0, 0x20),
            Err(Unreadable::PagedOut(Gpa(0x10_3000), _))
        ));
        assert!(matches!(read(0x10_4000, 1), Err(Unreadable::NoMemory(_))));
        assert_eq!(memory.next_data(Gpa(0x10_2008)), Some(Gpa(0x10_3000)));
        assert_eq!(memory.next_data(Gpa(0x10_1008)), Some(Gpa(0x10_1008)));
    }
}
