//! From a form to an instruction: an operand of the right kind for each place, prefixes where they are legal.

use iced_x86::{Code, Instruction, Mnemonic, OpCodeInfo, OpCodeOperandKind, OpKind, Register};

use super::draft::Draft;
use super::pick::{numbered, pick_gpr, pick_vector};
use super::{image, memory};
use crate::arena;

const SEGMENTS: [Register; 5] = [
    Register::ES,
    Register::SS,
    Register::DS,
    Register::FS,
    Register::GS,
];

/// Instructions that must not run natively, whatever the form list says.
pub(super) fn is_forbidden(instruction: &Instruction, bits: u32) -> bool {
    let mnemonic = instruction.mnemonic();
    let is_system_call = matches!(mnemonic, Mnemonic::Syscall | Mnemonic::Sysenter)
        || mnemonic == Mnemonic::Int && instruction.immediate8() == 0x80;
    // 16-bit operand size on a near branch: makers differ.
    let is_near_16 = (0..instruction.op_count())
        .any(|operand| instruction.op_kind(operand) == OpKind::NearBranch16);
    is_system_call || is_near_16 && bits == 64
}

/// A random instruction of this form, or `None` if an operand kind is not known here.
pub(super) fn build(draft: &mut Draft, code: Code) -> Option<Instruction> {
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let op_code = code.op_code();
    let mut has_immediate = false;
    for operand in 0..op_code.op_count() {
        let kind = op_code.op_kind(operand);
        set_operand(draft, &mut instruction, operand, kind, &mut has_immediate)?;
    }
    set_prefixes(draft, &mut instruction, op_code);
    Some(instruction)
}

fn set_prefixes(draft: &mut Draft, instruction: &mut Instruction, op_code: &OpCodeInfo) {
    let memory_first = op_code.op_count() > 0 && instruction.op0_kind() == OpKind::Memory;
    if op_code.can_use_lock_prefix() && draft.random.percent(if memory_first { 35 } else { 2 }) {
        instruction.set_has_lock_prefix(true);
    }
    if op_code.can_use_rep_prefix() && draft.random.percent(60) {
        instruction.set_has_rep_prefix(true);
    } else if op_code.can_use_repne_prefix() && draft.random.percent(60) {
        instruction.set_has_repne_prefix(true);
    }
}

fn set_register(instruction: &mut Instruction, operand: u32, register: Register) {
    instruction.set_op_kind(operand, OpKind::Register);
    instruction.set_op_register(operand, register);
}

fn set_operand(
    draft: &mut Draft,
    instruction: &mut Instruction,
    operand: u32,
    kind: OpCodeOperandKind,
    has_immediate: &mut bool,
) -> Option<()> {
    if let Some(register) = register(draft, kind) {
        set_register(instruction, operand, register);
        return Some(());
    }
    if let Some(kind) = immediate(draft, instruction, kind, has_immediate) {
        instruction.set_op_kind(operand, kind);
        return Some(());
    }
    if let Some(kind) = string_operand(draft, kind) {
        instruction.set_op_kind(operand, kind);
        return Some(());
    }
    set_memory_or_branch(draft, instruction, operand, kind)
}

