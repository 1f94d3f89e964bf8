//! SYSCALL and SYSRET without leaving translated code.
//!
//! A system call changes what nearly everything is judged by: code mode, TLBs, jump cache, segments, flags. Each of both ways
//! over leads always to the same, so the interpreter, which executes the first SYSCALL, leaves both in the vCPU's block as a
//! [`Passage`]: tables and selectors to copy. Whatever may change where a passage leads shuts both (`SoftVcpu::shut_passages`),
//! and the next SYSCALL is the interpreter's again. Rust follows when translated code comes back: `crossed` says which way was the
//! last.
//!
//! The interpreter also has what is rare: a SYSRET to what is no address, to flags that ask for a closer look (TF, AC and their like),
//! with interrupts off, or with an interrupt waiting for them to be on.

use std::mem::offset_of;

use super::builder::Builder;
use super::stack::{HOST_FLAGS, NOT_PUSHED};
use crate::block::{Crossed, Passage, Toggle, VcpuBlock};
use crate::emit::{Alu, Reg, cond};

const RCX_BIT: u16 = 1 << 1;
const RSP_BIT: u16 = 1 << 4;
const R11_BIT: u16 = 1 << 11;
const R11: Reg = Reg(11);
/// OF, SF, ZF, AF, PF, CF, and the bit that is always set.
const STATUS_FLAGS: i32 = 0x8d7;
const INTERRUPT_FLAG: i32 = 1 << 9;
const ACCESS_FLAG: i32 = 1 << 18;

impl Builder {
    /// SYSCALL of 64-bit code; the next instruction is at `next_rip`.
    pub(crate) fn system_call(&mut self, next_rip: u64) {
        let passage = offset_of!(VcpuBlock, syscall);
        let (one, other) = self.registers_to_cross();
        self.hand_over_if_shut(passage, one);
        // R11 = RFLAGS.
        self.bring_flags_back();
        self.e.mov(other, Reg::RSP);
        self.e
            .load_gs(Reg::RSP, offset_of!(VcpuBlock, stack_top) as i32);
        self.e.push_flags_pop(R11);
        self.e.mov(Reg::RSP, other);
        self.put_flags_away();
        self.e.alu_imm32(Alu::And, R11, HOST_FLAGS);
        self.e
            .load_gs32(other, offset_of!(VcpuBlock, system_flags) as i32);
        self.e.alu_imm32(Alu::And, other, !NOT_PUSHED);
        self.e.alu(Alu::Or, R11, other);
        self.e
            .load_gs32(other, offset_of!(VcpuBlock, interrupts) as i32);
        self.e.shl(other, 9);
        self.e.alu(Alu::Or, R11, other);
        self.mov_address(Reg::RCX, next_rip);

        let keep = (passage + offset_of!(Passage, keep)) as i32;
        self.e.mov(one, R11);
        self.e.alu_gs(Alu::And, one, keep);
        self.set_status_flags(one, other);
        self.e
            .load_gs(one, offset_of!(VcpuBlock, system_flags) as i32);
        self.e.alu_gs(Alu::And, one, keep);
        for to in [
            offset_of!(VcpuBlock, system_flags),
            offset_of!(VcpuBlock, clac) + offset_of!(Toggle, system_flags),
        ] {
            self.e.store_gs(to as i32, one);
        }
        self.e.alu_imm32(Alu::Or, one, ACCESS_FLAG);
        let stac = offset_of!(VcpuBlock, stac) + offset_of!(Toggle, system_flags);
        self.e.store_gs(stac as i32, one);
        self.e
            .store_gs_imm32(offset_of!(VcpuBlock, interrupts) as i32, 0);
        self.cross(passage, one, Crossed::Syscall);
        self.e
            .load_gs(one, (passage + offset_of!(Passage, target)) as i32);
        self.go_indirect(one, other, 0);
    }

