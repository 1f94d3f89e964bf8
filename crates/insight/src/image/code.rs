//! The code of a kernel as its file has it, and the places that the kernel itself writes over while it boots.
//!
//! A kernel chooses instructions for the CPU that it finds: alternatives, branches that no speculation may go through,
//! returns, calls of paravirtual operations, lock prefixes that one CPU does not need (arch/x86/kernel/alternative.c). The
//! tables that say where are given away after boot, so in a guest nobody can look them up any more, nor add to them: they are
//! read from the file. What is rewritten later too (static keys and calls, tracing, probes) has tables that stay, which the
//! integrity check reads in the guest.

#[cfg(test)]
#[path = "code_tests.rs"]
mod tests;

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions};
use x86::Gva;

use super::KernelImage;
use super::relocations::Relocations;
use crate::profile::Profile;
use crate::reader::Reader;

/// Most places of one table.
const MAX_PLACES: usize = 1 << 20;
/// Longest stretch that is kept.
const MAX_PART: u64 = 128 << 20;
/// Longest place; alternatives have a byte for it.
const MAX_PLACE: u64 = 255;
/// Values that a kernel writes into its code while it boots (6.11 and later): symbols that begin so bound their tables.
const CONSTANTS: [(&str, &str, u8); 3] = [
    ("__start_runtime_ptr_", "__stop_runtime_ptr_", 8),
    ("__start_runtime_shift_", "__stop_runtime_shift_", 1),
    ("__start_runtime_mask_", "__stop_runtime_mask_", 4),
];
/// Tables of distances to instructions that are rewritten whole: what bounds them, and whether what is called then may lie
/// outside of the kernel (thunks against indirect target selection, in pages of their own).
const INSTRUCTIONS: [(&str, &str, bool); 3] = [
    ("__retpoline_sites", "__retpoline_sites_end", true),
    ("__return_sites", "__return_sites_end", false),
    ("__call_sites", "__call_sites_end", false),
];

/// A place that is written over while the kernel boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootPlace {
    /// From `_text`.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u8,
    /// What may stand there.
    pub content: Content,
}

/// What may stand in a place after boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Content {
    /// Instructions that stay in the kernel.
    Instructions,
    /// Instructions that may branch elsewhere.
    Branch,
    /// A value.
    Value,
}

/// Code and tables, and what happens to them before they run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Code {
    /// Where `_text` is linked.
    text: u64,
    /// Stretches of bytes, by where they are linked.
    parts: Vec<(u64, Vec<u8>)>,
    /// Addresses in them; none if the kernel cannot be moved.
    relocations: Option<Relocations>,
    /// In ascending order.
    places: Vec<BootPlace>,
}

impl Code {
    /// Takes out of a kernel what integrity checks need; `None` if its tables cannot be understood.
    pub(super) fn take(image: &KernelImage, profile: &Profile, text: Gva) -> Option<Code> {
        let tables = Tables {
            image,
            profile,
            text: text.0,
        };
        let mut parts: Vec<(u64, Vec<u8>)> = Vec::new();
        for (first, last) in [
            ("_stext", "_etext"),
            ("__start_rodata", "__end_rodata"),
            ("__start_BTF", "__stop_BTF"),
            ("sys_call_table", ""),
        ] {
            let Some(mut range) = tables.range(first, last) else {
                continue;
            };
            // Up to where the file has it: what fills up the last page is nobody's.
            if let Some(end) = image.segments.end_of(range.start) {
                range.end = range.end.min(end);
            }
            // Most tables are constants.
            let is_kept = parts.iter().any(|(start, bytes)| {
                *start <= range.start && range.end <= start + bytes.len() as u64
            });
            if !is_kept {
                let len = range.end - range.start;
                parts.push((range.start, tables.bytes(range.start, len)?.to_vec()));
            }
        }
        let (code, _) = parts.first()?;
        if *code != text.0.checked_add_signed(profile.offset("_stext")?)? {
            return None;
        }
        let mut places = tables.places()?;
        places.sort_unstable();
        places.dedup();
        let ranges: Vec<Range<u64>> = parts
            .iter()
            .map(|(start, bytes)| *start..start + bytes.len() as u64)
            .collect();
        let relocations = image.relocations.as_ref();
        Some(Code {
            text: text.0,
            parts,
            relocations: relocations.map(|all| all.within(&ranges)),
            places,
        })
    }

