//! Every translation of a VM: which blocks exist, where their sites are, and how they go stale.
//!
//! Blocks are keyed by guest *physical* address, so that an address-space switch drops nothing, plus the virtual
//! address and mode they were translated for (RIP-relative operands hold virtual addresses). A write to a page
//! with blocks drops the blocks it touches, never more. A dropped block's head becomes a jump to its exit, or to
//! its successor once there is one, so nobody has to know who jumps to it. Memory comes back when the cache is full:
//! then everything is dropped at once.
//!
//! Jumps are chained inside a page only: whoever runs there has had the page's mapping judged. One kind of block needs
//! more, the instruction that goes on into the page behind. That page may be mapped elsewhere or lose its permission
//! while nothing happens to the first one, and what the guest then flushes is the second page. So nothing jumps to such
//! a block but by way of the jump cache, which knows both pages it came from and is flushed with each of them. Where a
//! chained jump or the head of a predecessor wants to lead there, it leads to the block's *guard*: a few instructions
//! that look the address up in the jump cache. A guard depends on no bytes and no mapping, so it never goes stale.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::sync::Arc;

use iced_x86::Instruction;
use mem::GuestMemory;
use vcpu::Probes;
use x86::{Gfn, Gpa, PAGE_SIZE};

use crate::allowance::Budget;
use crate::code_cache::{Arena, CodeCache, HostPc, Stubs};
use crate::features::Features;
use crate::mode::Mode;
use crate::sites::Sites;
use crate::translate::{self, Link, Relocation, Request, Site, Translator};

/// A multiply-and-shift hash, of which a table is made without random numbers, which a vCPU's thread is not given: keys are addresses that the guest cannot profit from colliding, only slow itself.
#[derive(Default)]
pub(crate) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 29;
    }
}

pub(crate) type AddressMap<K, V> = HashMap<K, V, BuildHasherDefault<AddressHasher>>;

/// What a block was translated from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct BlockKey {
    pub(crate) gpa: u64,
    pub(crate) rip: u64,
    pub(crate) mode: Mode,
}

#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) key: BlockKey,
    pub(crate) len_bytes: u16,
    /// The page behind, if the block's one instruction straddles into it.
    pub(crate) second_page: Option<Gfn>,
    pub(crate) head: HostPc,
    pub(crate) stale_exit: HostPc,
    pub(crate) is_dropped: bool,
    pub(crate) code_bytes: u32,
    pub(crate) sites: Span,
    pub(crate) links: Span,
    /// What is changed when the block is moved; none if it cannot be.
    pub(crate) relocations: Span,
}

/// A few neighbours in a table.
#[derive(Clone, Copy, Default)]
pub(crate) struct Span {
    pub(crate) first: u32,
    pub(crate) len: u16,
}

impl Span {
    /// From number `first` to before `end`. `None` if they are too many for a block that is to be moved.
    fn new(first: u32, end: u32) -> Option<Span> {
        let len = u16::try_from(end - first).ok()?;
        Some(Span { first, len })
    }

    pub(crate) fn numbers(self) -> std::ops::Range<u32> {
        self.first..self.first + u32::from(self.len)
    }
}

/// What is asked most often of a block, beside its key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) index: u32,
    /// Offset of the block in the code cache; 0, where no block lies, if it straddles two pages.
    head: u32,
}

/// A direct jump that can be chained, in offsets of the code cache.
#[derive(Clone, Copy)]
pub(crate) struct Jump {
    /// Where the 4-byte displacement lies.
    pub(crate) slot: u32,
    /// Where it leads if it is not chained.
    pub(crate) unchained: u32,
    /// The block that it is chained to, or [`NO_BLOCK`].
    pub(crate) target: u32,
}

/// What a block is, to be compared.
#[derive(PartialEq, Eq)]
pub(crate) struct Rendering {
    pub(crate) code: Vec<u8>,
    /// Packed.
    pub(crate) sites: Vec<[u64; 3]>,
    pub(crate) stale_exit: HostPc,
}

