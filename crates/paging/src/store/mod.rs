//! Where pages lie that are not in guest memory: compressed in memory, and behind that in a file.
//!
//! What is kept is found by [`EntryId`]. Pages with the same bytes are one entry, counted; a page of one repeated word
//! takes no bytes at all. Every entry has the checksum of the whole page, and what does not match it is not given out.
//! Entries leave memory for the file oldest first, in segments, and only a full file and full memory together refuse
//! a page. Writing and reading the file is done by whoever holds this store's lock not: see [`Batch`] and [`InFile`].

mod codec;
mod file;
mod slabs;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

pub(crate) use codec::{Packed, checksum, pack, repeat, unpack};
pub use file::PageFile;
pub(crate) use file::{Medium, SEGMENT_BYTES};

use crate::memory::PageBytes;
use file::{Extent, Segments};
use slabs::{Slabs, Slot};

/// Which entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct EntryId(u32);

#[derive(Clone, Copy, Debug)]
enum Place {
    Repeats(u64),
    Memory(Slot),
    File(Extent),
}

#[derive(Debug)]
struct Entry {
    /// How many pages of the guest it stands for.
    uses: u32,
    sum: u64,
    /// Tells this entry from others that had its id before.
    born: u64,
    place: Place,
}

/// There is no room for a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

/// What is stored, in pages of the guest and in bytes of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreTotals {
    /// Pages of one word.
    pub repeating_pages: u64,
    /// Pages whose bytes are in memory.
    pub memory_pages: u64,
    /// Pages whose bytes are in the file.
    pub file_pages: u64,
    /// Pages that are the same as another one and cost nothing.
    pub shared_pages: u64,
    /// Memory that the store holds for pages, gaps included.
    pub memory_bytes: u64,
    /// Bytes of pages in the file.
    pub file_bytes: u64,
    /// What of the file is taken, gaps included.
    pub file_held_bytes: u64,
}

/// Bytes on their way to the file.
pub(crate) struct Batch {
    medium: Arc<dyn Medium>,
    segment: u32,
    bytes: Vec<u8>,
    entries: Vec<(EntryId, u64, Extent)>,
    /// Entries whose bytes have to be read from the file first: a segment is being emptied.
    reads: Vec<(Extent, usize)>,
}

impl Batch {
    /// One for this segment, with nothing in it.
    fn new(medium: Arc<dyn Medium>, segment: u32) -> Batch {
        Batch {
            medium,
            segment,
            bytes: Vec::new(),
            entries: Vec::new(),
            reads: Vec::new(),
        }
    }
}

/// An entry whose bytes are in the file.
pub(crate) struct InFile {
    medium: Arc<dyn Medium>,
    extent: Extent,
    sum: u64,
    /// For [`Store::is_still`].
    pub(crate) born: u64,
}

impl std::fmt::Debug for InFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InFile")
            .field("extent", &self.extent)
            .finish_non_exhaustive()
    }
}

/// What an entry is.
pub(crate) enum Kept {
    /// The page; `None` if its bytes are not what they were.
    Here(Option<Box<PageBytes>>),
    /// It has to be read.
    InFile(InFile),
}

/// Why a page could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read a page from the page file")]
    Read(#[source] io::Error),
    /// What comes back is not what was put away.
    #[error("a stored page is not what was stored: its checksum is wrong")]
    Checksum,
}

impl InFile {
    /// Reads the page.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(crate) fn read(&self) -> Result<PageBytes, ReadError> {
        let mut bytes = [0; size_of::<PageBytes>()];
        let bytes = &mut bytes[..usize::from(self.extent.len_bytes)];
        self.medium
            .read(bytes, self.extent.position())
            .map_err(ReadError::Read)?;
        unpack(bytes, self.sum).ok_or(ReadError::Checksum)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Store {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_sum: HashMap<u64, EntryId>,
    slabs: Slabs,
    memory_budget: u64,
    file: Option<Segments>,
    /// Entries in memory, oldest first; those that are gone meanwhile among them.
    queue: VecDeque<(EntryId, u64)>,
    next_born: u64,
    totals: StoreTotals,
}

impl Store {
    /// A store that takes so much memory, and so much of a file.
    pub(crate) fn new(memory_budget: u64, file: Option<(Arc<dyn Medium>, u64)>) -> Store {
        Store {
            entries: Vec::new(),
            free: Vec::new(),
            by_sum: HashMap::new(),
            slabs: Slabs::default(),
            memory_budget,
            file: file.map(|(medium, budget)| Segments::new(medium, budget)),
            queue: VecDeque::new(),
            next_born: 0,
            totals: StoreTotals::default(),
        }
    }

