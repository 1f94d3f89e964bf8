//! PUSH, POP, LEAVE, PUSHF: rebuilt from a checked access and a move of RSP.
//!
//! RSP changes last, after the last access that can fault.

use std::mem::offset_of;

use iced_x86::{Instruction, OpKind};

use super::builder::Builder;
use super::memory::{Operand, address_registers};
use super::registers::gpr_number;
use crate::block::VcpuBlock;
use crate::emit::{Alu, Reg};

const RSP_BIT: u16 = 1 << 4;

/// Status flags and DF: the RFLAGS bits that live in the host's RFLAGS.
pub(super) const HOST_FLAGS: i32 = 0xcd5;
/// RF and VM, which are never pushed (APM vol. 3, PUSHF).
pub(super) const NOT_PUSHED: i32 = 1 << 16 | 1 << 17;

impl Builder {
    pub(crate) fn push(&mut self, instruction: &Instruction) {
        let size = self.stack_word();
        match instruction.op0_kind() {
            OpKind::Register => {
                let source = Reg(gpr_number(instruction.op0_register()).unwrap_or(0));
                let used = RSP_BIT | 1 << source.0;
                self.give_back(used);
                self.push_register(source, used);
            }
            OpKind::Memory => {
                let used = RSP_BIT | address_registers(instruction);
                let operand = Operand { size, write: false };
                let (value, _) = self.operand_address(instruction, operand, used, false);
                if size == 8 {
                    self.e.load(value, value, 0);
                } else {
                    self.e.load32(value, value, 0);
                }
                self.push_register(value, RSP_BIT | 1 << value.0);
            }
            _ => {
                let value = self.borrow(RSP_BIT, false);
                self.e.mov_imm(value, immediate(instruction));
                self.push_register(value, RSP_BIT | 1 << value.0);
            }
        }
    }

    /// Pushes a host register whose value is not to be lost, nor those in `used`.
    fn push_register(&mut self, value: Reg, used: u16) {
        let size = self.stack_word();
        let place = self.stack_place(-i32::from(size), true, used);
        self.e.store(place.register, place.offset, value, size);
        self.move_stack_pointer(-i32::from(size));
    }

    pub(crate) fn pop(&mut self, instruction: &Instruction) {
        let size = self.stack_word();
        let target = Reg(gpr_number(instruction.op0_register()).unwrap_or(0));
        let used = RSP_BIT | 1 << target.0;
        self.give_back(used);
        let place = self.stack_place(0, false, used);
        if size == 8 {
            self.e.load(target, place.register, place.offset);
        } else {
            self.e.load32(target, place.register, place.offset);
        }
        if target != Reg::RSP {
            self.move_stack_pointer(i32::from(size));
        }
    }

    pub(crate) fn leave_frame(&mut self) {
        self.put_flags_away();
        let size = self.stack_word();
        let used = RSP_BIT | 1 << 5;
        self.give_back(used);
        let address = self.borrow(used, false);
        let entry = self.borrow_free_of_rbp(used | 1 << address.0, false);
        self.stack_access(address, entry, Reg::RBP, 0, false);
        if size == 8 {
            self.e.load(address, address, 0);
            self.e.lea(Reg::RSP, Reg::RBP, 8);
            self.e.mov(Reg::RBP, address);
        } else {
            self.e.load32(address, address, 0);
            self.e.lea32(Reg::RSP, Reg::RBP, 4);
            self.e.mov32(Reg::RBP, address);
        }
    }

    /// PUSHFQ: status flags and DF come from the host, the rest from the block. Host code has no stack here, so
    /// RSP moves to a few words in the block for one push and pop.
    pub(crate) fn push_flags(&mut self) {
        let value = self.borrow(RSP_BIT, false);
        let other = self.borrow(RSP_BIT | 1 << value.0, false);
        self.bring_flags_back();
        self.e.mov(other, Reg::RSP);
        self.e
            .load_gs(Reg::RSP, offset_of!(VcpuBlock, stack_top) as i32);
        self.e.push_flags_pop(value);
        self.e.mov(Reg::RSP, other);
        self.put_flags_away();
        self.e.alu_imm32(Alu::And, value, HOST_FLAGS);
        self.e
            .load_gs32(other, offset_of!(VcpuBlock, system_flags) as i32);
        self.e.alu_imm32(Alu::And, other, !NOT_PUSHED);
        self.e.alu(Alu::Or, value, other);
        self.e
            .load_gs32(other, offset_of!(VcpuBlock, interrupts) as i32);
        self.e.shl(other, 9);
        self.e.alu(Alu::Or, value, other);
        self.push_register(value, RSP_BIT | 1 << value.0);
    }
}

fn immediate(instruction: &Instruction) -> u64 {
    match instruction.op0_kind() {
        OpKind::Immediate8to64 => instruction.immediate8to64() as u64,
        OpKind::Immediate32to64 => instruction.immediate32to64() as u64,
        OpKind::Immediate8to32 => u64::from(instruction.immediate8to32() as u32),
        _ => u64::from(instruction.immediate32()),
    }
}
