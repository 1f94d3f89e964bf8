//! Leaving a block: direct and indirect jumps, calls, returns, and the poll for kicks.

use std::mem::offset_of;

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::builder::Builder;
use super::classify::{Kind, counts_in_ecx};
use super::memory::{Operand, address_registers};
use super::registers::gpr_number;
use super::relocation::Part;
use crate::block::{ExitReason, VcpuBlock, spill_offset};
use crate::emit::{Alu, Reg, cond};
use crate::jumps::{JUMP_ENTRIES, jump_index};
use crate::mode::Mode;

/// Facts about the block that decide how a jump leaves it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exits {
    /// Address of the instruction that jumps.
    pub(crate) rip: u64,
    /// First address of the page that the block lies in.
    pub(crate) page: u64,
    /// The block straddles two pages: what its page is, the jump cache alone knows, so it chains to nothing.
    pub(crate) straddles: bool,
}

impl Exits {
    fn may_chain(self, target: u64, mode: Mode) -> bool {
        target & !0xfff == self.page && !self.straddles && mode.may_jump()
    }
}

impl Builder {
    /// Goes to a known address. Everything must have been put back.
    pub(crate) fn go(&mut self, target: u64, exits: Exits) {
        let is_backward = target <= exits.rip;
        if !self.mode.may_jump() {
            self.leave(target, ExitReason::Lookup);
        } else if exits.may_chain(target, self.mode) {
            if is_backward {
                self.poll(target);
            }
            self.chain(target);
        } else {
            if is_backward {
                self.poll(target);
            }
            self.go_through_jump_cache(target);
        }
    }

    /// Leaves for `target` by way of Rust if somebody kicked. Touches neither flags nor registers.
    fn poll(&mut self, target: u64) {
        self.e.store_gs(spill_offset(1), Reg::RCX);
        self.e.load_gs(Reg::RCX, offset_of!(VcpuBlock, kick) as i32);
        self.e.load32(Reg::RCX, Reg::RCX, 0);
        let quiet = self.e.jump_if_rcx_zero(false);
        self.e.load_gs(Reg::RCX, spill_offset(1));
        let kicked = self.e.jump();
        self.leave_from(kicked, target, ExitReason::Poll);
        self.e.bind(quiet);
        self.e.load_gs(Reg::RCX, spill_offset(1));
    }

    /// Goes to a known address in another page: its jump-cache entry is known, its content is not.
    pub(crate) fn go_through_jump_cache(&mut self, target: u64) {
        let miss = self.look_up_jump(target);
        self.leave_from(miss, target, ExitReason::Lookup);
    }

    /// The same behind the straight path.
    pub(crate) fn look_up_or_leave(&mut self, target: u64) {
        let miss = self.look_up_jump(target);
        self.e.bind(miss);
        self.leave_for_lookup(target);
    }

    /// Goes to a known address by way of the jump cache; the returned jump is taken if it is not there.
    fn look_up_jump(&mut self, target: u64) -> crate::emit::Fixup {
        let entry = (jump_index(target) * 16) as i32;
        let jump_cache = offset_of!(VcpuBlock, jump_cache) as i32;
        self.e.store_gs(spill_offset(1), Reg::RCX);
        self.e.store_gs(spill_offset(2), Reg::RDX);
        self.e.load_gs(Reg::RCX, jump_cache);
        self.e.load_far(Reg::RCX, Reg::RCX, entry);
        self.note_jump_entry();
        self.e.mov_imm(Reg::RDX, target.wrapping_neg());
        // The sum is zero exactly if the entry is for `target`; LEA leaves flags alone.
        self.e.lea_sum(Reg::RCX, Reg::RCX, Reg::RDX, true);
        self.e.load_gs(Reg::RDX, spill_offset(2));
        let hit = self.e.jump_if_rcx_zero(true);
        self.e.load_gs(Reg::RCX, spill_offset(1));
        let miss = self.e.jump();
        self.e.bind(hit);
        self.e.load_gs(Reg::RCX, jump_cache);
        self.e.load_far(Reg::RCX, Reg::RCX, entry + 8);
        self.check_jump_entry();
        self.e
            .store_gs(offset_of!(VcpuBlock, jump_target) as i32, Reg::RCX);
        self.e.load_gs(Reg::RCX, spill_offset(1));
        self.e.jump_gs(offset_of!(VcpuBlock, jump_target) as i32);
        miss
    }

