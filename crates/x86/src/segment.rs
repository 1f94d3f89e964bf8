//! Segments and descriptor tables as a virtual CPU holds them (APM vol. 2, 4.7 and 4.8).

use serde::{Deserialize, Serialize};

/// A segment register: the visible selector and the hidden, cached descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Linear base address.
    pub base: u64,
    /// Last valid offset in bytes (granularity already applied).
    pub limit: u32,
    /// Descriptor bits 40..55: type, S, DPL, P in bits 0..7; AVL, L, D/B, G in bits 12..15
    /// (the layout of VMX access rights and of KVM's flags; bits 8..11 are zero).
    pub attributes: u16,
}

impl Segment {
    /// Attribute bits of a flat 64-bit ring-0 code segment.
    pub const CODE64: u16 = 0xa09b;
    /// Attribute bits of a flat 32-bit ring-0 code segment.
    pub const CODE32: u16 = 0xc09b;
    /// Attribute bits of a flat 32-bit ring-0 data segment.
    pub const DATA32: u16 = 0xc093;

    /// A flat segment: base 0, limit 4 GiB.
    pub fn flat(selector: u16, attributes: u16) -> Segment {
        Segment {
            selector,
            base: 0,
            limit: u32::MAX,
            attributes,
        }
    }

    /// A real-mode segment: base is the selector times 16, limit 64 KiB.
    pub fn real(selector: u16, attributes: u16) -> Segment {
        Segment {
            selector,
            base: u64::from(selector) << 4,
            limit: 0xffff,
            attributes,
        }
    }

    /// What a descriptor says. `selector` is kept; granularity is applied to the limit.
    pub fn from_descriptor(selector: u16, descriptor: u64) -> Segment {
        let base = (descriptor >> 16 & 0xff_ffff) | (descriptor >> 56 & 0xff) << 24;
        let raw_limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
        let attributes = (descriptor >> 40 & 0xf0ff) as u16;
        let limit = if attributes & 0x8000 != 0 {
            raw_limit << 12 | 0xfff
        } else {
            raw_limit
        };
        Segment {
            selector,
            base,
            limit,
            attributes,
        }
    }

    /// The segment as a descriptor (base bits above 31 are lost).
    pub fn to_descriptor(self) -> u64 {
        let limit = if self.attributes & 0x8000 != 0 {
            self.limit >> 12
        } else {
            self.limit
        };
        let limit = u64::from(limit);
        (limit & 0xffff)
            | (self.base & 0xff_ffff) << 16
            | u64::from(self.attributes & 0xf0ff) << 40
            | (limit >> 16 & 0xf) << 48
            | (self.base >> 24 & 0xff) << 56
    }

    /// The four type bits.
    pub fn kind(self) -> u8 {
        (self.attributes & 0xf) as u8
    }

    /// S: code or data, not a system descriptor.
    pub fn is_code_or_data(self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// Executable (only meaningful for code or data).
    pub fn is_code(self) -> bool {
        self.attributes & 0x18 == 0x18
    }

    /// Descriptor privilege level.
    pub fn dpl(self) -> u8 {
        (self.attributes >> 5 & 3) as u8
    }

    /// P bit.
    pub fn is_present(self) -> bool {
        self.attributes & 0x80 != 0
    }

    /// L: 64-bit code.
    pub fn is_long(self) -> bool {
        self.attributes & 0x2000 != 0
    }

    /// D/B: 32-bit default operand or stack size.
    pub fn is_big(self) -> bool {
        self.attributes & 0x4000 != 0
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Last valid byte.
    pub limit: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_survive_the_round_trip() {
        let check = |descriptor: u64, base, limit, attributes| {
            let segment = Segment::from_descriptor(8, descriptor);
            assert_eq!(
                segment,
                Segment {
                    selector: 8,
                    base,
                    limit,
                    attributes
                }
            );
            assert_eq!(segment.to_descriptor(), descriptor);
        };
        check(0x00af_9b00_0000_ffff, 0, u32::MAX, Segment::CODE64);
        check(0x00cf_9300_0000_ffff, 0, u32::MAX, Segment::DATA32);
        check(0x1200_8934_5678_0067, 0x1234_5678, 0x67, 0x89);
    }
}
