//! Where code and data of a case lie: the same virtual addresses in the native process and in the guest.
//!
//! Everything lies below 2 GiB so that 32-bit addresses, absolute displacements and 32-bit code reach it, and every
//! stretch ends at an unmapped page so that a case can run off its end.

/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// First address of the code pages (readable and executable). The page behind them is unmapped.
pub const CODE: u64 = 0x1000_0000;
/// Number of code pages. The last one is all INT3, a place to land on.
pub const CODE_PAGES: u64 = 4;
/// Bytes of code.
pub const CODE_BYTES: usize = (CODE_PAGES * PAGE) as usize;
/// Where jumps through memory may land: INT3 everywhere.
pub const LANDING: u64 = CODE + (CODE_PAGES - 1) * PAGE;

/// First address of the data pages. The page before them is unmapped.
pub const DATA: u64 = 0x2000_0000;

/// One page of data (never executable).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataPage {
    /// Where it lies.
    pub address: u64,
    /// Whether ring 3 may write it.
    pub writable: bool,
}

/// The data pages in address order: two writable ones, a read-only one, a hole, two writable ones, a hole.
pub const DATA_MAP: [DataPage; 5] = [
    DataPage {
        address: DATA,
        writable: true,
    },
    DataPage {
        address: DATA + PAGE,
        writable: true,
    },
    DataPage {
        address: DATA + 2 * PAGE,
        writable: false,
    },
    DataPage {
        address: DATA + 4 * PAGE,
        writable: true,
    },
    DataPage {
        address: DATA + 5 * PAGE,
        writable: true,
    },
];
/// Bytes of data, the pages of [`DATA_MAP`] one after the other.
pub const DATA_BYTES: usize = DATA_MAP.len() * PAGE as usize;

/// Where a data address lies among the [`DATA_BYTES`], if it is mapped.
pub fn data_offset(address: u64) -> Option<usize> {
    let index = DATA_MAP
        .iter()
        .position(|page| page.address == address & !(PAGE - 1))?;
    Some(index * PAGE as usize + (address & (PAGE - 1)) as usize)
}

/// The address of a byte among the [`DATA_BYTES`].
pub fn data_address(offset: usize) -> u64 {
    DATA_MAP[offset / PAGE as usize].address + offset as u64 % PAGE
}

/// 64 addresses inside [`LANDING`], for returns and jumps through memory.
pub const TARGETS: u64 = DATA + PAGE - 0x400;
/// 16 return frames (RIP, CS, RFLAGS, RSP, SS as 8 bytes each), for IRETQ and far returns.
pub const FRAMES: u64 = DATA + PAGE - 0x800;
/// An area in XSAVE format that XRSTOR and FXRSTOR accept.
pub const XSAVE_IMAGE: u64 = DATA + 4 * PAGE;
/// 16 MXCSR values that LDMXCSR accepts.
pub const MXCSR_VALUES: u64 = DATA + 4 * PAGE + 0x400;
/// 8 far pointers (offset of 4 bytes, selector; 16 bytes apart).
pub const FAR_POINTERS: u64 = DATA + 4 * PAGE + 0x480;
/// 8 far pointers (offset of 8 bytes, selector; 16 bytes apart).
pub const FAR_POINTERS64: u64 = DATA + 4 * PAGE + 0x500;
/// 16 selectors, 8 bytes apart, that load or fault alike in Linux's descriptor table and in the guest's.
pub const SELECTORS: u64 = DATA + 4 * PAGE + 0x580;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_offsets_and_addresses_are_inverse() {
        for offset in (0..DATA_BYTES).step_by(777) {
            assert_eq!(data_offset(data_address(offset)), Some(offset));
        }
        assert_eq!(data_offset(DATA + 3 * PAGE), None);
        assert_eq!(data_offset(DATA - 1), None);
    }
}
