//! What an instruction needs of the start registers beyond its operands: counts, stacks, masks, selectors.

use iced_x86::{CpuidFeature, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::draft::Draft;
use super::{image, memory};
use crate::arena;

/// Chooses registers for `instruction`. False if it must not be run with what they are now.
pub(super) fn prepare(draft: &mut Draft, instruction: &Instruction) -> bool {
    if !(choose_stack(draft, instruction)
        && choose_save_mask(draft, instruction)
        && choose_selector(draft, instruction))
    {
        return false;
    }
    if stores_x87_state(instruction) {
        // What earlier instructions leave in its initial state a processor may or may not call in use.
        if draft.has_x87() || is_xsave(instruction) && !draft.is_empty() {
            return false;
        }
        draft.unsettle();
    }
    if instruction.is_vsib() {
        // A pending single step may interrupt a gather between any two elements.
        draft.start.rflags &= !0x100;
    }
    choose_count(draft, instruction);
    choose_bit_offset(draft, instruction);
    choose_dividend(draft, instruction);
    choose_branch_register(draft, instruction);
    for base in draft.implicit_bases(instruction) {
        if draft.random.percent(90) {
            let target = memory::target(draft, Mnemonic::Movsb, 8);
            draft.choose(base, target);
        }
    }
    true
}

/// Returns and segment pops need something meaningful on the stack.
fn choose_stack(draft: &mut Draft, instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let pops_segment = instruction.mnemonic() == M::Pop
        && instruction.op0_kind() == OpKind::Register
        && instruction.op0_register().is_segment_register();
    let random = &mut *draft.random;
    let (target, must) = match instruction.mnemonic() {
        M::Ret => (arena::TARGETS + random.below(60) * 8, false),
        M::Iret | M::Iretd | M::Iretq | M::Retf => (arena::FRAMES + random.below(10) * 40, true),
        M::Pop if pops_segment => (arena::SELECTORS + random.below(15) * 8, true),
        // Into 32-bit code: the stack pointer loses its upper half, before or behind the push.
        _ if instruction.is_call_far_indirect() => {
            return draft
                .known(Register::RSP)
                .is_some_and(|stack| stack >> 32 == 0);
        }
        _ => return true,
    };
    draft.choose(Register::RSP, target) || !must
}

/// XSAVE and its kin save what the host has enabled: only components that the guest has too may be asked for.
fn choose_save_mask(draft: &mut Draft, instruction: &Instruction) -> bool {
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::Xsave
        | M::Xsave64
        | M::Xsavec
        | M::Xsavec64
        | M::Xsaveopt
        | M::Xsaveopt64
        | M::Xrstor
        | M::Xrstor64 => {
            let mask = draft.random.below(8);
            draft.choose(Register::RAX, mask) && draft.choose(Register::RDX, 0)
        }
        _ => true,
    }
}

/// Stores where the last x87 instruction was, which is not compared, and which components are in use, which a
/// processor may know more or less exactly.
fn stores_x87_state(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        instruction.mnemonic(),
        M::Fnstenv
            | M::Fnsave
            | M::Fstenv
            | M::Fsave
            | M::Fxsave
            | M::Fxsave64
            | M::Xsave
            | M::Xsave64
            | M::Xsavec
            | M::Xsavec64
            | M::Xsaveopt
            | M::Xsaveopt64
    )
}

fn is_xsave(instruction: &Instruction) -> bool {
    instruction.cpuid_features().iter().any(|feature| {
        matches!(
            feature,
            CpuidFeature::XSAVE | CpuidFeature::XSAVEOPT | CpuidFeature::XSAVEC
        )
    })
}

/// Selectors come from the list that both descriptor tables answer alike.
fn choose_selector(draft: &mut Draft, instruction: &Instruction) -> bool {
    let loads_segment = instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Register
        && instruction.op0_register().is_segment_register();
    if loads_segment && instruction.op1_kind() == OpKind::Register {
        let garbage = draft.random.bits() << 16;
        let selector = u64::from(image::selector(draft.random));
        return draft.choose(instruction.op1_register(), garbage | selector);
    }
    true
}

fn choose_count(draft: &mut Draft, instruction: &Instruction) {
    use Mnemonic as M;
    let is_loop = matches!(
        instruction.mnemonic(),
        M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz
    );
    let is_repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    if (is_repeated || is_loop) && draft.random.percent(90) {
        let most = if is_loop { 3 } else { 70 };
        let count = draft.random.below(most);
        draft.choose(Register::RCX, count);
    }
}

/// Bit tests in memory reach up to 2^60 bytes away from their operand.
fn choose_bit_offset(draft: &mut Draft, instruction: &Instruction) {
    use Mnemonic as M;
    let tests_memory = matches!(instruction.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc)
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Register;
    if tests_memory && draft.random.percent(85) {
        let offset = (draft.random.bits() as i16 >> draft.random.below(8)) as i64 as u64;
        draft.choose(instruction.op1_register(), offset);
    }
}

/// Random dividends overflow nearly always.
fn choose_dividend(draft: &mut Draft, instruction: &Instruction) {
    if matches!(instruction.mnemonic(), Mnemonic::Div | Mnemonic::Idiv) && draft.random.percent(60)
    {
        let high = if draft.random.percent(70) {
            0
        } else {
            u64::MAX
        };
        draft.choose(Register::RDX, high);
    }
}

fn choose_branch_register(draft: &mut Draft, instruction: &Instruction) {
    let is_indirect = matches!(
        instruction.flow_control(),
        FlowControl::IndirectBranch | FlowControl::IndirectCall
    );
    if is_indirect && instruction.op0_kind() == OpKind::Register {
        let target = image::landing(draft.random);
        draft.choose(instruction.op0_register(), target);
    }
}
