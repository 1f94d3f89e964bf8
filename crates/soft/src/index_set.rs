//! A set of positions in a table of fixed size.

/// Room for `WORDS * 64` positions.
pub(crate) struct IndexSet<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> IndexSet<WORDS> {
    pub(crate) fn new() -> IndexSet<WORDS> {
        IndexSet([0; WORDS])
    }

    pub(crate) fn set(&mut self, index: usize, member: bool) {
        let bit = 1 << (index % 64);
        if member {
            self.0[index / 64] |= bit;
        } else {
            self.0[index / 64] &= !bit;
        }
    }

    pub(crate) fn has(&self, index: usize) -> bool {
        self.0[index / 64] & 1 << (index % 64) != 0
    }

    pub(crate) fn clear(&mut self) {
        self.0.fill(0);
    }
}
