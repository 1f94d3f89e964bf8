//! What a life goes on from: a snapshot's two files, read here for the first time.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use devices::Board;
use mem::GuestMemory;
use paging::{Base, BaseError, CHUNK_BYTES, CHUNK_PAGES, PAGE_BYTES};
use snapshot::MemoryReader;
use vcpu::Engine;
use x86::{CpuidTable, Gpa};

use crate::life::firmware::fresh_generation;
use crate::life::saved::{Begun, GiveError, LifeState, SavedError};
use crate::plan::ResumeClock;
use crate::threads::time::GuestTime;

/// The longest packed state that is read: a hundred times that of sixteen vCPUs.
const STATE_BYTES_MAX: u64 = 64 << 20;

/// The files of a snapshot, opened.
#[derive(Debug)]
pub(crate) struct SavedFiles {
    /// vCPUs, board and clock.
    pub state: File,
    /// Guest memory.
    pub memory: File,
}

/// See the module.
pub(crate) struct Restored {
    state: LifeState,
    /// None for a guest whose memory is in its file already: another process ran it until now.
    base: Option<Arc<dyn Base>>,
    clock: ResumeClock,
}

/// A snapshot's memory, as the pager wants it.
#[derive(Debug)]
struct SnapshotBase(MemoryReader);

impl Base for SnapshotBase {
    fn stored(&self, chunk: u64) -> u16 {
        self.0.stored(chunk)
    }

    fn read(&self, chunk: u64, bytes: &mut [u8; CHUNK_BYTES]) -> Result<(), BaseError> {
        let rest = (self.0.page_count() - chunk * CHUNK_PAGES) * PAGE_BYTES;
        let len = CHUNK_BYTES.min(rest as usize);
        let damaged = |error| BaseError::Damaged(paging::with_causes(&error));
        self.0.read(chunk, &mut bytes[..len]).map_err(damaged)
    }
}

/// The state as it was written before it was packed.
fn state_text(file: File) -> Result<Vec<u8>, SavedError> {
    let unread = |error: &dyn std::error::Error| SavedError::Read(paging::with_causes(error));
    let mut packed = Vec::new();
    let mut bounded = file.take(STATE_BYTES_MAX);
    let read = bounded.read_to_end(&mut packed);
    read.map_err(|error| unread(&error))?;
    snapshot::unpack("state", &packed).map_err(|error| unread(&error))
}

impl Restored {
    /// Reads what was saved of a machine with so much memory.
    pub(crate) fn read(
        files: SavedFiles,
        memory_bytes: u64,
        clock: ResumeClock,
    ) -> Result<Restored, SavedError> {
        let text = state_text(files.state)?;
        let reader = MemoryReader::open(files.memory, memory_bytes / PAGE_BYTES)
            .map_err(|error| SavedError::Memory(paging::with_causes(&error)))?;
        Ok(Restored {
            state: LifeState::parse(&text)?,
            base: Some(Arc::new(SnapshotBase(reader))),
            clock,
        })
    }

    /// Of a guest that another process ran until now: the same machine, with all of its memory where it was.
    pub(crate) fn moved(state: LifeState) -> Restored {
        Restored {
            state,
            base: None,
            clock: ResumeClock::Host,
        }
    }

    /// The time that goes on.
    pub(super) fn time(&self) -> Result<GuestTime, SavedError> {
        self.state.time(self.clock)
    }

    /// What each vCPU's CPUID shows, if a host that offers this has it all.
    pub(super) fn cpuid(&self, offered: &[CpuidTable]) -> Result<&[CpuidTable], SavedError> {
        self.state.check_features(offered)?;
        Ok(self.state.cpuid())
    }

    /// Where memory lies, if not in its file.
    pub(super) fn base(&self) -> Option<&Arc<dyn Base>> {
        self.base.as_ref()
    }

    /// Copies all of it into `memory`, where it cannot be brought page by page.
    pub(super) fn fill(&self, memory: &GuestMemory) -> Result<(), SavedError> {
        let failed = |what: String| SavedError::Memory(what);
        let Some(base) = &self.base else {
            return Ok(());
        };
        let mut bytes = Box::new([0; CHUNK_BYTES]);
        for slot in memory.slots().as_slice() {
            let first = slot.file_offset / PAGE_BYTES;
            let last = (slot.file_offset + slot.len_bytes) / PAGE_BYTES;
            let mut page = first;
            while page < last {
                let chunk = page / CHUNK_PAGES;
                let end = ((chunk + 1) * CHUNK_PAGES).min(last);
                if base.stored(chunk) != 0 {
                    let read = base.read(chunk, &mut bytes);
                    read.map_err(|error| failed(paging::with_causes(&error)))?;
                    place(&**base, memory, slot, page..end, &bytes)?;
                }
                page = end;
            }
        }
        Ok(())
    }

    /// Has board and vCPUs be what was saved.
    pub(super) fn give(
        self,
        board: &mut Board,
        engine: &mut Engine,
        time: &GuestTime,
    ) -> Result<Begun, GiveError> {
        let may_be_a_clone = self.base.is_some();
        let begun = self.state.give(board, engine, time)?;
        // Before any of its vCPUs runs: another machine may have gone on from here.
        if may_be_a_clone {
            board.begin_generation(time.now(), &fresh_generation());
        }
        Ok(begun)
    }
}

/// Copies pages of a chunk of `base` to their places.
fn place(
    base: &dyn Base,
    memory: &GuestMemory,
    slot: &mem::Memslot,
    pages: std::ops::Range<u64>,
    bytes: &[u8; CHUNK_BYTES],
) -> Result<(), SavedError> {
    let stored = base.stored(pages.start / CHUNK_PAGES);
    for page in pages {
        let within = page % CHUNK_PAGES;
        if stored >> within & 1 == 0 {
            continue;
        }
        let gpa = Gpa(slot.gpa.0 + page * PAGE_BYTES - slot.file_offset);
        let at = (within * PAGE_BYTES) as usize;
        memory
            .write(gpa, &bytes[at..at + PAGE_BYTES as usize])
            .map_err(|error| SavedError::Memory(error.to_string()))?;
    }
    Ok(())
}
