//! Tasks by the memory that they are made from: the kernel notes for every page which slab it belongs to.
//!
//! The notes (`struct page`, `struct slab`; include/linux/mm_types.h, mm/slab.h) take 1.6 % of memory and are read in large
//! pieces. Where a note names the cache of tasks, the objects in that slab are tasks: living ones, dead ones, and such as
//! are being made, which must be told apart.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use x86::{Gva, PAGE_SIZE};

use crate::blind::Blind;
use crate::look::Look;

/// Bytes of notes that are read at once.
const PIECE: u64 = 1 << 20;
/// Most slabs of tasks.
const MAX_SLABS: usize = 1 << 20;
/// How long the notes of a large guest may take.
const MAX_TIME: Duration = Duration::from_secs(4);

/// Where tasks are made.
pub(super) struct Slabs {
    /// Where the first object of each slab lies.
    starts: BTreeSet<u64>,
    /// Bytes from one object to the next.
    size: u64,
    /// Objects in each slab.
    count: u64,
}

impl Slabs {
    /// Every place for a task, taken or free.
    pub(super) fn objects(&self) -> impl Iterator<Item = u64> + '_ {
        let numbers = move |start: &u64| {
            let start = *start;
            (0..self.count).map(move |number| start.wrapping_add(number * self.size))
        };
        self.starts.iter().flat_map(numbers)
    }

    /// Whether a task can have been made at `address`.
    pub(super) fn contains(&self, address: u64) -> bool {
        self.starts
            .range(..=address)
            .next_back()
            .is_some_and(|start| {
                let behind = address - start;
                behind < self.size.saturating_mul(self.count) && behind.is_multiple_of(self.size)
            })
    }
}

impl Look<'_> {
    /// The slabs that tasks are made from.
    pub(super) fn slabs_of_tasks(&self) -> Result<Slabs, Blind> {
        let cache = self.space().u64(self.symbol("task_struct_cachep")?)?;
        let cache_object = self.object("kmem_cache", Gva(cache))?;
        let size = cache_object.number("size")?;
        let count = cache_object.number("oo.x")? & 0xffff;
        let padding = cache_object.number("red_left_pad").unwrap_or(0);
        if size == 0 || size > 1 << 20 || count == 0 || count > 4096 || padding > size {
            return Err(Blind::nonsense("cache of tasks has impossible sizes"));
        }
        let memory = self.space().u64(self.symbol("page_offset_base")?)?;
        let start = |frame: u64| memory.wrapping_add(frame * PAGE_SIZE).wrapping_add(padding);
        Ok(Slabs {
            starts: self.slabs_of(cache)?.into_iter().map(start).collect(),
            size,
            count,
        })
    }

    /// First frames of the slabs of a cache.
    fn slabs_of(&self, cache: u64) -> Result<Vec<u64>, Blind> {
        let notes = self.space().u64(self.symbol("vmemmap_base")?)?;
        let size = self.layouts()?.size("page")? as u64;
        let owner = self
            .place("slab", "slab_cache")
            .or_else(|_| self.place("page", "slab_cache"))?
            .offset;
        if size == 0 || size > 1024 || owner as u64 + 8 > size {
            return Err(Blind::nonsense("notes about pages have an impossible size"));
        }
        let wanted = cache.to_le_bytes();
        let begin = Instant::now();
        let mut frames = Vec::new();
        for extent in self.kernel().memory.extents() {
            let first = extent.start.0 / PAGE_SIZE;
            let end = first + extent.len_bytes / PAGE_SIZE;
            let step = PIECE / size;
            for frame in (first..end).step_by(step as usize) {
                if begin.elapsed() > MAX_TIME {
                    return Err(Blind::NotGiven(
                        "the guest has more memory than is searched for tasks in 4 seconds",
                    ));
                }
                let len = step.min(end - frame) * size;
                let at = Gva(notes.wrapping_add(frame * size));
                // The kernel has no notes where it thinks there is no memory.
                let piece = match self.space().bytes(at, len as usize) {
                    Ok(piece) => piece,
                    Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                    Err(_) => continue,
                };
                let notes = piece.chunks_exact(size as usize).zip(frame..);
                let found = notes
                    .filter(|(note, _)| note[owner..owner + 8] == wanted)
                    .map(|(_, frame)| frame);
                frames.extend(found.take(MAX_SLABS.saturating_sub(frames.len())));
            }
        }
        Ok(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_lies_where_an_object_of_a_slab_begins() {
        let slabs = Slabs {
            starts: [0x1000, 0x9000].into(),
            size: 0x300,
            count: 4,
        };
        let check = |address, expected| {
            assert_eq!(slabs.contains(address), expected, "{address:#x}");
        };
        check(0x1000, true);
        check(0x1300, true);
        check(0x1900, true);
        check(0x1c00, false);
        check(0x1008, false);
        check(0x9000, true);
        check(0xfff, false);
        assert_eq!(slabs.objects().count(), 8);
        assert!(slabs.objects().all(|address| slabs.contains(address)));
    }
}
