//! Guest addresses as types, so that a physical address is never used as a virtual one.

use std::fmt;

/// Bytes in a small page.
pub const PAGE_SIZE: u64 = 4096;
/// The bits of an address that lie inside a small page.
pub const PAGE_MASK: u64 = PAGE_SIZE - 1;

/// Guest physical address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gpa(pub u64);

/// Guest virtual (linear) address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gva(pub u64);

/// Guest frame number: a guest physical address divided by the page size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gfn(pub u64);

impl Gpa {
    /// The frame this address lies in.
    pub fn gfn(self) -> Gfn {
        Gfn(self.0 / PAGE_SIZE)
    }

    /// Offset inside the small page.
    pub fn page_offset(self) -> u64 {
        self.0 & PAGE_MASK
    }

    /// Whether the address is a multiple of the page size.
    pub fn is_page_aligned(self) -> bool {
        self.page_offset() == 0
    }

    /// This address moved up by `len_bytes`, or `None` past the end of the 64-bit space.
    pub fn checked_add(self, len_bytes: u64) -> Option<Gpa> {
        self.0.checked_add(len_bytes).map(Gpa)
    }
}

impl Gfn {
    /// First address of the frame.
    pub fn gpa(self) -> Gpa {
        Gpa(self.0 * PAGE_SIZE)
    }
}

impl Gva {
    /// Offset inside the small page.
    pub fn page_offset(self) -> u64 {
        self.0 & PAGE_MASK
    }

    /// First address of the small page.
    pub fn page(self) -> Gva {
        Gva(self.0 & !PAGE_MASK)
    }

    /// Whether bits 63..47 are equal, as 4-level paging demands (APM vol. 2, 5.3.1).
    pub fn is_canonical(self) -> bool {
        ((self.0 as i64) << 16 >> 16) as u64 == self.0
    }
}

macro_rules! hex_fmt {
    ($($t:ident),*) => { $(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:#x}", self.0) }
        }
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($t), "({:#x})"), self.0)
            }
        }
    )* };
}
hex_fmt!(Gpa, Gva, Gfn);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_addresses_repeat_bit_47() {
        let check =
            |address, expected| assert_eq!(Gva(address).is_canonical(), expected, "{address:#x}");
        check(0, true);
        check(0x0000_7fff_ffff_ffff, true);
        check(0x0000_8000_0000_0000, false);
        check(0xffff_7fff_ffff_ffff, false);
        check(0xffff_8000_0000_0000, true);
        check(u64::MAX, true);
    }
}
