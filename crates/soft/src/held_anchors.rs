//! Anchors while translated code is outside.

/// What registers hold in the middle of a block that is none of the guest's: host addresses of checked bytes. They are
/// good as long as no page is taken from a TLB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldAnchors {
    mask: u16,
    held: [u64; 16],
}

impl HeldAnchors {
    /// Those in `mask`, by the numbers of the registers.
    pub(crate) fn new(mask: u16, held: [u64; 16]) -> HeldAnchors {
        HeldAnchors { mask, held }
    }

    /// Each in its register.
    pub(crate) fn put_into(&self, gprs: &mut [u64; 16]) {
        for number in (0..16).filter(|number| self.mask & 1 << number != 0) {
            gprs[number] = self.held[number];
        }
    }
}
