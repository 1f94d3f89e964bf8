//! One jump cache: program counters to translated blocks, as translated code reads it.
//!
//! It stands for the TLB of instruction fetches: an entry says that the block at this address was found by a walk of
//! the guest's page tables with the checks of a fetch, in the pages it comes from. So it is flushed as a TLB is, with
//! each of those pages; and with the code cache, because it holds addresses in there.

use std::ops::Range;

use x86::{Gva, PAGE_SIZE};

use crate::code_cache::HostPc;
use crate::index_set::IndexSet;
use crate::large::LargePages;

/// Entries of a jump cache.
pub(crate) const JUMP_ENTRIES: usize = 32768;
/// Size of the filter that tells which pages may have entries.
const CODE_PAGE_BITS: usize = 16384;

/// One entry: where the translation of `pc` starts.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct JumpEntry {
    pub(crate) pc: u64,
    pub(crate) host: HostPc,
}

/// The guest pages that a block's bytes come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// All of them are global.
    pub(crate) global: bool,
    /// Size of the page that the block starts in.
    pub(crate) page_size: u64,
    /// Size of the page behind, if the block goes on into it.
    pub(crate) second_page_size: Option<u64>,
}

/// Position of a program counter in the jump cache. Translated code computes the same.
pub(crate) fn jump_index(pc: u64) -> usize {
    (pc ^ pc >> 11) as usize % JUMP_ENTRIES
}

/// See the module's head.
pub(crate) struct JumpCache {
    entries: Box<[JumpEntry]>,
    /// Indexes that are filled.
    filled: Vec<u16>,
    /// Entries that survive an address-space switch.
    global: IndexSet<{ JUMP_ENTRIES / 64 }>,
    /// Large pages that blocks here come from.
    large: LargePages,
    /// Pages that may have entries, hashed: most invalidated pages hold no code.
    code_pages: IndexSet<{ CODE_PAGE_BITS / 64 }>,
    /// What an empty entry leads to, so that even a false match is harmless.
    lookup_stub: HostPc,
}

impl JumpCache {
    /// Memory of one.
    pub(crate) const BYTES: usize =
        JUMP_ENTRIES * (size_of::<JumpEntry>() + size_of::<u16>()) + size_of::<JumpCache>();

    pub(crate) fn new(lookup_stub: HostPc) -> JumpCache {
        JumpCache {
            entries: vec![JumpCache::empty(lookup_stub); JUMP_ENTRIES].into_boxed_slice(),
            filled: Vec::with_capacity(JUMP_ENTRIES),
            global: IndexSet::new(),
            large: LargePages::new(),
            code_pages: IndexSet::new(),
            lookup_stub,
        }
    }

    fn empty(lookup_stub: HostPc) -> JumpEntry {
        JumpEntry {
            pc: u64::MAX,
            host: lookup_stub,
        }
    }

    pub(crate) fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    fn page_bit(pc: u64) -> usize {
        (pc >> 12 ^ pc >> 26 ^ pc >> 63) as usize % CODE_PAGE_BITS
    }

    /// Enters the block at `host` for `pc`.
    pub(crate) fn add(&mut self, pc: u64, host: HostPc, origin: Origin) {
        let index = jump_index(pc);
        if self.entries[index].host == self.lookup_stub {
            self.filled.push(index as u16);
        }
        self.entries[index] = JumpEntry { pc, host };
        self.global.set(index, origin.global);
        self.large.note(Gva(pc), origin.page_size);
        if let Some(size) = origin.second_page_size {
            self.large.note(Gva(pc.wrapping_add(PAGE_SIZE)), size);
        }
        self.code_pages.set(JumpCache::page_bit(pc), true);
    }

    /// The block for `pc`, if it is here.
    pub(crate) fn find(&self, pc: u64) -> Option<HostPc> {
        let entry = self.entries[jump_index(pc)];
        (entry.pc == pc && entry.host != self.lookup_stub).then_some(entry.host)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        let empty = JumpCache::empty(self.lookup_stub);
        for index in self.filled.drain(..) {
            self.entries[usize::from(index)] = empty;
        }
        self.code_pages.clear();
        self.large.clear();
    }

    /// Forgets the blocks that lie in `gone`, a part of the code cache.
    pub(crate) fn clear_hosts(&mut self, gone: &Range<HostPc>) {
        let empty = JumpCache::empty(self.lookup_stub);
        let entries = &mut self.entries;
        self.filled.retain(|&index| {
            let entry = &mut entries[usize::from(index)];
            let is_gone = gone.contains(&entry.host);
            if is_gone {
                *entry = empty;
            }
            !is_gone
        });
    }

    /// Forgets everything but blocks in global pages.
    pub(crate) fn clear_local(&mut self) {
        let empty = JumpCache::empty(self.lookup_stub);
        let entries = &mut self.entries;
        let global = &self.global;
        self.filled.retain(|&index| {
            let index = usize::from(index);
            if !global.has(index) {
                entries[index] = empty;
            }
            global.has(index)
        });
    }