    /// Keeps a page. `sum` and `packed` are of `page`, computed by the caller, who needs no lock for that.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn keep(
        &mut self,
        page: &PageBytes,
        sum: u64,
        packed: &Packed,
    ) -> Result<EntryId, Full> {
        if let Some(&id) = self.by_sum.get(&sum)
            && self.is_same(id, page)
        {
            self.entry_mut(id).uses += 1;
            self.totals.shared_pages += 1;
            return Ok(id);
        }
        let place = match packed {
            Packed::Repeats(word) => {
                self.totals.repeating_pages += 1;
                Place::Repeats(*word)
            }
            Packed::Bytes(bytes) => {
                if self.slabs.held_bytes() + self.slabs.cost_bytes(bytes.len()) > self.memory_budget
                {
                    return Err(Full);
                }
                self.totals.memory_pages += 1;
                Place::Memory(self.slabs.add(bytes))
            }
        };
        let born = self.next_born;
        self.next_born += 1;
        let entry = Some(Entry {
            uses: 1,
            sum,
            born,
            place,
        });
        let id = match self.free.pop() {
            Some(at) => {
                self.entries[at as usize] = entry;
                EntryId(at)
            }
            None => {
                self.entries.push(entry);
                EntryId(self.entries.len() as u32 - 1)
            }
        };
        self.by_sum.insert(sum, id);
        if matches!(place, Place::Memory(_)) {
            self.queue.push_back((id, born));
        }
        Ok(id)
    }

    /// Whether an entry with the same checksum has the same bytes. One in the file counts as another: reading it costs
    /// more than keeping the page twice.
    fn is_same(&self, id: EntryId, page: &PageBytes) -> bool {
        matches!(self.get(id), Kept::Here(Some(kept)) if *kept == *page)
    }

    fn entry(&self, id: EntryId) -> &Entry {
        self.entries[id.0 as usize]
            .as_ref()
            .expect("an entry lives as long as a page uses it")
    }

    fn entry_mut(&mut self, id: EntryId) -> &mut Entry {
        self.entries[id.0 as usize]
            .as_mut()
            .expect("an entry lives as long as a page uses it")
    }

    /// What an entry is.
    pub(crate) fn get(&self, id: EntryId) -> Kept {
        let entry = self.entry(id);
        match (entry.place, &self.file) {
            (Place::Repeats(word), _) => Kept::Here(Some(Box::new(repeat(word)))),
            (Place::Memory(slot), _) => {
                Kept::Here(unpack(self.slabs.get(slot), entry.sum).map(Box::new))
            }
            (Place::File(extent), Some(file)) => Kept::InFile(InFile {
                medium: file.medium(),
                extent,
                sum: entry.sum,
                born: entry.born,
            }),
            (Place::File(_), None) => unreachable!("only a store with a file puts pages there"),
        }
    }

    /// Whether an entry is the one that was looked at.
    pub(crate) fn is_still(&self, id: EntryId, born: u64) -> bool {
        self.entries
            .get(id.0 as usize)
            .is_some_and(|entry| entry.as_ref().is_some_and(|e| e.born == born))
    }

    /// Whether an entry still lies where it was to be read: if not, what was read there means nothing.
    pub(crate) fn is_still_at(&self, id: EntryId, read: &InFile) -> bool {
        self.is_still(id, read.born)
            && matches!(self.entry(id).place, Place::File(extent) if extent == read.extent)
    }

    /// One page less uses an entry.
    pub(crate) fn release(&mut self, id: EntryId) {
        let entry = self.entry_mut(id);
        if entry.uses > 1 {
            entry.uses -= 1;
            self.totals.shared_pages -= 1;
            return;
        }
        let sum = entry.sum;
        let place = entry.place;
        match place {
            Place::Repeats(_) => self.totals.repeating_pages -= 1,
            Place::Memory(slot) => {
                self.slabs.remove(slot);
                self.totals.memory_pages -= 1;
            }
            Place::File(extent) => {
                self.file
                    .as_mut()
                    .expect("the entry is in it")
                    .remove(extent);
                self.totals.file_pages -= 1;
            }
        }
        if self.by_sum.get(&sum) == Some(&id) {
            self.by_sum.remove(&sum);
        }
        self.entries[id.0 as usize] = None;
        self.free.push(id.0);
    }

    /// What is stored.
    pub(crate) fn totals(&self) -> StoreTotals {
        StoreTotals {
            memory_bytes: self.slabs.held_bytes(),
            file_bytes: self.file.as_ref().map_or(0, Segments::live_bytes),
            file_held_bytes: self.file.as_ref().map_or(0, Segments::held_bytes),
            ..self.totals
        }
    }