/// The index of no block.
pub(crate) const NO_BLOCK: u32 = u32::MAX;
/// Indexes of moved blocks, and numbers of their jumps, have this bit.
pub(crate) const MOVED: u32 = 1 << 31;

/// Counters for reports.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counters {
    pub(crate) translated: u64,
    pub(crate) guest_bytes: u64,
    pub(crate) invalidated: u64,
    pub(crate) cache_clears: u64,
    pub(crate) bounce_thunks: u64,
    pub(crate) moved: u64,
    pub(crate) moved_clears: u64,
}

/// See the module's head.
pub(crate) struct Translations {
    pub(crate) cache: CodeCache,
    translator: Translator,
    pub(crate) blocks: Vec<Block>,
    pub(crate) by_key: AddressMap<BlockKey, Known>,
    pub(crate) by_page: AddressMap<u64, Vec<u32>>,
    /// Heads of dropped blocks, to be led to their successors.
    pub(crate) stale: AddressMap<BlockKey, HostPc>,
    pub(crate) sites: Arc<Sites>,
    pub(crate) jumps: Vec<Jump>,
    pub(crate) relocations: Vec<Relocation>,
    /// Blocks that can be moved, by the place of their bytes: whatever address they were translated for.
    pub(crate) by_place: AddressMap<(u64, Mode), u32>,
    /// Blocks that were moved, and their jumps.
    pub(crate) moved: Vec<Block>,
    pub(crate) moved_jumps: Vec<Jump>,
    /// Some of them have been dropped, so that heads of theirs may be among the stale ones.
    pub(crate) has_stale_moved: bool,
    /// Working memory of copying.
    pub(crate) copied: Vec<u8>,
    pub(crate) wanted: Vec<u32>,
    /// Guards of the blocks that straddle two pages, by their heads.
    pub(crate) guards: AddressMap<HostPc, HostPc>,
    pub(crate) thunks: AddressMap<(Vec<u8>, Mode), HostPc>,
    pub(crate) counters: Counters,
    /// How much all of this may be, and is.
    pub(crate) budget: Budget,
}

/// Room that is asked for before a block is translated: the longest block with all its tails fits.
const BLOCK_ROOM: usize = 64 * 1024;

impl Translations {
    pub(crate) fn new(cache_bytes: usize, xsave_mask: u64) -> io::Result<Translations> {
        Ok(Translations {
            cache: CodeCache::new(cache_bytes, xsave_mask)?,
            translator: Translator::new(Features::default()),
            blocks: Vec::new(),
            by_key: AddressMap::default(),
            by_page: AddressMap::default(),
            stale: AddressMap::default(),
            sites: Arc::new(Sites::new()?),
            jumps: Vec::new(),
            relocations: Vec::new(),
            by_place: AddressMap::default(),
            moved: Vec::new(),
            moved_jumps: Vec::new(),
            has_stale_moved: false,
            copied: Vec::new(),
            wanted: Vec::new(),
            guards: AddressMap::default(),
            thunks: AddressMap::default(),
            counters: Counters::default(),
            budget: Budget::default(),
        })
    }

    /// The instruction set to translate, and whether a vCPU that waits in a loop may wait for another one.
    pub(crate) fn prepare(&mut self, features: Features, has_company: bool) {
        self.translator.features = features;
        self.translator.has_company = has_company;
    }

    /// The probes that translations are made for.
    pub(crate) fn probes(&self) -> &Arc<Probes> {
        &self.translator.probes
    }

    /// Translates for these probes from now on. Blocks in which something changes by that must be dropped, by whoever can
    /// find them.
    pub(crate) fn set_probes(&mut self, probes: &Arc<Probes>) {
        self.translator.probes = Arc::clone(probes);
    }

    pub(crate) fn sites(&self) -> Arc<Sites> {
        Arc::clone(&self.sites)
    }

    /// Raised when the cache is cleared: code addresses and link numbers of before are void.
    pub(crate) fn generation(&self) -> u64 {
        self.sites.generation()
    }

    pub(crate) fn stubs(&self) -> Stubs {
        self.cache.stubs()
    }

