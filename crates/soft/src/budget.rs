//! What translations take of the host's memory, and how much that may be.
//!
//! Everything is counted by what the host holds for it: code and sites by their highest mark, tables by their capacity,
//! lists of a page's blocks by what they can be at most. Before a block is made or moved, what it may make tables grow by is
//! counted too: a hash table that grows is there twice for a moment. So what is held never passes the budget. When the next block
//! would, everything is cleared, as when the cache is full, and its memory goes back to the host: what the next translations
//! need is spread over code and tables anew.
//!
//! Moved blocks get a part of the budget, as they get a part of the cache, so that programs that come and go clear no more than
//! what was moved for them.

use std::mem::take;

use crate::allowance::TABLES;
use crate::code_cache::Arena;
use crate::sites::{BLOCK_SITES, SITE_BYTES};
use crate::translations::{Block, BlockKey, Jump, Known, Translations};

/// What one turn may add to a table: a block, or all that are moved at once.
const AT_ONCE: usize = 1024;
/// The most code that one turn may add, and its sites.
const CODE_AT_ONCE: usize = 256 * 1024 + BLOCK_SITES * SITE_BYTES;
/// One byte of the budget in so many is for moved blocks.
const MOVED_SHARE: usize = 4;
/// Working memory: what the translator emits into, what is copied.
const WORKING_BYTES: usize = 512 * 1024;
/// Least that a block's entry in the list of its page's blocks takes, twice over: a list doubles; and a list's own allocation.
const LISTED_BYTES: usize = 2 * size_of::<u32>();
const LIST_BYTES: usize = 32;
/// The same for the bytes that name a thunk.
const THUNK_BYTES: usize = 32;

/// A table: entries that it has and has room for, bytes of each, and whether it is there twice when it grows.
struct Table {
    len: usize,
    capacity: usize,
    entry_bytes: usize,
    is_hashed: bool,
}

impl Table {
    fn list<T>(list: &Vec<T>) -> Table {
        Table {
            len: list.len(),
            capacity: list.capacity(),
            entry_bytes: size_of::<T>(),
            is_hashed: false,
        }
    }

    fn hashed(len: usize, capacity: usize, entry_bytes: usize) -> Table {
        Table {
            len,
            capacity,
            // And a byte of its hash.
            entry_bytes: entry_bytes + 1,
            is_hashed: true,
        }
    }

    /// Bytes of a table with so much room. A hash table has an eighth more places than it uses, and a power of two.
    fn bytes_for(&self, capacity: usize) -> usize {
        let places = match (self.is_hashed, capacity) {
            (true, 1..) => (capacity * 8 / 7).next_power_of_two(),
            _ => capacity,
        };
        places * self.entry_bytes
    }

    /// Bytes that another turn may take beside `held`, which it takes now.
    fn growth_bytes(&self, held: usize) -> usize {
        if self.capacity - self.len >= AT_ONCE {
            return 0;
        }
        let grown = self.bytes_for((self.capacity * 2).max(self.len + AT_ONCE));
        if self.is_hashed {
            grown
        } else {
            grown.saturating_sub(held)
        }
    }
}

impl Translations {
    /// So many bytes from now on; `None`: as many as there is room for. What is too much is there until it is cleared.
    pub(crate) fn set_budget(&mut self, most_bytes: Option<usize>) {
        self.budget.most_bytes = most_bytes;
    }

    /// Bytes that the host holds for code, and for tables beside it.
    pub(crate) fn held_bytes(&mut self) -> (usize, usize) {
        let arenas = [Arena::Translated, Arena::Moved];
        let code = arenas
            .map(|arena| self.cache.held_bytes(arena))
            .iter()
            .sum();
        let sites: usize = arenas.map(|arena| self.sites.len_bytes(arena)).iter().sum();
        (code, sites + self.table_bytes().0 + WORKING_BYTES)
    }