    /// Goes to the address in `target`, a borrowed register, with another one free. Flags must be put away.
    /// `stack_change` is how far the branch has moved RSP.
    pub(super) fn go_indirect(&mut self, target: Reg, free: Reg, stack_change: i32) {
        let site = self.branch_site(stack_change);
        let jump_target = offset_of!(VcpuBlock, jump_target) as i32;
        self.e.store_gs(offset_of!(VcpuBlock, rip) as i32, target);
        if !self.mode.may_jump() {
            self.store_exit_info(site, Some(Part::Site));
            self.put_everything_back();
            return self.jump_out(self.stubs().lookup);
        }
        self.e.load_gs(free, offset_of!(VcpuBlock, kick) as i32);
        // cmp dword [free], 0: through a load, to keep to the shapes the emitter knows.
        self.e.load32(free, free, 0);
        self.e.alu(Alu::Or, free, free);
        let kicked = self.e.jcc(cond::NE);
        self.e.mov(free, target);
        self.e.shr(free, 11);
        self.e.alu(Alu::Xor, free, target);
        self.e.alu_imm32(Alu::And, free, (JUMP_ENTRIES - 1) as i32);
        self.e.shl(free, 4);
        self.e
            .alu_gs(Alu::Add, free, offset_of!(VcpuBlock, jump_cache) as i32);
        self.e.alu_load(Alu::Cmp, target, free, 0);
        let miss = self.e.jcc(cond::NE);
        self.e.load(free, free, 8);
        self.e.store_gs(jump_target, free);
        let done = self.e.jump();
        self.e.bind(kicked);
        self.e.bind(miss);
        self.e.store_gs_imm64(jump_target, self.stubs().lookup);
        self.store_exit_info(site, Some(Part::Site));
        self.e.bind(done);
        self.put_everything_back();
        self.e.jump_gs(jump_target);
    }

    pub(crate) fn jump_if(&mut self, instruction: &Instruction, exits: Exits) {
        self.put_everything_back();
        let target = instruction.near_branch_target();
        let condition = jump_condition(instruction);
        let is_backward = target <= exits.rip;
        if exits.may_chain(target, self.mode) && !is_backward {
            self.chain_if(condition, target);
        } else {
            let skip = self.e.jcc(condition ^ 1);
            self.go(target, exits);
            self.e.bind(skip);
        }
        self.go(instruction.next_ip(), exits);
    }

    /// A conditional jump forwards behind which the block goes on.
    pub(crate) fn jump_aside(&mut self, instruction: &Instruction, exits: Exits) {
        self.bring_flags_back();
        let from = self.e.jcc(jump_condition(instruction));
        let target = instruction.near_branch_target();
        self.leave_aside(from, target, exits.may_chain(target, self.mode));
    }

    pub(crate) fn jump_counter(&mut self, instruction: &Instruction, exits: Exits) {
        self.put_everything_back();
        let opcode = match instruction.mnemonic() {
            Mnemonic::Loopne => 0xe0,
            Mnemonic::Loope => 0xe1,
            Mnemonic::Loop => 0xe2,
            _ => 0xe3,
        };
        let is_32 = counts_in_ecx(instruction);
        let taken = self.e.loop_short(opcode, is_32);
        let not_taken = self.e.jump();
        self.e.bind(taken);
        self.go(instruction.near_branch_target(), exits);
        self.e.bind(not_taken);
        self.go(instruction.next_ip(), exits);
    }

    /// Value of an indirect branch's operand in a borrowed register, and a free one.
    fn branch_operand(&mut self, instruction: &Instruction, used: u16) -> (Reg, Reg) {
        let size = self.stack_word();
        if instruction.op0_kind() == OpKind::Memory {
            let operand = Operand { size, write: false };
            let (address, entry) = self.operand_address(instruction, operand, used, false);
            if size == 8 {
                self.e.load(address, address, 0);
            } else {
                self.e.load32(address, address, 0);
            }
            return (address, entry);
        }
        self.put_flags_away();
        let source = Reg(gpr_number(instruction.op0_register()).unwrap_or(0));
        let used = used | 1 << source.0;
        self.give_back(1 << source.0);
        let target = self.borrow(used, false);
        let free = self.borrow_free_of_rbp(used | 1 << target.0, false);
        if size == 8 {
            self.e.mov(target, source);
        } else {
            self.e.mov32(target, source);
        }
        (target, free)
    }

    pub(crate) fn jump_indirect(&mut self, instruction: &Instruction) {
        let (target, free) = self.branch_operand(instruction, address_registers(instruction));
        self.go_indirect(target, free, 0);
    }