    /// The block with this index.
    pub(crate) fn block(&self, index: u32) -> &Block {
        if index & MOVED != 0 {
            &self.moved[(index & !MOVED) as usize]
        } else {
            &self.blocks[index as usize]
        }
    }

    /// What is kept of a block beside its key.
    pub(crate) fn known(&self, index: u32) -> Known {
        let block = self.block(index);
        let head = match block.second_page {
            None => (block.head - self.cache.stubs().cache) as u32,
            Some(_) => 0,
        };
        Known { index, head }
    }

    fn block_mut(&mut self, index: u32) -> &mut Block {
        if index & MOVED != 0 {
            &mut self.moved[(index & !MOVED) as usize]
        } else {
            &mut self.blocks[index as usize]
        }
    }

    /// The direct jump with this number.
    pub(crate) fn jump(&mut self, number: u32) -> Option<&mut Jump> {
        if number & MOVED != 0 {
            self.moved_jumps.get_mut((number & !MOVED) as usize)
        } else {
            self.jumps.get_mut(number as usize)
        }
    }

    /// What is changed when a block is moved.
    pub(crate) fn relocations(&self, span: Span) -> &[Relocation] {
        &self.relocations[span.first as usize..span.first as usize + usize::from(span.len)]
    }

    /// The index of the block whose head is at `pc`.
    fn index_at(&self, pc: HostPc) -> u32 {
        let find = |blocks: &[Block]| blocks.binary_search_by_key(&pc, |block| block.head).ok();
        let translated = find(&self.blocks).map(|index| index as u32);
        let index = translated.or_else(|| find(&self.moved).map(|index| index as u32 | MOVED));
        index.unwrap_or(NO_BLOCK)
    }

    /// Where the guest's code begins of which the block is made that holds `pc`.
    pub(crate) fn guest_of(&self, pc: HostPc) -> Option<u64> {
        let find = |blocks: &[Block]| {
            let behind = blocks.partition_point(|block| block.head <= pc);
            let block = blocks.get(behind.checked_sub(1)?)?;
            (pc - block.head < u64::from(block.code_bytes)).then_some(block.key.rip)
        };
        find(&self.blocks).or_else(|| find(&self.moved))
    }

    /// The block for `key`, if it is translated.
    pub(crate) fn find(&self, key: BlockKey) -> Option<HostPc> {
        let known = self.by_key.get(&key)?;
        (known.head != 0).then(|| self.cache.stubs().cache + u64::from(known.head))
    }

    /// The block for `key` whose instruction straddles into `second_page`.
    pub(crate) fn find_straddling(&self, key: BlockKey, second_page: Gfn) -> Option<HostPc> {
        let block = self.block(self.by_key.get(&key)?.index);
        (block.second_page == Some(second_page)).then_some(block.head)
    }

    /// Whether another block or thunk fits. If not, everything is to be cleared first.
    pub(crate) fn has_room(&mut self) -> bool {
        self.cache.has_room(Arena::Translated, BLOCK_ROOM)
            && self.sites.has_room(Arena::Translated)
            && self.is_within_budget()
    }

    /// Forgets everything. Every vCPU but the caller is out of translated code.
    pub(crate) fn clear(&mut self, memory: &GuestMemory) {
        self.counters.cache_clears += 1;
        for &gfn in self.by_page.keys() {
            memory.notes().remove_code(Gfn(gfn));
        }
        self.cache.clear(Arena::Translated);
        self.cache.clear(Arena::Moved);
        self.blocks.clear();
        self.by_key.clear();
        self.by_page.clear();
        self.stale.clear();
        self.sites.clear(Arena::Translated);
        self.sites.clear(Arena::Moved);
        self.jumps.clear();
        self.relocations.clear();
        self.by_place.clear();
        self.moved.clear();
        self.moved_jumps.clear();
        self.has_stale_moved = false;
        self.guards.clear();
        self.thunks.clear();
        self.give_back();
    }

