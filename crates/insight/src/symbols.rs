//! A kernel's symbols in the form they are kept and looked up in: one block of bytes, as it lies on disk.
//!
//! Addresses are relative to `_text`, so that the next boot's slide changes nothing. Every access is checked: the block
//! may come from a file that somebody wrote into.

use std::ops::Range;

use crate::kallsyms::Symbol;

/// An entry: offset from `_text` or absolute value (4), position of the name (4), its length (2), kind (1), whether it
/// moves with the image (1).
const ENTRY: usize = 12;
/// An entry of the index by name: hash (4), entry (4).
const INDEX: usize = 8;

/// The symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbols {
    bytes: Vec<u8>,
    entries: Range<usize>,
    index: Range<usize>,
    names: Range<usize>,
    /// Entries before this one do not move with the image.
    relative_from: usize,
}

/// A symbol as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept<'a> {
    /// From `_text`, or an absolute value.
    pub value: i64,
    /// Whether it moves with the image.
    pub is_relative: bool,
    /// nm's letter.
    pub kind: u8,
    /// Its name.
    pub name: &'a [u8],
}

impl Symbols {
    /// Takes decoded symbols; those that lie further from `_text` than 2 GiB are no image's and are left out.
    pub fn new(decoded: &[Symbol], text: u64) -> Symbols {
        let kept = |symbol: &Symbol| {
            let value = if symbol.is_relative {
                symbol.address.wrapping_sub(text)
            } else {
                symbol.address
            } as i64;
            i32::try_from(value)
                .ok()
                .map(|value| (symbol.is_relative, value))
        };
        let mut order: Vec<((bool, i32), &Symbol)> = decoded
            .iter()
            .filter_map(|symbol| Some((kept(symbol)?, symbol)))
            .collect();
        order.sort_by_key(|(key, _)| *key);
        let mut entries: Vec<u8> = Vec::new();
        let mut names: Vec<u8> = Vec::new();
        let mut index: Vec<(u32, u32)> = Vec::new();
        for (number, ((is_relative, value), symbol)) in order.iter().enumerate() {
            entries.extend(value.to_le_bytes());
            entries.extend((names.len() as u32).to_le_bytes());
            entries.extend((symbol.name.len() as u16).to_le_bytes());
            entries.extend([symbol.kind, u8::from(*is_relative)]);
            names.extend(&symbol.name);
            index.push((hash(&symbol.name), number as u32));
        }
        index.sort_unstable();
        let index: Vec<u8> = index
            .into_iter()
            .flat_map(|(hash, number)| [hash.to_le_bytes(), number.to_le_bytes()].concat())
            .collect();
        let mut bytes = Vec::new();
        bytes.extend((order.len() as u32).to_le_bytes());
        bytes.extend((names.len() as u32).to_le_bytes());
        bytes.extend(entries);
        bytes.extend(index);
        bytes.extend(names);
        Symbols::from_bytes(bytes).unwrap_or_else(Symbols::none)
    }

    fn none() -> Symbols {
        Symbols {
            bytes: Vec::new(),
            entries: 0..0,
            index: 0..0,
            names: 0..0,
            relative_from: 0,
        }
    }

