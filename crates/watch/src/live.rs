//! The memory of a VM that runs, read with `pread` over the descriptors its process gave.
//!
//! Nothing is mapped: a read through a mapping would allocate guest memory where the guest never wrote. Where a pager
//! has taken pages, the residency map says so; a page is believed only if the map said the same before and after the
//! read, namely that the file has it. The contents of others are asked of the VM's process, which takes them from its
//! store and brings nothing in: looking changes nothing.
//!
//! The map counts how often a page went and came, so any number that it ever gave for a page stands for the one before:
//! what it says after one read is kept for the next. A page that it never said anything of began with zero, in the file.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fleet::{Client, ClientError, MemoryFiles, OneVm};
use insight::{Extent, FileMemory, FileSlot, Memory, Unreadable};
use schemars::JsonSchema;
use serde::Serialize;
use x86::{Gpa, PAGE_SIZE};

use crate::stored::StoredPages;

/// Pages that are read at once if the pager has none of them.
const STRETCH_PAGES: u64 = 256;
/// Pages that are asked about at once: a line holds so many, wherever they are.
const ASKED_PAGES: usize = 2048;
/// How often a page that comes and goes is read again.
const TRIES: u32 = 4;
/// Most pages that a stretch touches: it may begin and end within one.
const NUMBERS: usize = STRETCH_PAGES as usize + 1;

/// What reading cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, JsonSchema, Serialize)]
pub struct LiveCost {
    /// Bytes read.
    pub bytes: u64,
    /// System calls.
    pub reads: u64,
    /// Pages that went away or came while they were read, and were read again.
    pub torn: u64,
    /// Pages that the pager had, and gave.
    pub stored: u64,
}

/// Whether a page with this number in the residency map is in the file; another number later means that it was elsewhere
/// meanwhile.
fn is_here(number: u32) -> bool {
    number.is_multiple_of(2)
}

/// What the residency map says of some pages.
#[derive(Clone, Copy, Debug)]
struct Found {
    /// All are in the file.
    are_here: bool,
    /// None has gone or come since the map was asked before.
    are_as_before: bool,
}

/// Guest memory as it is now and goes on to be.
#[derive(Debug)]
pub struct LiveMemory {
    memory: FileMemory,
    slots: Vec<FileSlot>,
    residency: Option<File>,
    /// The last number that the residency map gave for a page of the file, where that is not zero.
    last: Mutex<HashMap<u64, u32>>,
    bytes: AtomicU64,
    reads: AtomicU64,
    torn: AtomicU64,
    stored: AtomicU64,
    life: u64,
    /// Whom to ask for pages that the pager has, and the connection, once there is one.
    vm: Option<OneVm>,
    client: Mutex<Option<Client>>,
    /// What it has given.
    given: Mutex<StoredPages>,
}

/// What is said when a page that was asked for does not come.
fn no_page(gpa: Gpa) -> Unreadable {
    Unreadable::PagedOut(gpa, "the VM's process gave no page".to_owned())
}

