//! Where the guest's kernel was told that it has RAM: the map of its boot loader, which the kernel keeps as it got it.

use x86::{Gpa, Gva};

use crate::blind::Blind;
use crate::look::Look;
use crate::memory::Extent;

/// Most entries that a kernel keeps: 128, and three for each of at most 1024 nodes (arch/x86/include/asm/e820/types.h).
const MAX_ENTRIES: u32 = 128 + 3 * 1024;
/// `struct e820_table` is a 32-bit number and entries behind it, which are packed: two 64-bit numbers and a 32-bit one.
const ENTRIES_AT: u64 = 4;
const ENTRY_BYTES: usize = 20;
/// The type of RAM.
const RAM: u32 = 1;

impl Look<'_> {
    /// Stretches of RAM as the boot loader told them (`e820_table_firmware`, arch/x86/kernel/e820.c), in its order. What the
    /// kernel was told to leave alone is in it too. Whoever has the guest's memory and not its layout learns it here.
    ///
    /// # Errors
    /// If the kernel has no such map, or it is none.
    pub fn ram_map(&self) -> Result<Vec<Extent>, Blind> {
        let table = Gva(self.number_at(self.symbol("e820_table_firmware")?)?);
        let count = self.space().u32(table)?;
        if count == 0 || count > MAX_ENTRIES {
            return Err(Blind::nonsense(format!(
                "memory map of {count} entries is none"
            )));
        }
        let entries = Gva(table.0.wrapping_add(ENTRIES_AT));
        let bytes = self.space().bytes(entries, count as usize * ENTRY_BYTES)?;
        Ok(ram_of(&bytes))
    }
}

/// Entries of RAM that do not end before they begin.
fn ram_of(bytes: &[u8]) -> Vec<Extent> {
    let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
    let number = |bytes: &[u8]| {
        let fold = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        bytes.iter().rev().fold(0, fold)
    };
    entries
        .iter()
        .filter(|entry| number(&entry[16..]) == u64::from(RAM))
        .map(|entry| Extent {
            start: Gpa(number(&entry[..8])),
            len_bytes: number(&entry[8..16]),
        })
        .filter(|extent| {
            extent.len_bytes > 0 && extent.start.0.checked_add(extent.len_bytes).is_some()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ram_that_can_be_is_taken() {
        let entry = |start: u64, len: u64, kind: u32| {
            [
                &start.to_le_bytes()[..],
                &len.to_le_bytes(),
                &kind.to_le_bytes(),
            ]
            .concat()
        };
        let bytes = [
            entry(0, 0x9_fc00, 1),
            entry(0x9_fc00, 0x400, 2),
            entry(0x10_0000, 0, 1),
            entry(u64::MAX, 2, 1),
            entry(0x1_0000_0000, 0x4000_0000, 1),
            vec![1, 2, 3],
        ]
        .concat();
        let expected = [(0, 0x9_fc00), (0x1_0000_0000, 0x4000_0000)];
        let expected = expected.map(|(start, len_bytes)| Extent {
            start: Gpa(start),
            len_bytes,
        });
        assert_eq!(ram_of(&bytes), expected);
    }
}