    /// From what [`Symbols::as_bytes`] gave; `None` if it is not that.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Symbols> {
        let count = word(&bytes, 0)? as usize;
        let names_len = word(&bytes, 4)? as usize;
        let entries = 8..8 + count.checked_mul(ENTRY)?;
        let index = entries.end..entries.end.checked_add(count.checked_mul(INDEX)?)?;
        let names = index.end..index.end.checked_add(names_len)?;
        if names.end != bytes.len() {
            return None;
        }
        let mut symbols = Symbols {
            bytes,
            entries,
            index,
            names,
            relative_from: 0,
        };
        symbols.relative_from = partition(count, |number| {
            symbols
                .entry(number)
                .is_some_and(|entry| !entry.is_relative)
        });
        Some(symbols)
    }

    /// As they are kept.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.entries.len() / ENTRY
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The symbol with this number.
    pub fn entry(&self, number: usize) -> Option<Kept<'_>> {
        let entry = self
            .bytes
            .get(self.entries.clone())?
            .get(number * ENTRY..(number + 1) * ENTRY)?;
        let start = word(entry, 4)? as usize;
        let len = usize::from(u16::from_le_bytes([entry[8], entry[9]]));
        let name = self
            .bytes
            .get(self.names.clone())?
            .get(start..start.checked_add(len)?)?;
        let value = word(entry, 0)? as i32;
        let is_relative = entry[11] != 0;
        // Absolute values are unsigned: per-CPU offsets, sizes.
        let value = if is_relative {
            i64::from(value)
        } else {
            i64::from(value as u32)
        };
        Some(Kept {
            value,
            is_relative,
            kind: entry[10],
            name,
        })
    }

    /// Every symbol of this name, in the order of their addresses.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Kept<'a>> + 'a {
        let wanted = hash(name.as_bytes());
        let first = partition(self.len(), |at| {
            self.index_entry(at).is_some_and(|(hash, _)| hash < wanted)
        });
        (first..self.len())
            .map_while(move |at| self.index_entry(at).filter(|(hash, _)| *hash == wanted))
            .filter_map(|(_, number)| self.entry(number as usize))
            .filter(move |kept| kept.name == name.as_bytes())
    }

    /// The last symbol at or before a place in the image, by its offset from `_text`.
    pub fn before(&self, offset: i64) -> Option<(usize, Kept<'_>)> {
        let count = self.len() - self.relative_from;
        let after = partition(count, |at| {
            self.entry(self.relative_from + at)
                .is_some_and(|entry| entry.value <= offset)
        });
        let number = self.relative_from + after.checked_sub(1)?;
        Some((number, self.entry(number)?))
    }

    /// The next higher place of a symbol than `offset`.
    pub fn next_place(&self, offset: i64) -> Option<i64> {
        let count = self.len() - self.relative_from;
        let after = partition(count, |at| {
            self.entry(self.relative_from + at)
                .is_some_and(|entry| entry.value <= offset)
        });
        self.entry(self.relative_from + after)
            .map(|entry| entry.value)
    }

    fn index_entry(&self, at: usize) -> Option<(u32, u32)> {
        let index = self.bytes.get(self.index.clone())?;
        Some((word(index, at * INDEX)?, word(index, at * INDEX + 4)?))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

/// How many of the first numbers below `count` satisfy `is_before`, which none does after the first that does not.
fn partition(count: usize, is_before: impl Fn(usize) -> bool) -> usize {
    let mut low = 0;
    let mut high = count;
    while low < high {
        let middle = low + (high - low) / 2;
        if is_before(middle) {
            low = middle + 1
        } else {
            high = middle
        }
    }
    low
}

/// FNV-1a: kept on disk, so not the standard library's.
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash: u32, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols() -> Symbols {
        let symbol = |address, is_relative, name: &str| Symbol {
            address,
            is_relative,
            kind: b'T',
            name: name.as_bytes().to_vec(),
        };
        let text = 0xffff_ffff_8100_0000;
        let decoded = [
            symbol(0x1fb80, false, "current_task"),
            symbol(text + 0x100, true, "twice"),
            symbol(text, true, "_text"),
            symbol(text + 0x200, true, "twice"),
            symbol(text - 0x1000, true, "before"),
            symbol(0xffff_8880_0000_0000, true, "far away"),
        ];
        Symbols::new(&decoded, text)
    }

    #[test]
    fn symbols_are_found_by_name_and_by_place() {
        let symbols = symbols();
        let values = |name| {
            symbols
                .named(name)
                .map(|kept| kept.value)
                .collect::<Vec<_>>()
        };
        assert_eq!(values("twice"), [0x100, 0x200]);
        assert_eq!(values("current_task"), [0x1fb80]);
        assert_eq!(values("before"), [-0x1000]);
        assert!(values("far away").is_empty());
        let before = |offset| symbols.before(offset).map(|(_, kept)| kept.name);
        assert_eq!(before(0x1ff), Some(&b"twice"[..]));
        assert_eq!(before(0), Some(&b"_text"[..]));
        assert_eq!(before(-0x1001), None);
        assert_eq!(symbols.next_place(0), Some(0x100));
        assert_eq!(symbols.next_place(0x200), None);
    }

    #[test]
    fn a_block_that_was_tampered_with_is_refused_or_harmless() {
        let symbols = symbols();
        let bytes = symbols.as_bytes();
        assert_eq!(Symbols::from_bytes(bytes.to_vec()).as_ref(), Some(&symbols));
        assert_eq!(Symbols::from_bytes(bytes[..bytes.len() - 1].to_vec()), None);
        for at in 0..bytes.len() {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 0xff;
            if let Some(broken) = Symbols::from_bytes(bytes) {
                let _ = broken.named("twice").count();
                let _ = broken.before(0x123);
                let _ = (0..broken.len())
                    .filter_map(|number| broken.entry(number))
                    .count();
            }
        }
    }
}