/// The register for an operand that is one, or that may be one and shall be this time.
fn register(draft: &mut Draft, kind: OpCodeOperandKind) -> Option<Register> {
    use OpCodeOperandKind as K;
    let as_register = draft.random.percent(45);
    Some(match kind {
        K::r8_or_mem if as_register => pick_gpr(draft, 1),
        K::r16_or_mem if as_register => pick_gpr(draft, 2),
        K::r32_or_mem if as_register => pick_gpr(draft, 4),
        K::r64_or_mem if as_register => pick_gpr(draft, 8),
        K::mm_or_mem if as_register => numbered(Register::MM0, draft.random.below(8)),
        K::xmm_or_mem if as_register => pick_vector(draft, Register::XMM0),
        K::ymm_or_mem if as_register => pick_vector(draft, Register::YMM0),
        K::r8_reg | K::r8_opcode => pick_gpr(draft, 1),
        K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode => pick_gpr(draft, 2),
        K::r32_reg | K::r32_reg_mem | K::r32_rm | K::r32_opcode | K::r32_vvvv => pick_gpr(draft, 4),
        K::r64_reg | K::r64_reg_mem | K::r64_rm | K::r64_opcode | K::r64_vvvv => pick_gpr(draft, 8),
        K::seg_reg => *draft.random.pick(&SEGMENTS),
        K::mm_reg | K::mm_rm => numbered(Register::MM0, draft.random.below(8)),
        K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 | K::xmm_is5 => {
            pick_vector(draft, Register::XMM0)
        }
        K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 | K::ymm_is5 => {
            pick_vector(draft, Register::YMM0)
        }
        K::cr_reg => {
            *draft
                .random
                .pick(&[Register::CR0, Register::CR2, Register::CR3, Register::CR4])
        }
        K::dr_reg => numbered(Register::DR0, draft.random.below(8)),
        K::es => Register::ES,
        K::cs => Register::CS,
        K::ss => Register::SS,
        K::ds => Register::DS,
        K::fs => Register::FS,
        K::gs => Register::GS,
        K::al => Register::AL,
        K::cl => Register::CL,
        K::ax => Register::AX,
        K::dx => Register::DX,
        K::eax => Register::EAX,
        K::rax => Register::RAX,
        K::st0 => Register::ST0,
        K::sti_opcode => numbered(Register::ST0, draft.random.below(8)),
        _ => return None,
    })
}

/// Sets an immediate; returns its operand kind.
fn immediate(
    draft: &mut Draft,
    instruction: &mut Instruction,
    kind: OpCodeOperandKind,
    has_immediate: &mut bool,
) -> Option<OpKind> {
    use OpCodeOperandKind as K;
    let value = draft.random.integer();
    let small = value as i8;
    Some(match kind {
        K::imm8 if *has_immediate => {
            instruction.set_immediate8_2nd(value as u8);
            OpKind::Immediate8_2nd
        }
        K::imm8 | K::imm8_const_1 => {
            *has_immediate = true;
            instruction.set_immediate8(if kind == K::imm8 { value as u8 } else { 1 });
            OpKind::Immediate8
        }
        K::imm8sex16 => {
            instruction.set_immediate8to16(i16::from(small));
            OpKind::Immediate8to16
        }
        K::imm8sex32 => {
            instruction.set_immediate8to32(i32::from(small));
            OpKind::Immediate8to32
        }
        K::imm8sex64 => {
            instruction.set_immediate8to64(i64::from(small));
            OpKind::Immediate8to64
        }
        K::imm16 => {
            *has_immediate = true;
            instruction.set_immediate16(value as u16);
            OpKind::Immediate16
        }
        K::imm32 => {
            instruction.set_immediate32(value as u32);
            OpKind::Immediate32
        }
        K::imm32sex64 => {
            instruction.set_immediate32to64(i64::from(value as i32));
            OpKind::Immediate32to64
        }
        K::imm64 => {
            instruction.set_immediate64(value);
            OpKind::Immediate64
        }
        _ => return None,
    })
}

/// The kind of an implicit string operand, sometimes with the other address size.
fn string_operand(draft: &mut Draft, kind: OpCodeOperandKind) -> Option<OpKind> {
    use OpCodeOperandKind as K;
    // All operands of an instruction have one address size; the bytes so far decide for this one.
    let is_wide = draft.bits == 64 && draft.rip() % 8 != 3;
    Some(match (kind, is_wide) {
        (K::seg_rSI, true) => OpKind::MemorySegRSI,
        (K::seg_rSI, false) => OpKind::MemorySegESI,
        (K::es_rDI, true) => OpKind::MemoryESRDI,
        (K::es_rDI, false) => OpKind::MemoryESEDI,
        (K::seg_rDI, true) => OpKind::MemorySegRDI,
        (K::seg_rDI, false) => OpKind::MemorySegEDI,
        _ => return None,
    })
}