/// Takes a lock; what a thread that panicked under it has left is used like any other.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LiveMemory {
    /// Over what a VM's process gave. With the `vm`, pages that the pager has can be read too.
    pub fn new(files: MemoryFiles, vm: Option<OneVm>) -> LiveMemory {
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
            last: Mutex::default(),
            bytes: zero(),
            reads: zero(),
            torn: zero(),
            stored: zero(),
            life: files.view.life,
            vm,
            client: Mutex::new(None),
            given: Mutex::default(),
        }
    }

    /// What reading has cost so far.
    pub fn cost(&self) -> LiveCost {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LiveCost {
            bytes: get(&self.bytes),
            reads: get(&self.reads),
            torn: get(&self.torn),
            stored: get(&self.stored),
        }
    }

    fn count(&self, reads: u64, bytes: usize) {
        self.reads.fetch_add(reads, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What the residency map says of pages from `file_page` on; see [`is_here`].
    fn whereabouts(
        residency: &File,
        gpa: Gpa,
        file_page: u64,
        page_count: u64,
    ) -> Result<Vec<u32>, Unreadable> {
        const LEN: usize = size_of::<u32>();
        let mut bytes = vec![0; page_count as usize * LEN];
        let read = residency.read_exact_at(&mut bytes, file_page * LEN as u64);
        read.map_err(|source| Unreadable::Host(gpa, source.to_string()))?;
        Ok(bytes
            .as_chunks::<LEN>()
            .0
            .iter()
            .map(|number| u32::from_le_bytes(*number))
            .collect())
    }

    /// Reads what the file has of pages from `file_page` on, and then asks the residency map of them: only what is here,
    /// and was when the map was last asked, is what the guest has. Not for more than [`NUMBERS`] pages.
    fn read_here(
        &self,
        residency: &File,
        gpa: Gpa,
        file_page: u64,
        bytes: &mut [u8],
    ) -> Result<Found, Unreadable> {
        const LEN: usize = size_of::<u32>();
        // Over both reads: who asks meanwhile would put a number of later in the place of the one before.
        let mut last = lock(&self.last);
        self.memory.read(gpa, bytes)?;
        self.count(2, bytes.len());
        let page_count = (gpa.page_offset() + bytes.len() as u64).div_ceil(PAGE_SIZE) as usize;
        let mut numbers = [0; NUMBERS * LEN];
        let numbers = &mut numbers[..page_count * LEN];
        let asked = residency.read_exact_at(numbers, file_page * LEN as u64);
        asked.map_err(|source| Unreadable::Host(gpa, source.to_string()))?;
        let mut found = Found {
            are_here: true,
            are_as_before: true,
        };
        for (number, page) in numbers.as_chunks::<LEN>().0.iter().zip(file_page..) {
            let number = u32::from_le_bytes(*number);
            let before = if number == 0 {
                last.remove(&page)
            } else {
                last.insert(page, number)
            };
            found.are_here &= is_here(number);
            found.are_as_before &= before.unwrap_or_default() == number;
        }
        Ok(found)
    }

    /// Reads a stretch of a slot; false if the pager had a page of it.
    fn read_stretch(
        &self,
        residency: &File,
        gpa: Gpa,
        bytes: &mut [u8],
    ) -> Result<bool, Unreadable> {
        let first = self.file_page(gpa).ok_or(Unreadable::NoMemory(gpa))?;
        let found = self.read_here(residency, gpa, first, bytes)?;
        Ok(found.are_here && found.are_as_before)
    }

    /// Reads what lies in one page, wherever that is.
    fn read_page(&self, residency: &File, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let file_page = self.file_page(gpa).ok_or(Unreadable::NoMemory(gpa))?;
        for attempt in 0..TRIES {
            let found = self.read_here(residency, gpa, file_page, bytes)?;
            if !found.are_here {
                break;
            }
            if found.are_as_before {
                return Ok(());
            }
            // The first time it may have moved long ago.
            self.torn
                .fetch_add(u64::from(attempt > 0), Ordering::Relaxed);
        }
        // The VM's process knows, however it comes and goes.
        self.read_stored(residency, gpa, file_page, bytes)
    }

    fn read_by_page(&self, residency: &File, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let mut at = gpa;
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = ((PAGE_SIZE - at.page_offset()) as usize).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            self.read_page(residency, at, now)?;
            at = Gpa(at
                .0
                .checked_add(len as u64)
                .ok_or(Unreadable::NoMemory(at))?);
            rest = later;
        }
        Ok(())
    }

    /// Reads from a page that the pager has.
    fn read_stored(
        &self,
        residency: &File,
        gpa: Gpa,
        file_page: u64,
        bytes: &mut [u8],
    ) -> Result<(), Unreadable> {
        let at = gpa.page_offset() as usize;
        let number = lock(&self.last)
            .get(&file_page)
            .copied()
            .unwrap_or_default();
        if let Some(page) = lock(&self.given).get(file_page, number) {
            bytes.copy_from_slice(&page[at..at + bytes.len()]);
            return Ok(());
        }
        let page = self.ask_for(gpa, &[file_page])?.swap_remove(0);
        let part = page.get(at..at + bytes.len()).ok_or_else(|| no_page(gpa))?;
        bytes.copy_from_slice(part);
        // What the guest had in its hands meanwhile may be another page already.
        if LiveMemory::whereabouts(residency, gpa, file_page, 1)? == [number] && !is_here(number) {
            lock(&self.given).keep(file_page, number, &page);
        }
        Ok(())
    }

    /// Reads whole pages of a slot: what the file has in one piece, what the pager has in as few questions as may be. For who
    /// reads all of memory, and each page once.
    fn read_pages(&self, residency: &File, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let first = self.file_page(gpa).ok_or(Unreadable::NoMemory(gpa))?;
        let count = bytes.len() as u64 / PAGE_SIZE;
        let before = LiveMemory::whereabouts(residency, gpa, first, count)?;
        self.memory.read(gpa, bytes)?;
        let after = LiveMemory::whereabouts(residency, gpa, first, count)?;
        self.count(3, bytes.len());
        let (pages, _) = bytes.as_chunks_mut::<{ PAGE_SIZE as usize }>();
        let is_away = |place: &usize| before[*place] != after[*place] || !is_here(after[*place]);
        let away: Vec<usize> = (0..pages.len()).filter(is_away).collect();
        for places in away.chunks(api::STORED_PAGES_MAX) {
            let file_pages: Vec<u64> = places.iter().map(|place| first + *place as u64).collect();
            for (place, stored) in places.iter().zip(self.ask_for(gpa, &file_pages)?) {
                let page = pages
                    .get_mut(*place)
                    .filter(|page| page.len() == stored.len());
                let page = page.ok_or_else(|| no_page(gpa))?;
                page.copy_from_slice(&stored);
            }
        }
        Ok(())
    }

    /// Asks the VM's process for pages, at most [`api::STORED_PAGES_MAX`], wherever they are.
    fn ask_for(&self, gpa: Gpa, file_pages: &[u64]) -> Result<Vec<Vec<u8>>, Unreadable> {
        let paged_out = |why: String| Unreadable::PagedOut(gpa, why);
        let Some(vm) = &self.vm else {
            return Err(paged_out("its contents are with the pager".to_owned()));
        };
        let mut client = lock(&self.client);
        let mut ask = || {
            let client = match &mut *client {
                Some(client) => client,
                none => none.insert(vm.again()?),
            };
            client.stored_pages(self.life, file_pages)
        };
        // A connection that was silent for long is closed by the other side.
        let pages = ask().or_else(|_| {
            *client = None;
            let mut fresh = vm.again()?;
            let pages = fresh.stored_pages(self.life, file_pages);
            *client = Some(fresh);
            pages
        });
        let pages = pages.map_err(|error| paged_out(error.to_string()))?;
        if pages.len() != file_pages.len() {
            return Err(no_page(gpa));
        }
        self.stored.fetch_add(pages.len() as u64, Ordering::Relaxed);
        self.count(1, pages.iter().map(Vec::len).sum());
        Ok(pages)
    }

    /// Which of these pages were written since anybody asked for them last, which is all of them the first time. What
    /// was told is not told again: after an error any page may have been written.
    ///
    /// # Errors
    /// [`ClientError`]; a host that allows no paging refuses.
    pub fn written(&self, pages: &[Gpa]) -> Result<Vec<bool>, ClientError> {
        let file_pages: Option<Vec<u64>> = pages.iter().map(|page| self.file_page(*page)).collect();
        let (Some(file_pages), Some(vm)) = (file_pages, &self.vm) else {
            return Err(ClientError::Strange);
        };
        let mut client = lock(&self.client);
        let mut written = HashSet::new();
        for some in file_pages.chunks(ASKED_PAGES) {
            let asked = match client.take() {
                Some(client) => client,
                None => vm.again()?,
            };
            let found = client.insert(asked).written_pages(&stretches(some));
            if found.is_err() {
                *client = None;
            }
            written.extend(
                found?
                    .into_iter()
                    .flat_map(|(first, count)| first..first + count),
            );
        }
        Ok(file_pages
            .iter()
            .map(|page| written.contains(page))
            .collect())
    }

    fn file_page(&self, gpa: Gpa) -> Option<u64> {
        let slot = self
            .slots
            .iter()
            .find(|slot| gpa >= slot.gpa && gpa.0 - slot.gpa.0 < slot.len_bytes)?;
        Some((slot.file_offset + (gpa.0 - slot.gpa.0)) / PAGE_SIZE)
    }
}

