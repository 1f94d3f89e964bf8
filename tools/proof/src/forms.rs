//! Which instruction forms are compared: all that iced-x86 knows, less what the presented CPU lacks, less the list of
//! forms that cannot be compared this way, each with its reason.

use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic, OpCodeOperandKind};
use x86::CpuidTable;
use x86::cpu_model::{self, Topology};

/// The CPU model as this host can present it.
pub fn model() -> CpuidTable {
    let topology = Topology {
        vcpu_count: 1,
        vcpu_id: 0,
    };
    cpu_model::table(topology, host::cpu::cpuid, host::cpu::xcr0())
}

/// The whole CPU model, as a host that has everything would present it.
pub fn whole_model() -> CpuidTable {
    let topology = Topology {
        vcpu_count: 1,
        vcpu_id: 0,
    };
    cpu_model::table(topology, |_, _| [u32::MAX; 4], 7)
}

/// Why this host cannot be the oracle, if so.
pub fn host_cannot() -> Option<&'static str> {
    if !host::cpu::has_user_fsgsbase() {
        return Some("the kernel does not let ring 3 use FSGSBASE");
    }
    if host::cpu::xcr0() & 7 != 7 {
        return Some("the CPU or the kernel does not offer AVX");
    }
    None
}

/// Why this host's silicon is not the presented CPU's, if so. Where the manuals leave a choice, the software CPU follows
/// the vendor that guests see; another vendor's silicon chooses otherwise without either being wrong.
pub fn other_vendor() -> Option<&'static str> {
    let [_, b, c, d] = host::cpu::cpuid(0, 0);
    let name: Vec<u8> = [b, d, c]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    (name != b"AuthenticAMD")
        .then_some("its CPU is not of the vendor that guests see (AuthenticAMD)")
}

/// A CPUID bit: leaf, register (EAX to EDX), bit.
type Bit = (u32, usize, u32);

/// The CPUID bit behind a feature. `Ok` is the answer for features without a bit of their own.
fn bit(feature: CpuidFeature) -> Result<bool, Bit> {
    use CpuidFeature as F;
    const LEAF1: u32 = 1;
    const LEAF7: u32 = 7;
    const EXTENDED: u32 = 0x8000_0001;
    Err(match feature {
        F::INTEL8086 | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 | F::X64 => {
            return Ok(true);
        }
        F::CPUID | F::FPU | F::FPU287 | F::FPU387 | F::MULTIBYTENOP | F::PAUSE | F::SMM => {
            return Ok(true);
        }
        // Without CET in CR4, or without the feature at all, its hints are no-operations.
        F::CET_IBT => return Ok(true),
        F::TSC | F::MSR | F::SYSCALL | F::SEP | F::CX8 | F::CMOV | F::CLFSH | F::FXSR => {
            return Ok(true);
        }
        F::MMX | F::SSE | F::SSE2 | F::RDTSCP => return Ok(true),
        F::SSE3 => (LEAF1, 2, 0),
        F::PCLMULQDQ => (LEAF1, 2, 1),
        F::SSSE3 => (LEAF1, 2, 9),
        F::FMA => (LEAF1, 2, 12),
        F::CMPXCHG16B => (LEAF1, 2, 13),
        F::SSE4_1 => (LEAF1, 2, 19),
        F::SSE4_2 => (LEAF1, 2, 20),
        F::MOVBE => (LEAF1, 2, 22),
        F::POPCNT => (LEAF1, 2, 23),
        F::AES => (LEAF1, 2, 25),
        F::XSAVE => (LEAF1, 2, 26),
        F::AVX => (LEAF1, 2, 28),
        F::F16C => (LEAF1, 2, 29),
        F::RDRAND => (LEAF1, 2, 30),
        F::FSGSBASE => (LEAF7, 1, 0),
        F::BMI1 => (LEAF7, 1, 3),
        F::AVX2 => (LEAF7, 1, 5),
        F::BMI2 => (LEAF7, 1, 8),
        F::INVPCID => (LEAF7, 1, 10),
        F::RDSEED => (LEAF7, 1, 18),
        F::ADX => (LEAF7, 1, 19),
        F::SMAP => (LEAF7, 1, 20),
        F::CLFLUSHOPT => (LEAF7, 1, 23),
        F::CLWB => (LEAF7, 1, 24),
        F::SHA => (LEAF7, 1, 29),
        F::GFNI => (LEAF7, 2, 8),
        F::VAES => (LEAF7, 2, 9),
        F::VPCLMULQDQ => (LEAF7, 2, 10),
        F::RDPID => (LEAF7, 2, 22),
        F::LZCNT => (EXTENDED, 2, 5),
        F::SSE4A => (EXTENDED, 2, 6),
        F::PREFETCHW => (EXTENDED, 2, 8),
        F::RDPMC => return Ok(true),
        F::XSAVEOPT => (0xd, 0, 0),
        F::XSAVEC => (0xd, 0, 1),
        _ => return Ok(false),
    })
}

