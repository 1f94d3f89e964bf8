//! Two guests that run the same build of a kernel: their code must be the same, but for where each lies and for what each
//! may rewrite. Needs no baseline, so it sees what was there before the first look; which of the two is right, it cannot
//! tell.

use x86::Gva;

use super::sites::Sites;
use super::{Finding, FindingKind, hex};
use crate::blind::Blind;
use crate::look::Look;
use crate::observed::Observed;

/// Most code that is compared.
const MAX_TEXT: u64 = 128 << 20;
/// Findings, at most.
const MAX_FINDINGS: usize = 64;
/// Variables whose values a kernel writes into its code when it boots, since 6.11, are named in those of its symbols that
/// begin so; the tables themselves are given away then.
const POINTERS: &str = "__start_runtime_ptr_";
const SHIFTS: &str = "__start_runtime_shift_";

/// Bytes of one guest's kernel beside those of another.
struct Pair<'a> {
    /// Where they lie in the first one.
    start: u64,
    ours: &'a [u8],
    theirs: &'a [u8],
    /// How much higher the first kernel lies than the second.
    slide: u64,
}

impl Look<'_> {
    /// Compares the kernel's code with that of another guest that runs the same build.
    pub fn compare_with(&self, other: &Look<'_>) -> Observed<Vec<Finding>> {
        self.observed(self.differences(other))
    }

    fn differences(&self, other: &Look<'_>) -> Result<Vec<Finding>, Blind> {
        match (self.kernel().build_id(), other.kernel().build_id()) {
            (Some(ours), Some(theirs)) if ours == theirs => {}
            _ => {
                return Err(Blind::NotGiven(
                    "the two guests do not run the same build of a kernel",
                ));
            }
        }
        let start = self.symbol("_stext")?.0;
        let end = self.symbol("_etext")?.0;
        let slide = start.wrapping_sub(other.symbol("_stext")?.0);
        let len = end.wrapping_sub(start);
        if len > MAX_TEXT {
            return Err(Blind::nonsense("kernel has more code than any can have"));
        }
        let sites = self.patch_sites(&self.read_modules()?)?;
        let their_sites = other.patch_sites(&other.read_modules()?)?;
        let constants = self.boot_constants(other);
        let their_end = end.wrapping_sub(slide);
        // In one piece: an address may lie across any border.
        let ours = self.space().bytes(Gva(start), len as usize)?;
        let theirs = other
            .space()
            .bytes(Gva(start.wrapping_sub(slide)), len as usize)?;
        let pair = Pair {
            start,
            ours: &ours,
            theirs: &theirs,
            slide,
        };
        let mut findings: Vec<Finding> = Vec::new();
        let mut last = 0;
        let mut next = 0;
        while let Some(index) = pair.next_difference(next) {
            let address = start + index as u64;
            let moved = pair.moved(index);
            let legal = |look: &Look<'_>, sites: &Sites, end, address| {
                look.legal(end, address, sites)
                    .map(|(start, legal)| (start + legal.len as u64 - address) as usize)
            };
            let skip = moved
                .or_else(|| {
                    constants
                        .iter()
                        .find_map(|constant| pair.holds(index, constant))
                })
                .or_else(|| self.is_same_cache(other, &pair, index))
                .or_else(|| legal(self, &sites, end, address))
                .or_else(|| legal(other, &their_sites, their_end, address.wrapping_sub(slide)));
            next = index + skip.unwrap_or(1);
            if skip.is_some() || address.wrapping_sub(last) <= 8 {
                continue;
            }
            last = address;
            findings.push(self.difference(&pair, index));
            if findings.len() >= MAX_FINDINGS {
                return Ok(findings);
            }
        }
        Ok(findings)
    }

    fn difference(&self, pair: &Pair<'_>, index: usize) -> Finding {
        let shown = |bytes: &[u8]| hex(&bytes[index..bytes.len().min(index + 8)]);
        let address = pair.start + index as u64;
        Finding {
            kind: FindingKind::KernelText,
            subject: self.whereabouts(address),
            what: "differs from another guest that runs the same kernel".to_owned(),
            address: Some(address),
            before: Some(shown(pair.theirs)),
            after: Some(shown(pair.ours)),
        }
    }

    /// Whether the byte at `index` belongs to a pointer to a cache of objects, each guest's own cache of the same name: 7.x
    /// has such pointers in its code and nowhere else. Bytes to the end of the pointer.
    fn is_same_cache(&self, other: &Look<'_>, pair: &Pair<'_>, index: usize) -> Option<usize> {
        let (rest, ours, theirs) = pair.loaded_value(index)?;
        let name = |look: &Look<'_>, cache: u64| {
            let name = look.member("kmem_cache", Gva(cache), "name").ok()?;
            look.space()
                .text(Gva(name), 64)
                .ok()
                .filter(|name| !name.is_empty())
        };
        (name(self, ours)? == name(other, theirs)?).then_some(rest)
    }

    /// Values that both kernels wrote into their code when they booted, each its own.
    fn boot_constants(&self, other: &Look<'_>) -> Vec<[Vec<u8>; 2]> {
        let names = self.kernel().symbols().filter_map(|(_, _, name)| {
            let name = std::str::from_utf8(name).ok()?;
            let pointer = name.strip_prefix(POINTERS).map(|name| (name.to_owned(), 8));
            pointer.or_else(|| name.strip_prefix(SHIFTS).map(|name| (name.to_owned(), 1)))
        });
        let value = |look: &Look<'_>, name: &str, len| look.space().bytes(look.symbol(name)?, len);
        let values = names.filter_map(|(name, len)| {
            Some([
                value(self, &name, len).ok()?,
                value(other, &name, len).ok()?,
            ])
        });
        values.collect()
    }
}

