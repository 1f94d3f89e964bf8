//! The table of sites: where translated code may fault or miss. Written under the lock of the translations, read
//! without it, because every TLB miss reads.
//!
//! A site's number is an immediate of translated code. Sites are only added, until the code cache is cleared: then all
//! numbers start anew, and with them the *generation*. Clearing happens while no vCPU is behind its door, so a number that
//! translated code came back with holds for as long as the vCPU stays there.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::code_cache::HostPc;
use crate::translate::Site;

/// Sites are kept in chunks, which never move.
const CHUNK_SITES: usize = 1 << 14;
const CHUNKS: usize = 256;
/// Most sites of one block, with room to spare.
const BLOCK_SITES: usize = 4096;

/// A site as three words, each written and read as a whole.
#[derive(Default)]
struct Slot([AtomicU64; 3]);

/// See the module's head.
pub(crate) struct Sites {
    chunks: Box<[OnceLock<Box<[Slot]>>]>,
    len: AtomicUsize,
    generation: AtomicU64,
}

impl Sites {
    pub(crate) fn new() -> Sites {
        let chunks = (0..CHUNKS).map(|_| OnceLock::new()).collect();
        Sites {
            chunks,
            len: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
        }
    }

    /// How often the numbers have started anew.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The number of the next site.
    pub(crate) fn next(&self) -> u32 {
        self.len.load(Ordering::Relaxed) as u32
    }

    /// Whether the sites of another block fit.
    pub(crate) fn has_room(&self) -> bool {
        self.len.load(Ordering::Relaxed) + BLOCK_SITES <= CHUNKS * CHUNK_SITES
    }

    /// Adds sites. One thread at a time, under the lock of the translations.
    pub(crate) fn extend(&self, sites: &[Site]) {
        let mut len = self.len.load(Ordering::Relaxed);
        for site in sites {
            let chunk = self.chunks[len / CHUNK_SITES]
                .get_or_init(|| (0..CHUNK_SITES).map(|_| Slot::default()).collect());
            for (word, value) in chunk[len % CHUNK_SITES].0.iter().zip(site.pack()) {
                word.store(value, Ordering::Relaxed);
            }
            len += 1;
        }
        self.len.store(len, Ordering::Release);
    }

    /// Forgets all sites. Only while every vCPU but the caller is out of translated code.
    pub(crate) fn clear(&self) {
        self.len.store(0, Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The site with this number.
    pub(crate) fn get(&self, number: u32) -> Option<Site> {
        let number = number as usize;
        (number < self.len.load(Ordering::Acquire))
            .then(|| self.read(number))
            .flatten()
    }

    fn read(&self, number: usize) -> Option<Site> {
        let slot = &self.chunks[number / CHUNK_SITES].get()?[number % CHUNK_SITES];
        Some(Site::unpack(
            [0, 1, 2].map(|word: usize| slot.0[word].load(Ordering::Relaxed)),
        ))
    }

    /// The site whose own code a host fault at `pc` came from, in a cache that lies at `cache`.
    pub(crate) fn at(&self, pc: HostPc, cache: HostPc) -> Option<Site> {
        let (mut low, mut high) = (0, self.len.load(Ordering::Acquire));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.read(middle)?.start(cache) <= pc {
                low = middle + 1
            } else {
                high = middle
            }
        }
        let start = self.read(low.checked_sub(1)?)?.start(cache);
        let mut found = None;
        for number in (0..low).rev() {
            let site = self.read(number)?;
            if site.start(cache) != start {
                break;
            }
            // The first of them, in the order of the code, that reaches behind the fault.
            if pc < site.end(cache) {
                found = Some(site);
            }
        }
        found
    }

    /// Bytes of the table.
    pub(crate) fn len_bytes(&self) -> usize {
        self.chunks
            .iter()
            .filter(|chunk| chunk.get().is_some())
            .count()
            * CHUNK_SITES
            * size_of::<Slot>()
    }
}