fn has(table: &CpuidTable, feature: CpuidFeature) -> bool {
    match bit(feature) {
        Ok(answer) => answer,
        Err((0xd, register, bit)) => table.get(0xd, 1)[register] & 1 << bit != 0,
        Err((leaf, register, bit)) => table.get(leaf, 0)[register] & 1 << bit != 0,
    }
}

/// Whether the presented CPU has this form in this mode.
pub fn is_presented(code: Code, bits: u32, table: &CpuidTable) -> bool {
    let op_code = code.op_code();
    let in_mode = if bits == 64 {
        op_code.mode64()
    } else {
        op_code.mode32()
    };
    let encoding = matches!(
        op_code.encoding(),
        EncodingKind::Legacy | EncodingKind::VEX | EncodingKind::D3NOW
    );
    op_code.is_instruction()
        && in_mode
        && encoding
        && !is_other_vendors(code)
        && code
            .cpuid_features()
            .iter()
            .all(|&feature| has(table, feature))
}

/// Forms under a feature name that we have, which only processors of another maker or age know.
fn is_other_vendors(code: Code) -> bool {
    matches!(code, Code::Montmul_16 | Code::Montmul_32 | Code::Montmul_64)
}

/// Why a presented form is not compared, or `None` for those that are.
pub fn reason_not_covered(code: Code, bits: u32) -> Option<&'static str> {
    use Mnemonic as M;
    Some(match code.mnemonic() {
        M::Syscall | M::Sysenter => {
            "enters the host's kernel when run natively; guest programs cover it"
        }
        M::Cpuid | M::Xgetbv => "the answer is the presented model's, not the host's",
        M::Rdtsc | M::Rdtscp | M::Rdpid => "the answer differs every time; guest programs cover it",
        M::Rdrand | M::Rdseed => "the answer differs every time; guest programs cover it",
        M::Rdpmc => "whether ring 3 may read counters is the host's setting (CR4.PCE)",
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => {
            "the host's kernel emulates it under UMIP; the processor guest covers it"
        }
        M::Lar | M::Lsl | M::Verr | M::Verw => {
            "the answer depends on the host's own descriptor table; the processor guest covers it"
        }
        M::Int1 => {
            "a host that is a guest itself reports it at the instruction, bare metal behind it"
        }
        M::Vmcall | M::Vmmcall => "a host that is a guest itself hands it to its hypervisor",
        M::Rsm => "is for system management mode, which no guest has",
        M::Ud0 if code == Code::Ud0 => "makers differ on its length",
        _ if is_prefetch_of_register(code) => "makers differ: no-operation or invalid opcode",
        _ => return branch_reason(code, bits),
    })
}

/// The register forms of 0F 0D, whose memory forms are prefetches.
fn is_prefetch_of_register(code: Code) -> bool {
    matches!(
        code,
        Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D
    )
}

fn branch_reason(code: Code, bits: u32) -> Option<&'static str> {
    use OpCodeOperandKind as K;
    let is_relative_16 = code
        .op_code()
        .op_kinds()
        .iter()
        .any(|kind| matches!(kind, K::br16_1 | K::br16_2));
    let is_near_16 = is_relative_16
        || matches!(
            code,
            Code::Retnw | Code::Retnw_imm16 | Code::Call_rm16 | Code::Jmp_rm16
        );
    (is_near_16 && bits == 64).then_some("makers differ on 16-bit branches in long mode")
}

/// Every form to compare in this mode.
pub fn covered(bits: u32, table: &CpuidTable) -> Vec<Code> {
    Code::values()
        .filter(|&code| is_presented(code, bits, table) && reason_not_covered(code, bits).is_none())
        .collect()
}

/// The committed list, as it must be: one line per presented form that is not compared.
pub fn not_covered_text(table: &CpuidTable) -> String {
    let mut text = String::from(NOT_COVERED_HEADER);
    for bits in [64, 32] {
        for code in Code::values().filter(|&code| is_presented(code, bits, table)) {
            if let Some(reason) = reason_not_covered(code, bits) {
                let name = code.op_code().instruction_string();
                text += &format!("{bits} {code:?} ({name}): {reason}\n");
            }
        }
    }
    text
}

const NOT_COVERED_HEADER: &str = "\
# Instruction forms of the presented CPU that the differential harness does not compare, each with its reason.
# Written by `cargo run -p proof --bin differential -- --list-not-covered`; a test keeps it true.
# Of every form, not compared: where the last x87 instruction and operand were (FOP, FIP, FDP), since copied code
# leaves the host's addresses there, status flags that the instruction leaves undefined, and what else
# `latitude.rs` names as left to the processor. Cases that end in an alignment check (#AC) are not compared, since
# makers differ on which wide operands are checked; golden cases cover the plain ones. Of random bytes, not compared: F3 REX.B 90,
# which iced takes for PAUSE and silicon for XCHG; VEX.W outside 64-bit mode; EVEX and XOP prefixes of no meaning to iced.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_forms_not_covered_is_the_committed_one() {
        let committed = include_str!("../not_covered.txt");
        assert!(
            not_covered_text(&whole_model()) == committed,
            "run `differential --list-not-covered`"
        );
    }
}
