//! What the manuals leave to the processor, so that two right ones may differ in it.
//!
//! - Status flags that an instruction leaves undefined (SDM vol. 1, appendix A).
//! - Which byte of a long operand a page fault names first: state saves and far returns are microcode, and read or
//!   probe in an order of their own.
//! - Which of the faults of a far return, or of the two operands of a string instruction, comes first.
//! - Which registers POPA has loaded, and PUSHA stored, when a later one of their accesses faults.
//! - Whether #UD of an instruction that does not exist comes before the faults of its next byte or its operand.
//! - Whether an offset that is no canonical address may become one by adding FS's or GS's base.
//! - The upper halves of general registers once a far jump has left 64-bit mode (SDM vol. 1, 3.4.1.1).
//! - Whether a call to a non-canonical address has written its return address below the stack when it faults.
//! - Whether a byte-mask store with nothing to store touches its page (SDM vol. 2, MASKMOVDQU).
//! - The bits below the sign in the mask of a gather that faulted half way (SDM vol. 2, VGATHERDPS).

use iced_x86::{Instruction, Mnemonic, Register};

use crate::case::{Case, End, Outcome, USER_CS, USER32_CS, selector};
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
    /// The slots below the stack may hold some of the registers that PUSHA pushes before it faults.
    pub(crate) pushes_all: bool,
    /// The slot below the stack may hold the return address of a call that faulted.
    pub(crate) pushes_first: bool,
    /// The operand goes through FS or GS: an offset that is no canonical address by itself may fault as such.
    is_based: bool,
    /// Only the low halves of general registers have a value: the case left 64-bit mode.
    pub(crate) low_gprs: bool,
    /// An INT1, reached by a jump into the middle of something: RIP at or behind it.
    pub(crate) steps_on_int1: bool,
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
        let gather_masks = if ran_through {
            Vec::new()
        } else {
            instructions.iter().filter_map(gather_mask).collect()
        };
        let stopped = &instruction_at(case, native.registers.rip);
        let is_call = stopped.is_some_and(|one| one.is_call_near_indirect());
        let start_cs = case.start.selectors[selector::CS];
        Latitude {
            undefined_flags,
            any_address: stopped.is_some_and(|one| {
                is_microcoded(&one)
                    || stores_under_mask(&one)
                    || one.is_call_far()
                    || one.is_call_far_indirect()
            }),
            any_length: stopped
                .is_some_and(|one| one.is_invalid() || is_undefined_on_purpose(&one)),
            any_fault: stopped.is_some_and(|one| has_two_accesses(&one) || is_microcoded(&one)),
            any_gprs: stopped
                .is_some_and(|one| matches!(one.mnemonic(), Mnemonic::Popa | Mnemonic::Popad)),
            any_page_fault: instructions.iter().any(stores_under_mask),
            gather_masks,
            pushes_all: stopped
                .is_some_and(|one| matches!(one.mnemonic(), Mnemonic::Pusha | Mnemonic::Pushad)),
            is_based: stopped
                .is_some_and(|one| matches!(one.memory_segment(), Register::FS | Register::GS)),
            pushes_first: is_call && matches!(native.end, End::Exception { vector: 13, .. }),
            low_gprs: start_cs == USER_CS && native.registers.selectors[selector::CS] == USER32_CS,
            steps_on_int1: instruction_at(case, native.registers.rip)
                .is_some_and(|one| one.mnemonic() == Mnemonic::Int1),
        }
    }

    /// Whether there is no comparing at all: alignment checks, which are listed as missing, and gathers that a single
    /// step interrupts between any two elements.
    pub(crate) fn is_beyond(case: &Case, native: &Outcome) -> bool {
        let End::Exception { vector, .. } = native.end else {
            return false;
        };
        let stopped = instruction_at(case, native.registers.rip);
        vector == 17 || vector == 1 && stopped.is_some_and(|one| one.is_vsib())
    }

    /// Whether these two ends, which are not equal, are both right.
    pub(crate) fn allows(&self, native: End, engine: End) -> bool {
        let (
            End::Exception {
                vector, error_code, ..
            },
            End::Exception {
                vector: ours,
                error_code: our_code,
                address: our_address,
            },
        ) = (native, engine)
        else {
            return false;
        };
        let is_memory_fault = |vector| (11..=14).contains(&vector);
        (self.any_fault && is_memory_fault(vector) && is_memory_fault(ours))
            || (self.any_address && vector == 14 && ours == 14 && (error_code ^ our_code) & !1 == 0)
            || (self.any_page_fault && (vector == 14) != (ours == 14))
            || (self.is_based && vector == 13 && ours == 14 && our_address >> 47 != 0)
            || (self.any_length && matches!((vector, ours), (6, 14) | (12..=14, 6)))
    }

    /// Whether registers may differ too because the ends do.
    pub(crate) fn is_other_way(&self, native: End, engine: End) -> bool {
        let vector = |end| {
            if let End::Exception { vector, .. } = end {
                vector
            } else {
                0
            }
        };
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

/// The instruction at an address of the code pages, as the case and the INT3 around it make it.
fn instruction_at(case: &Case, rip: u64) -> Option<Instruction> {
    let at = usize::try_from(rip.checked_sub(case.start.rip)?).ok()?;
    let mut code = case.code.get(at..)?.to_vec();
    code.resize(15, 0xcc);
    flags::decode(&code, rip, case.bits).into_iter().next()
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
    is_string
        || matches!(
            instruction.mnemonic(),
            M::Retf | M::Iret | M::Iretd | M::Iretq | M::Pusha | M::Pushad
        )
        || matches!(
            instruction.mnemonic(),
            M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss
        )
        || instruction.is_call_far()
        || instruction.is_call_far_indirect()
}

fn stores_under_mask(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu | Mnemonic::Maskmovq
    )
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