/// Ascending numbers as first and count.
fn stretches(pages: &[u64]) -> Vec<(u64, u64)> {
    let runs = pages.chunk_by(|page, next| page + 1 == *next);
    runs.filter_map(|run| Some((*run.first()?, run.len() as u64)))
        .collect()
}

impl Memory for LiveMemory {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let Some(residency) = &self.residency else {
            self.count(1, bytes.len());
            return self.memory.read(gpa, bytes);
        };
        let mut at = gpa;
        let mut rest = bytes;
        while !rest.is_empty() {
            let slot = self
                .slots
                .iter()
                .find(|slot| at >= slot.gpa && at.0 - slot.gpa.0 < slot.len_bytes);
            let slot = slot.ok_or(Unreadable::NoMemory(at))?;
            let in_slot = slot.len_bytes - (at.0 - slot.gpa.0);
            let stretch = (STRETCH_PAGES * PAGE_SIZE - at.page_offset()).min(in_slot);
            let (now, later) = rest.split_at_mut(rest.len().min(stretch as usize));
            let is_whole = at.page_offset() == 0 && now.len().is_multiple_of(PAGE_SIZE as usize);
            if is_whole && now.len() > PAGE_SIZE as usize {
                self.read_pages(residency, at, now)?;
            } else if !self.read_stretch(residency, at, now)? {
                self.read_by_page(residency, at, now)?;
            }
            at = Gpa(at
                .0
                .checked_add(now.len() as u64)
                .ok_or(Unreadable::NoMemory(at))?);
            rest = later;
        }
        Ok(())
    }

    fn extents(&self) -> Vec<Extent> {
        self.memory.extents()
    }

    fn next_data(&self, gpa: Gpa) -> Option<Gpa> {
        let in_file = self.memory.next_data(gpa);
        let Some(residency) = &self.residency else {
            return in_file;
        };
        // A hole may be pages that are elsewhere. If the map cannot be read, nothing is passed over.
        let slot = self
            .slots
            .iter()
            .find(|slot| gpa >= slot.gpa && gpa.0 - slot.gpa.0 < slot.len_bytes)?;
        let end = in_file.map_or(slot.gpa.0 + slot.len_bytes, |data| data.0);
        let count = end.saturating_sub(gpa.0).div_ceil(PAGE_SIZE);
        let Ok(numbers) = LiveMemory::whereabouts(residency, gpa, self.file_page(gpa)?, count)
        else {
            return Some(gpa);
        };
        match numbers.iter().position(|&number| !is_here(number)) {
            Some(0) => Some(gpa),
            Some(pages) => Some(Gpa(gpa.0 - gpa.page_offset() + pages as u64 * PAGE_SIZE)),
            None => in_file,
        }
    }
}

