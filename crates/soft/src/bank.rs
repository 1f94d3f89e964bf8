//! Banks: the software TLBs and jump caches of one vCPU, a bounded number of each.
//!
//! Translated code looks addresses up in the *current* tables through three pointers in the vCPU block, so switching
//! address space or privilege is three stores, not a flush. What a table may be used for is its key:
//!
//! - TLBs ([`TlbKey`]): the address space (PCID) and what the page tables are judged by, user or supervisor. Under SMAP a
//!   supervisor has two pairs of them, side by side: RFLAGS.AC says which one is in use, and STAC and CLAC, which every
//!   system call that reads or writes a buffer executes, change between them in translated code (`Toggle` in the block);
//! - a jump cache ([`JumpKey`]): the address space and the code mode, because blocks are translated for one mode. Modes in
//!   which translated code does not jump by itself have none.
//!
//! Without PCIDs every CR3 load flushes space 0, as the architecture demands.
//!
//! A guest reaches 4,096 address spaces and dozens of modes, and each table costs hundreds of KiB. So there are TLBs for
//! at most [`TLB_KEYS`], and [`JUMP_CACHES`], 17 MiB together; one more takes the place of the one that was not
//! current for longest. Linux keeps six address spaces with PCIDs, each with a user's TLBs and a supervisor's: they fit.

use std::ops::Range;

use x86::Gva;

use crate::code_cache::HostPc;
use crate::jumps::JumpCache;
use crate::mode::Mode;
use crate::tlb::Tlb;

/// Most keys that have TLBs.
const TLB_KEYS: usize = 12;
/// Most pairs of TLBs that one key has.
const PAIRS_OF_KEY: usize = 2;
/// Most jump caches.
const JUMP_CACHES: usize = 16;
/// Fewest under a limit: a user's and a supervisor's.
const TLB_KEYS_LEAST: usize = 2;
/// The same: user's and supervisor's code.
const JUMP_CACHES_LEAST: usize = 2;

/// How many tables there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bounds {
    tlb_keys: usize,
    jump_caches: usize,
}

impl Bounds {
    /// As many as are worth it.
    pub(crate) const MOST: Bounds = Bounds {
        tlb_keys: TLB_KEYS,
        jump_caches: JUMP_CACHES,
    };

    /// As many as so many bytes hold, in the proportion of [`Bounds::MOST`]; never fewer than the least.
    pub(crate) fn within(len_bytes: usize) -> Bounds {
        let least = Bounds {
            tlb_keys: TLB_KEYS_LEAST,
            jump_caches: JUMP_CACHES_LEAST,
        };
        let of_jump_caches = |jump_caches: usize| Bounds {
            tlb_keys: (jump_caches * TLB_KEYS / JUMP_CACHES).max(TLB_KEYS_LEAST),
            jump_caches,
        };
        (JUMP_CACHES_LEAST..=JUMP_CACHES)
            .rev()
            .map(of_jump_caches)
            .find(|bounds| bounds.len_bytes() <= len_bytes)
            .unwrap_or(least)
    }

    /// Bytes of so many, if every key has all pairs that one may have.
    pub(crate) fn len_bytes(self) -> usize {
        self.tlb_keys * PAIRS_OF_KEY * Tlbs::BYTES + self.jump_caches * JumpCache::BYTES
    }
}

/// What selects TLBs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TlbKey {
    pub(crate) pcid: u16,
    /// CPL 3.
    pub(crate) user: bool,
    /// Supervisor under SMAP: RFLAGS.AC makes a difference.
    pub(crate) smap: bool,
}

/// What selects a jump cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct JumpKey {
    pub(crate) pcid: u16,
    pub(crate) mode: Mode,
}

/// The TLBs for reads and for writes.
pub(crate) struct Tlbs {
    pub(crate) read: Tlb,
    pub(crate) write: Tlb,
}

/// All TLBs of one key.
struct TlbsOfKey {
    plain: Tlbs,
    /// Those for RFLAGS.AC set, where that makes a difference.
    overriding: Option<Tlbs>,
}

/// Tables by key; the one that was not current for longest is given to a new key when there are enough.
struct Pool<K, T> {
    slots: Vec<Slot<K, T>>,
    current: usize,
    /// The one that was current before: system calls go to and fro between two.
    previous: usize,
    most: usize,
    uses: u64,
    /// A table was given to another key, or taken away, since somebody last asked.
    has_lost_some: bool,
}

struct Slot<K, T> {
    key: K,
    last_use: u64,
    table: T,
}

