//! Memory operands: a target in the arena first, then registers and a displacement that lead to it.

use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind, Register};

use super::draft::Draft;
use super::pick::{pick_gpr, pick_vector};
use crate::arena;

/// Where an access of `size` bytes should go.
pub(super) fn target(draft: &mut Draft, mnemonic: Mnemonic, size: u64) -> u64 {
    if let Some((table, count, stride)) = table_for(mnemonic)
        && draft
            .random
            .percent(if loads_selector(mnemonic) { 100 } else { 70 })
    {
        return table + draft.random.below(count) * stride;
    }
    let random = &mut *draft.random;
    let page = arena::PAGE;
    let edge = random.below(size.max(1));
    match random.below(100) {
        0..3 => arena::DATA + 3 * page + random.below(page),
        3..6 => random.bits() | 1 << 62,
        6 => random.bits() | 0xffff_8000_0000_0000,
        7..11 => arena::DATA + 2 * page + random.below(page - size),
        11..15 => arena::DATA + 2 * page - edge,
        15..18 => arena::DATA + 3 * page - edge,
        18..20 => arena::DATA + 4 * page - edge,
        20..23 => arena::DATA + 6 * page - edge,
        23 => arena::CODE + random.below(page),
        24 => arena::DATA - edge,
        25..35 => arena::DATA + page - edge,
        35..40 => arena::DATA + 5 * page - edge,
        40..60 => arena::DATA + random.below(2 * page - size),
        _ => arena::DATA + random.below((2 * page - size) / 64) * 64 + random.below(2) * size % 64,
    }
}

fn loads_selector(mnemonic: Mnemonic) -> bool {
    matches!(
        table_for(mnemonic),
        Some((
            arena::SELECTORS | arena::FAR_POINTERS | arena::FAR_POINTERS64,
            ..
        ))
    )
}

/// The table of meaningful operands for an instruction: where, how many, how far apart.
fn table_for(mnemonic: Mnemonic) -> Option<(u64, u64, u64)> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Xrstor | M::Xrstor64 | M::Fxrstor | M::Fxrstor64 => (arena::XSAVE_IMAGE, 1, 0),
        M::Xsave | M::Xsave64 | M::Xsavec | M::Xsavec64 | M::Xsaveopt | M::Xsaveopt64 => {
            (arena::DATA + arena::PAGE, 8, 64)
        }
        M::Fxsave | M::Fxsave64 => (arena::DATA + 0x400, 8, 32),
        M::Ldmxcsr | M::Vldmxcsr => (arena::MXCSR_VALUES, 16, 4),
        M::Lfs | M::Lgs | M::Lss | M::Lds | M::Les => (arena::FAR_POINTERS, 8, 16),
        M::Mov => return None,
        M::Jmp | M::Call => (arena::TARGETS, 64, 8),
        _ => return None,
    })
}

/// Sets a memory operand of `size` bytes.
pub(super) fn set(draft: &mut Draft, instruction: &mut Instruction, operand: u32, size: u64) {
    instruction.set_op_kind(operand, OpKind::Memory);
    let is_far = matches!(
        instruction.memory_size(),
        MemorySize::SegPtr32 | MemorySize::SegPtr64
    );
    let wanted = match (instruction.mnemonic(), instruction.memory_size()) {
        (Mnemonic::Jmp | Mnemonic::Call, MemorySize::SegPtr64) => {
            arena::FAR_POINTERS64 + draft.random.below(8) * 16
        }
        (Mnemonic::Jmp | Mnemonic::Call, _) if is_far => {
            arena::FAR_POINTERS + draft.random.below(8) * 16
        }
        (Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss, MemorySize::SegPtr64) => {
            arena::FAR_POINTERS64 + draft.random.below(8) * 16
        }
        (Mnemonic::Mov, _) if is_selector_load(instruction) => {
            arena::SELECTORS + draft.random.below(16) * 8
        }
        (mnemonic, _) => target(draft, mnemonic, size),
    };
    if beside_another(draft, instruction) {
        return;
    }
    let segment = segment(draft);
    instruction.set_segment_prefix(segment);
    let goal = wanted.wrapping_sub(segment_base(draft, segment));
    let is_narrow = draft.bits == 64 && draft.random.percent(12);
    let width = if draft.bits == 32 || is_narrow { 4 } else { 8 };
    match draft.random.below(20) {
        0 | 1 if draft.bits == 64 && !is_narrow => {
            instruction.set_memory_base(Register::RIP);
            instruction.set_memory_displ_size(8);
            instruction.set_memory_displacement64(goal);
        }
        2 => {
            instruction.set_memory_displ_size(if width == 8 { 8 } else { 4 });
            let sign_extended = goal as i32 as i64 as u64;
            instruction.set_memory_displacement64(if width == 8 {
                sign_extended
            } else {
                goal & 0xffff_ffff
            });
            if width == 8 {
                // An absolute address in 64-bit mode is a sign-extended displacement without base.
                instruction.set_memory_displ_size(4);
            }
        }
        3..10 => with_registers(draft, instruction, goal, width, true),
        _ => with_registers(draft, instruction, goal, width, false),
    }
}