    /// Bytes from `offset` behind `_text` on, as they are when the kernel has been moved up by `slide`; `None` if they are
    /// not kept, or the kernel cannot be moved.
    pub(crate) fn moved(&self, offset: i64, len: u64, slide: u64) -> Option<Vec<u8>> {
        let start = self.text.checked_add_signed(offset)?;
        let len = usize::try_from(len).ok()?;
        let mut bytes = self.parts.iter().find_map(|(first, bytes)| {
            let at = usize::try_from(start.checked_sub(*first)?).ok()?;
            Some(bytes.get(at..at.checked_add(len)?)?.to_vec())
        })?;
        if slide != 0 {
            self.relocations.as_ref()?.apply(&mut bytes, start, slide);
        }
        Some(bytes)
    }

    /// As many of these bytes as are kept.
    pub(crate) fn moved_as_kept(&self, offset: i64, len: u64, slide: u64) -> Option<Vec<u8>> {
        let start = self.text.checked_add_signed(offset)?;
        let kept = self.parts.iter().find_map(|(first, bytes)| {
            let at = start.checked_sub(*first)?;
            (bytes.len() as u64)
                .checked_sub(at)
                .filter(|left| *left > 0)
        })?;
        self.moved(offset, len.min(kept), slide)
    }

    /// Where `_text` is linked.
    pub(crate) fn linked_text(&self) -> u64 {
        self.text
    }

    /// Places that are written over while the kernel boots, in ascending order.
    pub(crate) fn boot_places(&self) -> &[BootPlace] {
        &self.places
    }

    /// As it is kept.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut to = self.text.to_le_bytes().to_vec();
        to.extend((self.parts.len() as u32).to_le_bytes());
        for (start, bytes) in &self.parts {
            to.extend(start.to_le_bytes());
            to.extend((bytes.len() as u32).to_le_bytes());
            to.extend(bytes);
        }
        to.extend(u32::from(self.relocations.is_some()).to_le_bytes());
        let none = Relocations::default();
        for list in self.relocations.as_ref().unwrap_or(&none).lists() {
            to.extend((list.len() as u32).to_le_bytes());
            list.iter().for_each(|place| to.extend(place.to_le_bytes()));
        }
        to.extend((self.places.len() as u32).to_le_bytes());
        for place in &self.places {
            to.extend(place.offset.to_le_bytes());
            to.extend([place.len, place.content as u8]);
        }
        to
    }

    /// From what [`Code::to_bytes`] gave; `None` if it is not that.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Code> {
        let mut reader = Reader::new(bytes);
        let text = reader.u64()?;
        let mut parts = Vec::new();
        for _ in 0..reader.u32()? {
            let start = reader.u64()?;
            let len = reader.u32()? as usize;
            parts.push((start, reader.take(len)?.to_vec()));
        }
        let has_relocations = reader.u32()? != 0;
        let mut lists: [Vec<u32>; 3] = Default::default();
        for list in &mut lists {
            let len = (reader.u32()? as usize).checked_mul(4)?;
            let (words, _) = reader.take(len)?.as_chunks::<4>();
            list.extend(words.iter().map(|word| u32::from_le_bytes(*word)));
        }
        let mut places = Vec::new();
        for _ in 0..reader.u32()? {
            let offset = reader.u32()?;
            let [len, content] = *reader.take(2)?.first_chunk::<2>()?;
            let content = match content {
                0 => Content::Instructions,
                1 => Content::Branch,
                _ => Content::Value,
            };
            places.push(BootPlace {
                offset,
                len,
                content,
            });
        }
        reader.is_empty().then_some(Code {
            text,
            parts,
            relocations: has_relocations.then(|| Relocations::of(lists)),
            places,
        })
    }
}

/// The kernel's own tables, in its file.
struct Tables<'a> {
    image: &'a KernelImage,
    profile: &'a Profile,
    text: u64,
}