impl Pair<'_> {
    fn next_difference(&self, from: usize) -> Option<usize> {
        let rest = self.ours.get(from..)?.iter().zip(self.theirs.get(from..)?);
        rest.into_iter()
            .position(|(a, b)| a != b)
            .map(|index| from + index)
    }

    /// The 64-bit value that an instruction loads (`movabs`), if the byte at `index` belongs to one: bytes to its end, and
    /// the value in each guest.
    fn loaded_value(&self, index: usize) -> Option<(usize, u64, u64)> {
        (0..8).find_map(|back| {
            let start = index.checked_sub(back)?;
            let opcode = self.ours.get(start.checked_sub(2)?..start)?;
            let read = |bytes: &[u8]| {
                Some(u64::from_le_bytes(
                    bytes.get(start..start + 8)?.try_into().ok()?,
                ))
            };
            matches!(opcode, [0x48 | 0x49, 0xb8..=0xbf]).then_some((
                8 - back,
                read(self.ours)?,
                read(self.theirs)?,
            ))
        })
    }

    /// Whether the byte at `index` belongs to a value that each guest has its own of; bytes to the end of that.
    fn holds(&self, index: usize, [ours, theirs]: &[Vec<u8>; 2]) -> Option<usize> {
        (0..ours.len()).find_map(|back| {
            let start = index.checked_sub(back)?;
            let is_there = self.ours.get(start..)?.starts_with(ours)
                && self.theirs.get(start..)?.starts_with(theirs);
            is_there.then_some(ours.len() - back)
        })
    }

    /// Whether the byte at `index` belongs to an address that differs by just the distance of the kernels; bytes to the
    /// end of that address.
    fn moved(&self, index: usize) -> Option<usize> {
        (0..4).find_map(|back| {
            let start = index.checked_sub(back)?;
            let read = |bytes: &[u8]| {
                Some(u32::from_le_bytes(
                    bytes.get(start..start + 4)?.try_into().ok()?,
                ))
            };
            let difference = read(self.ours)?.wrapping_sub(read(self.theirs)?);
            let slide = self.slide as u32;
            (difference == slide || difference == slide.wrapping_neg()).then_some(4 - back)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_moved_with_its_kernel_is_no_difference() {
        // mov rdi, 0x81200000 in one, 0x81a00000 in the other; and a changed byte.
        let ours = [0x48, 0xc7, 0xc7, 0, 0, 0xa0, 0x81, 0x90, 0x90, 0x90];
        let theirs = [0x48, 0xc7, 0xc7, 0, 0, 0x20, 0x81, 0x90, 0xcc, 0x90];
        let pair = Pair {
            start: 0,
            ours: &ours,
            theirs: &theirs,
            slide: 0x80_0000,
        };
        assert_eq!(pair.next_difference(0), Some(5));
        assert_eq!(pair.moved(5), Some(2));
        assert_eq!(pair.next_difference(7), Some(8));
        assert_eq!(pair.moved(8), None);
        assert_eq!(pair.next_difference(9), None);
        assert_eq!(
            pair.holds(8, &[vec![0x90, 0x90], vec![0xcc, 0x90]]),
            Some(2)
        );
        assert_eq!(
            pair.holds(8, &[vec![0x81, 0x90, 0x90], vec![0x81, 0x90, 0xcc]]),
            Some(1)
        );
        assert_eq!(pair.holds(8, &[vec![0x91], vec![0xcc]]), None);
    }
}