    /// Forgets the blocks that come from the guest page around `gva`, be it a small or a large one.
    pub(crate) fn clear_page(&mut self, gva: Gva) {
        // A block may start on the page before and straddle into this one.
        let before = gva.0.wrapping_sub(PAGE_SIZE);
        let has_code = |pc| self.code_pages.has(JumpCache::page_bit(pc));
        if has_code(gva.0) || has_code(before) {
            self.clear_range(gva.page().0, PAGE_SIZE);
        }
        for size in self.large.around(gva).collect::<Vec<_>>() {
            self.clear_range(gva.0 & !(size - 1), size);
        }
    }

    /// Forgets blocks that start in the `len_bytes` from `start` on, or in the 4 KiB before them.
    fn clear_range(&mut self, start: u64, len_bytes: u64) {
        let first = start.wrapping_sub(PAGE_SIZE);
        let empty = JumpCache::empty(self.lookup_stub);
        let entries = &mut self.entries;
        self.filled.retain(|&index| {
            let entry = &mut entries[usize::from(index)];
            let is_near = entry.pc.wrapping_sub(first) < len_bytes + PAGE_SIZE;
            if is_near {
                *entry = empty;
            }
            !is_near
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUB: HostPc = 1;
    const LARGE: u64 = 2 << 20;

    fn origin(global: bool, page_size: u64, second_page_size: Option<u64>) -> Origin {
        Origin {
            global,
            page_size,
            second_page_size,
        }
    }

    #[test]
    fn an_empty_cache_leads_to_the_lookup_for_every_address() {
        let cache = JumpCache::new(STUB);
        for pc in [0, 1, 0x1000, u64::MAX] {
            assert_eq!(cache.find(pc), None);
            assert_eq!(cache.entries[jump_index(pc)].host, STUB);
        }
    }

    #[test]
    fn blocks_in_global_pages_survive_a_switch_of_address_spaces() {
        let mut cache = JumpCache::new(STUB);
        cache.add(0x5000, 77, origin(true, PAGE_SIZE, None));
        cache.add(0x6000, 88, origin(false, PAGE_SIZE, None));
        cache.clear_local();
        assert_eq!((cache.find(0x5000), cache.find(0x6000)), (Some(77), None));
        cache.clear();
        assert_eq!(cache.find(0x5000), None);
    }

    /// Where a block starts, sizes of its pages, what is flushed, and whether the block is still found.
    #[test]
    fn a_block_goes_with_each_page_it_comes_from_and_with_no_other() {
        let base = 0x7f00_0000_0000_u64;
        for (pc, page, second, flushed, is_left) in [
            (0x5010, PAGE_SIZE, None, 0x5fff, false),
            (0x5010, PAGE_SIZE, None, 0x4fff, true),
            (0x5010, PAGE_SIZE, None, 0x7000, true),
            (0x5ffe, PAGE_SIZE, Some(PAGE_SIZE), 0x6abc, false),
            (0x5ffe, PAGE_SIZE, Some(PAGE_SIZE), 0x7000, true),
            // A small page in front of a large one, and the other way round.
            (0x1f_fffe, PAGE_SIZE, Some(LARGE), 0x3f_ffff, false),
            (0x1f_fffe, PAGE_SIZE, Some(LARGE), 0x40_0000, true),
            (0x1f_fffe, LARGE, Some(PAGE_SIZE), 0x20_0000, false),
            (0x1f_fffe, LARGE, Some(PAGE_SIZE), 0x20_1000, true),
            (0x1f_fffe, LARGE, Some(PAGE_SIZE), 0, false),
            (0x1f_8000, LARGE, None, 0, false),
            (0x1f_8000, LARGE, None, 0x20_0000, true),
        ] {
            let mut cache = JumpCache::new(STUB);
            cache.add(base + pc, 77, origin(false, page, second));
            cache.clear_page(Gva(base + flushed));
            assert_eq!(
                cache.find(base + pc).is_some(),
                is_left,
                "block at {pc:#x} in {page:#x} {second:?}, flushed {flushed:#x}"
            );
        }
    }

    #[test]
    fn what_lies_in_a_part_of_the_code_cache_goes_with_it() {
        let mut cache = JumpCache::new(STUB);
        for (pc, host) in [(0x5000, 77), (0x6000, 88), (0x7000, 99)] {
            cache.add(pc, host, origin(true, PAGE_SIZE, None));
        }
        cache.clear_hosts(&(80..99));
        let found = [0x5000, 0x6000, 0x7000].map(|pc| cache.find(pc));
        assert_eq!(found, [Some(77), None, Some(99)]);
        cache.add(0x6000, 66, origin(true, PAGE_SIZE, None));
        assert_eq!((cache.find(0x6000), cache.filled.len()), (Some(66), 3));
    }

    #[test]
    fn a_place_that_is_flushed_and_filled_again_is_listed_once() {
        let mut cache = JumpCache::new(STUB);
        for _ in 0..10 {
            cache.add(0x5000, 77, origin(false, PAGE_SIZE, None));
            cache.add(0x5000, 78, origin(false, PAGE_SIZE, None));
            assert_eq!(cache.filled.len(), 1);
            cache.clear_page(Gva(0x5000));
        }
        assert!(cache.filled.is_empty());
    }
}
