//! What the manuals leave to the processor, so that two right ones may differ in it.
//!
//! - Status flags that an instruction leaves undefined (SDM vol. 1, appendix A).
//! - Which byte of a long operand a page fault names first: state saves and far returns are microcode, and read or
//!   probe in an order of their own.
//! - Which of the faults of a far return, or of the two operands of a string instruction, comes first.
//! - Which registers POPA has loaded when a later one of its reads faults.
//! - How long an instruction is that does not exist: #UD may come before the page fault of its next byte.
//! - Whether a byte-mask store with nothing to store touches its page (SDM vol. 2, MASKMOVDQU).
//! - The bits below the sign in the mask of a gather that faulted half way (SDM vol. 2, VGATHERDPS).

use iced_x86::{Instruction, Mnemonic, Register};

use crate::case::{Case, End, Outcome};
use crate::flags;

/// The latitude of one case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latitude {
    /// RFLAGS bits that mean nothing.
    pub(crate) undefined_flags: u64,
    /// The page faults of microcoded instructions name other bytes.
    any_address: bool,
    /// How long the instruction is, is not defined: it may reach into the next page.
    any_length: bool,
    /// One memory fault may stand for another.
    any_fault: bool,
    /// General registers but RSP are half loaded.
    pub(crate) any_gprs: bool,
    /// Page faults of stores of nothing.
    any_page_fault: bool,
    /// Vector registers that are gather masks, and the bytes of their elements.
    gather_masks: Vec<(usize, usize)>,
}

impl Latitude {
    /// What `case` may do differently, given how it ended on the silicon.
    pub(crate) fn of(case: &Case, native: &Outcome) -> Latitude {
        let instructions = flags::decode(&case.code, case.start.rip, case.bits);
        let ran_through = matches!(native.end, End::Exception { vector: 3, .. });
        let undefined_flags = if ran_through {
            flags::undefined_after(&instructions)
        } else {
            flags::undefined_anywhere(&instructions)
        };
        let gather_masks =
            if ran_through { Vec::new() } else { instructions.iter().filter_map(gather_mask).collect() };
        let stopped = instructions.iter().find(|one| one.ip() == native.registers.rip);
        Latitude {
            undefined_flags,
            any_address: stopped.is_some_and(|one| {
                is_microcoded(one)
                    || stores_under_mask(one)
                    || one.is_call_far()
                    || one.is_call_far_indirect()
            }),
            any_length: stopped.is_some_and(|one| one.is_invalid() || is_undefined_on_purpose(one)),
            any_fault: stopped.is_some_and(has_two_accesses),
            any_gprs: stopped.is_some_and(|one| matches!(one.mnemonic(), Mnemonic::Popa | Mnemonic::Popad)),
            any_page_fault: instructions.iter().any(stores_under_mask),
            gather_masks,
        }
    }

    /// Whether these two ends, which are not equal, are both right.
    pub(crate) fn allows(&self, native: End, engine: End) -> bool {
        let (
            End::Exception { vector, error_code, .. },
            End::Exception { vector: ours, error_code: our_code, .. },
        ) = (native, engine)
        else {
            return false;
        };
        let is_memory_fault = |vector| (11..=14).contains(&vector);
        (self.any_fault && is_memory_fault(vector) && is_memory_fault(ours))
            || (self.any_address && vector == 14 && ours == 14 && error_code == our_code)
            || (self.any_page_fault && (vector == 14) != (ours == 14))
            || (self.any_length && matches!((vector, ours), (6, 14) | (14, 6)))
    }

    /// Whether registers may differ too because the ends do.
    pub(crate) fn is_other_way(&self, native: End, engine: End) -> bool {
        let vector = |end| if let End::Exception { vector, .. } = end { vector } else { 0 };
        self.any_page_fault && (vector(native) == 14) != (vector(engine) == 14)
    }

    /// The 16 bytes of a vector register at `at` of the XSAVE area, less what is left to the processor.
    pub(crate) fn without_leftovers(&self, at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for &(register, element) in &self.gather_masks {
            if at == 160 + register * 16 || at == 576 + register * 16 {
                for lane in bytes.chunks_exact_mut(element) {
                    let sign = lane[element - 1] & 0x80;
                    lane.fill(0);
                    lane[element - 1] = sign;
                }
            }
        }
        bytes
    }
}

fn is_microcoded(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        instruction.mnemonic(),
        M::Fldenv
            | M::Frstor
            | M::Fnstenv
            | M::Fnsave
            | M::Fxsave
            | M::Fxsave64
            | M::Fxrstor
            | M::Fxrstor64
            | M::Xsave
            | M::Xsave64
            | M::Xsavec
            | M::Xsavec64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xrstor
            | M::Xrstor64
            | M::Pusha
            | M::Pushad
            | M::Popa
            | M::Popad
    )
}

fn is_undefined_on_purpose(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Ud0 | Mnemonic::Ud1)
}

fn has_two_accesses(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let is_string = instruction.is_string_instruction()
        && matches!(
            instruction.mnemonic(),
            M::Movsb | M::Movsw | M::Movsd | M::Movsq | M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq
        );
    is_string || matches!(instruction.mnemonic(), M::Retf | M::Iret | M::Iretd | M::Iretq)
}

fn stores_under_mask(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu | Mnemonic::Maskmovq)
}

/// The mask register of a gather, and its element's bytes.
fn gather_mask(instruction: &Instruction) -> Option<(usize, usize)> {
    use Mnemonic as M;
    let element = match instruction.mnemonic() {
        M::Vgatherdps | M::Vgatherqps | M::Vpgatherdd | M::Vpgatherqd => 4,
        M::Vgatherdpd | M::Vgatherqpd | M::Vpgatherdq | M::Vpgatherqq => 8,
        _ => return None,
    };
    let mask = instruction.op2_register();
    (mask != Register::None).then(|| (mask.number(), element))
}
