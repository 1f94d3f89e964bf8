//! Which large pages a table keeps small pieces of.
//!
//! TLBs and jump caches work in pages of 4 KiB; a large page of the guest's is entered piece by piece, as it is used.
//! But the guest flushes it with one INVLPG of any of its addresses, and by then its page tables may say something
//! else. So each table notes of what large pages it got pieces: a few bits, hashed, that may say yes too often and
//! never no.

use x86::Gva;

/// Sizes of large pages: 2 MiB, 4 MiB (32-bit tables without PAE), 1 GiB.
const SIZES: [u64; 3] = [2 << 20, 4 << 20, 1 << 30];
const BITS: usize = 2048;

/// See the module's head.
pub(crate) struct LargePages([[u64; BITS / 64]; SIZES.len()]);

impl LargePages {
    pub(crate) fn new() -> LargePages {
        LargePages([[0; BITS / 64]; SIZES.len()])
    }

    fn place(gva: Gva, size: u64) -> (usize, u64) {
        let hash = (gva.0 / size).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let bit = hash as usize % BITS;
        (bit / 64, 1 << (bit % 64))
    }

    /// Notes that a piece of the page of `size` bytes around `gva` is in the table. Small pages are not noted.
    pub(crate) fn note(&mut self, gva: Gva, size: u64) {
        if let Some(index) = SIZES.iter().position(|&known| known == size) {
            let (word, bit) = LargePages::place(gva, size);
            self.0[index][word] |= bit;
        }
    }

    /// Sizes of large pages around `gva` that may have pieces in the table.
    pub(crate) fn around(&self, gva: Gva) -> impl Iterator<Item = u64> {
        SIZES.iter().zip(&self.0).filter_map(move |(&size, bits)| {
            let (word, bit) = LargePages::place(gva, size);
            (bits[word] & bit != 0).then_some(size)
        })
    }

    pub(crate) fn clear(&mut self) {
        self.0 = [[0; BITS / 64]; SIZES.len()];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_page_is_found_from_any_of_its_addresses_and_a_small_one_from_none() {
        let mut pages = LargePages::new();
        let sizes = |pages: &LargePages, gva| pages.around(Gva(gva)).collect::<Vec<_>>();
        pages.note(Gva(0x4020_1000), 2 << 20);
        pages.note(Gva(0xffff_8880_4000_0000), 1 << 30);
        pages.note(Gva(0x1000), 4096);
        assert_eq!(sizes(&pages, 0x403f_ffff), [2 << 20]);
        assert_eq!(sizes(&pages, 0x4020_0000), [2 << 20]);
        assert!(sizes(&pages, 0x4040_0000).is_empty());
        assert_eq!(sizes(&pages, 0xffff_8880_7fff_f000), [1 << 30]);
        assert!(sizes(&pages, 0x1000).is_empty());
        pages.clear();
        assert!(sizes(&pages, 0x4020_1000).is_empty());
    }
}
