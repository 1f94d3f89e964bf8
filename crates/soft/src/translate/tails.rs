//! Code behind a block's straight path, emitted last: misses, jumps out of the middle, and exits.

use std::mem::offset_of;

use super::builder::{Builder, Link};
use super::relocation::Part;
use super::tail::Tail;
use crate::block::{ExitReason, VcpuBlock};
use crate::code_cache::HostPc;
use crate::emit::{Alu, Fixup, Reg, cond};

/// The number of no link.
const NO_LINK: u32 = u32::MAX;

impl Builder {
    /// Leaves behind the straight path.
    pub(crate) fn leave_from(&mut self, from: Fixup, rip: u64, reason: ExitReason) {
        self.tails.push(Tail::Leave { from, rip, reason });
    }

    /// Emits what lies behind the straight path. Returns the address of the exit for a stale head.
    pub(crate) fn finish(&mut self, block_rip: u64) -> HostPc {
        for tail in std::mem::take(&mut self.tails) {
            self.tail(tail);
        }
        let stale = self.e.address();
        if self.is_one_by_one {
            self.leave_for(block_rip, ExitReason::OneByOne, NO_LINK);
        } else {
            self.leave_for_lookup(block_rip);
        }
        stale
    }

    fn tail(&mut self, tail: Tail) {
        match tail {
            Tail::Miss { from, site } => self.leave_at_site(from, ExitReason::Memory, site),
            Tail::FpState { from, site } => self.leave_at_site(from, ExitReason::FpState, site),
            Tail::SharedMiss {
                from,
                site,
                address,
                rip,
                borrowed,
            } => {
                self.e.bind(from);
                let is_another_page = self.is_another_page(address);
                self.put_back_from(borrowed);
                let link = self.jump_when_chained();
                self.leave_for(rip, ExitReason::OneByOne, link);
                self.leave_at_site(is_another_page, ExitReason::Memory, site);
            }
            Tail::Aside {
                from,
                rip,
                borrowed,
                may_chain,
            } => {
                self.e.bind(from);
                self.go_aside(rip, borrowed, may_chain);
            }
            Tail::Leave { from, rip, reason } => {
                self.e.bind(from);
                self.store_rip(rip);
                self.exit_for(reason);
            }
            Tail::Chain { from, rip, link } => {
                self.e.bind(from);
                self.leave_for(rip, ExitReason::Chain, link);
            }
        }
    }

    /// Taken if a failed check has left in `address` what is no offset in the page of its TLB entry.
    fn is_another_page(&mut self, address: Reg) -> Fixup {
        self.e.alu_imm(Alu::Cmp, address, 0xfff);
        self.e.jcc(cond::A)
    }

    /// Brings flags, which are put away, and the registers in `borrowed` back.
    fn put_back_from(&mut self, borrowed: u16) {
        if borrowed & 1 == 0 {
            self.e.spill(Reg::RAX);
        }
        self.e.restore_flags();
        self.unspill_all(borrowed | 1);
    }

    fn unspill_all(&mut self, registers: u16) {
        for number in (0..16).filter(|number| registers & 1 << number != 0) {
            self.e.unspill(Reg(number));
        }
    }

    /// A jump that leads behind itself until it is chained. Returns its link's number.
    fn jump_when_chained(&mut self) -> u32 {
        self.e.align(4, 1);
        let unchained = self.e.jump();
        self.links.push(Link {
            slot: self.e.address() - 4,
        });
        self.e.bind(unchained);
        self.first_link + self.links.len() as u32 - 1
    }

    /// Goes to `rip` out of the middle of a block.
    fn go_aside(&mut self, rip: u64, borrowed: u16, may_chain: bool) {
        self.unspill_all(borrowed);
        if !may_chain {
            return self.look_up_or_leave(rip);
        }
        let link = self.jump_when_chained();
        self.leave_for(rip, ExitReason::Chain, link);
    }

    fn exit_for(&mut self, reason: ExitReason) {
        self.e
            .store_gs_imm32(offset_of!(VcpuBlock, exit_reason) as i32, reason as u32);
        let exit = self.stubs().exit;
        self.jump_out(exit);
    }

    fn leave_at_site(&mut self, from: Fixup, reason: ExitReason, site: u32) {
        self.e.bind(from);
        self.store_exit_info(site, Some(Part::Site));
        self.exit_for(reason);
    }

    /// Leaves for `rip` with what the reason wants to know.
    fn leave_for(&mut self, rip: u64, reason: ExitReason, info: u32) {
        self.store_rip(rip);
        self.store_exit_info(info, (info != NO_LINK).then_some(Part::Link));
        self.exit_for(reason);
    }

    /// Leaves for `rip`, whose translation Rust is to find.
    pub(super) fn leave_for_lookup(&mut self, rip: u64) {
        self.store_rip(rip);
        let lookup = self.stubs().lookup;
        self.jump_out(lookup);
    }
}