fn set_memory_or_branch(
    draft: &mut Draft,
    instruction: &mut Instruction,
    operand: u32,
    kind: OpCodeOperandKind,
) -> Option<()> {
    use OpCodeOperandKind as K;
    match kind {
        K::mem
        | K::mem_mib
        | K::r8_or_mem
        | K::r16_or_mem
        | K::r32_or_mem
        | K::r64_or_mem
        | K::mm_or_mem
        | K::xmm_or_mem
        | K::ymm_or_mem => {
            let size = instruction.code().op_code().memory_size().size() as u64;
            memory::set(draft, instruction, operand, size.clamp(1, 64));
        }
        K::mem_vsib32x | K::mem_vsib64x => {
            memory::set_vsib(draft, instruction, operand, Register::XMM0)
        }
        K::mem_vsib32y | K::mem_vsib64y => {
            memory::set_vsib(draft, instruction, operand, Register::YMM0)
        }
        K::mem_offs => {
            instruction.set_op_kind(operand, OpKind::Memory);
            let goal = memory::target(draft, Mnemonic::Mov, 8);
            instruction.set_memory_displ_size(if draft.bits == 64 { 8 } else { 4 });
            instruction.set_memory_displacement64(if draft.bits == 64 {
                goal
            } else {
                goal & 0xffff_ffff
            });
        }
        K::seg_rBX_al => {
            instruction.set_op_kind(operand, OpKind::Memory);
            let base = if draft.bits == 64 {
                Register::RBX
            } else {
                Register::EBX
            };
            instruction.set_memory_base(base);
            instruction.set_memory_index(Register::AL);
            let goal = memory::target(draft, Mnemonic::Xlatb, 256);
            draft.choose(base, goal);
        }
        _ => return set_branch(draft, instruction, operand, kind),
    }
    Some(())
}

fn set_branch(
    draft: &mut Draft,
    instruction: &mut Instruction,
    operand: u32,
    kind: OpCodeOperandKind,
) -> Option<()> {
    use OpCodeOperandKind as K;
    match kind {
        K::br64_1 | K::br64_4 => {
            instruction.set_op_kind(operand, OpKind::NearBranch64);
            instruction.set_near_branch64(branch_target(draft, kind == K::br64_1));
        }
        K::br32_1 | K::br32_4 => {
            instruction.set_op_kind(operand, OpKind::NearBranch32);
            instruction.set_near_branch32(branch_target(draft, kind == K::br32_1) as u32);
        }
        K::br16_1 | K::br16_2 => {
            instruction.set_op_kind(operand, OpKind::NearBranch16);
            let is_short = kind == K::br16_1;
            let near = draft.rip() + draft.random.below(100);
            instruction.set_near_branch16(if is_short {
                near as u16
            } else {
                draft.random.bits() as u16
            });
        }
        K::farbr4_2 => {
            instruction.set_op_kind(operand, OpKind::FarBranch32);
            instruction.set_far_branch32(image::landing(draft.random) as u32);
            instruction.set_far_branch_selector(image::selector(draft.random));
        }
        K::farbr2_2 => {
            instruction.set_op_kind(operand, OpKind::FarBranch16);
            instruction.set_far_branch16(draft.random.bits() as u16);
            instruction.set_far_branch_selector(image::selector(draft.random));
        }
        _ => return None,
    }
    Some(())
}

/// Near branches go behind the case, where INT3 stands; long ones may leave the code pages.
fn branch_target(draft: &mut Draft, is_short: bool) -> u64 {
    let near = draft.start.rip + super::MOST_CODE_BYTES + draft.random.below(6);
    if is_short {
        return near;
    }
    match draft.random.below(10) {
        0 => image::landing(draft.random) & 0x7fff_ffff,
        1 => arena::LANDING + draft.random.below(0x800),
        _ => near,
    }
}
