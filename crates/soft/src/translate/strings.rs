//! String instructions in 64-bit mode: the guest's own instruction runs with RSI and RDI led to host memory.
//!
//! Both operands are checked before anything changes; then the pointers are replaced by host addresses, the
//! instruction runs, and the distance it moved is added to the guest's pointers. A repeated one is taken only if it goes
//! upwards and ends in the pages it starts in; everything else goes to the interpreter. So does CMPS: it reads two pages,
//! and when both share one TLB entry each miss would throw the other page out for ever.

use std::mem::offset_of;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::builder::{Builder, FlagUse};
use super::memory::Operand;
use crate::block::VcpuBlock;
use crate::emit::{Alu, Fixup, Reg, cond};
use crate::mode::Mode;

const RAX_BIT: u16 = 1;
const RCX_BIT: u16 = 1 << 1;
const RSP_BIT: u16 = 1 << 4;
const RSI_BIT: u16 = 1 << 6;
const RDI_BIT: u16 = 1 << 7;

/// What a string instruction does, as far as translated code does it.
#[derive(Clone, Copy)]
struct StringOp {
    size: u8,
    reads_source: bool,
    /// Uses RDI, and whether it writes there.
    target: Option<bool>,
    repeats: bool,
}

/// A pointer register while it holds a host address: the register, where the host address is, and a free register.
#[derive(Clone, Copy)]
struct Pointer {
    register: Reg,
    host: Reg,
    distance: Reg,
}

fn string_op(instruction: &Instruction) -> Option<StringOp> {
    use Mnemonic as M;
    let (size, reads_source, target) = match instruction.mnemonic() {
        M::Movsb => (1, true, Some(true)),
        M::Movsw => (2, true, Some(true)),
        M::Movsd => (4, true, Some(true)),
        M::Movsq => (8, true, Some(true)),
        M::Stosb => (1, false, Some(true)),
        M::Stosw => (2, false, Some(true)),
        M::Stosd => (4, false, Some(true)),
        M::Stosq => (8, false, Some(true)),
        M::Lodsb => (1, true, None),
        M::Lodsw => (2, true, None),
        M::Lodsd => (4, true, None),
        M::Lodsq => (8, true, None),
        M::Scasb => (1, false, Some(false)),
        M::Scasw => (2, false, Some(false)),
        M::Scasd => (4, false, Some(false)),
        M::Scasq => (8, false, Some(false)),
        _ => return None,
    };
    let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    Some(StringOp {
        size,
        reads_source,
        target,
        repeats,
    })
}

/// Whether translated code takes this string instruction.
pub(crate) fn is_simple_string(instruction: &Instruction, mode: Mode) -> bool {
    let kinds = || (0..instruction.op_count()).map(|op| instruction.op_kind(op));
    let is_wide = |kind| matches!(kind, OpKind::MemorySegRSI | OpKind::MemoryESRDI);
    // MOVSD and CMPSD of SSE share their names with string instructions.
    let has_wide_pointers =
        kinds().any(is_wide) && kinds().all(|kind| is_wide(kind) || kind == OpKind::Register);
    let has_base = matches!(instruction.segment_prefix(), Register::FS | Register::GS);
    let is_looked_at = mode.has(Mode::CAREFUL);
    mode.is_64()
        && !is_looked_at
        && has_wide_pointers
        && !has_base
        && string_op(instruction).is_some()
}

