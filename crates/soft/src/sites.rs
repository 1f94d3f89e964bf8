//! The table of sites: where translated code may fault or miss. Written under the lock of the translations, read
//! without it, because every TLB miss reads.
//!
//! A site's number is an immediate of translated code. Sites are only added, until an arena of the code cache is cleared:
//! then its numbers start anew, and a new *generation* begins. Clearing happens while no vCPU is behind its door, so a number that
//! translated code came back with holds for as long as the vCPU stays there.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::code_cache::{Arena, HostPc};
use crate::translate::Site;

/// Sites are kept in chunks, which never move.
const CHUNK_SITES: usize = 1 << 14;
const CHUNKS: usize = 256;
/// Most sites of one block, or of those that are moved at once, with room to spare.
pub(crate) const BLOCK_SITES: usize = 4096;
/// Sites of moved blocks have numbers of their own, because they are forgotten alone.
const FIRST_MOVED: u32 = 1 << 30;
const MOVED_CHUNKS: usize = 64;
/// What is added to the generation when more is forgotten than what was moved.
const FULL_STEP: u64 = 1 << 32;

/// Whether nothing but moved blocks was forgotten from one generation to another.
pub(crate) fn were_moved_alone(from: u64, to: u64) -> bool {
    from / FULL_STEP == to / FULL_STEP
}

/// A site as three words, each written and read as a whole.
#[derive(Default)]
struct Slot([AtomicU64; 3]);

/// The table of one arena of the code cache.
struct Table {
    chunks: Box<[OnceLock<Box<[Slot]>>]>,
    len: AtomicUsize,
    /// Number of the first site.
    first: u32,
}

impl Table {
    fn new(first: u32, chunk_count: usize) -> Table {
        Table {
            chunks: (0..chunk_count).map(|_| OnceLock::new()).collect(),
            len: AtomicUsize::new(0),
            first,
        }
    }

    fn has_room(&self) -> bool {
        self.len.load(Ordering::Relaxed) + BLOCK_SITES <= self.chunks.len() * CHUNK_SITES
    }