impl<K: Copy + Eq, T> Pool<K, T> {
    fn new(most: usize, key: K, table: T) -> Pool<K, T> {
        let first = Slot {
            key,
            last_use: 0,
            table,
        };
        Pool {
            slots: vec![first],
            current: 0,
            previous: 0,
            most,
            uses: 0,
            has_lost_some: false,
        }
    }

    /// Makes the table for `key` current: an empty one if there was none. Whether there is one more.
    fn select(&mut self, key: K, make: impl FnOnce() -> T, clear: impl FnOnce(&mut T)) -> bool {
        if self.slots[self.current].key == key {
            return false;
        }
        // The time at which a table stops being current is its last use.
        self.uses += 1;
        self.slots[self.current].last_use = self.uses;
        let previous = std::mem::replace(&mut self.previous, self.current);
        if self.slots[previous].key == key {
            self.current = previous;
        } else if let Some(index) = self.slots.iter().position(|slot| slot.key == key) {
            self.current = index;
        } else if self.slots.len() < self.most {
            self.current = self.slots.len();
            self.slots.push(Slot {
                key,
                last_use: 0,
                table: make(),
            });
            return true;
        } else {
            let oldest = (0..self.most).min_by_key(|&index| self.slots[index].last_use);
            self.current = oldest.unwrap_or(0);
            self.has_lost_some = true;
            let slot = &mut self.slots[self.current];
            slot.key = key;
            clear(&mut slot.table);
        }
        false
    }

    /// There are at most so many from now on. If there are more, only the current one stays.
    fn bound(&mut self, most: usize) {
        self.most = most;
        if self.slots.len() > most {
            self.slots.swap(0, self.current);
            self.slots.truncate(1);
            self.slots.shrink_to_fit();
            (self.current, self.previous) = (0, 0);
            self.has_lost_some = true;
        }
    }

    fn current(&mut self) -> &mut T {
        &mut self.slots[self.current].table
    }

    fn all(&mut self) -> impl Iterator<Item = (K, &mut T)> {
        self.slots
            .iter_mut()
            .map(|slot| (slot.key, &mut slot.table))
    }
}

/// Every table of one vCPU.
pub(crate) struct Banks {
    tlbs: Pool<TlbKey, TlbsOfKey>,
    jumps: Pool<JumpKey, JumpCache>,
    lookup_stub: HostPc,
    /// How often something was flushed.
    pub(crate) flushes: u64,
    /// Bytes that were counted among those of all vCPUs.
    pub(crate) counted: usize,
}

impl TlbsOfKey {
    fn new(key: TlbKey) -> TlbsOfKey {
        TlbsOfKey {
            plain: Tlbs::new(),
            overriding: key.smap.then(Tlbs::new),
        }
    }

    fn pairs(&mut self) -> impl Iterator<Item = &mut Tlbs> {
        std::iter::once(&mut self.plain).chain(&mut self.overriding)
    }

    /// Empty ones for `key`.
    fn begin_anew(&mut self, key: TlbKey) {
        if self.overriding.is_some() == key.smap {
            self.pairs().for_each(Tlbs::clear);
        } else {
            *self = TlbsOfKey::new(key);
        }
    }

    fn len_bytes(&self) -> usize {
        (1 + usize::from(self.overriding.is_some())) * Tlbs::BYTES
    }
}

impl Tlbs {
    /// Memory of one pair.
    const BYTES: usize = 2 * Tlb::BYTES;

    fn new() -> Tlbs {
        Tlbs {
            read: Tlb::new(),
            write: Tlb::new(),
        }
    }

    fn clear(&mut self) {
        self.read.clear();
        self.write.clear();
    }

    fn clear_local(&mut self) {
        self.read.clear_local();
        self.write.clear_local();
    }
}

impl Banks {
    pub(crate) fn new(lookup_stub: HostPc) -> Banks {
        let tlb_key = TlbKey {
            pcid: 0,
            user: false,
            smap: false,
        };
        let jump_key = JumpKey {
            pcid: 0,
            mode: Mode::default(),
        };
        Banks {
            tlbs: Pool::new(TLB_KEYS, tlb_key, TlbsOfKey::new(tlb_key)),
            jumps: Pool::new(JUMP_CACHES, jump_key, JumpCache::new(lookup_stub)),
            lookup_stub,
            flushes: 0,
            counted: 0,
        }
    }

