//! Random registers to start from.

use crate::arena;
use crate::case::Registers;
use crate::random::Random;
use vcpu::gpr;

/// Registers at the first instruction of a case.
pub(super) fn registers(random: &mut Random, bits: u32) -> Registers {
    let mut registers = Registers::calm(bits);
    for value in &mut registers.gprs {
        *value = if random.percent(35) {
            pointer(random)
        } else {
            random.integer()
        };
        if bits == 32 {
            *value &= 0xffff_ffff;
        }
    }
    if bits == 32 {
        registers.gprs[8..].fill(0);
    }
    if random.percent(90) {
        registers.gprs[gpr::RSP] = arena::DATA + 4 * arena::PAGE + 0x800 + random.below(0x100) * 8;
    }
    registers.rflags = flags(random);
    if bits == 64 {
        registers.fs_base = base(random);
        registers.gs_base = base(random);
    }
    fill_x87(random, &mut registers);
    registers.xsave[24..28].copy_from_slice(&mxcsr(random).to_le_bytes());
    let vectors = if bits == 64 { 16 } else { 8 };
    for at in (0..vectors).map(|n| n * 16) {
        registers.xsave[160 + at..176 + at].copy_from_slice(&random.vector());
        registers.xsave[576 + at..592 + at].copy_from_slice(&random.vector());
    }
    if random.percent(20) {
        registers.xsave[576..832].fill(0);
    }
    registers
}

fn pointer(random: &mut Random) -> u64 {
    arena::data_address(random.below(arena::DATA_BYTES as u64) as usize) & !(random.below(4) * 8)
}

fn flags(random: &mut Random) -> u64 {
    let mut flags = random.bits() & 0x8d5 | 0x202;
    if random.percent(12) {
        flags |= 1 << 10;
    }
    if random.percent(3) {
        flags |= 1 << 8;
    }
    flags
}

fn base(random: &mut Random) -> u64 {
    match random.below(5) {
        0..3 => 0,
        3 => arena::DATA.wrapping_sub(random.integer() & 0xffff),
        _ => (random.bits() as i64 >> 17) as u64,
    }
}

/// MXCSR: default, any rounding with all exceptions masked, or anything valid.
fn mxcsr(random: &mut Random) -> u32 {
    let bits = random.bits() as u32;
    match random.below(4) {
        0 | 1 => 0x1f80,
        2 => bits & 0xffff | 0x1f80,
        _ => bits & 0xffff,
    }
}

fn fill_x87(random: &mut Random, registers: &mut Registers) {
    for register in 0..8 {
        let at = 32 + register * 16;
        registers.xsave[at..at + 10].copy_from_slice(&random.extended());
    }
    let bits = random.bits();
    if random.percent(25) {
        return;
    }
    let masked = if random.percent(75) { 0x3f } else { 0 };
    let control = (bits as u16 & 0x0f3f | 0x40) | masked;
    let mut status = (bits >> 16) as u16 & 0x7f7f;
    if random.percent(70) {
        status &= !0x3f;
    }
    if status & !control & 0x3f != 0 {
        // Error summary and busy follow from the flags.
        status |= 0x8080;
    }
    registers.xsave[..2].copy_from_slice(&control.to_le_bytes());
    registers.xsave[2..4].copy_from_slice(&status.to_le_bytes());
    registers.xsave[4] = match random.below(4) {
        0 => 0xff,
        1 => 0,
        _ => (bits >> 32) as u8,
    };
}