    fn extend(&self, sites: impl Iterator<Item = Site>) {
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

    fn read(&self, number: usize) -> Option<Site> {
        let slot = &self.chunks[number / CHUNK_SITES].get()?[number % CHUNK_SITES];
        Some(Site::unpack(
            [0, 1, 2].map(|word: usize| slot.0[word].load(Ordering::Relaxed)),
        ))
    }

    fn at(&self, pc: HostPc, cache: HostPc) -> Option<Site> {
        let mut low = 0;
        let mut high = self.len.load(Ordering::Acquire);
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
}

/// See the module's head.
pub(crate) struct Sites {
    translated: Table,
    moved: Table,
    generation: AtomicU64,
}

impl Sites {
    pub(crate) fn new() -> Sites {
        Sites {
            translated: Table::new(0, CHUNKS),
            moved: Table::new(FIRST_MOVED, MOVED_CHUNKS),
            generation: AtomicU64::new(0),
        }
    }

    fn table(&self, arena: Arena) -> &Table {
        match arena {
            Arena::Translated => &self.translated,
            Arena::Moved => &self.moved,
        }
    }

    /// How often the numbers have started anew.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The number of the next site.
    pub(crate) fn next(&self, arena: Arena) -> u32 {
        let table = self.table(arena);
        table.first + table.len.load(Ordering::Relaxed) as u32
    }

    /// Whether the sites of another block fit.
    pub(crate) fn has_room(&self, arena: Arena) -> bool {
        self.table(arena).has_room()
    }

    /// Adds sites. One thread at a time, under the lock of the translations.
    pub(crate) fn extend(&self, arena: Arena, sites: impl Iterator<Item = Site>) {
        self.table(arena).extend(sites);
    }

    /// Forgets all sites of an arena, and makes a new generation. Only while every vCPU but the caller is out of
    /// translated code.
    pub(crate) fn clear(&self, arena: Arena) {
        let step = match arena {
            Arena::Translated => FULL_STEP,
            Arena::Moved => 1,
        };
        self.table(arena).len.store(0, Ordering::Release);
        self.generation.fetch_add(step, Ordering::AcqRel);
    }

    /// The site with this number.
    pub(crate) fn get(&self, number: u32) -> Option<Site> {
        let arena = if number >= FIRST_MOVED {
            Arena::Moved
        } else {
            Arena::Translated
        };
        let table = self.table(arena);
        let number = (number - table.first) as usize;
        (number < table.len.load(Ordering::Acquire))
            .then(|| table.read(number))
            .flatten()
    }

    /// The site whose own code a host fault at `pc` came from, in a cache that lies at `cache`.
    pub(crate) fn at(&self, pc: HostPc, cache: HostPc) -> Option<Site> {
        let translated = self.translated.at(pc, cache);
        translated.or_else(|| self.moved.at(pc, cache))
    }

    /// Bytes of the table.
    pub(crate) fn len_bytes(&self) -> usize {
        let chunks = self.translated.chunks.iter().chain(&self.moved.chunks);
        chunks.filter(|chunk| chunk.get().is_some()).count() * CHUNK_SITES * size_of::<Slot>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: HostPc = 0x7000_0000;
    const OWN: Arena = Arena::Translated;

    /// A site of the guest instruction at `rip` whose host code is the `len` bytes at offset `start`.
    fn site(rip: u64, start: u32, len: u16) -> Site {
        let place = u64::from(start) | u64::from(len) << 32;
        Site::unpack([rip, place, 0])
    }

    #[test]
    fn a_site_is_the_same_after_it_was_packed() {
        for words in [
            [0, 0, 0],
            [u64::MAX; 3],
            [
                0xffff_ffff_8100_0000,
                0x8001_0203_7fff_ffff,
                0x0103_08c9_ffff_fff8,
            ],
            [1, 2, 3],
        ] {
            // The highest byte says only whether flags are saved.
            let canonical = |[rip, place, rest]: [u64; 3]| {
                [
                    rip,
                    place,
                    rest & !(0xff << 56) | u64::from(rest >> 56 != 0) << 56,
                ]
            };
            assert_eq!(Site::unpack(words).pack(), canonical(words));
        }
        let site = Site::unpack([7, 0x8001_0203_0000_1000, 0x0103_08c9_ffff_fff8]);
        assert_eq!(
            (site.rip, site.borrowed, site.stack_change()),
            (7, 0x8001, -8)
        );
        assert_eq!(
            (site.start(CACHE), site.end(CACHE)),
            (CACHE + 0x1000, CACHE + 0x1203)
        );
        let access = site.access().unwrap();
        assert_eq!((access.address.0, access.entry.0, access.size), (12, 9, 8));
        assert!(access.write && access.is_segmented && site.flags_saved);
        assert!(Site::unpack([7, 0, 0]).access().is_none());
    }

    #[test]
    fn numbers_hold_across_chunks_and_until_the_table_is_cleared() {
        let sites = Sites::new();
        let all: Vec<Site> = (0..CHUNK_SITES as u32 + 3)
            .map(|number| site(u64::from(number), number * 16, 8))
            .collect();
        sites.extend(OWN, all[..5].iter().copied());
        sites.extend(OWN, all[5..].iter().copied());
        assert_eq!(sites.next(OWN), all.len() as u32);
        for number in [0, 4, 5, CHUNK_SITES as u32 - 1, CHUNK_SITES as u32 + 2] {
            assert_eq!(sites.get(number).unwrap().rip, u64::from(number));
        }
        assert!(sites.get(sites.next(OWN)).is_none());
        assert!(sites.get(u32::MAX).is_none());
        let generation = sites.generation();
        sites.clear(OWN);
        assert!(!were_moved_alone(generation, sites.generation()));
        assert!(sites.get(0).is_none());
        sites.extend(OWN, [site(99, 0, 4)].into_iter());
        assert_eq!(sites.get(0).unwrap().rip, 99);
    }

    #[test]
    fn sites_of_moved_blocks_are_numbered_and_forgotten_apart() {
        let sites = Sites::new();
        let numbers = [OWN, Arena::Moved].map(|arena| sites.next(arena));
        sites.extend(OWN, [site(1, 0, 4)].into_iter());
        sites.extend(Arena::Moved, [site(2, 64, 4)].into_iter());
        let rips = |sites: &Sites| numbers.map(|number| sites.get(number).map(|site| site.rip));
        assert_eq!(rips(&sites), [Some(1), Some(2)]);
        let generation = sites.generation();
        sites.clear(Arena::Moved);
        assert_eq!(rips(&sites), [Some(1), None]);
        assert_ne!(sites.generation(), generation);
        assert!(were_moved_alone(generation, sites.generation()));
    }

    /// Host addresses of faults, and the guest instruction that they belong to.
    #[test]
    fn a_host_fault_belongs_to_the_instruction_whose_code_it_is_in() {
        let sites = Sites::new();
        let own = [
            site(1, 0x100, 8),
            // Two sites of one instruction: the check first, then all of it.
            site(2, 0x110, 6),
            site(2, 0x110, 20),
            site(3, 0x130, 4),
        ];
        sites.extend(OWN, own.into_iter());
        sites.extend(Arena::Moved, [site(4, 0x800, 8)].into_iter());
        for (offset, rip) in [
            (0xff, None),
            (0x100, Some(1)),
            (0x107, Some(1)),
            (0x108, None),
            (0x110, Some(2)),
            (0x118, Some(2)),
            (0x123, Some(2)),
            (0x124, None),
            (0x133, Some(3)),
            (0x134, None),
            (0x7ff, None),
            (0x800, Some(4)),
            (0x808, None),
            (0xffff, None),
        ] {
            let found = sites.at(CACHE + offset, CACHE).map(|site| site.rip);
            assert_eq!(found, rip, "{offset:#x}");
        }
        // Of several, the first whose code reaches behind the fault: registers are as it says.
        assert_eq!(
            sites.at(CACHE + 0x112, CACHE).unwrap().end(CACHE),
            CACHE + 0x116
        );
        assert_eq!(
            sites.at(CACHE + 0x116, CACHE).unwrap().end(CACHE),
            CACHE + 0x124
        );
        assert!(Sites::new().at(CACHE, CACHE).is_none());
    }
}
