//! The code mode: everything outside the bytes that a translation depends on.

/// Bits that are part of a translation's key and of its jump cache's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Mode(pub(crate) u16);

impl Mode {
    /// 32-bit code.
    pub(crate) const CODE32: u16 = 1 << 0;
    /// 16-bit code.
    pub(crate) const CODE16: u16 = 1 << 1;
    /// CPL 3.
    pub(crate) const USER: u16 = 1 << 2;
    /// Not every segment but FS and GS is flat and of full size: bases and limits must be applied, stack accesses
    /// interpreted. FS and GS never are flat: 32-bit Linux has a null selector in one and its thread's data in the other.
    pub(crate) const SEGMENTED: u16 = 1 << 3;
    /// Legacy SSE instructions are undefined (CR4.OSFXSR clear, or CR0.EM set); AVX does not depend on that.
    pub(crate) const NO_SSE: u16 = 1 << 4;
    /// AVX instructions are undefined (CR4.OSXSAVE clear, or XCR0 without AVX).
    pub(crate) const NO_AVX: u16 = 1 << 5;
    /// One instruction at a time, because TF or debug registers ask for a look after each.
    pub(crate) const CAREFUL: u16 = 1 << 6;
    /// RDTSC is not allowed here (CR4.TSD at CPL 3).
    pub(crate) const NO_TSC: u16 = 1 << 7;

    /// Every data access is interpreted, because a misaligned one faults (CR0.AM and RFLAGS.AC at CPL 3).
    pub(crate) const ALIGNED: u16 = 1 << 8;

    /// No access relies on the check of another one: a block for the rare place where the bytes that one check stands for
    /// lie in two pages. No processor is ever in such a mode, only a block.
    pub(crate) const ONE_BY_ONE: u16 = 1 << 9;

    /// CPL 1 or 2: what ring 0 alone may do is judged by the interpreter.
    pub(crate) const MIDDLE_RING: u16 = 1 << 10;

    /// Whether translated code goes on from block to block by itself, through chained jumps and the jump cache. Not if
    /// each instruction wants a look, nor if where RIP leads depends on a segment.
    pub(crate) fn may_jump(self) -> bool {
        !self.has(Mode::CAREFUL | Mode::SEGMENTED)
    }

    /// This mode, for a block without shared checks.
    pub(crate) fn one_by_one(self) -> Mode {
        Mode(self.0 | Mode::ONE_BY_ONE)
    }

    pub(crate) fn has(self, bits: u16) -> bool {
        self.0 & bits != 0
    }

    /// 16, 32 or 64, as iced wants it.
    pub(crate) fn bitness(self) -> u32 {
        match self.0 & (Mode::CODE32 | Mode::CODE16) {
            0 => 64,
            Mode::CODE32 => 32,
            _ => 16,
        }
    }

    pub(crate) fn is_64(self) -> bool {
        self.bitness() == 64
    }
}
