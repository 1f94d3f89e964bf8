//! RFLAGS, control registers and EFER as bit sets (APM vol. 2, 3.1).

use bitflags::bitflags;

/// Has a bit set be written down as the number that it is, so that bits without a name survive.
macro_rules! as_bits {
    ($name:ident: $number:ty) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serde::Serialize::serialize(&self.bits(), serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$name, D::Error> {
                <$number as serde::Deserialize>::deserialize(deserializer)
                    .map($name::from_bits_retain)
            }
        }
    };
}
pub(crate) use as_bits;

as_bits!(Rflags: u64);
as_bits!(Cr0: u64);
as_bits!(Cr4: u64);
as_bits!(Efer: u64);

bitflags! {
    /// RFLAGS.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Rflags: u64 {
        /// Carry.
        const CF = 1 << 0;
        /// Always one.
        const ONE = 1 << 1;
        /// Parity of the lowest byte: set if it is even.
        const PF = 1 << 2;
        /// Carry out of the lowest four bits.
        const AF = 1 << 4;
        /// The result is zero.
        const ZF = 1 << 6;
        /// The result is negative.
        const SF = 1 << 7;
        /// Single step.
        const TF = 1 << 8;
        /// Interrupts enabled.
        const IF = 1 << 9;
        /// String direction.
        const DF = 1 << 10;
        /// The result does not fit as a signed number.
        const OF = 1 << 11;
        /// I/O privilege level, two bits.
        const IOPL = 3 << 12;
        /// Nested task.
        const NT = 1 << 14;
        /// Resume: suppress instruction breakpoints once.
        const RF = 1 << 16;
        /// Virtual-8086 mode.
        const VM = 1 << 17;
        /// Alignment check; with SMAP also "user pages may be touched".
        const AC = 1 << 18;
        /// Interrupts enabled, as virtual-8086 code sees it.
        const VIF = 1 << 19;
        /// An interrupt waits for virtual-8086 code to enable them.
        const VIP = 1 << 20;
        /// CPUID can be toggled.
        const ID = 1 << 21;
    }

    /// CR0.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Cr0: u64 {
        /// Protected mode.
        const PE = 1 << 0;
        /// Monitor coprocessor.
        const MP = 1 << 1;
        /// Emulate x87.
        const EM = 1 << 2;
        /// Task switched: next FP instruction raises #NM.
        const TS = 1 << 3;
        /// Extension type, always one.
        const ET = 1 << 4;
        /// Numeric errors through #MF.
        const NE = 1 << 5;
        /// Supervisor writes honour read-only pages.
        const WP = 1 << 16;
        /// Alignment checks possible.
        const AM = 1 << 18;
        /// Not write-through.
        const NW = 1 << 29;
        /// Cache disable.
        const CD = 1 << 30;
        /// Paging is on.
        const PG = 1 << 31;
    }

    /// CR4.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Cr4: u64 {
        /// Virtual-8086 mode has VIF and VIP.
        const VME = 1 << 0;
        /// So has ring 3 of protected mode.
        const PVI = 1 << 1;
        /// RDTSC only in ring 0.
        const TSD = 1 << 2;
        /// Debugging extensions: DR4/DR5 fault.
        const DE = 1 << 3;
        /// 4 MiB pages.
        const PSE = 1 << 4;
        /// 64-bit page-table entries.
        const PAE = 1 << 5;
        /// Machine checks raise #MC.
        const MCE = 1 << 6;
        /// Global pages.
        const PGE = 1 << 7;
        /// RDPMC in ring 3.
        const PCE = 1 << 8;
        /// SSE and FXSAVE enabled.
        const OSFXSR = 1 << 9;
        /// Unmasked SSE exceptions raise #XM.
        const OSXMMEXCPT = 1 << 10;
        /// User-mode instruction prevention.
        const UMIP = 1 << 11;
        /// 5-level paging.
        const LA57 = 1 << 12;
        /// RDFSBASE and its kin.
        const FSGSBASE = 1 << 16;
        /// Process-context identifiers.
        const PCIDE = 1 << 17;
        /// XSAVE enabled.
        const OSXSAVE = 1 << 18;
        /// Supervisor may not execute user pages.
        const SMEP = 1 << 20;
        /// Supervisor may not touch user pages unless AC is set.
        const SMAP = 1 << 21;
        /// Protection keys.
        const PKE = 1 << 22;
    }

    /// The EFER MSR.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Efer: u64 {
        /// SYSCALL enabled.
        const SCE = 1 << 0;
        /// Long mode enabled.
        const LME = 1 << 8;
        /// Long mode active (read-only).
        const LMA = 1 << 10;
        /// No-execute pages.
        const NXE = 1 << 11;
        /// SVM enabled.
        const SVME = 1 << 12;
        /// Fast FXSAVE.
        const FFXSR = 1 << 14;
        /// Automatic IBRS.
        const AIBRSE = 1 << 21;
    }
}

impl Rflags {
    /// The six status flags and DF: what application code can always change.
    pub const ARITHMETIC: Rflags = Rflags::CF
        .union(Rflags::PF)
        .union(Rflags::AF)
        .union(Rflags::ZF)
        .union(Rflags::SF)
        .union(Rflags::OF);

    /// I/O privilege level, 0 to 3.
    pub fn iopl(self) -> u8 {
        ((self.bits() >> 12) & 3) as u8
    }
}