#[cfg(test)]
mod tests {
    use api::{MemoryView, SlotView};

    use super::*;

    #[test]
    fn what_the_pager_has_is_not_taken_for_zeros() {
        let memory = tempfile::tempfile().unwrap();
        let residency = tempfile::tempfile().unwrap();
        memory.set_len(0x4000).unwrap();
        // Over the border of two pages; the third is a hole, and the fourth is away.
        memory.write_all_at(b"here", 0x0ffe).unwrap();
        // The first has been away and is back.
        [2_u32, 0, 0, 1].iter().zip(0..).for_each(|(number, page)| {
            residency
                .write_all_at(&number.to_le_bytes(), page * 4)
                .unwrap();
        });
        let map = residency.try_clone().unwrap();
        let live_memory = memory.try_clone().unwrap();
        let slots = vec![SlotView {
            gpa: 0x10_0000,
            len_bytes: 0x4000,
            file_offset: 0,
        }];
        let view = MemoryView {
            life: 0,
            slots,
            has_residency: true,
            kernel_sha256: None,
        };
        let live = LiveMemory::new(
            MemoryFiles {
                view,
                memory,
                residency: Some(residency),
                kernel: None,
            },
            None,
        );
        let read = |gpa, len| {
            let mut bytes = vec![0; len];
            live.read(Gpa(gpa), &mut bytes).map(|()| bytes)
        };
        assert_eq!(read(0x10_0ffe, 4).unwrap(), b"here");
        assert_eq!(read(0x10_2100, 2).unwrap(), [0, 0], "a hole is zeros");
        assert!(matches!(
            read(0x10_2ffe, 4),
            Err(Unreadable::PagedOut(Gpa(0x10_3000), _))
        ));
        assert!(matches!(read(0x10_4000, 1), Err(Unreadable::NoMemory(_))));
        assert_eq!(
            live.next_data(Gpa(0x10_2004)),
            Some(Gpa(0x10_3000)),
            "a page that is away is no hole"
        );
        assert!(live.cost().bytes >= 6 && live.cost().torn == 0);
        // A page that was here goes, and comes back with other bytes.
        map.write_all_at(&3_u32.to_le_bytes(), 0).unwrap();
        assert!(matches!(read(0x10_0ffe, 2), Err(Unreadable::PagedOut(..))));
        map.write_all_at(&4_u32.to_le_bytes(), 0).unwrap();
        live_memory.write_all_at(b"HE", 0x0ffe).unwrap();
        assert_eq!(read(0x10_0ffe, 4).unwrap(), b"HEre");
    }
}
