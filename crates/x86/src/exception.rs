//! Exceptions and interrupt vectors (APM vol. 2, 8.2).

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use crate::flags::as_bits;

/// The number under which an interrupt or exception is delivered.
pub type Vector = u8;

bitflags! {
    /// Error code of a page fault (APM vol. 2, 8.4.2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PageFaultCode: u32 {
        /// The page was present: a protection violation.
        const PRESENT = 1 << 0;
        /// The access was a write.
        const WRITE = 1 << 1;
        /// The access came from user mode.
        const USER = 1 << 2;
        /// A reserved bit was set in a paging-structure entry.
        const RESERVED = 1 << 3;
        /// The access was an instruction fetch.
        const FETCH = 1 << 4;
    }
}

/// An exception as the processor raises it, with what it pushes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Exception {
    /// #DE, vector 0.
    DivideError,
    /// #DB, vector 1, with the bits to merge into DR6.
    Debug {
        /// Cause bits (B0..B3, BS, BD) to set in DR6.
        dr6: u64,
    },
    /// #BP, vector 3.
    Breakpoint,
    /// #OF, vector 4.
    Overflow,
    /// #BR, vector 5.
    BoundRange,
    /// #UD, vector 6.
    InvalidOpcode,
    /// #NM, vector 7.
    DeviceNotAvailable,
    /// #DF, vector 8.
    DoubleFault,
    /// #TS, vector 10, with the selector error code.
    InvalidTss(u32),
    /// #NP, vector 11, with the selector error code.
    SegmentNotPresent(u32),
    /// #SS, vector 12, with the selector error code.
    StackFault(u32),
    /// #GP, vector 13, with the selector error code.
    GeneralProtection(u32),
    /// #PF, vector 14: what goes to CR2 and the error code.
    PageFault {
        /// Linear address that faulted.
        address: u64,
        /// Error code.
        code: PageFaultCode,
    },
    /// #MF, vector 16.
    X87Fault,
    /// #AC, vector 17.
    AlignmentCheck,
    /// #XM, vector 19.
    SimdFault,
}

as_bits!(PageFaultCode: u32);

impl Exception {
    /// The vector this exception is delivered through.
    pub fn vector(self) -> Vector {
        match self {
            Exception::DivideError => 0,
            Exception::Debug { .. } => 1,
            Exception::Breakpoint => 3,
            Exception::Overflow => 4,
            Exception::BoundRange => 5,
            Exception::InvalidOpcode => 6,
            Exception::DeviceNotAvailable => 7,
            Exception::DoubleFault => 8,
            Exception::InvalidTss(_) => 10,
            Exception::SegmentNotPresent(_) => 11,
            Exception::StackFault(_) => 12,
            Exception::GeneralProtection(_) => 13,
            Exception::PageFault { .. } => 14,
            Exception::X87Fault => 16,
            Exception::AlignmentCheck => 17,
            Exception::SimdFault => 19,
        }
    }

    /// The exception with this vector, error code and, for a page fault, address. `None` for what is no exception that
    /// a processor of ours raises, NMI included. What it merged into DR6 is not known any more: `dr6` is what is there.
    pub fn of_vector(vector: Vector, error_code: u32, address: u64, dr6: u64) -> Option<Exception> {
        Some(match vector {
            0 => Exception::DivideError,
            1 => Exception::Debug { dr6 },
            3 => Exception::Breakpoint,
            4 => Exception::Overflow,
            5 => Exception::BoundRange,
            6 => Exception::InvalidOpcode,
            7 => Exception::DeviceNotAvailable,
            8 => Exception::DoubleFault,
            10 => Exception::InvalidTss(error_code),
            11 => Exception::SegmentNotPresent(error_code),
            12 => Exception::StackFault(error_code),
            13 => Exception::GeneralProtection(error_code),
            14 => Exception::PageFault {
                address,
                code: PageFaultCode::from_bits_retain(error_code),
            },
            16 => Exception::X87Fault,
            17 => Exception::AlignmentCheck,
            19 => Exception::SimdFault,
            _ => return None,
        })
    }

    /// The error code that delivery pushes, for the exceptions that have one.
    pub fn error_code(self) -> Option<u32> {
        match self {
            Exception::DoubleFault | Exception::AlignmentCheck => Some(0),
            Exception::InvalidTss(code)
            | Exception::SegmentNotPresent(code)
            | Exception::StackFault(code)
            | Exception::GeneralProtection(code) => Some(code),
            Exception::PageFault { code, .. } => Some(code.bits()),
            _ => None,
        }
    }

    /// Whether a second exception during this one's delivery is a double fault (APM vol. 2, table 8-2).
    pub fn is_contributory(self) -> bool {
        matches!(
            self,
            Exception::DivideError
                | Exception::InvalidTss(_)
                | Exception::SegmentNotPresent(_)
                | Exception::StackFault(_)
                | Exception::GeneralProtection(_)
        )
    }
}