impl Builder {
    /// Emits a string instruction; false if it is none of ours.
    pub(crate) fn string(&mut self, instruction: &Instruction, flag_use: FlagUse) -> bool {
        let Some(op) = string_op(instruction) else {
            return false;
        };
        let mut used = RSP_BIT | RAX_BIT;
        if op.reads_source {
            used |= RSI_BIT;
        }
        if op.target.is_some() {
            used |= RDI_BIT;
        }
        if op.repeats {
            used |= RCX_BIT;
        }
        self.put_flags_away();
        self.give_back(used);
        // What both ways through must agree on is borrowed before they part.
        let mut pointers = [None, None];
        let mut taken = used;
        for (slot, register) in [(0, Reg::RSI), (1, Reg::RDI)] {
            if used & 1 << register.0 != 0 {
                let host = self.borrow_free_of_rbp(taken, false);
                taken |= 1 << host.0;
                let distance = self.borrow_free_of_rbp(taken, false);
                taken |= 1 << distance.0;
                pointers[slot] = Some(Pointer {
                    register,
                    host,
                    distance,
                });
            }
        }
        let nothing = op.repeats.then(|| self.skip_if_no_count());
        for (pointer, write) in pointers.iter().zip([false, op.target == Some(true)]) {
            if let Some(pointer) = pointer {
                self.e.mov(pointer.host, pointer.register);
                self.check_tlb(
                    pointer.host,
                    pointer.distance,
                    Operand {
                        size: op.size,
                        write,
                    },
                );
            }
        }
        if op.repeats {
            let free = pointers
                .iter()
                .flatten()
                .next()
                .map_or(Reg::RDX, |pointer| pointer.distance);
            let other = pointers
                .iter()
                .flatten()
                .next()
                .map_or(Reg::RDX, |pointer| pointer.host);
            self.leave_unless_upwards(free, other);
            for pointer in pointers.iter().flatten() {
                self.leave_unless_in_page(*pointer, op.size);
            }
        }
        self.run_string(instruction, &pointers, op, flag_use);
        if let Some(nothing) = nothing {
            self.e.bind(nothing);
        }
        true
    }

    /// Jumps over the instruction if RCX is zero: then it touches nothing.
    fn skip_if_no_count(&mut self) -> Fixup {
        let zero = self.e.jump_if_rcx_zero(true);
        let go_on = self.e.jump();
        self.e.bind(zero);
        let nothing = self.e.jump();
        self.e.bind(go_on);
        nothing
    }

    /// To the interpreter if DF is set. `free` may be clobbered; `kept` too, but it is restored.
    fn leave_unless_upwards(&mut self, free: Reg, kept: Reg) {
        self.e.spill_to_stack_slot(kept);
        self.e.mov(kept, Reg::RSP);
        self.e
            .load_gs(Reg::RSP, offset_of!(VcpuBlock, stack_top) as i32);
        self.e.push_flags_pop(free);
        self.e.mov(Reg::RSP, kept);
        self.e.unspill_from_stack_slot(kept);
        self.e.alu_imm32(Alu::And, free, 0x400);
        let downwards = self.e.jcc(cond::NE);
        self.miss_to_interpreter(downwards);
    }

    /// To the interpreter if RCX elements reach beyond the page of `pointer`.
    fn leave_unless_in_page(&mut self, pointer: Pointer, size: u8) {
        let left = pointer.distance;
        self.e.mov(left, pointer.host);
        self.e.alu_imm32(Alu::And, left, 0xfff);
        // left = (4096 - offset) / size
        self.e.alu_imm(Alu::Sub, left, 4096);
        self.e.neg(left);
        self.e.shr(left, size.trailing_zeros() as u8);
        self.e.alu(Alu::Cmp, Reg::RCX, left);
        let beyond = self.e.jcc(cond::A);
        self.miss_to_interpreter(beyond);
    }

    fn run_string(
        &mut self,
        instruction: &Instruction,
        pointers: &[Option<Pointer>; 2],
        op: StringOp,
        flag_use: FlagUse,
    ) {
        for pointer in pointers.iter().flatten() {
            self.e.mov(pointer.distance, pointer.register);
            self.e.alu(Alu::Sub, pointer.distance, pointer.host);
        }
        // With a count, flags may stay as they were; both ways through must find them in the same place.
        let changes_flags = flag_use != FlagUse::None;
        let keeps_away = op.repeats && changes_flags;
        if keeps_away {
            self.borrow_for_flags();
            self.e.restore_flags();
            self.give_back(RAX_BIT);
        } else {
            self.flags_for(flag_use);
        }
        for pointer in pointers.iter().flatten() {
            self.e.mov(pointer.register, pointer.host);
        }
        let mut copy = *instruction;
        copy.set_segment_prefix(Register::None);
        let encoded = self.encode(&copy);
        debug_assert!(
            encoded,
            "string instructions encode as they were: {instruction}"
        );
        for pointer in pointers.iter().flatten() {
            self.e
                .lea_sum(pointer.register, pointer.distance, pointer.register, true);
        }
        if keeps_away {
            self.borrow_for_flags();
            self.e.save_flags();
            self.give_back(RAX_BIT);
        }
    }
}
