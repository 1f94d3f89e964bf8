//! How an anchor is made: the check that stands for all accesses to a stretch, see [`super::anchors`].

use std::mem::offset_of;

use super::builder::{Builder, SiteAccess};
use super::place::Place;
use crate::block::VcpuBlock;
use crate::emit::{Alu, Reg, cond};

impl Builder {
    /// Checks the stretch that the current instruction's check is to stand for, and makes an anchor of it. `used` are
    /// registers that keep their guest values; they are all back in their places. `None` if there is no such stretch or
    /// no register for it.
    pub(super) fn check_stretch(&mut self, used: u16, low: bool) -> Option<Place> {
        let reach = self.anchors.reach?;
        let stretch = self.anchors.stretch.take()?;
        let base = 1 << reach.base;
        let taken = used | base | stretch.used | self.anchors.registers();
        self.put_flags_away_from(used);
        let register = self.try_borrow(taken, low)?;
        let entry = self.borrow_free_of_rbp(used | base | 1 << register.0, low);
        self.give_back(base);
        self.e.lea(register, Reg(reach.base), stretch.from);
        let own_offset = (reach.from - stretch.from) as u8;
        self.look_up(register, entry, reach.write, stretch.len());
        let missed = self.e.jcc(cond::A);
        let access = SiteAccess {
            address: register,
            entry,
            write: reach.write,
            size: stretch.len(),
            is_segmented: false,
        };
        self.shared_miss(missed, access, own_offset, reach.size);
        self.add_host(register, entry);
        self.anchors.add(reach, stretch, register);
        Some(Place {
            register,
            offset: i32::from(own_offset),
        })
    }

    /// `entry` = the TLB entry for `address`, which becomes the offset in its page, and is compared: above is a miss.
    pub(super) fn look_up(&mut self, address: Reg, entry: Reg, write: bool, size: u8) {
        let table = if write {
            offset_of!(VcpuBlock, write_tlb)
        } else {
            offset_of!(VcpuBlock, read_tlb)
        };
        self.e.mov(entry, address);
        self.e.shr(entry, 8);
        self.e
            .alu_imm32(Alu::And, entry, ((crate::tlb::TLB_ENTRIES - 1) << 4) as i32);
        self.e.alu_gs(Alu::Add, entry, table as i32);
        self.e.alu_load(Alu::Xor, address, entry, 0);
        self.e
            .alu_imm(Alu::Cmp, address, 4096 - i32::from(size.max(1)));
    }

    /// Turns an offset in a page that has been looked up into a host address.
    pub(super) fn add_host(&mut self, address: Reg, entry: Reg) {
        // Where the check holds this changes nothing. Where the processor only guesses that it holds, it keeps what is
        // read ahead inside the page: without it the sum would be any address that the guest likes.
        self.e.alu_imm32(Alu::And, address, 0xfff);
        self.e.alu_load(Alu::Add, address, entry, 8);
    }
}
