//! Tasks by the memory that they are made from: the kernel notes for every page which slab it belongs to.
//!
//! The notes (`struct page`, `struct slab`) take 1.6 % of memory and are read in large pieces. Where a note names the
//! cache of tasks, the objects in that slab are tasks: living ones, dead ones, and copies, which must be told apart.

use x86::{Gva, PAGE_SIZE};

use crate::blind::Blind;
use crate::look::Look;

/// Bytes of notes that are read at once.
const PIECE: u64 = 1 << 20;
/// Most slabs of tasks.
const MAX_SLABS: usize = 1 << 20;

impl Look<'_> {
    /// Every living task that a slab holds.
    pub(super) fn slab_tasks(&self) -> Result<Vec<Gva>, Blind> {
        let cache = self.space().u64(self.symbol("task_struct_cachep")?)?;
        let cache_object = self.object("kmem_cache", Gva(cache))?;
        let size = cache_object.number("size")?;
        let count = cache_object.number("oo.x")? & 0xffff;
        let padding = cache_object.number("red_left_pad").unwrap_or(0);
        if size == 0 || size > 1 << 20 || count == 0 || count > 4096 || padding > size {
            return Err(Blind::nonsense("cache of tasks has impossible sizes"));
        }
        let memory = self.space().u64(self.symbol("page_offset_base")?)?;
        let mut tasks = Vec::new();
        for frame in self.slabs_of(cache)? {
            let start = memory.wrapping_add(frame * PAGE_SIZE).wrapping_add(padding);
            for object in 0..count {
                let task = Gva(start.wrapping_add(object * size));
                match self.living_task(task) {
                    Ok(_) => tasks.push(task),
                    Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                    Err(_) => {}
                }
            }
        }
        Ok(tasks)
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
        let mut frames = Vec::new();
        for extent in self.kernel().memory.extents() {
            let first = extent.start.0 / PAGE_SIZE;
            let end = first + extent.len_bytes / PAGE_SIZE;
            let step = PIECE / size;
            for frame in (first..end).step_by(step as usize) {
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