    pub(crate) fn call(&mut self, instruction: &Instruction, exits: Exits) {
        let size = self.stack_word();
        let place = self.stack_place(-i32::from(size), true, 1 << 4);
        let value = self.borrow(1 << 4 | 1 << place.register.0, false);
        self.mov_address(value, instruction.next_ip());
        self.e.store(place.register, place.offset, value, size);
        self.move_stack_pointer(-i32::from(size));
        self.put_everything_back();
        self.go(instruction.near_branch_target(), exits);
    }

    fn push_return_address(&mut self, instruction: &Instruction, address: Reg, entry: Reg) {
        let size = self.stack_word();
        self.stack_access(address, entry, Reg::RSP, -i32::from(size), true);
        self.mov_address(entry, instruction.next_ip());
        self.e.store(address, 0, entry, size);
        self.move_stack_pointer(-i32::from(size));
    }

    /// RSP (or ESP) plus `distance`, flags untouched.
    pub(crate) fn move_stack_pointer(&mut self, distance: i32) {
        if self.mode.is_64() {
            self.e.lea(Reg::RSP, Reg::RSP, distance);
        } else {
            self.e.lea32(Reg::RSP, Reg::RSP, distance);
        }
    }

    pub(crate) fn call_indirect(&mut self, instruction: &Instruction) {
        let used = address_registers(instruction) | 1 << 4;
        let (target, free) = self.branch_operand(instruction, used);
        let address = self.borrow(1 << 4 | 1 << target.0 | 1 << free.0, false);
        self.push_return_address(instruction, address, free);
        let change = -i32::from(self.stack_word());
        self.go_indirect(target, free, change);
    }

    pub(crate) fn return_near(&mut self, instruction: &Instruction) {
        let size = self.stack_word();
        let place = self.stack_place(0, false, 1 << 4);
        // The block ends here, so an anchor may become what it leads to.
        let target = place.register;
        self.anchors.drop_in(u16::MAX);
        self.put_flags_away();
        let free = self.borrow_free_of_rbp(1 << 4 | 1 << target.0, false);
        if size == 8 {
            self.e.load(target, place.register, place.offset);
        } else {
            self.e.load32(target, place.register, place.offset);
        }
        let extra = if instruction.op_count() == 1 {
            i32::from(instruction.immediate16())
        } else {
            0
        };
        let change = i32::from(size) + extra;
        self.move_stack_pointer(change);
        self.go_indirect(target, free, change);
    }

    /// PAUSE: somebody waits. After many of them the host is asked whether it has something better to do with the core.
    fn pause(&mut self, instruction: &Instruction, exits: Exits) {
        let left = offset_of!(VcpuBlock, pauses_left) as i32;
        let next = instruction.next_ip();
        self.put_everything_back();
        self.e.store_gs(spill_offset(1), Reg::RCX);
        self.e.load_gs(Reg::RCX, left);
        self.e.lea(Reg::RCX, Reg::RCX, -1);
        self.e.store_gs(left, Reg::RCX);
        let waited_long = self.e.jump_if_rcx_zero(true);
        let go_on = self.e.jump();
        self.e.bind(waited_long);
        self.e.load_gs(Reg::RCX, spill_offset(1));
        self.leave(next, ExitReason::Pause);
        self.e.bind(go_on);
        self.e.load_gs(Reg::RCX, spill_offset(1));
        // pause
        self.e.raw(&[0xf3, 0x90]);
        self.go(next, exits);
    }

    /// Dispatches the kinds that end a block.
    pub(crate) fn control(&mut self, kind: Kind, instruction: &Instruction, exits: Exits) {
        match kind {
            Kind::Jump => {
                self.put_everything_back();
                self.go(instruction.near_branch_target(), exits);
            }
            Kind::JumpIf => self.jump_if(instruction, exits),
            Kind::JumpCounter => self.jump_counter(instruction, exits),
            Kind::JumpIndirect => self.jump_indirect(instruction),
            Kind::Call => self.call(instruction, exits),
            Kind::CallIndirect => self.call_indirect(instruction),
            Kind::Return => self.return_near(instruction),
            Kind::Syscall => self.system_call(instruction.next_ip()),
            Kind::Sysret => self.system_return(),
            Kind::Pause => self.pause(instruction, exits),
            _ => {
                self.put_everything_back();
                self.leave(instruction.ip(), ExitReason::Interpret);
            }
        }
    }
}

/// The condition of a conditional jump as its opcode has it. iced counts from 1 in the order of opcodes 0x70 to 0x7f.
fn jump_condition(instruction: &Instruction) -> u8 {
    instruction.condition_code() as u8 - 1
}
