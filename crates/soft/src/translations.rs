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

use crate::code_cache::{CodeCache, HostPc, Stubs};
use crate::features::Features;
use crate::mode::Mode;
use crate::sites::Sites;
use crate::translate::{self, Link, Request, Translator};

/// A multiply-and-shift hash: keys are addresses that the guest cannot profit from colliding, only slow itself.
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

type AddressMap<K, V> = HashMap<K, V, BuildHasherDefault<AddressHasher>>;

/// What a block was translated from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct BlockKey {
    pub(crate) gpa: u64,
    pub(crate) rip: u64,
    pub(crate) mode: Mode,
}

struct Block {
    key: BlockKey,
    len_bytes: u16,
    /// The page behind, if the block's one instruction straddles into it.
    second_page: Option<Gfn>,
    head: HostPc,
    stale_exit: HostPc,
}

/// Counters for reports.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counters {
    pub(crate) translated: u64,
    pub(crate) guest_bytes: u64,
    pub(crate) invalidated: u64,
    pub(crate) cache_clears: u64,
    pub(crate) bounce_thunks: u64,
}

/// See the module's head.
pub(crate) struct Translations {
    cache: CodeCache,
    translator: Translator,
    blocks: Vec<Block>,
    by_key: AddressMap<BlockKey, u32>,
    by_page: AddressMap<u64, Vec<u32>>,
    /// Heads of dropped blocks, to be led to their successors.
    stale: AddressMap<BlockKey, HostPc>,
    sites: Arc<Sites>,
    links: Vec<Link>,
    /// Guards of the blocks that straddle two pages, by their heads.
    guards: AddressMap<HostPc, HostPc>,
    thunks: HashMap<(Vec<u8>, Mode), HostPc>,
    pub(crate) counters: Counters,
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
            sites: Arc::new(Sites::new()),
            links: Vec::new(),
            guards: AddressMap::default(),
            thunks: HashMap::new(),
            counters: Counters::default(),
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

    /// Bytes of code, and bytes of tables beside it.
    pub(crate) fn len_bytes(&self) -> (usize, usize) {
        let tables = self.sites.len_bytes()
            + self.blocks.capacity() * size_of::<Block>()
            + self.links.capacity() * size_of::<Link>()
            + (self.by_key.capacity() + self.stale.capacity()) * 48
            + self.guards.capacity() * 24
            + self.by_page.capacity() * 64;
        (self.cache.used_bytes(), tables)
    }

    /// The block for `key`, if it is translated.
    pub(crate) fn find(&self, key: BlockKey) -> Option<HostPc> {
        let block = &self.blocks[*self.by_key.get(&key)? as usize];
        block.second_page.is_none().then_some(block.head)
    }

    /// The block for `key` whose instruction straddles into `second_page`.
    pub(crate) fn find_straddling(&self, key: BlockKey, second_page: Gfn) -> Option<HostPc> {
        let block = &self.blocks[*self.by_key.get(&key)? as usize];
        (block.second_page == Some(second_page)).then_some(block.head)
    }

    /// Whether another block or thunk fits. If not, everything is to be cleared first.
    pub(crate) fn has_room(&self) -> bool {
        self.cache.has_room(BLOCK_ROOM) && self.sites.has_room()
    }

    /// Forgets everything. Every vCPU but the caller is out of translated code.
    pub(crate) fn clear(&mut self, memory: &GuestMemory) {
        self.counters.cache_clears += 1;
        for &gfn in self.by_page.keys() {
            memory.notes().remove_code(Gfn(gfn));
        }
        self.cache.clear();
        self.blocks.clear();
        self.by_key.clear();
        self.by_page.clear();
        self.stale.clear();
        self.sites.clear();
        self.links.clear();
        self.guards.clear();
        self.thunks.clear();
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
        let base = self.cache.next_pc();
        let site = self.sites.next();
        let link = self.links.len() as u32;
        let done = self
            .translator
            .translate(&request, base, self.cache.stubs(), site, link)?;
        let builder = &self.translator.builder;
        self.cache.append(builder.e.bytes());
        self.sites.extend(&builder.sites);
        self.links.extend_from_slice(&builder.links);
        self.counters.translated += 1;
        self.counters.guest_bytes += u64::from(done.len_bytes);
        let index = self.blocks.len() as u32;
        self.blocks.push(Block {
            key,
            len_bytes: done.len_bytes,
            second_page,
            head: base,
            stale_exit: done.stale,
        });
        if let Some(replaced) = self.by_key.insert(key, index) {
            self.drop_block(replaced);
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

    /// Aims the direct jump `link` at the block whose head is `target`, or at its guard.
    pub(crate) fn chain(&mut self, link: u32, target: HostPc) {
        let target = self.guards.get(&target).copied().unwrap_or(target);
        if let Some(link) = self.links.get(link as usize) {
            self.cache.patch_jump(link.slot, target);
        }
    }

    /// Drops the blocks that hold any byte of `gpa..gpa+len_bytes`, all in one page.
    pub(crate) fn invalidate(&mut self, gpa: Gpa, len_bytes: u64, memory: &GuestMemory) {
        let gfn = gpa.gfn();
        let Some(indexes) = self.by_page.get_mut(&gfn.0) else {
            return memory.notes().remove_code(gfn);
        };
        let all = std::mem::take(indexes);
        let (hit, kept): (Vec<u32>, Vec<u32>) = all.into_iter().partition(|&index| {
            let block = &self.blocks[index as usize];
            let start = block.key.gpa;
            let end = start + u64::from(block.len_bytes);
            block.second_page.is_some() || start < gpa.0 + len_bytes && gpa.0 < end
        });
        if kept.is_empty() {
            self.by_page.remove(&gfn.0);
            memory.notes().remove_code(gfn);
        } else {
            self.by_page.insert(gfn.0, kept);
        }
        for index in hit {
            self.drop_block(index);
        }
    }

    fn drop_block(&mut self, index: u32) {
        let Block {
            key,
            head,
            stale_exit,
            second_page,
            ..
        } = self.blocks[index as usize];
        if self.by_key.get(&key) == Some(&index) {
            self.by_key.remove(&key);
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
        let base = self.cache.next_pc();
        let first_site = self.sites.next();
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
        self.cache.append(builder.e.bytes());
        self.sites.extend(&builder.sites);
        self.counters.bounce_thunks += 1;
        self.thunks.insert(key, base);
        Some(base)
    }
}
