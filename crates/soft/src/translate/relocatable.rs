//! Emits what depends on where a block lies, or on what guest address it is for, and notes it: see [`super::relocation`].

use std::mem::offset_of;

use super::builder::Builder;
use super::relocation::{ENTRY_TO_HOST, HALVES_APART, Part, Relocation};
use crate::block::VcpuBlock;
use crate::code_cache::HostPc;
use crate::emit::Reg;

/// Bytes of `mov register, imm64`, and of the two stores of 64 bits.
const LONG_MOVE: usize = 10;
const TWO_STORES: usize = 2 * HALVES_APART;

impl Builder {
    fn note(&mut self, at: usize, part: Part) {
        match u16::try_from(at) {
            Ok(at) => self.relocations.push(Relocation { at, part }),
            Err(_) => self.is_movable = false,
        }
    }

    /// `to` = a guest address that goes with the block.
    pub(super) fn mov_address(&mut self, to: Reg, address: u64) {
        let start = self.e.offset();
        self.e.mov_imm(to, address);
        self.is_movable &= self.e.offset() - start == LONG_MOVE;
        self.note(self.e.offset() - 8, Part::Address);
    }

    /// RIP = a guest address that goes with the block.
    pub(super) fn store_rip(&mut self, rip: u64) {
        let start = self.e.offset();
        self.e
            .store_gs_imm64(offset_of!(VcpuBlock, rip) as i32, rip);
        self.is_movable &= self.e.offset() - start == TWO_STORES;
        self.note(self.e.offset() - 4 - HALVES_APART, Part::Halves);
    }

    /// The displacement of a jump-cache entry has been emitted, and its address negated follows.
    pub(super) fn note_jump_entry(&mut self) {
        self.note(self.e.offset() - 4, Part::JumpEntry);
    }

    /// The displacement of where that entry leads has been emitted.
    pub(super) fn check_jump_entry(&mut self) {
        let noted = self.relocations.last();
        let distance = noted.map(|last| self.e.offset() - 4 - usize::from(last.at));
        self.is_movable &= distance == Some(ENTRY_TO_HOST);
    }

    /// What the exit to come is about; `part` says what of the block that is.
    pub(super) fn store_exit_info(&mut self, info: u32, part: Option<Part>) {
        self.e
            .store_gs_imm32(offset_of!(VcpuBlock, exit_info) as i32, info);
        if let Some(part) = part {
            self.note(self.e.offset() - 4, part);
        }
    }

    /// Jumps to a common exit.
    pub(super) fn jump_out(&mut self, to: HostPc) {
        self.e.jump_to(to);
        self.note(self.e.offset() - 4, Part::Outside);
    }
}