/// Reaches, as compilers do, bytes close to what an earlier instruction reaches through the same register. False if there
/// is none, or it is not to be.
fn beside_another(draft: &mut Draft, instruction: &mut Instruction) -> bool {
    let Some((base, displacement)) = draft.last_base.filter(|(base, _)| {
        // What means something only at certain places keeps to them.
        draft.known(*base).is_some() && table_for(instruction.mnemonic()).is_none()
    }) else {
        return false;
    };
    if is_selector_load(instruction) || draft.random.percent(50) {
        return false;
    }
    let distance = i64::from(draft.random.bits() as i8);
    instruction.set_memory_base(base);
    set_displacement(draft, instruction, displacement.wrapping_add(distance), 8);
    true
}

/// MOV to a segment register, whose selector must be one that both sides answer alike.
fn is_selector_load(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Register && instruction.op0_register().is_segment_register()
}

fn segment(draft: &mut Draft) -> Register {
    match draft.random.below(20) {
        0 => Register::FS,
        1 => Register::GS,
        2 => *draft
            .random
            .pick(&[Register::DS, Register::ES, Register::SS]),
        _ => Register::None,
    }
}

fn segment_base(draft: &Draft, segment: Register) -> u64 {
    match segment {
        Register::FS => draft.start.fs_base,
        Register::GS => draft.start.gs_base,
        _ => 0,
    }
}

fn displacement(draft: &mut Draft) -> i64 {
    match draft.random.below(10) {
        0..3 => 0,
        3..7 => i64::from(draft.random.bits() as i8),
        _ => i64::from(draft.random.bits() as i32) >> draft.random.below(20),
    }
}

fn with_registers(
    draft: &mut Draft,
    instruction: &mut Instruction,
    goal: u64,
    width: u64,
    indexed: bool,
) {
    let base = pick_known(draft, width, false);
    let mut offset = 0;
    if indexed {
        let index = pick_known(draft, width, true);
        if index != base {
            let scale = 1 << draft.random.below(4);
            let small = (draft.random.bits() as i16 >> 6) as i64 as u64;
            draft.choose(index, small);
            offset = draft.known(index).unwrap_or(0).wrapping_mul(scale);
            instruction.set_memory_index(index);
            instruction.set_memory_index_scale(scale as u32);
        }
    }
    instruction.set_memory_base(base);
    let displacement = solve(draft, base, goal.wrapping_sub(offset), width);
    set_displacement(draft, instruction, displacement, width);
    if width == 8 && instruction.memory_index() == Register::None {
        draft.last_base = Some((base, displacement));
    }
}