    /// Makes the tables for these keys current, empty if they are new. Without a key for it, the current jump cache is
    /// not to be used. Whether there are more or fewer tables than before.
    pub(crate) fn select(&mut self, tlbs: TlbKey, jumps: Option<JumpKey>) -> bool {
        let mut is_more = self.tlbs.select(
            tlbs,
            || TlbsOfKey::new(tlbs),
            |table| table.begin_anew(tlbs),
        );
        if let Some(key) = jumps {
            let stub = self.lookup_stub;
            is_more |= self
                .jumps
                .select(key, || JumpCache::new(stub), JumpCache::clear);
        }
        is_more
    }

    /// Whether tables of some keys have become others' since this was last asked: addresses that were kept may lead to those.
    pub(crate) fn have_lost_some(&mut self) -> bool {
        let of_tlbs = std::mem::take(&mut self.tlbs.has_lost_some);
        let of_jumps = std::mem::take(&mut self.jumps.has_lost_some);
        of_tlbs || of_jumps
    }

    /// There are at most so many tables from now on.
    pub(crate) fn bound(&mut self, bounds: Bounds) {
        self.tlbs.bound(bounds.tlb_keys);
        self.jumps.bound(bounds.jump_caches);
    }

    /// The current TLBs; `ac` is RFLAGS.AC.
    pub(crate) fn tlbs(&mut self, ac: bool) -> &mut Tlbs {
        let TlbsOfKey { plain, overriding } = self.tlbs.current();
        match overriding {
            Some(overriding) if ac => overriding,
            _ => plain,
        }
    }

    /// The current jump cache.
    pub(crate) fn jumps(&mut self) -> &mut JumpCache {
        self.jumps.current()
    }

    /// Forgets the translations of one PCID but those of global pages.
    pub(crate) fn flush_local(&mut self, pcid: u16) {
        self.flushes += 1;
        let of_pcid = self.tlbs.all().filter(|(key, _)| key.pcid == pcid);
        let pairs = of_pcid.flat_map(|(_, tlbs)| tlbs.pairs());
        pairs.for_each(Tlbs::clear_local);
        let of_pcid = self.jumps.all().filter(|(key, _)| key.pcid == pcid);
        of_pcid.for_each(|(_, jumps)| jumps.clear_local());
    }

    /// Forgets everything but global pages.
    pub(crate) fn flush_all_local(&mut self) {
        self.flushes += 1;
        self.pairs().for_each(Tlbs::clear_local);
        self.jumps.all().for_each(|(_, jumps)| jumps.clear_local());
    }

    /// Forgets everything.
    pub(crate) fn flush_all(&mut self) {
        self.flushes += 1;
        self.pairs().for_each(Tlbs::clear);
        self.jumps.all().for_each(|(_, jumps)| jumps.clear());
    }

    /// Forgets one guest page, small or large, in every address space (a global page may be in all of them).
    pub(crate) fn flush_page(&mut self, gva: Gva) {
        for tlbs in self.pairs() {
            tlbs.read.clear_page(gva);
            tlbs.write.clear_page(gva);
        }
        self.jumps
            .all()
            .for_each(|(_, jumps)| jumps.clear_page(gva));
    }

    /// Forgets every jump-cache entry: the code cache was cleared.
    pub(crate) fn forget_code(&mut self) {
        self.jumps.all().for_each(|(_, jumps)| jumps.clear());
    }

    /// Forgets the jump-cache entries that lead into a part of the code cache.
    pub(crate) fn forget_code_in(&mut self, gone: &Range<HostPc>) {
        self.jumps
            .all()
            .for_each(|(_, jumps)| jumps.clear_hosts(gone));
    }

    /// Takes write access to a host page away: it holds translated code now.
    pub(crate) fn protect_host_page(&mut self, host: u64) {
        self.pairs()
            .for_each(|tlbs| tlbs.write.clear_host_page(host));
    }

    /// Bytes in all tables.
    pub(crate) fn len_bytes(&self) -> usize {
        let tlbs = self.tlbs.slots.iter().map(|slot| slot.table.len_bytes());
        tlbs.sum::<usize>() + self.jumps.slots.len() * JumpCache::BYTES
    }

    fn pairs(&mut self) -> impl Iterator<Item = &mut Tlbs> {
        self.tlbs.all().flat_map(|(_, tlbs)| tlbs.pairs())
    }
}

#[cfg(test)]
mod tests {
    use x86::PAGE_SIZE;

    use super::*;
    use crate::jumps::Origin;

    const STUB: HostPc = 1;

    fn kernel(pcid: u16) -> TlbKey {
        TlbKey {
            pcid,
            user: false,
            smap: true,
        }
    }

