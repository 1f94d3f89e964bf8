//! Blocks that are copied for another guest address, where the bytes they come from are the same: see
//! `translate::relocation`.
//!
//! A page of a library is mapped wherever a program's address space has room, and translations are for one address. When
//! one is wanted for which there is a block of the same bytes and mode at another address, that block is copied, and with it
//! the blocks that its chained jumps lead to, which lie in the same page: chained as they were. What makes that right is what
//! makes a translation right: the fetch was judged by the guest's page tables for this address, the page is marked as code,
//! and the blocks that are copied are alive, so nobody has written their bytes since. A copy is a block like others from
//! then on, and goes stale like them.
//!
//! Copies have an arena of their own. Programs that start and end fill it with what nobody will run again; then it alone is
//! cleared, while no vCPU is in translated code. What leads there from elsewhere is known: jump caches, which every vCPU
//! forgets with the new generation, and chained jumps, which are led back to their exits. Heads of stale blocks never lead
//! there: what has a stale predecessor is translated.

use mem::GuestMemory;
use x86::{Gfn, Gpa, PAGE_SIZE};

use crate::code_cache::{Arena, HostPc};
use crate::sites::BLOCK_SITES;
use crate::translate::{Shift, WINDOW_BYTES, may_lie_at, window_of};
use crate::translations::{Block, BlockKey, Jump, MOVED, NO_BLOCK, Rendering, Span, Translations};

/// Most code that is moved at once.
const MOST_BYTES: usize = 128 * 1024;
/// The longest block fits beside that.
const ROOM: usize = MOST_BYTES + 64 * 1024;

/// A copy that is to be made: of which block, and where to.
struct Copy {
    from: u32,
    shift: Shift,
    links: Span,
}

impl Translations {
    /// Whether blocks can be moved without clearing those that were. True if there is too little room for that at all.
    pub(crate) fn has_room_to_move(&self) -> bool {
        let has_room = self.cache.has_room(Arena::Moved, ROOM) && self.sites.has_room(Arena::Moved);
        let fits = has_room || self.cache.len_bytes(Arena::Moved) < 2 * ROOM;
        fits && self.has_budget_to_move()
    }

    /// Copies a block for `key`, if there is one of the same bytes. As for translating, the pages must have been marked as
    /// code under the same hold of the lock.
    pub(crate) fn move_here(&mut self, key: BlockKey) -> Option<HostPc> {
        let &from = self.by_place.get(&(key.gpa, key.mode))?;
        let may_move = !self.is_moving_off()
            && may_lie_at(key.rip)
            && !self.stale.contains_key(&key)
            && self.cache.has_room(Arena::Moved, ROOM)
            && self.sites.has_room(Arena::Moved);
        if !may_move {
            return None;
        }
        let head = self.cache.next_pc(Arena::Moved);
        let by = key.rip.wrapping_sub(self.block(from).key.rip);
        let copies = self.plan(from, by);
        copies.iter().for_each(|copy| self.copy(copy));
        (!copies.is_empty()).then_some(head)
    }

    /// Makes blocks of what is to be copied: `first`, which comes first, and what it leads to.
    fn plan(&mut self, first: u32, by: u64) -> Vec<Copy> {
        let mut copies: Vec<Copy> = vec![];
        let mut wanted = std::mem::take(&mut self.wanted);
        wanted.clear();
        wanted.push(first);
        let start = self.cache.next_pc(Arena::Moved);
        let mut head = start;
        let mut site = self.sites.next(Arena::Moved);
        let most_sites = site + BLOCK_SITES as u32 / 2;
        let mut link = self.moved_jumps.len() as u32 | MOVED;
        while let Some(from) = wanted.pop() {
            let block = self.block(from);
            let key = moved_key(block.key, by);
            if !self.may_copy(from, key) {
                continue;
            }
            let block = self.block(from);
            let sites = Span {
                first: site,
                ..block.sites
            };
            let links = Span {
                first: link,
                ..block.links
            };
            let shift = Shift {
                rip: by,
                host: head.wrapping_sub(block.head),
                site: site.wrapping_sub(block.sites.first),
                link: link.wrapping_sub(block.links.first),
            };
            copies.push(Copy {
                from,
                shift,
                links: block.links,
            });
            let copy = Block {
                key,
                head,
                stale_exit: block.stale_exit.wrapping_add(shift.host),
                sites,
                links,
                ..*block
            };
            head += u64::from(copy.code_bytes).next_multiple_of(16);
            site += u32::from(sites.len);
            link += u32::from(links.len);
            self.add_copy(copy);
            if head - start > MOST_BYTES as u64 || site > most_sites {
                break;
            }
            let from_links = self.block(from).links;
            for number in from_links.numbers() {
                let target = self.jump(number).map_or(NO_BLOCK, |jump| jump.target);
                if target != NO_BLOCK && !self.block(target).is_dropped {
                    wanted.push(target);
                }
            }
        }
        self.wanted = wanted;
        copies
    }

    /// Whether a block can and need be copied for `key`.
    fn may_copy(&self, from: u32, key: BlockKey) -> bool {
        self.block(from).relocations.len > 0
            && !self.by_key.contains_key(&key)
            && !self.stale.contains_key(&key)
    }

    fn add_copy(&mut self, copy: Block) {
        let index = self.moved.len() as u32 | MOVED;
        let key = copy.key;
        self.moved.push(copy);
        let known = self.known(index);
        self.by_key.insert(key, known);
        self.by_page
            .entry(key.gpa / PAGE_SIZE)
            .or_default()
            .push(index);
        self.counters.moved += 1;
    }