    /// Translates. There must be room, and the pages must have been marked as code before their bytes were read, under
    /// the same hold of the lock. `None` if the first instruction does not end in the bytes.
    pub(crate) fn translate(
        &mut self,
        key: BlockKey,
        bytes: &[u8],
        second_page: Option<Gfn>,
    ) -> Option<HostPc> {
        let request = Request {
            rip: key.rip,
            mode: key.mode,
            bytes,
            straddles: second_page.is_some(),
        };
        let base = self.cache.next_pc(Arena::Translated);
        let site = self.sites.next(Arena::Translated);
        let link = self.jumps.len() as u32;
        let done = self
            .translator
            .translate(&request, base, self.cache.stubs(), site, link)?;
        let builder = &self.translator.builder;
        let code = builder.e.bytes();
        let cache = self.cache.stubs().cache;
        self.cache.append(Arena::Translated, code);
        self.sites
            .extend(Arena::Translated, builder.sites.iter().copied());
        let jumps = builder.links.iter();
        self.jumps
            .extend(jumps.map(|link| unchained(link, code, base, cache)));
        self.counters.translated += 1;
        self.counters.guest_bytes += u64::from(done.len_bytes);
        let index = self.blocks.len() as u32;
        let mut block = Block {
            key,
            len_bytes: done.len_bytes,
            second_page,
            head: base,
            stale_exit: done.stale,
            is_dropped: false,
            code_bytes: code.len() as u32,
            sites: Span::default(),
            links: Span::default(),
            relocations: Span::default(),
        };
        if builder.is_movable {
            self.make_movable(&mut block, site, link);
            if block.relocations.len > 0 {
                self.by_place.insert((key.gpa, key.mode), index);
            }
        }
        self.blocks.push(block);
        let known = self.known(index);
        if let Some(replaced) = self.by_key.insert(key, known) {
            self.drop_block(replaced.index);
        }
        self.by_page
            .entry(key.gpa / PAGE_SIZE)
            .or_default()
            .push(index);
        if let Some(gfn) = second_page {
            self.by_page.entry(gfn.0).or_default().push(index);
            if let Some(guard) = done.guard {
                self.guards.insert(base, guard);
                if let Some(&old_head) = self.stale.get(&key) {
                    self.cache.patch_head(old_head, guard);
                }
            }
        } else if let Some(old_head) = self.stale.insert(key, base) {
            self.cache.patch_head(old_head, base);
        }
        Some(base)
    }

    /// What would come of translating `bytes` in the place of `block`, with numbers of sites and links from `first` on.
    pub(crate) fn as_translated(
        &mut self,
        block: &Block,
        bytes: &[u8],
        first: (u32, u32),
    ) -> Option<Rendering> {
        let request = Request {
            rip: block.key.rip,
            mode: block.key.mode,
            bytes,
            straddles: false,
        };
        let (site, link) = first;
        let stubs = self.cache.stubs();
        let done = self
            .translator
            .translate(&request, block.head, stubs, site, link)?;
        let builder = &self.translator.builder;
        Some(Rendering {
            code: builder.e.bytes().to_vec(),
            sites: builder.sites.iter().map(Site::pack).collect(),
            stale_exit: done.stale,
        })
    }

    /// Aims the direct jump `link` at the block whose head is `target`, or at its guard.
    pub(crate) fn chain(&mut self, link: u32, target: HostPc) {
        let (pc, block) = match self.guards.get(&target) {
            Some(&guard) => (guard, NO_BLOCK),
            None => (target, self.index_at(target)),
        };
        if block == NO_BLOCK && self.cache.is_in(Arena::Moved, pc) {
            return;
        }
        let cache = self.cache.stubs().cache;
        if let Some(jump) = self.jump(link) {
            jump.target = block;
            let slot = cache + u64::from(jump.slot);
            self.cache.patch_jump(slot, pc);
        }
    }

    /// Notes what moving the newest block takes, whose sites and jumps begin with these numbers.
    fn make_movable(&mut self, block: &mut Block, first_site: u32, first_jump: u32) {
        let first = self.relocations.len() as u32;
        let builder = &self.translator.builder;
        let end = first + builder.relocations.len() as u32;
        let spans = (
            Span::new(first_site, self.sites.next(Arena::Translated)),
            Span::new(first_jump, self.jumps.len() as u32),
            Span::new(first, end),
        );
        if let (Some(sites), Some(links), Some(relocations)) = spans {
            (block.sites, block.links, block.relocations) = (sites, links, relocations);
            self.relocations.extend_from_slice(&builder.relocations);
        }
    }

