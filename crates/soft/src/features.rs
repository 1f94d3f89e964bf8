//! Which instructions exist on the presented CPU: iced's CPUID feature names against the CPUID model.

use iced_x86::{CpuidFeature, Instruction};
use x86::CpuidTable;

/// A set of iced's CPUID features.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Features([u64; 4]);

/// Features that have a CPUID bit: leaf, register (0 = EAX .. 3 = EDX), bit.
const WITH_BIT: &[(CpuidFeature, u32, usize, u32)] = &[
    (CpuidFeature::FPU, 1, 3, 0),
    (CpuidFeature::TSC, 1, 3, 4),
    (CpuidFeature::MSR, 1, 3, 5),
    (CpuidFeature::CX8, 1, 3, 8),
    (CpuidFeature::SEP, 1, 3, 11),
    (CpuidFeature::CMOV, 1, 3, 15),
    (CpuidFeature::CLFSH, 1, 3, 19),
    (CpuidFeature::MMX, 1, 3, 23),
    (CpuidFeature::FXSR, 1, 3, 24),
    (CpuidFeature::SSE, 1, 3, 25),
    (CpuidFeature::SSE2, 1, 3, 26),
    (CpuidFeature::SSE3, 1, 2, 0),
    (CpuidFeature::PCLMULQDQ, 1, 2, 1),
    (CpuidFeature::SSSE3, 1, 2, 9),
    (CpuidFeature::FMA, 1, 2, 12),
    (CpuidFeature::CMPXCHG16B, 1, 2, 13),
    (CpuidFeature::SSE4_1, 1, 2, 19),
    (CpuidFeature::SSE4_2, 1, 2, 20),
    (CpuidFeature::MOVBE, 1, 2, 22),
    (CpuidFeature::POPCNT, 1, 2, 23),
    (CpuidFeature::AES, 1, 2, 25),
    (CpuidFeature::XSAVE, 1, 2, 26),
    (CpuidFeature::AVX, 1, 2, 28),
    (CpuidFeature::F16C, 1, 2, 29),
    (CpuidFeature::RDRAND, 1, 2, 30),
    (CpuidFeature::FSGSBASE, 7, 1, 0),
    (CpuidFeature::BMI1, 7, 1, 3),
    (CpuidFeature::AVX2, 7, 1, 5),
    (CpuidFeature::BMI2, 7, 1, 8),
    (CpuidFeature::INVPCID, 7, 1, 10),
    (CpuidFeature::RDSEED, 7, 1, 18),
    (CpuidFeature::ADX, 7, 1, 19),
    (CpuidFeature::SMAP, 7, 1, 20),
    (CpuidFeature::CLFLUSHOPT, 7, 1, 23),
    (CpuidFeature::CLWB, 7, 1, 24),
    (CpuidFeature::SHA, 7, 1, 29),
    (CpuidFeature::GFNI, 7, 2, 8),
    (CpuidFeature::VAES, 7, 2, 9),
    (CpuidFeature::VPCLMULQDQ, 7, 2, 10),
    (CpuidFeature::RDPID, 7, 2, 22),
    (CpuidFeature::XSAVEOPT, 0xd, 0, 0),
    (CpuidFeature::XSAVEC, 0xd, 0, 1),
    (CpuidFeature::SYSCALL, 0x8000_0001, 3, 11),
    (CpuidFeature::RDTSCP, 0x8000_0001, 3, 27),
    (CpuidFeature::LZCNT, 0x8000_0001, 2, 5),
    (CpuidFeature::SSE4A, 0x8000_0001, 2, 6),
    (CpuidFeature::PREFETCHW, 0x8000_0001, 2, 8),
];

/// Features that every x86-64 processor has, or that are no-operations where they are unknown.
const ALWAYS: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::CPUID,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::RDPMC,
    CpuidFeature::CET_IBT,
];

impl Features {
    /// What the model has.
    pub(crate) fn new(cpuid: &CpuidTable) -> Features {
        let mut features = Features([0; 4]);
        for &feature in ALWAYS {
            features.add(feature);
        }
        for &(feature, function, register, bit) in WITH_BIT {
            let index = u32::from(function == 0xd);
            if cpuid.get(function, index)[register] & 1 << bit != 0 {
                features.add(feature);
            }
        }
        features
    }

    fn add(&mut self, feature: CpuidFeature) {
        self.0[feature as usize / 64] |= 1 << (feature as usize % 64);
    }

    fn has(&self, feature: CpuidFeature) -> bool {
        self.0[feature as usize / 64] & 1 << (feature as usize % 64) != 0
    }

    /// Whether the presented CPU knows the instruction.
    pub(crate) fn allows(&self, instruction: &Instruction) -> bool {
        instruction
            .cpuid_features()
            .iter()
            .all(|&feature| self.has(feature))
    }
}