    fn user(pcid: u16) -> TlbKey {
        TlbKey {
            user: true,
            smap: false,
            ..kernel(pcid)
        }
    }

    fn mode(pcid: u16, bits: u16) -> Option<JumpKey> {
        Some(JumpKey {
            pcid,
            mode: Mode(bits),
        })
    }

    const LOCAL: Origin = Origin {
        global: false,
        page_size: PAGE_SIZE,
        second_page_size: None,
    };

    #[test]
    fn address_spaces_privileges_and_overrides_do_not_see_each_other() {
        let without_smap = TlbKey {
            smap: false,
            ..kernel(1)
        };
        let places = [
            (user(1), false),
            (without_smap, false),
            (kernel(1), false),
            (kernel(1), true),
            (user(2), false),
            (kernel(2), false),
        ];
        let mut banks = Banks::new(STUB);
        for ((key, ac), host) in places.into_iter().zip(1..) {
            banks.select(key, None);
            let read = &mut banks.tlbs(ac).read;
            assert_eq!(read.lookup(Gva(0x5123)), None, "{key:?} {ac}");
            read.fill(Gva(0x5000), host, PAGE_SIZE, false);
        }
        let check = |banks: &mut Banks, is_left: fn(TlbKey) -> bool| {
            for ((key, ac), host) in places.into_iter().zip(1..) {
                banks.select(key, None);
                let found = banks.tlbs(ac).read.lookup(Gva(0x5123));
                assert_eq!(found, is_left(key).then_some(host), "{key:?} {ac}");
            }
        };
        check(&mut banks, |_| true);
        banks.flush_local(1);
        check(&mut banks, |key| key.pcid == 2);
    }

    #[test]
    fn where_smap_is_off_ac_makes_no_difference_and_takes_no_memory() {
        let mut banks = Banks::new(STUB);
        let without_smap = TlbKey {
            smap: false,
            ..kernel(1)
        };
        for key in [user(1), without_smap] {
            banks.select(key, None);
            let read = &mut banks.tlbs(false).read;
            read.fill(Gva(0x5000), 7, PAGE_SIZE, false);
            let found = banks.tlbs(true).read.lookup(Gva(0x5000));
            assert_eq!(found, Some(7), "{key:?}");
        }
        let without = banks.len_bytes();
        banks.select(kernel(1), None);
        assert_eq!(banks.len_bytes() - without, 2 * Tlbs::BYTES);
    }

    #[test]
    fn code_modes_share_tlbs_and_never_a_jump_cache() {
        let mut banks = Banks::new(STUB);
        banks.select(user(1), mode(1, Mode::USER));
        banks
            .tlbs(false)
            .read
            .fill(Gva(0x5000), 7, PAGE_SIZE, false);
        banks.jumps().add(0x5000, 77, LOCAL);
        banks.select(user(1), mode(1, Mode::USER | Mode::CODE32));
        assert_eq!(banks.tlbs(false).read.lookup(Gva(0x5000)), Some(7));
        assert_eq!(banks.jumps().find(0x5000), None);
        banks.select(user(2), mode(2, Mode::USER));
        assert_eq!(banks.jumps().find(0x5000), None);
        banks.select(user(1), mode(1, Mode::USER));
        assert_eq!(banks.jumps().find(0x5000), Some(77));
        banks.forget_code();
        assert_eq!(banks.jumps().find(0x5000), None);
        assert_eq!(banks.tlbs(false).read.lookup(Gva(0x5000)), Some(7));
    }

    #[test]
    fn global_pages_survive_flushes_of_address_spaces_and_not_of_everything() {
        let mut banks = Banks::new(STUB);
        let fill = |banks: &mut Banks| {
            banks.tlbs(false).read.fill(Gva(0x5000), 7, PAGE_SIZE, true);
            banks
                .tlbs(false)
                .read
                .fill(Gva(0x6000), 8, PAGE_SIZE, false);
        };
        let look = |banks: &mut Banks| {
            [0x5000, 0x6000].map(|gva| banks.tlbs(false).read.lookup(Gva(gva)).is_some())
        };
        for (flush, expected) in [
            (Banks::flush_all_local as fn(&mut Banks), [true, false]),
            (|banks| banks.flush_local(0), [true, false]),
            (|banks| banks.flush_local(3), [true, true]),
            (Banks::flush_all, [false, false]),
            (|banks| banks.flush_page(Gva(0x5fff)), [false, true]),
        ] {
            fill(&mut banks);
            flush(&mut banks);
            assert_eq!(look(&mut banks), expected);
        }
    }