    /// Drops the blocks that hold any byte of `gpa..gpa+len_bytes`, all in one page.
    pub(crate) fn invalidate(&mut self, gpa: Gpa, len_bytes: u64, memory: &GuestMemory) {
        let gfn = gpa.gfn();
        // Mostly it is data that lies beside code, and all stays as it is.
        let is_beside = |all: &Vec<u32>| {
            !all.is_empty() && !all.iter().any(|&index| self.holds(index, gpa, len_bytes))
        };
        if self.by_page.get(&gfn.0).is_some_and(is_beside) {
            return;
        }
        let Some(all) = self.by_page.remove(&gfn.0) else {
            return memory.notes().remove_code(gfn);
        };
        let (hit, kept): (Vec<u32>, Vec<u32>) = all
            .into_iter()
            .partition(|&index| self.holds(index, gpa, len_bytes));
        if kept.is_empty() {
            memory.notes().remove_code(gfn);
        } else {
            self.by_page.insert(gfn.0, kept);
        }
        for index in hit {
            self.drop_block(index);
        }
    }

    /// Whether a block has been made of any byte of `gpa..gpa+len_bytes`, or may have been.
    fn holds(&self, index: u32, gpa: Gpa, len_bytes: u64) -> bool {
        let block = self.block(index);
        let start = block.key.gpa;
        let end = start + u64::from(block.len_bytes);
        block.second_page.is_some() || start < gpa.0 + len_bytes && gpa.0 < end
    }

    fn drop_block(&mut self, index: u32) {
        let block = self.block_mut(index);
        block.is_dropped = true;
        let Block {
            key,
            head,
            stale_exit,
            second_page,
            ..
        } = *block;
        if self
            .by_key
            .get(&key)
            .is_some_and(|known| known.index == index)
        {
            self.by_key.remove(&key);
        }
        self.has_stale_moved |= index & MOVED != 0;
        let place = (key.gpa, key.mode);
        if self.by_place.get(&place) == Some(&index) {
            self.by_place.remove(&place);
        }
        self.cache.patch_head(head, stale_exit);
        self.counters.invalidated += 1;
        if second_page.is_none() {
            self.stale.insert(key, head);
        }
    }

    /// Code that runs one instruction on the bounce buffer, made once for each encoding. There must be room.
    pub(crate) fn bounce_thunk(
        &mut self,
        instruction: &Instruction,
        bytes: &[u8],
        mode: Mode,
    ) -> Option<HostPc> {
        let key = (bytes.to_vec(), mode);
        if let Some(&pc) = self.thunks.get(&key) {
            return Some(pc);
        }
        let base = self.cache.next_pc(Arena::Translated);
        let first_site = self.sites.next(Arena::Translated);
        let stubs = self.cache.stubs();
        if !translate::bounce(
            &mut self.translator.builder,
            base,
            stubs,
            mode,
            instruction,
            first_site,
        ) {
            return None;
        }
        let builder = &self.translator.builder;
        self.cache.append(Arena::Translated, builder.e.bytes());
        self.sites
            .extend(Arena::Translated, builder.sites.iter().copied());
        self.counters.bounce_thunks += 1;
        self.thunks.insert(key, base);
        Some(base)
    }
}

/// A jump of a block whose code lies at `base`, as it was emitted.
fn unchained(link: &Link, code: &[u8], base: HostPc, cache: HostPc) -> Jump {
    let at = (link.slot - base) as usize;
    let mut displacement = [0; 4];
    displacement.copy_from_slice(&code[at..at + 4]);
    let slot = (link.slot - cache) as u32;
    Jump {
        slot,
        unchained: (slot + 4).wrapping_add(u32::from_le_bytes(displacement)),
        target: NO_BLOCK,
    }
}