    /// Appends the code, sites and jumps of a copy.
    fn copy(&mut self, copy: &Copy) {
        let shift = copy.shift;
        let (head, code_bytes, sites, relocations) = {
            let block = self.block(copy.from);
            let code_bytes = block.code_bytes as usize;
            (block.head, code_bytes, block.sites, block.relocations)
        };
        let mut code = std::mem::take(&mut self.copied);
        self.cache.copy_out(head, code_bytes, &mut code);
        for relocation in self.relocations(relocations) {
            relocation.apply(&mut code, &shift);
        }
        let cache = self.cache.stubs().cache;
        for number in copy.links.numbers() {
            let Some(&mut jump) = self.jump(number) else {
                continue;
            };
            let target = self.moved_target(jump.target, shift.rip);
            let slot = jump.slot.wrapping_add(shift.host as u32);
            let unchained = jump.unchained.wrapping_add(shift.host as u32);
            let leads_to = match target {
                NO_BLOCK => unchained,
                index => (self.block(index).head - cache) as u32,
            };
            let at = (cache + u64::from(jump.slot) - head) as usize;
            code[at..at + 4].copy_from_slice(&leads_to.wrapping_sub(slot + 4).to_le_bytes());
            self.moved_jumps.push(Jump {
                slot,
                unchained,
                target,
            });
        }
        self.cache.append(Arena::Moved, &code);
        self.copied = code;
        let table = std::sync::Arc::clone(&self.sites);
        let moved = sites.numbers().filter_map(|number| {
            let site = table.get(number)?;
            Some(site.moved(&shift))
        });
        self.sites.extend(Arena::Moved, moved);
    }

    /// The block that a copied jump leads to, whose original leads to `target`.
    fn moved_target(&self, target: u32, by: u64) -> u32 {
        if target == NO_BLOCK || self.block(target).is_dropped {
            return NO_BLOCK;
        }
        let key = self.block(target).key;
        let moved = self.by_key.get(&moved_key(key, by));
        let index = moved.map_or(NO_BLOCK, |known| known.index);
        if index == NO_BLOCK || self.block(index).second_page.is_some() {
            return NO_BLOCK;
        }
        index
    }

    /// Whether the blocks that were copied to `head` and behind it are what translating would have made of their bytes.
    /// Only while nobody else may be writing those.
    pub(crate) fn are_as_translated(&mut self, head: HostPc, memory: &GuestMemory) -> bool {
        let first = self.moved.partition_point(|block| block.head < head);
        (first..self.moved.len()).all(|index| self.is_as_translated(index, memory))
    }

    fn is_as_translated(&mut self, index: usize, memory: &GuestMemory) -> bool {
        let block = self.moved[index];
        let mut window = [0; WINDOW_BYTES];
        let bytes = window_of(&mut window, block.key.gpa);
        if memory.read(Gpa(block.key.gpa), bytes).is_err() {
            return false;
        }
        let mut code = vec![];
        self.cache
            .copy_out(block.head, block.code_bytes as usize, &mut code);
        let cache = self.cache.stubs().cache;
        for number in block.links.numbers() {
            if let Some(&mut Jump {
                slot, unchained, ..
            }) = self.jump(number)
            {
                let at = (cache + u64::from(slot) - block.head) as usize;
                let displacement = unchained.wrapping_sub(slot + 4);
                code[at..at + 4].copy_from_slice(&displacement.to_le_bytes());
            }
        }
        let first = (block.sites.first, block.links.first);
        let sites = block.sites.numbers();
        let own = Rendering {
            code,
            sites: sites
                .filter_map(|number| self.sites.get(number).map(|site| site.pack()))
                .collect(),
            stale_exit: block.stale_exit,
        };
        self.as_translated(&block, bytes, first) == Some(own)
    }

    /// Forgets the blocks that were moved. Every vCPU but the caller is out of translated code.
    pub(crate) fn clear_moved(&mut self, memory: &GuestMemory) {
        self.counters.moved_clears += 1;
        let cache = self.cache.stubs().cache;
        for jump in &mut self.jumps {
            if jump.target != NO_BLOCK && jump.target & MOVED != 0 {
                jump.target = NO_BLOCK;
                let slot = cache + u64::from(jump.slot);
                self.cache
                    .patch_jump(slot, cache + u64::from(jump.unchained));
            }
        }
        for index in 0..self.moved.len() {
            let key = self.moved[index].key;
            if !self.moved[index].is_dropped {
                self.by_key.remove(&key);
            }
            self.forget_moved_in(Gfn(key.gpa / PAGE_SIZE), memory);
        }
        if std::mem::take(&mut self.has_stale_moved) {
            let code = &self.cache;
            self.stale
                .retain(|_, head| !code.is_in(Arena::Moved, *head));
        }
        self.cache.clear(Arena::Moved);
        self.sites.clear(Arena::Moved);
        self.moved.clear();
        self.moved_jumps.clear();
        self.give_back_moved();
    }

    fn forget_moved_in(&mut self, gfn: Gfn, memory: &GuestMemory) {
        let Some(indexes) = self.by_page.get_mut(&gfn.0) else {
            return;
        };
        // Those of a page were added behind each other: mostly there is nothing left to do.
        if indexes.iter().any(|index| index & MOVED != 0) {
            indexes.retain(|index| index & MOVED == 0);
        }
        if indexes.is_empty() {
            self.by_page.remove(&gfn.0);
            memory.notes().remove_code(gfn);
        }
    }
}

fn moved_key(key: BlockKey, by: u64) -> BlockKey {
    BlockKey {
        rip: key.rip.wrapping_add(by),
        ..key
    }
}