    /// Memory that the store may take.
    pub(crate) fn memory_budget(&self) -> u64 {
        self.memory_budget
    }

    /// Gives it another budget. What it holds already stays until it is used or written to the file.
    pub(crate) fn set_memory_budget(&mut self, bytes: u64) {
        self.memory_budget = bytes;
    }

    /// Whether pages should go to the file, ahead of the moment when there is no room.
    pub(crate) fn wants_to_spill(&self) -> bool {
        self.file.is_some() && self.slabs.held_bytes() > self.memory_budget - self.memory_budget / 8
    }

    /// Takes the oldest entries for the file: as many as a segment holds. `None` if it has no room.
    pub(crate) fn begin_spill(&mut self) -> Option<Batch> {
        let file = self.file.as_mut()?;
        let Some(segment) = file.reserve(false) else {
            return self.begin_tidying();
        };
        let medium = file.medium();
        let mut batch = Batch::new(medium, segment);
        while let Some(&(id, born)) = self.queue.front() {
            if self.is_still(id, born)
                && let Place::Memory(slot) = self.entry(id).place
            {
                let bytes = self.slabs.get(slot);
                if batch.bytes.len() + bytes.len() > SEGMENT_BYTES as usize {
                    break;
                }
                batch.add(id, born, bytes.len());
                batch.bytes.extend_from_slice(bytes);
            }
            self.queue.pop_front();
        }
        if batch.entries.is_empty() {
            self.file
                .as_mut()
                .expect("looked at above")
                .give_back(segment);
            return None;
        }
        Some(batch)
    }

    /// Whether so much of what the file holds is gaps that it should be tidied up.
    pub(crate) fn wants_to_tidy(&self) -> bool {
        self.file.as_ref().is_some_and(Segments::is_untidy)
    }

    /// Takes what is alive in the emptiest segments, to write it to the one that is kept for this.
    pub(crate) fn begin_tidying(&mut self) -> Option<Batch> {
        let file = self.file.as_mut()?;
        let sources = file.worth_tidying();
        if sources.is_empty() {
            return None;
        }
        let segment = file.reserve(true)?;
        let medium = file.medium();
        let mut batch = Batch::new(medium, segment);
        for (index, entry) in self.entries.iter().enumerate() {
            if let Some(Entry {
                place: Place::File(extent),
                born,
                ..
            }) = entry
                && sources.contains(&extent.segment)
            {
                batch.reads.push((*extent, batch.bytes.len()));
                batch.add(EntryId(index as u32), *born, usize::from(extent.len_bytes));
                batch
                    .bytes
                    .resize(batch.bytes.len() + usize::from(extent.len_bytes), 0);
            }
        }
        Some(batch)
    }

    /// A batch was written, or was not and everything stays where it is.
    pub(crate) fn end_spill(&mut self, batch: Batch, written: bool) {
        let file = self.file.as_mut().expect("batches are for the file");
        if !written {
            file.give_back(batch.segment);
            for (id, born, _) in batch.entries.into_iter().rev() {
                self.queue.push_front((id, born));
            }
            return;
        }
        let mut is_empty = true;
        for (id, born, extent) in batch.entries {
            let Some(Some(entry)) = self.entries.get_mut(id.0 as usize) else {
                continue;
            };
            if entry.born != born {
                continue;
            }
            match entry.place {
                Place::Memory(slot) => {
                    self.slabs.remove(slot);
                    self.totals.memory_pages -= 1;
                    self.totals.file_pages += 1;
                }
                Place::File(old) => file.remove(old),
                Place::Repeats(_) => unreachable!("pages of one word have no bytes to write"),
            }
            entry.place = Place::File(extent);
            file.add(extent);
            is_empty = false;
        }
        if is_empty {
            file.give_back(batch.segment);
        }
    }
}

impl Batch {
    fn add(&mut self, id: EntryId, born: u64, len: usize) {
        let offset = self
            .entries
            .last()
            .map_or(0, |(_, _, last)| last.offset + u32::from(last.len_bytes));
        let extent = Extent {
            segment: self.segment,
            offset,
            len_bytes: len as u16,
        };
        self.entries.push((id, born, extent));
    }

    /// Writes it. Slow; needs no lock.
    ///
    /// # Errors
    /// What the host says.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        for (extent, at) in &self.reads {
            let end = at + usize::from(extent.len_bytes);
            self.medium
                .read(&mut self.bytes[*at..end], extent.position())?;
        }
        self.medium
            .write(&self.bytes, u64::from(self.segment) * SEGMENT_BYTES)
    }
}
