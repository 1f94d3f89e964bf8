//! One check for several accesses: which instructions of a block reach, through one register, bytes close together.
//!
//! Compilers address a structure, and the stack, through one register that stays as it is. The first access checks
//! the whole stretch that the following ones reach, and keeps the host address of its first byte in a borrowed register:
//! the *anchor*. The others are done there without a check of their own. What makes that right:
//!
//! - The stretch lies in one page, which the check says. Where it does not, which is no fault, the block goes on in another
//!   one that is translated without anchors (`Mode::ONE_BY_ONE`).
//! - A check for writing stands for reading too, never the other way round: page tables allow no page to be written that
//!   cannot be read, and what watches reads watches writes.
//! - An anchor lives inside one block. Translated code leaves it behind when it leaves the block; when it comes back from a
//!   miss into the middle of one, whoever brings it back makes sure that nothing has happened meanwhile that takes a page
//!   away from a TLB (`SoftVcpu::run_code`).

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::Step;
use super::classify::Kind;
use super::place::{Fate, Reach, Stretch};
use super::registers::gpr_number;
use crate::mode::Mode;

/// Most bytes that one check stands for. The fewer, the rarer they lie in two pages.
const MOST_BYTES: i32 = 160;
/// Furthest that a register may have been moved since its anchor was made.
const MOST_DISTANCE: i32 = 1 << 16;

/// The access that an instruction makes, if it is one that can share a check.
pub(crate) fn reach(instruction: &Instruction, kind: Kind) -> Option<Reach> {
    let on_stack = |from, write| {
        Some(Reach {
            base: 4,
            from,
            size: 8,
            write,
        })
    };
    match kind {
        Kind::Push if instruction.op0_kind() != OpKind::Memory => on_stack(-8, true),
        Kind::Call => on_stack(-8, true),
        Kind::Pop | Kind::Return => on_stack(0, false),
        Kind::Copy(Some(operand)) => {
            let base = instruction.memory_base();
            let has_base_of_segment =
                matches!(instruction.memory_segment(), Register::FS | Register::GS);
            let is_plain = base.is_gpr64()
                && instruction.memory_index() == Register::None
                && !has_base_of_segment
                && !instruction.has_lock_prefix()
                && operand.size > 0;
            if !is_plain {
                return None;
            }
            let from = i32::try_from(instruction.memory_displacement64() as i64).ok()?;
            Some(Reach {
                base: gpr_number(base)?,
                from,
                size: operand.size,
                write: operand.write,
            })
        }
        _ => None,
    }
}

/// What an instruction makes of general register `base`; `None` if it leaves it alone. `written` are all that it writes.
pub(crate) fn fate(instruction: &Instruction, kind: Kind, written: u16, base: u8) -> Option<Fate> {
    if written & 1 << base == 0 {
        return None;
    }
    let is_target = instruction.op_count() > 0
        && instruction.op0_kind() == OpKind::Register
        && gpr_number(instruction.op0_register()) == Some(base);
    let is_stack = base == 4;
    let distance = match kind {
        Kind::Push if is_stack => Some(-8),
        Kind::Pop if is_stack && !is_target => Some(8),
        Kind::Copy(None) if is_target && instruction.op0_register().is_gpr64() => {
            let by = match instruction.op_kind(1.min(instruction.op_count() - 1)) {
                OpKind::Immediate8to64 => Some(instruction.immediate8to64()),
                OpKind::Immediate32to64 => Some(instruction.immediate32to64()),
                _ => None,
            };
            match instruction.mnemonic() {
                Mnemonic::Add => by,
                Mnemonic::Sub => by.and_then(i64::checked_neg),
                _ => None,
            }
        }
        Kind::Lea if is_target && instruction.op0_register().is_gpr64() => {
            let stays = instruction.memory_base() == instruction.op0_register()
                && instruction.memory_index() == Register::None;
            stays.then(|| instruction.memory_displacement64() as i64)
        }
        _ => None,
    };
    let near = |by: &i64| by.abs() <= i64::from(MOST_DISTANCE);
    Some(
        distance
            .filter(near)
            .map_or(Fate::Lost, |by| Fate::Moved(by as i32)),
    )
}

/// Whether code of this kind lets anchors be.
fn keeps_anchors(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::String | Kind::Pushf | Kind::Sti | Kind::AccessFlag(_) | Kind::ReadTsc | Kind::Leave
    )
}

/// The stretch that the check of instruction `at` is to stand for, if there are others that reach into it.
pub(super) fn stretch(steps: &[Step], at: usize, mode: Mode) -> Option<Stretch> {
    if !mode.is_64() || mode.has(Mode::CAREFUL | Mode::ALIGNED | Mode::ONE_BY_ONE) {
        return None;
    }
    let first = reach(&steps[at].instruction, steps[at].kind)?;
    let mut stretch = Stretch {
        from: first.from,
        to: first.from + i32::from(first.size),
        last: at,
        used: 0,
    };
    let mut moved = 0;
    let mut used = 0;
    for (index, step) in steps.iter().enumerate().skip(at) {
        if !keeps_anchors(step.kind) {
            break;
        }
        used |= step.used;
        let other = reach(&step.instruction, step.kind)
            .filter(|other| other.base == first.base && (first.write || !other.write));
        if let Some(other) = other {
            let from = other.from.saturating_add(moved);
            let to = from.saturating_add(i32::from(other.size));
            let from = from.min(stretch.from);
            let to = to.max(stretch.to);
            if to.saturating_sub(from) <= MOST_BYTES {
                stretch = Stretch {
                    from,
                    to,
                    last: index,
                    used,
                };
            }
        }
        match fate(&step.instruction, step.kind, step.written, first.base) {
            None => {}
            Some(Fate::Moved(by)) if (moved + by).abs() <= MOST_DISTANCE => moved += by,
            Some(_) => break,
        }
    }
    (stretch.last > at).then_some(stretch)
}