    /// Whether what another block may take fits too.
    pub(crate) fn is_within_budget(&mut self) -> bool {
        let Some(most) = self.budget.most_bytes else {
            return true;
        };
        let (code, tables) = self.held_bytes();
        code + tables + self.table_bytes().1 + CODE_AT_ONCE <= most
    }

    /// Whether blocks that are moved fit into what those that were may take, or there is too little for that at all.
    pub(crate) fn has_budget_to_move(&self) -> bool {
        let Some(most) = self.moved_budget() else {
            return true;
        };
        let held = self.cache.held_bytes(Arena::Moved)
            + self.sites.len_bytes(Arena::Moved)
            + self.moved.capacity() * size_of::<Block>()
            + self.moved_jumps.capacity() * size_of::<Jump>();
        most < 2 * CODE_AT_ONCE || held + CODE_AT_ONCE <= most
    }

    /// Whether there is so little that nothing is moved.
    pub(crate) fn is_moving_off(&self) -> bool {
        self.moved_budget()
            .is_some_and(|most| most < 2 * CODE_AT_ONCE)
    }

    fn moved_budget(&self) -> Option<usize> {
        Some(self.budget.most_bytes? / MOVED_SHARE)
    }

    /// Gives the memory of everything back that was cleared, where there is a budget.
    pub(crate) fn give_back(&mut self) {
        if self.budget.most_bytes.is_none() {
            return;
        }
        self.give_back_moved();
        self.cache.give_back(Arena::Translated);
        self.sites.give_back(Arena::Translated);
        drop((take(&mut self.blocks), take(&mut self.jumps)));
        drop((take(&mut self.relocations), take(&mut self.by_place)));
        drop((take(&mut self.by_key), take(&mut self.by_page)));
        drop((take(&mut self.stale), take(&mut self.guards)));
        drop(take(&mut self.thunks));
        self.budget.peaks = [0; TABLES];
    }

    /// The same for what was moved.
    pub(crate) fn give_back_moved(&mut self) {
        if self.budget.most_bytes.is_none() {
            return;
        }
        self.cache.give_back(Arena::Moved);
        self.sites.give_back(Arena::Moved);
        drop((take(&mut self.moved), take(&mut self.moved_jumps)));
        let [moved, moved_jumps, ..] = &mut self.budget.peaks;
        (*moved, *moved_jumps) = (0, 0);
    }

    /// Bytes of all tables, and what they may grow by.
    fn table_bytes(&mut self) -> (usize, usize) {
        const KEY: usize = size_of::<BlockKey>();
        let hashed = Table::hashed;
        let pages = self.by_page.len();
        let listed = self.blocks.len() + self.guards.len() + self.moved.len();
        let lists = listed * LISTED_BYTES + pages * LIST_BYTES + self.thunks.len() * THUNK_BYTES;
        let tables: [Table; TABLES] = [
            Table::list(&self.moved),
            Table::list(&self.moved_jumps),
            Table::list(&self.blocks),
            Table::list(&self.jumps),
            Table::list(&self.relocations),
            hashed(self.by_place.len(), self.by_place.capacity(), 24),
            hashed(
                self.by_key.len(),
                self.by_key.capacity(),
                KEY + size_of::<Known>(),
            ),
            hashed(pages, self.by_page.capacity(), 32),
            hashed(self.stale.len(), self.stale.capacity(), KEY + 8),
            hashed(self.guards.len(), self.guards.capacity(), 16),
            hashed(self.thunks.len(), self.thunks.capacity(), 40),
        ];
        let mut held = lists;
        let mut growth = AT_ONCE * (LISTED_BYTES + LIST_BYTES);
        for (table, peak) in tables.iter().zip(&mut self.budget.peaks) {
            // What was removed from a hash table leaves less room than there is.
            *peak = (*peak).max(table.capacity);
            let bytes = table.bytes_for(*peak);
            held += bytes;
            growth += table.growth_bytes(bytes);
        }
        (held, growth)
    }
}
