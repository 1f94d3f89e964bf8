//! What the interpreter decoded lately, by the place in translated code that led to it.
//!
//! A context switch of a guest runs through a dozen instructions that the interpreter does, the same ones every time.
//! Fetching one anew means a walk of the page tables and a decoder's work, several times the cost of doing it. But
//! translated code that comes out at a place has been translated from that very instruction, and loses its block when
//! the bytes change; so the place names the instruction, as long as the generation of the code cache is the same.

use iced_x86::Instruction;

use crate::translate::Kind;

/// Longest instruction (APM vol. 3, 1.2).
pub(crate) const MAX_INSTRUCTION_BYTES: usize = 15;
/// Instructions that are kept, direct-mapped: the kernel's paths have some hundred.
const SLOTS: usize = 1024;

/// An instruction and what the translator thinks of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoded {
    pub(crate) instruction: Instruction,
    /// The instruction's own bytes come first.
    pub(crate) bytes: [u8; MAX_INSTRUCTION_BYTES],
    pub(crate) kind: Kind,
    /// The CPU has it.
    pub(crate) is_known: bool,
    pub(crate) needs: Needs,
}

/// What a copied instruction needs of its memory operand.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Needs {
    /// Its old value matters.
    pub(crate) value: bool,
    /// It must be aligned to its size.
    pub(crate) alignment: bool,
}

/// A place in translated code, unique in its generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(u32);

impl Place {
    /// The exit for the interpreter that lies `offset` bytes into the code cache.
    pub(crate) fn of_exit(offset: u32) -> Place {
        Place(offset)
    }

    /// The memory access with this site number.
    pub(crate) fn of_site(number: u32) -> Place {
        Place(number | 1 << 31)
    }

    fn slot(self) -> usize {
        (self.0.wrapping_mul(0x9e37_79b1) >> 22) as usize % SLOTS
    }
}

/// See the module's head.
pub(crate) struct DecodedCache {
    slots: Box<[Option<(Place, Decoded)>]>,
    generation: u64,
}

impl DecodedCache {
    pub(crate) fn new() -> DecodedCache {
        DecodedCache {
            slots: vec![None; SLOTS].into_boxed_slice(),
            generation: 0,
        }
    }

    /// What was decoded at `place` in this generation of the code cache.
    pub(crate) fn get(&self, place: Place, generation: u64) -> Option<Decoded> {
        let (known, decoded) = self.slots[place.slot()].as_ref()?;
        (self.generation == generation && *known == place).then_some(*decoded)
    }

    /// Remembers what was decoded at `place`; what is of another generation is forgotten.
    pub(crate) fn add(&mut self, place: Place, generation: u64, decoded: Decoded) {
        if self.generation != generation {
            self.slots.fill(None);
            self.generation = generation;
        }
        self.slots[place.slot()] = Some((place, decoded));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Decoded {
        let mut padded = [0; MAX_INSTRUCTION_BYTES];
        padded[..bytes.len()].copy_from_slice(bytes);
        let instruction = iced_x86::Decoder::new(64, bytes, 0).decode();
        Decoded {
            instruction,
            bytes: padded,
            kind: Kind::Interpret,
            is_known: true,
            needs: Needs::default(),
        }
    }

    #[test]
    fn a_place_names_what_was_decoded_there_until_the_code_cache_is_cleared() {
        let exit = Place::of_exit(5);
        let site = Place::of_site(5);
        let mut cache = DecodedCache::new();
        cache.add(exit, 1, decoded(&[0x0f, 0x01, 0xf8]));
        cache.add(site, 1, decoded(&[0xf4]));
        let bytes = |cache: &DecodedCache, place, generation| {
            cache
                .get(place, generation)
                .map(|decoded: Decoded| decoded.bytes[0])
        };
        assert_eq!(bytes(&cache, exit, 1), Some(0x0f));
        assert_eq!(bytes(&cache, site, 1), Some(0xf4));
        assert_eq!(bytes(&cache, Place::of_exit(6), 1), None);
        assert_eq!(bytes(&cache, exit, 2), None, "an older code cache's");
        cache.add(Place::of_exit(6), 2, decoded(&[0xfa]));
        assert_eq!(
            bytes(&cache, exit, 2),
            None,
            "forgotten with the first of a new one"
        );
        assert_eq!(bytes(&cache, Place::of_exit(6), 2), Some(0xfa));
    }
}