/// A displacement that leads from `base` to `goal`; `base` itself is chosen if it still can be.
fn solve(draft: &mut Draft, base: Register, goal: u64, width: u64) -> i64 {
    let displacement = displacement(draft);
    let garbage = if width == 4 && draft.bits == 64 {
        draft.random.bits() << 32
    } else {
        0
    };
    let value = goal.wrapping_sub(displacement as u64);
    let value = if width == 4 {
        value & 0xffff_ffff | garbage
    } else {
        value
    };
    if draft.choose(base, value) {
        return displacement;
    }
    let Some(known) = draft.known(base) else {
        return displacement;
    };
    let distance = goal.wrapping_sub(known);
    let distance = if width == 4 {
        distance as i32 as i64
    } else {
        distance as i64
    };
    if i32::try_from(distance).is_ok() {
        distance
    } else {
        displacement
    }
}

fn set_displacement(
    draft: &mut Draft,
    instruction: &mut Instruction,
    displacement: i64,
    width: u64,
) {
    let bits = if width == 4 {
        displacement as u32 as u64
    } else {
        displacement as u64
    };
    let is_long = displacement != 0 && draft.random.percent(10);
    let size = match displacement {
        0 => 0,
        _ if is_long => width as u32,
        _ => 1,
    };
    instruction.set_memory_displ_size(size);
    instruction.set_memory_displacement64(bits);
}

/// A register whose value is known at this instruction, if there is one soon found.
fn pick_known(draft: &mut Draft, width: u64, is_index: bool) -> Register {
    let mut register = pick_gpr(draft, width as usize);
    for _ in 0..6 {
        let is_stack = matches!(register, Register::RSP | Register::ESP);
        if !(is_index && is_stack)
            && draft.known(register).is_some()
            && (!is_stack || draft.random.percent(30))
        {
            return register;
        }
        register = pick_gpr(draft, width as usize);
    }
    if is_index && matches!(register, Register::RSP | Register::ESP) {
        return if width == 8 {
            Register::RAX
        } else {
            Register::EAX
        };
    }
    register
}

/// Sets a memory operand whose index is a vector: element offsets are mostly small.
pub(super) fn set_vsib(
    draft: &mut Draft,
    instruction: &mut Instruction,
    operand: u32,
    first: Register,
) {
    instruction.set_op_kind(operand, OpKind::Memory);
    let index = pick_vector(draft, first);
    let is_wide = draft.random.percent(50);
    let mut lanes = [0; 32];
    for lane in lanes.chunks_exact_mut(if is_wide { 8 } else { 4 }) {
        let value = (draft.random.bits() as i16 >> 7) as i64;
        let len = lane.len();
        lane.copy_from_slice(&value.to_le_bytes()[..len]);
    }
    if draft.random.percent(85) {
        draft.choose_vector(index, lanes);
    }
    let goal = target(draft, Mnemonic::Vpgatherdd, 8);
    let base = pick_known(draft, 8, false);
    let base = if draft.bits == 32 {
        pick_known(draft, 4, false)
    } else {
        base
    };
    let width = base.size() as u64;
    let displacement = solve(draft, base, goal, width);
    instruction.set_memory_base(base);
    instruction.set_memory_index(index);
    instruction.set_memory_index_scale(1 << draft.random.below(4));
    set_displacement(draft, instruction, displacement, width);
}

/// Chooses the registers of a decoded instruction's memory operand so that it meets the arena, if they are free.
pub(super) fn aim(draft: &mut Draft, instruction: &Instruction) {
    let has_memory =
        (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
    let base = instruction.memory_base();
    let index = instruction.memory_index();
    if !has_memory || base == Register::RIP || draft.random.percent(10) {
        return;
    }
    let size = instruction.memory_size().size() as u64;
    let goal = target(draft, instruction.mnemonic(), size.clamp(1, 64));
    let mut rest = goal.wrapping_sub(segment_base(draft, instruction.segment_prefix()));
    rest = rest.wrapping_sub(instruction.memory_displacement64());
    if super::draft::number(index).is_some() {
        let small = (draft.random.bits() as i16 >> 6) as i64 as u64;
        draft.choose(index, small);
        let scale = u64::from(instruction.memory_index_scale());
        rest = rest.wrapping_sub(draft.known(index).unwrap_or(0).wrapping_mul(scale));
    }
    draft.choose(base, rest);
}
