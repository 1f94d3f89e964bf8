//! Where a guest's memory is read from: a live VM, or an image file.
//!
//! Reading must not change what is measured: an implementation uses `pread`, never a mapping (a read fault in a
//! shared mapping would allocate the page), and never writes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use thiserror::Error;
use x86::Gpa;

/// Why bytes of guest memory could not be had.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// The guest has no memory there.
    #[error("there is no memory at {0}")]
    NoMemory(Gpa),
    /// The page is not resident and whoever has it did not give it.
    #[error("the page at {0} is paged out and could not be fetched: {1}")]
    PagedOut(Gpa, String),
    /// The host refused.
    #[error("reading at {0}: {1}")]
    Host(Gpa, String),
}

/// A stretch of guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts.
    pub start: Gpa,
    /// How long it is.
    pub len_bytes: u64,
}

/// A guest's physical memory, read only.
pub trait Memory: Send + Sync {
    /// Fills `bytes` from `gpa` on. All of it or an error; what `bytes` holds after an error does not matter.
    ///
    /// # Errors
    /// If any byte cannot be had.
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Unreadable>;

    /// The stretches of RAM, in ascending order, none overlapping.
    fn extents(&self) -> Vec<Extent>;

    /// Where, at `gpa` or behind it in the same stretch of RAM, the next bytes are that may not be zero; `None` if the
    /// rest of the stretch is untouched. Lets scans pass over what the guest was never given.
    fn next_data(&self, gpa: Gpa) -> Option<Gpa> {
        Some(gpa)
    }

    /// Whether a little read costs little: no system call, so that nothing is won by reading whole pages.
    fn is_cheap(&self) -> bool {
        false
    }
}

/// Where a stretch of guest memory lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSlot {
    /// Guest physical address.
    pub gpa: Gpa,
    /// Its length.
    pub len_bytes: u64,
    /// Position in the file.
    pub file_offset: u64,
}

impl FileSlot {
    /// The slot that has this address, of some that are sorted by theirs.
    pub fn of(slots: &[FileSlot], gpa: Gpa) -> Option<&FileSlot> {
        let after = slots.partition_point(|slot| slot.gpa <= gpa);
        let slot = slots.get(after.checked_sub(1)?)?;
        (gpa.0 - slot.gpa.0 < slot.len_bytes).then_some(slot)
    }

    /// What it spans in the guest.
    pub fn extent(&self) -> Extent {
        Extent {
            start: self.gpa,
            len_bytes: self.len_bytes,
        }
    }
}

/// Guest memory in a file: a dump, or the memory file of a running VM.
#[derive(Debug)]
pub struct FileMemory {
    file: File,
    slots: Vec<FileSlot>,
}

impl FileMemory {
    /// Memory in `file` where `slots` say.
    pub fn new(file: File, mut slots: Vec<FileSlot>) -> FileMemory {
        slots.sort_by_key(|slot| slot.gpa);
        FileMemory { file, slots }
    }

    fn slot(&self, gpa: Gpa) -> Option<&FileSlot> {
        FileSlot::of(&self.slots, gpa)
    }
}

impl Memory for FileMemory {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let mut at = gpa;
        let mut rest = bytes;
        while !rest.is_empty() {
            let slot = self.slot(at).ok_or(Unreadable::NoMemory(at))?;
            let inside = at.0 - slot.gpa.0;
            let len = (slot.len_bytes - inside).min(rest.len() as u64) as usize;
            let (now, later) = rest.split_at_mut(len);
            let refused = |source: io::Error| Unreadable::Host(at, source.to_string());
            self.file
                .read_exact_at(now, slot.file_offset + inside)
                .map_err(refused)?;
            at = Gpa(at.0 + len as u64);
            rest = later;
        }
        Ok(())
    }

    fn extents(&self) -> Vec<Extent> {
        self.slots.iter().map(FileSlot::extent).collect()
    }

    fn next_data(&self, gpa: Gpa) -> Option<Gpa> {
        let slot = self.slot(gpa)?;
        let position = slot.file_offset + (gpa.0 - slot.gpa.0);
        match rustix::fs::seek(&self.file, SeekFrom::Data(position)) {
            Ok(data) if data - slot.file_offset < slot.len_bytes => Some(Gpa(
                slot.gpa.0 + (data - slot.file_offset).max(gpa.0 - slot.gpa.0)
            )),
            Ok(_) | Err(rustix::io::Errno::NXIO) => None,
            // A file system that knows no holes.
            Err(_) => Some(gpa),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_with_a_gap_reads_what_is_there_and_names_what_is_not() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x6000).unwrap();
        file.write_all_at(b"low", 0x1ffe).unwrap();
        file.write_all_at(b"high", 0x4000).unwrap();
        let slots = [(0x10_0000, 0x3000, 0x2000), (0, 0x2000, 0)];
        let slot = |(gpa, len_bytes, file_offset)| FileSlot {
            gpa: Gpa(gpa),
            len_bytes,
            file_offset,
        };
        let memory = FileMemory::new(file, slots.map(slot).to_vec());
        let check = |gpa, len, expected: Result<&[u8], Unreadable>| {
            let mut bytes = vec![0; len];
            let read = memory.read(Gpa(gpa), &mut bytes).map(|()| bytes.as_slice());
            assert_eq!(read, expected, "{gpa:#x}");
        };
        check(0x1ffe, 2, Ok(b"lo"));
        check(0x1ffe, 3, Err(Unreadable::NoMemory(Gpa(0x2000))));
        check(0x10_0000, 1, Ok(b"w"));
        check(0x10_2000, 4, Ok(b"high"));
        check(0x10_3000, 1, Err(Unreadable::NoMemory(Gpa(0x10_3000))));
        assert_eq!(
            memory
                .next_data(Gpa(0x10_2004))
                .map(|gpa| gpa.0 <= 0x10_2fff),
            Some(true)
        );
        assert_eq!(memory.extents()[1].start, Gpa(0x10_0000));
    }
}
