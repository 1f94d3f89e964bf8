//! A case, what came of it, and the trait of everything that can run one.

use std::sync::Arc;

use crate::arena;

/// Bytes of the XSAVE area that cases use: legacy region, header, upper halves of the YMM registers.
pub const XSAVE_BYTES: usize = 832;
/// Byte ranges of the XSAVE area that are registers (the rest is reserved, header, or a constant mask).
pub const XSAVE_REGISTERS: [(usize, usize); 3] = [(0, 28), (32, 416), (576, 832)];

/// Selector positions in [`Registers::selectors`].
pub mod selector {
    #![allow(missing_docs, reason = "register names")]
    pub const CS: usize = 0;
    pub const SS: usize = 1;
    pub const DS: usize = 2;
    pub const ES: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
}

/// Linux's selectors for 64-bit code, 32-bit code and data of ring 3; the guest machine has the same.
pub const USER_CS: u16 = 0x33;
/// See [`USER_CS`].
pub const USER32_CS: u16 = 0x23;
/// See [`USER_CS`].
pub const USER_DS: u16 = 0x2b;

/// Everything that ring 3 can see of a processor, before or after a case.
#[derive(Clone, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Registers {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gprs: [u64; 16],
    /// The next instruction.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Where FS begins.
    pub fs_base: u64,
    /// Where GS begins.
    pub gs_base: u64,
    /// CS, SS, DS, ES, FS, GS; two unused.
    pub selectors: [u16; 8],
    /// Standard XSAVE format.
    pub xsave: [u8; XSAVE_BYTES],
}

impl Registers {
    /// All zeros, x87 and SSE as after FNINIT and with default MXCSR, flat Linux segments.
    pub fn calm(bits: u32) -> Registers {
        let mut xsave = [0; XSAVE_BYTES];
        xsave[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        xsave[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        xsave[512] = 7;
        let (cs, data) = if bits == 64 {
            (USER_CS, 0)
        } else {
            (USER32_CS, USER_DS)
        };
        Registers {
            gprs: [0; 16],
            rip: arena::CODE,
            rflags: 0x202,
            fs_base: 0,
            gs_base: 0,
            selectors: [cs, USER_DS, USER_DS, USER_DS, data, data, 0, 0],
            xsave,
        }
    }

    /// Puts components that XSTATE_BV calls initial to their initial values and clears what is no register.
    pub fn normalize(&mut self) {
        let present = self.xsave[512];
        let calm = Registers::calm(64).xsave;
        if present & 1 == 0 {
            self.xsave[..24].copy_from_slice(&calm[..24]);
            self.xsave[32..160].fill(0);
        }
        if present & 2 == 0 {
            self.xsave[160..416].fill(0);
        }
        if present & 4 == 0 {
            self.xsave[576..832].fill(0);
        }
        self.xsave[28..32].fill(0);
        self.xsave[416..576].fill(0);
        self.xsave[512] = 7;
        for register in 0..8 {
            self.xsave[32 + register * 16 + 10..48 + register * 16].fill(0);
        }
    }

    /// Makes the x87 error summary and busy bits follow from the exception flags and masks, as they always do.
    pub fn settle_x87(&mut self) {
        let pending = self.xsave[2] & !self.xsave[0] & 0x3f != 0;
        self.xsave[2] = self.xsave[2] & 0x7f | if pending { 0x80 } else { 0 };
        self.xsave[3] = self.xsave[3] & 0x7f | if pending { 0x80 } else { 0 };
    }

    /// MXCSR.
    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes([
            self.xsave[24],
            self.xsave[25],
            self.xsave[26],
            self.xsave[27],
        ])
    }
}

/// The bytes in the arena before a case: shared by many.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// The data pages, [`arena::DATA_BYTES`] long.
    pub data: Vec<u8>,
}

/// One instruction or a few, with everything they start from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// 64, or 32 for compatibility mode.
    pub bits: u32,
    /// The instructions; behind them lies INT3. They start at `start.rip`, inside the code pages.
    pub code: Vec<u8>,
    /// Registers at the first instruction.
    pub start: Registers,
    /// Data at the first instruction.
    pub image: Arc<Image>,
}

/// How a case ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// With an exception: nearly always the breakpoint behind the code.
    Exception {
        /// Its vector.
        vector: u8,
        /// The error code, where the vector has one (0 otherwise).
        error_code: u32,
        /// CR2, for page faults (0 otherwise).
        address: u64,
    },
    /// It did not end in time.
    Hang,
    /// It ended the process that ran it, or made an exit that no case should make.
    Lost,
}

/// What came of a case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// Registers as the exception saved them.
    pub registers: Registers,
    /// The data pages.
    pub data: Vec<u8>,
    /// What a person should know about an end that is not an exception.
    pub note: String,
}

/// The most cases a runner takes at once.
pub const BATCH: usize = 128;

/// Runs cases: the silicon, or an engine.
pub trait Runner {
    /// One outcome for each case. The cases' code must not overlap, and they share one image.
    ///
    /// # Errors
    /// When the runner itself cannot go on.
    fn run(&mut self, cases: &[Case]) -> anyhow::Result<Vec<Outcome>>;
}

/// The code pages with these cases in them.
pub fn code_pages(cases: &[Case]) -> Vec<u8> {
    let mut pages = vec![0xcc; arena::CODE_BYTES];
    for case in cases {
        let at = (case.start.rip - arena::CODE) as usize;
        pages[at..at + case.code.len()].copy_from_slice(&case.code);
    }
    pages
}