impl Tables<'_> {
    fn address(&self, name: &str) -> Option<u64> {
        self.text.checked_add_signed(self.profile.offset(name)?)
    }

    /// Between two symbols; up to the next one if there is no second.
    fn range(&self, first: &str, last: &str) -> Option<Range<u64>> {
        let start = self.address(first)?;
        let end = match self.address(last) {
            Some(end) => end,
            None => {
                let next = self
                    .profile
                    .symbols
                    .next_place(self.profile.offset(first)?)?;
                self.text.checked_add_signed(next)?
            }
        };
        let len = end.checked_sub(start)?;
        (len > 0 && len <= MAX_PART).then_some(start..end)
    }

    fn bytes(&self, address: u64, len: u64) -> Option<&[u8]> {
        let at = usize::try_from(address.checked_sub(self.image.start.0)?).ok()?;
        let len = usize::try_from(len).ok()?;
        self.image.bytes.get(at..at.checked_add(len)?)
    }

    /// The entries of a table, each with its address; none if the kernel has no such table.
    fn entries(&self, (first, last): (&str, &str), stride: usize) -> Option<Vec<(u64, &[u8])>> {
        let (Some(start), Some(end)) = (self.address(first), self.address(last)) else {
            return Some(Vec::new());
        };
        let bytes = self.bytes(start, end.checked_sub(start)?)?;
        if stride == 0 || bytes.len() / stride > MAX_PLACES {
            return None;
        }
        // The last entry of some tables is not filled up to its size.
        let entries = bytes.chunks(stride).zip((start..).step_by(stride));
        Some(entries.map(|(entry, at)| (at, entry)).collect())
    }

    /// What a table of 32-bit distances, each from where itself stands, leads to.
    fn distances(&self, bounds: (&str, &str)) -> Option<Vec<u64>> {
        let entries = self.entries(bounds, 4)?.into_iter();
        Some(entries.map(|(at, entry)| distant(at, entry)).collect())
    }

    fn places(&self) -> Option<Vec<BootPlace>> {
        let mut places = Vec::new();
        let mut add = |address: u64, len: u64, content| {
            let offset = address.checked_sub(self.text).map(u32::try_from);
            if let (Some(Ok(offset)), 1..=MAX_PLACE) = (offset, len) {
                places.push(BootPlace {
                    offset,
                    len: len as u8,
                    content,
                });
            }
        };
        for (at, len) in self.alternatives()? {
            add(at, len, Content::Instructions);
        }
        for (at, len) in self.paravirt()? {
            add(at, len, Content::Instructions);
        }
        for (first, last, may_leave) in INSTRUCTIONS {
            let content = match may_leave {
                true => Content::Branch,
                false => Content::Instructions,
            };
            for at in self.distances((first, last))? {
                add(at, self.instruction_len(at), content);
            }
        }
        for at in self.distances(("__smp_locks", "__smp_locks_end"))? {
            add(at, 1, Content::Instructions);
        }
        for at in self.distances(("__ibt_endbr_seal", "__ibt_endbr_seal_end"))? {
            add(at, 4, Content::Instructions);
        }
        for (first, last, len) in CONSTANTS {
            for number in 0..self.profile.symbols.len() {
                let Some(kept) = self.profile.symbols.entry(number) else {
                    continue;
                };
                let name = std::str::from_utf8(kept.name).unwrap_or_default();
                let Some(of) = name.strip_prefix(first) else {
                    continue;
                };
                for at in self.distances((name, &format!("{last}{of}")))? {
                    add(at, u64::from(len), Content::Value);
                }
            }
        }
        Some(places)
    }

    /// `struct alt_instr`, whose form has changed often: the type information says which it is.
    fn alternatives(&self) -> Option<Vec<(u64, u64)>> {
        let bounds = ("__alt_instructions", "__alt_instructions_end");
        if self.address(bounds.0).is_none() {
            return Some(Vec::new());
        }
        let layouts = self.profile.layouts.as_ref()?;
        let place = |member| Some(layouts.place("alt_instr", member).ok()?.offset);
        let offset = place("instr_offset")?;
        let len = place("instrlen")?;
        let entries = self.entries(bounds, layouts.size("alt_instr").ok()?)?;
        let entry = |(at, entry): (u64, &[u8])| {
            let distance = entry.get(offset..offset + 4)?;
            Some((
                distant(at + offset as u64, distance),
                u64::from(*entry.get(len)?),
            ))
        };
        entries.into_iter().map(entry).collect()
    }

    /// `struct paravirt_patch_site`, until 6.7.
    fn paravirt(&self) -> Option<Vec<(u64, u64)>> {
        let bounds = ("__parainstructions", "__parainstructions_end");
        if self.address(bounds.0).is_none() {
            return Some(Vec::new());
        }
        let layouts = self.profile.layouts.as_ref()?;
        let place = |member| Some(layouts.place("paravirt_patch_site", member).ok()?.offset);
        let address = place("instr")?;
        let len = place("len")?;
        let entries = self.entries(bounds, layouts.size("paravirt_patch_site").ok()?)?;
        let entry = |(_, entry): (u64, &[u8])| {
            let address = entry.get(address..)?.first_chunk().copied()?;
            Some((u64::from_le_bytes(address), u64::from(*entry.get(len)?)))
        };
        entries.into_iter().map(entry).collect()
    }

    fn instruction_len(&self, address: u64) -> u64 {
        let code = (1..=15).rev().find_map(|len| self.bytes(address, len));
        let mut decoder = Decoder::new(64, code.unwrap_or_default(), DecoderOptions::NONE);
        decoder.decode().len() as u64
    }
}

/// What a 32-bit distance leads to that stands at `at`.
fn distant(at: u64, distance: &[u8]) -> u64 {
    let distance = distance
        .first_chunk()
        .copied()
        .map_or(0, i32::from_le_bytes);
    at.wrapping_add(i64::from(distance) as u64)
}
