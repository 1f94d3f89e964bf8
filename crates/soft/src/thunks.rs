//! Where the thunks of the instructions lie that a vCPU bounced lately, so that it need not ask under the lock of all.

use crate::code_cache::HostPc;
use crate::decoded::MAX_INSTRUCTION_BYTES;
use crate::mode::Mode;

/// Thunks that are kept, direct-mapped.
const SLOTS: usize = 64;

/// What a thunk was made for: the bytes of an instruction, then zeros, their number, and the mode.
type Key = ([u8; MAX_INSTRUCTION_BYTES], u8, Mode);

/// See the module's head.
pub(crate) struct Thunks {
    slots: Box<[Option<(Key, HostPc)>]>,
    generation: u64,
}

impl Thunks {
    pub(crate) fn new() -> Thunks {
        Thunks {
            slots: vec![None; SLOTS].into_boxed_slice(),
            generation: 0,
        }
    }

    /// The thunk of an instruction in this generation of the code cache. Whoever runs it asks behind its door
    /// whether the generation still is that one.
    pub(crate) fn get(&self, bytes: &[u8], mode: Mode, generation: u64) -> Option<HostPc> {
        let wanted = key(bytes, mode)?;
        let (known, thunk) = self.slots[slot(&wanted)]?;
        (self.generation == generation && known == wanted).then_some(thunk)
    }

    /// Remembers a thunk; those of another generation are forgotten.
    pub(crate) fn add(&mut self, bytes: &[u8], mode: Mode, generation: u64, thunk: HostPc) {
        let Some(key) = key(bytes, mode) else { return };
        if self.generation != generation {
            self.slots.fill(None);
            self.generation = generation;
        }
        self.slots[slot(&key)] = Some((key, thunk));
    }
}

fn key(bytes: &[u8], mode: Mode) -> Option<Key> {
    let mut padded = [0; MAX_INSTRUCTION_BYTES];
    padded.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some((padded, bytes.len() as u8, mode))
}

fn slot(key: &Key) -> usize {
    let first = key
        .0
        .iter()
        .take(8)
        .fold(0, |all, &byte| all << 8 | u64::from(byte));
    (first.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thunk_is_known_for_its_bytes_and_mode_until_the_code_cache_is_cleared() {
        let user = Mode(Mode::USER);
        let kernel = Mode(0);
        let mut thunks = Thunks::new();
        thunks.add(b"\x01\x00", user, 1, 5);
        let check = |thunks: &Thunks, bytes: &[u8], mode, generation, expected| {
            assert_eq!(thunks.get(bytes, mode, generation), expected, "{bytes:x?}");
        };
        check(&thunks, b"\x01\x00", user, 1, Some(5));
        check(&thunks, b"\x01", user, 1, None);
        check(&thunks, b"\x01\x00\x00", user, 1, None);
        check(&thunks, b"\x01\x00", kernel, 1, None);
        check(&thunks, b"\x01\x00", user, 2, None);
        thunks.add(b"\x29\x00", user, 2, 7);
        check(&thunks, b"\x01\x00", user, 2, None);
        check(&thunks, b"\x29\x00", user, 2, Some(7));
        check(&thunks, &[0x66; 16], user, 2, None);
    }
}
