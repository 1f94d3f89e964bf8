//! The kernel half of an address space, as its page tables map it: what can be run, and where each stretch begins.
//!
//! The tables are the guest's: each is read once in a walk, their number is bounded, and one that maps nothing that can be
//! run is not looked at again, as kernels map one table in many places (the shadow of kernels that check their memory).

use std::collections::HashSet;
use std::ops::Range;

use x86::paging::{ADDRESS, NX, P, PS};
use x86::{Gpa, PAGE_SIZE};

use crate::blind::Blind;
use crate::look::Look;
use crate::space::{IMAGE_VA, Root};

/// Most tables that are read.
const MAX_TABLES: usize = 1 << 18;
/// Most stretches that are kept of each kind.
const MAX_STRETCHES: usize = 1 << 20;
/// Entries of a table.
const ENTRIES: usize = 512;
/// The first entry of the top table that is the kernel's.
pub(super) const KERNEL_HALF: usize = 256;

/// Pages of one size that can be run, on end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Executable {
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub len_bytes: u64,
    /// Where its first byte lies.
    pub gpa: Gpa,
}

/// What a walk through the kernel half found.
#[derive(Debug, Default)]
pub(super) struct KernelPages {
    /// In ascending order.
    pub executable: Vec<Executable>,
    /// Where something is mapped behind a page that is not, in the stretch that was asked for: there every piece of memory
    /// begins that the kernel mapped for itself (`vmalloc` leaves a page free behind each).
    pub begins: Vec<u64>,
    /// Pages of the kernel's image that do not lie where the rest of it does.
    pub displaced: Vec<Executable>,
}

/// A walk.
struct Walk<'l, 'k> {
    look: &'l Look<'k>,
    found: KernelPages,
    /// Where pieces that the kernel mapped for itself lie.
    pieces: Range<u64>,
    /// The image, and where `IMAGE_VA` would lie.
    image: Range<u64>,
    phys_base: u64,
    /// Where the last piece that was mapped ended.
    last: u64,
    /// Tables that map nothing that can be run, outside of `pieces`.
    dull: HashSet<u64>,
    left: usize,
}

/// The entries of a table.
pub(super) fn entries(look: &Look<'_>, table: u64) -> Result<Vec<u64>, Blind> {
    let mut bytes = vec![0; PAGE_SIZE as usize];
    look.space()
        .read_physical(Gpa(table & ADDRESS), &mut bytes)?;
    let (words, _) = bytes.as_chunks::<8>();
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

/// The address that entry `index` of a table at `level` maps, where the table maps from `base` on.
fn address(base: u64, level: u32, index: usize) -> u64 {
    base.wrapping_add((index as u64) << (12 + 9 * level))
}

/// Where the top table's entry maps: the upper half is counted down from the end of all addresses.
pub(super) fn top_address(levels: u32, index: usize) -> u64 {
    let shift = 12 + 9 * (levels - 1);
    let unused = 64 - (shift + 9);
    (((index as u64) << (shift + unused)) as i64 >> unused) as u64
}

impl Look<'_> {
    /// The kernel half of the kernel's own tables. `pieces` is where it maps memory for itself.
    pub(super) fn kernel_pages(&self, pieces: Range<u64>) -> Result<KernelPages, Blind> {
        let root = self
            .space()
            .root()
            .ok_or(Blind::NotGiven("the kernel's page tables are not known"))?;
        let image = self.symbol("_text")?.0..self.symbol("_end")?.0;
        self.pages_below(root, KERNEL_HALF..ENTRIES, pieces, image)
    }

    /// What some entries of a top table map.
    pub(super) fn pages_below(
        &self,
        root: Root,
        top: Range<usize>,
        pieces: Range<u64>,
        image: Range<u64>,
    ) -> Result<KernelPages, Blind> {
        let mut walk = Walk {
            look: self,
            found: KernelPages::default(),
            pieces,
            image,
            phys_base: self.kernel().phys_base,
            last: 0,
            dull: HashSet::new(),
            left: MAX_TABLES,
        };
        let table = entries(self, root.gpa.0)?;
        let level = root.levels - 1;
        for index in top {
            let base = top_address(root.levels, index);
            walk.entry(table.get(index).copied().unwrap_or(0), level, base, true)?;
        }
        Ok(walk.found)
    }
}

impl Walk<'_, '_> {
    /// One entry of a table at `level` that maps from `base` on; whether anything below it can be run.
    fn entry(&mut self, entry: u64, level: u32, base: u64, may_run: bool) -> Result<bool, Blind> {
        if entry & P == 0 {
            return Ok(false);
        }
        let may_run = may_run && entry & NX == 0;
        if level == 0 || level <= 2 && entry & PS != 0 {
            let size = 1u64 << (12 + 9 * level);
            self.leaf(base, size, Gpa(entry & ADDRESS & !(size - 1)), may_run)?;
            return Ok(may_run);
        }
        let size = 1u64 << (12 + 9 * level);
        let is_of_pieces =
            base < self.pieces.end && self.pieces.start < base.wrapping_add(size - 1);
        let is_of_image = base < self.image.end && self.image.start < base.wrapping_add(size - 1);
        let table = entry & ADDRESS;
        if !is_of_pieces && !is_of_image && (!may_run || self.dull.contains(&table)) {
            return Ok(false);
        }
        self.left = self
            .left
            .checked_sub(1)
            .ok_or(Blind::OverBudget("page tables"))?;
        let mut can_run = false;
        for (index, entry) in entries(self.look, table)?.into_iter().enumerate() {
            can_run |= self.entry(entry, level - 1, address(base, level - 1, index), may_run)?;
        }
        if !can_run && may_run {
            self.dull.insert(table);
        }
        Ok(can_run)
    }

    fn leaf(&mut self, start: u64, len_bytes: u64, gpa: Gpa, may_run: bool) -> Result<(), Blind> {
        let page = Executable {
            start,
            len_bytes,
            gpa,
        };
        if self.pieces.contains(&start) {
            if self.last != start {
                push(&mut self.found.begins, start)?;
            }
            self.last = start + len_bytes;
        }
        if may_run {
            match self.found.executable.last_mut() {
                Some(last)
                    if last.start + last.len_bytes == start
                        && last.gpa.0 + last.len_bytes == gpa.0 =>
                {
                    last.len_bytes += len_bytes;
                }
                _ => push(&mut self.found.executable, page)?,
            }
        }
        let expected = self.phys_base.wrapping_add(start.wrapping_sub(IMAGE_VA));
        if self.image.contains(&start) && gpa.0 != expected {
            push(&mut self.found.displaced, page)?;
        }
        Ok(())
    }
}

fn push<T>(to: &mut Vec<T>, what: T) -> Result<(), Blind> {
    if to.len() >= MAX_STRETCHES {
        return Err(Blind::OverBudget("stretches of pages"));
    }
    to.push(what);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_half_ends_where_addresses_do() {
        let check = |levels, index, expected| {
            assert_eq!(top_address(levels, index), expected, "{levels} {index}");
        };
        check(4, 256, 0xffff_8000_0000_0000);
        check(4, 511, 0xffff_ff80_0000_0000);
        check(5, 256, 0xff00_0000_0000_0000);
        check(5, 511, 0xffff_0000_0000_0000);
        check(4, 0, 0);
        assert_eq!(
            address(0xffff_ff80_0000_0000, 2, 510),
            0xffff_ffff_8000_0000
        );
        assert_eq!(address(0xffff_ffff_8000_0000, 0, 1), 0xffff_ffff_8000_1000);
    }
}
