//! The table of sites: where translated code may fault or miss. Written under the lock of the translations, read
//! without it, because every TLB miss reads.
//!
//! A site's number is an immediate of translated code. Sites are only added, until an arena of the code cache is cleared:
//! then its numbers start anew, and a new *generation* begins. Clearing happens while no vCPU is behind its door, so a number that
//! translated code came back with holds for as long as the vCPU stays there.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use host::words::Words;
use x86::PAGE_SIZE;

use crate::code_cache::{Arena, HostPc};
use crate::translate::Site;

/// Most sites of translated blocks.
const MOST: usize = 1 << 22;
/// Most sites of one block, or of those that are moved at once, with room to spare.
pub(crate) const BLOCK_SITES: usize = 4096;
/// Sites of moved blocks have numbers of their own, because they are forgotten alone.
const FIRST_MOVED: u32 = 1 << 30;
const MOST_MOVED: usize = 1 << 20;
/// What is added to the generation when more is forgotten than what was moved.
const FULL_STEP: u64 = 1 << 32;
/// A site is so many words, each written and read as a whole.
const WORDS: usize = 3;
/// Memory of one.
pub(crate) const SITE_BYTES: usize = WORDS * size_of::<AtomicU64>();

/// Whether nothing but moved blocks was forgotten from one generation to another.
pub(crate) fn were_moved_alone(from: u64, to: u64) -> bool {
    from / FULL_STEP == to / FULL_STEP
}

/// The table of one arena of the code cache.
struct Table {
    words: Words,
    len: AtomicUsize,
    /// Most sites since memory was last given back.
    highest: AtomicUsize,
    /// Number of the first site.
    first: u32,
}

impl Table {
    fn new(first: u32, most: usize) -> io::Result<Table> {
        Ok(Table {
            words: Words::new(most * WORDS)?,
            len: AtomicUsize::new(0),
            highest: AtomicUsize::new(0),
            first,
        })
    }

    fn has_room(&self) -> bool {
        (self.len.load(Ordering::Relaxed) + BLOCK_SITES) * WORDS <= self.words.count()
    }

    fn extend(&self, sites: impl Iterator<Item = Site>) {
        let mut len = self.len.load(Ordering::Relaxed);
        for site in sites {
            for (word, value) in site.pack().into_iter().enumerate() {
                let at = self.words.at(len * WORDS + word);
                at.store(value, Ordering::Relaxed);
            }
            len += 1;
        }
        self.len.store(len, Ordering::Release);
        self.highest.fetch_max(len, Ordering::Relaxed);
    }

    fn read(&self, number: usize) -> Site {
        let word = |word| self.words.at(number * WORDS + word).load(Ordering::Relaxed);
        Site::unpack([word(0), word(1), word(2)])
    }

    /// Gives back the memory of what was forgotten.
    fn give_back(&self) {
        // Where the host refuses, it is still held, and said to be.
        if self.words.forget().is_ok() {
            self.highest.store(0, Ordering::Relaxed);
        }
    }

    fn at(&self, pc: HostPc, cache: HostPc) -> Option<Site> {
        let mut low = 0;
        let mut high = self.len.load(Ordering::Acquire);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.read(middle).start(cache) <= pc {
                low = middle + 1
            } else {
                high = middle
            }
        }
        let start = self.read(low.checked_sub(1)?).start(cache);
        let mut found = None;
        for number in (0..low).rev() {
            let site = self.read(number);
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
    /// None yet.
    ///
    /// # Errors
    /// What the host says.
    pub(crate) fn new() -> io::Result<Sites> {
        Ok(Sites {
            translated: Table::new(0, MOST)?,
            moved: Table::new(FIRST_MOVED, MOST_MOVED)?,
            generation: AtomicU64::new(0),
        })
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
        (number < table.len.load(Ordering::Acquire)).then(|| table.read(number))
    }

    /// The site whose own code a host fault at `pc` came from, in a cache that lies at `cache`.
    pub(crate) fn at(&self, pc: HostPc, cache: HostPc) -> Option<Site> {
        let translated = self.translated.at(pc, cache);
        translated.or_else(|| self.moved.at(pc, cache))
    }

    /// Gives back the memory of the sites of an arena, which were forgotten before. Under the same conditions.
    pub(crate) fn give_back(&self, arena: Arena) {
        self.table(arena).give_back();
    }

    /// Bytes of the table of an arena.
    pub(crate) fn len_bytes(&self, arena: Arena) -> usize {
        let highest = self.table(arena).highest.load(Ordering::Relaxed);
        (highest * SITE_BYTES).next_multiple_of(PAGE_SIZE as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: HostPc = 0x7000_0000;
    const OWN: Arena = Arena::Translated;
    const MANY: u32 = 1 << 14;

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
    fn numbers_hold_until_the_table_is_cleared_and_memory_goes_back_then() {
        let sites = Sites::new().unwrap();
        let all: Vec<Site> = (0..MANY + 3)
            .map(|number| site(u64::from(number), number * 16, 8))
            .collect();
        sites.extend(OWN, all[..5].iter().copied());
        sites.extend(OWN, all[5..].iter().copied());
        assert_eq!(sites.next(OWN), all.len() as u32);
        for number in [0, 4, 5, MANY - 1, MANY + 2] {
            assert_eq!(sites.get(number).unwrap().rip, u64::from(number));
        }
        assert!(sites.get(sites.next(OWN)).is_none());
        assert!(sites.get(u32::MAX).is_none());
        let generation = sites.generation();
        sites.clear(OWN);
        assert!(!were_moved_alone(generation, sites.generation()));
        assert!(sites.get(0).is_none());
        let held = (all.len() * SITE_BYTES).next_multiple_of(4096);
        assert_eq!(sites.len_bytes(OWN), held, "forgotten, and still there");
        sites.give_back(OWN);
        assert_eq!(sites.len_bytes(OWN), 0);
        sites.extend(OWN, [site(99, 0, 4)].into_iter());
        assert_eq!(sites.get(0).unwrap().rip, 99);
        assert_eq!(sites.len_bytes(OWN), 4096);
    }

    #[test]
    fn sites_of_moved_blocks_are_numbered_and_forgotten_apart() {
        let sites = Sites::new().unwrap();
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
        let sites = Sites::new().unwrap();
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
        assert!(Sites::new().unwrap().at(CACHE, CACHE).is_none());
    }
}
