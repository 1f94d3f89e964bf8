//! Which status flags mean nothing after a piece of code, because an instruction leaves them undefined.
//!
//! The silicon gives them some value all the same, and mostly an engine that copies instructions gives the same;
//! but it may not be relied on, so they are not compared, and no generated code reads them.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, RflagsBits};

/// iced's flag bits and RFLAGS's.
const BITS: [(u32, u64); 6] = [
    (RflagsBits::CF, 1 << 0),
    (RflagsBits::PF, 1 << 2),
    (RflagsBits::AF, 1 << 4),
    (RflagsBits::ZF, 1 << 6),
    (RflagsBits::SF, 1 << 7),
    (RflagsBits::OF, 1 << 11),
];

/// `bits` of iced as RFLAGS bits.
fn rflags(bits: u32) -> u64 {
    BITS.iter()
        .filter(|(iced, _)| bits & iced != 0)
        .map(|(_, real)| real)
        .sum()
}

/// RFLAGS bits that `instruction` leaves undefined.
pub fn undefined_by(instruction: &Instruction) -> u64 {
    use Mnemonic::{Rcl, Rcr, Rol, Ror};
    let rotates = matches!(instruction.mnemonic(), Rcl | Rcr | Rol | Ror);
    // iced takes a rotation by a multiple of the width for none at all.
    let by_many = rotates
        && instruction.op1_kind() == OpKind::Immediate8
        && instruction.immediate8() & 0x1f != 1;
    rflags(instruction.rflags_undefined()) | if by_many { 1 << 11 } else { 0 }
}

/// RFLAGS bits that `instruction` reads.
pub fn read_by(instruction: &Instruction) -> u64 {
    let all = BITS.iter().map(|(_, real)| real).sum();
    match instruction.mnemonic() {
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq | Mnemonic::Lahf => all,
        _ => rflags(instruction.rflags_read()),
    }
}

/// Whether flags that `instruction` modifies may also stay as they were: shifts by a count that can be 0, and
/// repeated comparisons of no element.
fn is_conditional(instruction: &Instruction) -> bool {
    use Mnemonic::{Rcl, Rcr, Rol, Ror, Sal, Sar, Shl, Shld, Shr, Shrd};
    let is_shift = matches!(
        instruction.mnemonic(),
        Rcl | Rcr | Rol | Ror | Sal | Sar | Shl | Shld | Shr | Shrd
    );
    is_shift || instruction.has_rep_prefix() || instruction.has_repne_prefix()
}

/// RFLAGS bits that mean nothing after these instructions, whichever of them ran.
pub fn undefined_after(instructions: &[Instruction]) -> u64 {
    let jumps = instructions
        .iter()
        .any(|instruction| instruction.flow_control() != FlowControl::Next);
    let mut undefined = 0;
    for instruction in instructions {
        if !jumps && !is_conditional(instruction) {
            undefined &= !rflags(instruction.rflags_modified());
        }
        undefined |= undefined_by(instruction);
    }
    undefined
}

/// RFLAGS bits that may mean nothing when an exception stopped these instructions somewhere on the way.
pub fn undefined_anywhere(instructions: &[Instruction]) -> u64 {
    instructions
        .iter()
        .map(undefined_by)
        .fold(0, |all, one| all | one)
}

/// The instructions in `code`, which starts at `rip`.
pub fn decode(code: &[u8], rip: u64, bits: u32) -> Vec<Instruction> {
    let mut decoder = Decoder::with_ip(bits, code, rip, DecoderOptions::NONE);
    let mut instructions = Vec::new();
    while decoder.can_decode() {
        instructions.push(decoder.decode());
    }
    instructions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undefined_flags_live_until_they_are_written() {
        const AF: u64 = 1 << 4;
        let check = |code: &[u8], flag: u64, expected: bool| {
            let undefined = undefined_after(&decode(code, 0x1000, 64));
            assert_eq!(undefined & flag != 0, expected, "{code:02x?}");
        };
        // and eax, ecx
        check(&[0x21, 0xc8], AF, true);
        // and eax, ecx; add eax, ecx
        check(&[0x21, 0xc8, 0x01, 0xc8], AF, false);
        // and eax, ecx; shl eax, cl
        check(&[0x21, 0xc8, 0xd3, 0xe0], AF, true);
        // mul ecx
        check(&[0xf7, 0xe1], 1 << 6, true);
        check(&[0xf7, 0xe1], 1, false);
    }
}
