//! The memory of another process's guest, and what the host knows of that process.
//!
//! Everything is opened by somebody who may ([`ProcessReach`]) and read through descriptors: texts of the process's folder in
//! `/proc`, its memory, its page map. All of them are of that process alone, whoever has its number later; when it ends,
//! reading ends.
//!
//! ```text
//! maps ──mappings that may be RAM──> layouts ──> Candidates
//!        anonymous: /proc/PID/mem, and only pages that pagemap says are there (`memory`)
//!        shared:    the file behind it, by a descriptor of the process's; a hole reads as zeros and stays a hole
//! smaps, task/*/schedstat, io ──> books
//! ```

mod books;
mod files;
mod maps;
mod memory;
mod qmp;
mod reach;

use std::io;
use std::sync::Arc;

use fleet::foreign::Foreign;
use insight::{FileMemory, FileSlot, Memory};
use x86::Gpa;

pub use books::{ProcessGuestBooks, VcpuThread};
pub use maps::Mapping;
pub use qmp::{Qmp, QmpCommand, QmpError, QmpLink, QmpSocket};
pub use reach::{HostProcess, ProcessReach, ProcessText, ThreadText};

use self::memory::ProcessMemory;
use super::layout::{Layout, layouts};
use super::recognise::Candidate;

/// Less is no guest's RAM.
const RAM_BYTES_MIN: u64 = 16 << 20;
/// Most mappings that are tried, where nothing says how long RAM is.
const MAPPINGS_MAX: usize = 3;
/// Where the low of two mappings ends, and where the high one is, in hypervisors that have two (Firecracker, Cloud
/// Hypervisor).
const LOW_BYTES: u64 = 3 << 30;
const HIGH: u64 = 4 << 30;

/// A process of another hypervisor, opened.
pub struct ForeignProcess {
    reach: Box<dyn ProcessReach>,
    /// What each candidate is made of.
    tried: Vec<(Arc<dyn Memory>, Vec<Mapping>)>,
    /// The mappings that are RAM, as far as that is known.
    ram: Vec<Mapping>,
}

/// What is read of one mapping.
enum Backing {
    /// Through the process.
    Process,
    /// The file behind it.
    File(std::fs::File),
}

impl ForeignProcess {
    /// A process that is reached so.
    pub fn new(reach: Box<dyn ProcessReach>) -> ForeignProcess {
        ForeignProcess {
            reach,
            tried: Vec::new(),
            ram: Vec::new(),
        }
    }

    /// What was found of it.
    pub fn vm(&self) -> &Foreign {
        self.reach.vm()
    }

    /// Its RAM, in each way that it may be laid out.
    ///
    /// # Errors
    /// If its memory may not be read.
    pub fn candidates(&mut self) -> io::Result<Vec<Candidate>> {
        let mappings = maps::mappings(&self.reach.text(ProcessText::Maps)?);
        let ram = maps::ram(&mappings, self.vm().memory_believed_bytes, RAM_BYTES_MIN);
        let mut found = Vec::new();
        for mapping in ram.iter().take(MAPPINGS_MAX) {
            for layout in layouts(mapping.len_bytes, 0, false) {
                found.push(self.candidate(&[mapping], &layout)?);
            }
        }
        if let Some(two) = two_parts(&ram) {
            let layout = Layout {
                words: "two parts, hole from 3 GiB",
                slots: two
                    .iter()
                    .zip([0, HIGH])
                    .zip([0, two[0].len_bytes])
                    .map(|((part, gpa), file_offset)| FileSlot {
                        gpa: Gpa(gpa),
                        len_bytes: part.len_bytes,
                        file_offset,
                    })
                    .collect(),
            };
            found.insert(0, self.candidate(&two, &layout)?);
        }
        Ok(found)
    }

    /// Says which of the candidates' RAM it is, so that the books are of that alone.
    pub fn is_ram(&mut self, candidate: &Arc<dyn Memory>) {
        let tried = self.tried.drain(..);
        let found = tried
            .into_iter()
            .find(|(memory, _)| Arc::ptr_eq(memory, candidate));
        self.ram = found.map_or(Vec::new(), |(_, mappings)| mappings);
    }

    /// Memory of these mappings, one behind the other, laid out so.
    fn candidate(&mut self, parts: &[&Mapping], layout: &Layout) -> io::Result<Candidate> {
        let words = layout.words.to_owned();
        let backing = self.backing(parts[0])?;
        let place = |slot: &FileSlot| {
            let mut before = 0;
            let part = parts.iter().find(|part| {
                let is_it = slot.file_offset - before < part.len_bytes;
                before += if is_it { 0 } else { part.len_bytes };
                is_it
            });
            let part = part.unwrap_or(&parts[0]);
            let base = match backing {
                Backing::Process => part.start,
                Backing::File(_) => part.file_offset,
            };
            FileSlot {
                file_offset: base + (slot.file_offset - before),
                ..*slot
            }
        };
        let slots: Vec<FileSlot> = layout.slots.iter().map(place).collect();
        let memory: Arc<dyn Memory> = match backing {
            Backing::Process => {
                let [mem, pagemap] = self.reach.memory()?;
                Arc::new(ProcessMemory::new(mem, pagemap, slots))
            }
            Backing::File(file) => Arc::new(FileMemory::new(file, slots)),
        };
        let mappings = parts.iter().map(|part| (*part).clone());
        self.tried.push((Arc::clone(&memory), mappings.collect()));
        Ok(Candidate { memory, words })
    }

    /// The file behind a shared mapping, by a descriptor of the process's; what is private is read through the process.
    fn backing(&self, mapping: &Mapping) -> io::Result<Backing> {
        if !mapping.is_shared {
            return Ok(Backing::Process);
        }
        self.reach.behind(mapping).map(Backing::File)
    }

    /// What the host has in its books of it.
    ///
    /// # Errors
    /// If it has ended.
    pub fn books(&self) -> io::Result<ProcessGuestBooks> {
        books::books(&*self.reach, &self.ram)
    }
}

/// The low and the high part of RAM that is in two mappings: the first as long as RAM below the hole can be.
fn two_parts(ram: &[Mapping]) -> Option<Vec<&Mapping>> {
    let low = ram.iter().find(|mapping| mapping.len_bytes == LOW_BYTES)?;
    let high = ram
        .iter()
        .find(|mapping| mapping.start != low.start && mapping.is_shared == low.is_shared)?;
    Some(vec![low, high])
}
