//! Adds instructions to a draft: build, encode, decode again, prepare, append.

use iced_x86::{Code, Encoder, Instruction};

use super::draft::Draft;
use super::{instruction, memory, prepare};
use crate::flags;

/// Adds a random instruction of this form. False if it did not work out this time.
pub(super) fn add(draft: &mut Draft, code: Code) -> bool {
    let before = draft.choices();
    let added = try_add(draft, code);
    if added.is_none() {
        draft.restore(before);
    }
    added.is_some()
}

fn try_add(draft: &mut Draft, code: Code) -> Option<()> {
    let built = instruction::build(draft, code)?;
    let mut encoder = Encoder::new(draft.bits);
    encoder.encode(&built, draft.rip()).ok()?;
    let bytes = encoder.take_buffer();
    let decoded = flags::decode(&bytes, draft.rip(), draft.bits);
    let last = decoded.last()?;
    if last.code() != code && !code.op_code().fwait() {
        return None;
    }
    if instruction::is_forbidden(last, draft.bits) || !prepare::prepare(draft, last) {
        return None;
    }
    draft.append(&decoded, &bytes)
}

/// Adds an instruction that was decoded from `bytes`, or the bytes if they are none.
pub(super) fn add_raw(draft: &mut Draft, instruction: &Instruction, bytes: &[u8]) {
    if instruction.code() == Code::INVALID {
        draft.append_bytes(bytes);
        return;
    }
    memory::aim(draft, instruction);
    if prepare::prepare(draft, instruction) {
        // Nothing comes before it, so the flags it reads are defined.
        let _ = draft.append(&[*instruction], &bytes[..instruction.len()]);
    }
}