    #[test]
    fn a_page_that_becomes_code_loses_its_write_entry_everywhere() {
        let keys = [user(1), kernel(1), kernel(2)];
        let mut banks = Banks::new(STUB);
        for key in keys {
            banks.select(key, None);
            let write = &mut banks.tlbs(false).write;
            write.fill(Gva(0x5000), 0x7000, PAGE_SIZE, false);
            write.fill(Gva(0x6000), 0x8000, PAGE_SIZE, true);
        }
        banks.protect_host_page(0x7000);
        for key in keys {
            banks.select(key, None);
            let write = &banks.tlbs(false).write;
            let found = [0x5000, 0x6000].map(|gva| write.lookup(Gva(gva)));
            assert_eq!(found, [None, Some(0x8000)]);
        }
    }

    #[test]
    fn what_a_guest_selects_never_takes_more_than_the_bound() {
        let mut banks = Banks::new(STUB);
        for pcid in 0..4096 {
            for smap in [false, true] {
                let kernel = TlbKey {
                    smap,
                    ..kernel(pcid)
                };
                for key in [user(pcid), kernel] {
                    banks.select(key, mode(pcid, pcid % 512));
                    assert!(banks.len_bytes() <= Bounds::MOST.len_bytes());
                }
            }
        }
        let most = Bounds::MOST.len_bytes();
        for pcid in 0..100 {
            banks.select(kernel(pcid), None);
        }
        assert_eq!(banks.len_bytes(), most);
        assert!(most < 17 << 20, "{most} bytes: docs/engines.md says 17 MiB");
    }

    #[test]
    fn fewer_tables_leave_the_current_one_and_hold_no_more_than_they_may() {
        let mut banks = Banks::new(STUB);
        let fill = |banks: &mut Banks, pcid| {
            banks.select(kernel(pcid), mode(pcid, 0));
            banks
                .tlbs(false)
                .read
                .fill(Gva(0x5000), 10, PAGE_SIZE, true);
            banks.jumps().add(0x5000, 10, LOCAL);
        };
        (0..40).for_each(|pcid| fill(&mut banks, pcid));
        let bounds = Bounds::within(4 << 20);
        assert!(bounds.len_bytes() <= 4 << 20, "{bounds:?}");
        banks.bound(bounds);
        assert_eq!(banks.tlbs(false).read.lookup(Gva(0x5000)), Some(10));
        assert_eq!(banks.jumps().find(0x5000), Some(10));
        (0..40).for_each(|pcid| fill(&mut banks, pcid));
        assert_eq!(banks.len_bytes(), bounds.len_bytes());
        assert_eq!(Bounds::within(0).len_bytes() >> 20, 2);
        assert!(Bounds::within(usize::MAX) == Bounds::MOST);
        banks.bound(Bounds::MOST);
        (0..40).for_each(|pcid| fill(&mut banks, pcid));
        assert_eq!(banks.len_bytes(), Bounds::MOST.len_bytes());
    }

    #[test]
    fn the_table_that_was_not_current_for_longest_is_taken_and_comes_empty() {
        let mut banks = Banks::new(STUB);
        let fill = |banks: &mut Banks, pcid| {
            banks.select(kernel(pcid), mode(pcid, 0));
            let host = u64::from(pcid) + 10;
            banks
                .tlbs(false)
                .read
                .fill(Gva(0x5000), host, PAGE_SIZE, true);
            banks.jumps().add(0x5000, host, LOCAL);
        };
        let most = JUMP_CACHES as u16;
        (0..most).for_each(|pcid| fill(&mut banks, pcid));
        // Space 0 was first, but is used again: space 1 goes.
        banks.select(kernel(0), mode(0, 0));
        fill(&mut banks, most);
        for (pcid, is_left) in [(0, true), (2, true), (most, true), (1, false)] {
            banks.select(kernel(pcid), mode(pcid, 0));
            assert_eq!(
                banks.jumps().find(0x5000).is_some(),
                is_left,
                "space {pcid}"
            );
        }
        // There are fewer TLBs than jump caches.
        for (pcid, is_left) in [(most, true), (8, true), (1, false)] {
            banks.select(kernel(pcid), None);
            let found = banks.tlbs(false).read.lookup(Gva(0x5000));
            assert_eq!(found.is_some(), is_left, "space {pcid}");
        }
        (0..TLB_KEYS as u16).for_each(|pcid| fill(&mut banks, 100 + pcid));
        banks.select(kernel(most), None);
        assert_eq!(banks.tlbs(false).read.lookup(Gva(0x5000)), None);
    }
}
