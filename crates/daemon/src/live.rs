//! The memory of a VM that runs, read with `pread` over the descriptors its process gave.
//!
//! Nothing is mapped: a read through a mapping would allocate guest memory where the guest never wrote. Where a pager
//! has taken pages, the residency map says so; a page is believed only if the map said before and after the read that the
//! file has it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use insight::{Extent, FileMemory, FileSlot, Memory, Unreadable};
use serde::Serialize;
use x86::{Gpa, PAGE_SIZE};

use crate::client::MemoryFiles;

/// How often a page that comes and goes is read again.
const TRIES: u32 = 4;

/// What reading cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct LiveCost {
    /// Bytes read.
    pub bytes: u64,
    /// System calls.
    pub reads: u64,
    /// Pages that went away or came while they were read, and were read again.
    pub torn: u64,
}

/// Guest memory as it is now and goes on to be.
#[derive(Debug)]
pub struct LiveMemory {
    memory: FileMemory,
    slots: Vec<FileSlot>,
    residency: Option<File>,
    bytes: AtomicU64,
    reads: AtomicU64,
    torn: AtomicU64,
}

impl LiveMemory {
    /// Over what a VM's process gave.
    pub fn new(files: MemoryFiles) -> LiveMemory {
        let slot = |slot: &api::SlotView| FileSlot {
            gpa: Gpa(slot.gpa),
            len_bytes: slot.len_bytes,
            file_offset: slot.file_offset,
        };
        let slots: Vec<FileSlot> = files.view.slots.iter().map(slot).collect();
        let zero = || AtomicU64::new(0);
        LiveMemory {
            memory: FileMemory::new(files.memory, slots.clone()),
            slots,
            residency: files.residency,
            bytes: zero(),
            reads: zero(),
            torn: zero(),
        }
    }

    /// What reading has cost so far.
    pub fn cost(&self) -> LiveCost {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LiveCost { bytes: get(&self.bytes), reads: get(&self.reads), torn: get(&self.torn) }
    }

    fn count(&self, reads: u64, bytes: usize) {
        self.reads.fetch_add(reads, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Reads what lies in one page, if the pager has not got it.
    fn read_page(&self, residency: &File, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let file_page = self.file_page(gpa).ok_or(Unreadable::NoMemory(gpa))?;
        let away = || -> Result<bool, Unreadable> {
            let mut byte = [0];
            let read = residency.read_exact_at(&mut byte, file_page);
            read.map_err(|source| Unreadable::Host(gpa, source.to_string()))?;
            Ok(byte != [0])
        };
        for _ in 0..TRIES {
            if away()? {
                return Err(Unreadable::PagedOut(gpa, "its contents are with the pager".to_owned()));
            }
            self.memory.read(gpa, bytes)?;
            self.count(3, bytes.len());
            if !away()? {
                return Ok(());
            }
            self.torn.fetch_add(1, Ordering::Relaxed);
        }
        Err(Unreadable::PagedOut(gpa, "it comes and goes".to_owned()))
    }

    fn file_page(&self, gpa: Gpa) -> Option<u64> {
        let slot = self.slots.iter().find(|slot| gpa >= slot.gpa && gpa.0 - slot.gpa.0 < slot.len_bytes)?;
        Some((slot.file_offset + (gpa.0 - slot.gpa.0)) / PAGE_SIZE)
    }
}

impl Memory for LiveMemory {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let Some(residency) = &self.residency else {
            self.count(1, bytes.len());
            return self.memory.read(gpa, bytes);
        };
        let (mut at, mut rest) = (gpa, bytes);
        while !rest.is_empty() {
            let len = ((PAGE_SIZE - at.0 % PAGE_SIZE) as usize).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            self.read_page(residency, at, now)?;
            at = Gpa(at.0.checked_add(len as u64).ok_or(Unreadable::NoMemory(at))?);
            rest = later;
        }
        Ok(())
    }

    fn extents(&self) -> Vec<Extent> {
        self.memory.extents()
    }

    fn next_data(&self, gpa: Gpa) -> Option<Gpa> {
        match self.residency {
            // A hole may be a page that is elsewhere.
            Some(_) => Some(gpa),
            None => self.memory.next_data(gpa),
        }
    }
}

#[cfg(test)]
mod tests {
    use api::{MemoryView, SlotView};

    use super::*;

    #[test]
    fn what_the_pager_has_is_not_taken_for_zeros() {
        let (memory, residency) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        memory.set_len(0x4000).unwrap();
        memory.write_all_at(b"here", 0x1ffe).unwrap();
        residency.write_all_at(&[0, 0, 0, 1], 0).unwrap();
        let slots = vec![SlotView { gpa: 0x10_0000, len_bytes: 0x4000, file_offset: 0 }];
        let view = MemoryView { life: 0, slots, has_residency: true };
        let live = LiveMemory::new(MemoryFiles { view, memory, residency: Some(residency) });
        let read = |gpa, len| {
            let mut bytes = vec![0; len];
            live.read(Gpa(gpa), &mut bytes).map(|()| bytes)
        };
        assert_eq!(read(0x10_1ffe, 4).unwrap(), b"here");
        assert_eq!(read(0x10_2100, 2).unwrap(), [0, 0], "a hole is zeros");
        assert!(matches!(read(0x10_2ffe, 4), Err(Unreadable::PagedOut(Gpa(0x10_3000), _))));
        assert!(matches!(read(0x10_4000, 1), Err(Unreadable::NoMemory(_))));
        assert!(live.cost().bytes >= 6 && live.cost().torn == 0);
    }
}
