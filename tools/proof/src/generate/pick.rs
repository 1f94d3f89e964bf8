//! Random registers of a width or a file.

use iced_x86::Register;

use super::draft::Draft;

const GPR8_HIGH: [Register; 4] = [Register::AH, Register::CH, Register::DH, Register::BH];
/// The register `number` places behind `first`.
pub(super) fn numbered(first: Register, number: u64) -> Register {
    first + number as u32
}

/// A general register of `width` bytes.
pub(super) fn pick_gpr(draft: &mut Draft, width: usize) -> Register {
    let count = if draft.bits == 64 { 16 } else { 8 };
    let number = draft.random.below(count);
    match width {
        1 if number < 4 && (draft.bits == 32 || draft.random.percent(25)) => {
            let high = draft.bits == 32 && draft.random.percent(50) || draft.bits == 64;
            if high {
                GPR8_HIGH[number as usize]
            } else {
                numbered(Register::AL, number)
            }
        }
        1 if draft.bits == 32 => numbered(Register::AL, number % 4),
        // AL to BL, then SPL to R15L.
        1 if number < 4 => numbered(Register::AL, number),
        1 => numbered(Register::SPL, number - 4),
        2 => numbered(Register::AX, number),
        4 => numbered(Register::EAX, number),
        _ => numbered(Register::RAX, number),
    }
}

/// A vector register of the file that starts with `first`.
pub(super) fn pick_vector(draft: &mut Draft, first: Register) -> Register {
    let count = if draft.bits == 64 { 16 } else { 8 };
    numbered(first, draft.random.below(count))
}
