//! Places of addresses that a moved kernel corrects in itself (arch/x86/boot/compressed/misc.c, `handle_relocations`).
//!
//! Behind the kernel's ELF file lie lists of linked addresses, 32 bits each and sign-extended: of 64-bit addresses, of
//! 32-bit distances that shrink as the kernel moves up (until 6.14), of 32-bit addresses. A zero precedes each list. The
//! kernel reads them backwards; so there are two or three lists just if the first zero lies right behind the ELF file.

use std::ops::Range;

/// Bytes of a place.
const WORD: usize = 4;

/// The lists, each in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Relocations {
    /// Places of 64-bit addresses.
    wide: Vec<u32>,
    /// Places of 32-bit distances to what does not move.
    inverse: Vec<u32>,
    /// Places of 32-bit addresses.
    narrow: Vec<u32>,
}

impl Relocations {
    /// The lists behind the ELF file that ends at `end`; `None` if there are none that make sense.
    pub(super) fn behind(kernel: &[u8], end: usize) -> Option<Relocations> {
        let (words, rest) = kernel.get(end..)?.as_chunks::<WORD>();
        if !rest.is_empty() || words.is_empty() {
            return None;
        }
        let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let lists: Vec<&[u32]> = words.split(|word| *word == 0).collect();
        let sorted = |list: &[u32]| {
            let mut list = list.to_vec();
            list.sort_unstable();
            list
        };
        let (wide, inverse, narrow) = match *lists.as_slice() {
            [[], wide, inverse, narrow] => (sorted(wide), sorted(inverse), sorted(narrow)),
            [[], wide, narrow] => (sorted(wide), Vec::new(), sorted(narrow)),
            _ => return None,
        };
        Some(Relocations {
            wide,
            inverse,
            narrow,
        })
    }

    /// From the three lists, each in ascending order.
    pub(super) fn of([wide, inverse, narrow]: [Vec<u32>; 3]) -> Relocations {
        Relocations {
            wide,
            inverse,
            narrow,
        }
    }

    /// The three lists.
    pub(super) fn lists(&self) -> [&[u32]; 3] {
        [&self.wide, &self.inverse, &self.narrow]
    }

    /// Those that lie in some stretches.
    pub(super) fn within(&self, ranges: &[Range<u64>]) -> Relocations {
        let is_in = |place: &u32| ranges.iter().any(|range| range.contains(&extended(*place)));
        Relocations::of(
            self.lists()
                .map(|list| list.iter().copied().filter(is_in).collect()),
        )
    }

    /// Corrects the addresses in `bytes`, linked at `start`, of a kernel that was moved up by `slide`. A place that lies
    /// partly outside is left as it is.
    pub(super) fn apply(&self, bytes: &mut [u8], start: u64, slide: u64) {
        let end = start.saturating_add(bytes.len() as u64);
        let places = |list: &[u32]| {
            let first = list.partition_point(|place| extended(*place) < start);
            let count = list[first..].partition_point(|place| extended(*place) < end);
            list[first..first + count].to_vec()
        };
        let mut correct = |list: &[u32], change: u32| {
            for place in places(list) {
                let at = (extended(place) - start) as usize;
                let field = bytes.get_mut(at..);
                if let Some(field) = field.and_then(|rest| rest.first_chunk_mut::<WORD>()) {
                    *field = u32::from_le_bytes(*field)
                        .wrapping_add(change)
                        .to_le_bytes();
                }
            }
        };
        correct(&self.narrow, slide as u32);
        correct(&self.inverse, (slide as u32).wrapping_neg());
        for place in places(&self.wide) {
            let at = (extended(place) - start) as usize;
            let field = bytes.get_mut(at..);
            if let Some(field) = field.and_then(|rest| rest.first_chunk_mut::<8>()) {
                *field = u64::from_le_bytes(*field).wrapping_add(slide).to_le_bytes();
            }
        }
    }
}

/// As the kernel reads it.
fn extended(place: u32) -> u64 {
    i64::from(place.cast_signed()) as u64
}