    /// SYSRET to 64-bit code.
    pub(crate) fn system_return(&mut self) {
        let passage = offset_of!(VcpuBlock, sysret);
        let (one, other) = self.registers_to_cross();
        self.hand_over_if_shut(passage, one);
        self.e.mov(one, Reg::RCX);
        self.e.shl(one, 16);
        self.e.sar(one, 16);
        self.e.alu(Alu::Cmp, one, Reg::RCX);
        let nowhere = self.e.jcc(cond::NE);
        self.miss_to_interpreter(nowhere);
        self.e.mov(one, R11);
        self.e.alu_imm32(Alu::And, one, !STATUS_FLAGS);
        self.e.alu_imm32(Alu::Cmp, one, INTERRUPT_FLAG);
        let unusual = self.e.jcc(cond::NE);
        self.miss_to_interpreter(unusual);
        self.e
            .load_gs32(one, offset_of!(VcpuBlock, window_wanted) as i32);
        self.e.alu(Alu::Or, one, one);
        let waits = self.e.jcc(cond::NE);
        self.miss_to_interpreter(waits);

        self.e.mov(one, R11);
        self.set_status_flags(one, other);
        for (to, flags) in [
            (offset_of!(VcpuBlock, system_flags), 2),
            (
                offset_of!(VcpuBlock, clac) + offset_of!(Toggle, system_flags),
                2,
            ),
            (
                offset_of!(VcpuBlock, stac) + offset_of!(Toggle, system_flags),
                2 | ACCESS_FLAG as u64,
            ),
        ] {
            self.e.store_gs_imm64(to as i32, flags);
        }
        self.e
            .store_gs_imm32(offset_of!(VcpuBlock, interrupts) as i32, 1);
        self.cross(passage, one, Crossed::Sysret);
        self.e.mov(one, Reg::RCX);
        self.go_indirect(one, other, 0);
    }

    /// Two free registers, with RCX, R11 and RSP in their places and flags put away.
    fn registers_to_cross(&mut self) -> (Reg, Reg) {
        let used = RCX_BIT | R11_BIT | RSP_BIT;
        self.anchors.drop_in(u16::MAX);
        self.give_back(used);
        self.put_flags_away();
        let one = self.borrow_free_of_rbp(used, false);
        let other = self.borrow_free_of_rbp(used | 1 << one.0, false);
        (one, other)
    }

    fn hand_over_if_shut(&mut self, passage: usize, free: Reg) {
        let target = (passage + offset_of!(Passage, target)) as i32;
        self.e.load_gs(free, target);
        self.e.alu(Alu::Or, free, free);
        let shut = self.e.jcc(cond::NE ^ 1);
        self.miss_to_interpreter(shut);
    }

    /// The status flags, which are put away, become those of `flags`; both registers are clobbered.
    fn set_status_flags(&mut self, flags: Reg, free: Reg) {
        self.e.mov(free, flags);
        self.e.shl(free, 8);
        self.e.alu_imm32(Alu::And, free, 0xff00);
        self.e.shr(flags, 11);
        self.e.alu_imm(Alu::And, flags, 1);
        self.e.alu(Alu::Or, free, flags);
        self.e
            .store_gs(offset_of!(VcpuBlock, saved_flags) as i32, free);
    }

    /// Tables, selectors and DF (which is clear on both sides) as they are behind `passage`.
    fn cross(&mut self, passage: usize, free: Reg, crossed: Crossed) {
        let selectors = offset_of!(VcpuBlock, selector) + crate::block::seg::CS * 4;
        let stac = offset_of!(VcpuBlock, stac);
        let clac = offset_of!(VcpuBlock, clac);
        for (from, to) in [
            (offset_of!(Passage, selectors), selectors),
            (
                offset_of!(Passage, read_tlb),
                offset_of!(VcpuBlock, read_tlb),
            ),
            (
                offset_of!(Passage, write_tlb),
                offset_of!(VcpuBlock, write_tlb),
            ),
            (
                offset_of!(Passage, read_tlb),
                clac + offset_of!(Toggle, read_tlb),
            ),
            (
                offset_of!(Passage, write_tlb),
                clac + offset_of!(Toggle, write_tlb),
            ),
            (
                offset_of!(Passage, stac_read_tlb),
                stac + offset_of!(Toggle, read_tlb),
            ),
            (
                offset_of!(Passage, stac_write_tlb),
                stac + offset_of!(Toggle, write_tlb),
            ),
            (
                offset_of!(Passage, jump_cache),
                offset_of!(VcpuBlock, jump_cache),
            ),
        ] {
            self.e.load_gs(free, (passage + from) as i32);
            self.e.store_gs(to as i32, free);
        }
        self.e
            .store_gs_imm32(offset_of!(VcpuBlock, crossed) as i32, crossed as u32);
        // cld
        self.e.raw(&[0xfc]);
    }
}
