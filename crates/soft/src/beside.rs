//! Accesses that translated code cannot make itself, made beside it: it goes on right away.
//!
//! The usual way for an operand that lies in two pages, or on a page with translated code, is to interpret the
//! instruction (`bounce`): everything is given back to the guest's registers, the instruction runs alone on a copy of its
//! operand, and the way back into translated code is looked up. That costs some five hundred
//! nanoseconds, and of eight bytes that lie anywhere every 585th lie in two pages. Two kinds of instructions are most of
//! what is met, and need less:
//!
//! - One that **only reads** memory finds its bytes in the bounce buffer. The registers of its check are made to say that
//!   the check has held, and that the page lies there; it goes on behind the check, in the middle of its block. If it is
//!   not let in there any more, it starts over: nothing has been done.
//! - A **MOV to memory** is done here, and translated code goes on behind it.
//!
//! Whatever is unusual (a fault, a device, a breakpoint, alignment that is checked) takes the usual way.

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86::{Gva, PAGE_SIZE};

use crate::block::BOUNCE_BYTES;
use crate::code_cache::HostPc;
use crate::cpu::SoftVcpu;
use crate::decoded::{Decoded, Place};
use crate::mode::Mode;
use crate::translate::{Kind, Operand, Site, SiteAccess};

/// How translated code goes on.
pub(crate) enum Beside {
    /// From here, in the middle of a block.
    Within(HostPc),
    /// With the next instruction.
    Behind,
}

impl SoftVcpu {
    /// Makes the access of a site that has missed, if it is one of those. `linear` and `size` are those of the instruction's own
    /// bytes, `held` what registers held when translated code came out; the guest's own are in place.
    pub(crate) fn make_beside(
        &mut self,
        site: &Site,
        (linear, size): (u64, u8),
        held: &[u64; 16],
    ) -> Option<Beside> {
        let is_watched = self.debug.dr7 & 0xff != 0;
        if is_watched || self.mode.has(Mode::CAREFUL | Mode::ALIGNED) {
            return None;
        }
        // The interpreter has had it before, and will see to a page that is not in the TLB.
        let place = Place::of_site(self.block.exit_info);
        let decoded = self.decoded.get(place, self.generation)?;
        let Kind::Copy(Some(operand)) = decoded.kind else {
            return None;
        };
        if operand.size != size {
            return None;
        }
        if operand.write {
            return self
                .store_beside(&decoded, linear, usize::from(size))
                .then_some(Beside::Behind);
        }
        let access = site.access()?;
        let is_shared = site.shared().own_size != 0;
        if is_shared || decoded.needs.alignment {
            return None;
        }
        self.load_beside(linear, operand)?;
        Some(Beside::Within(self.behind_check(site, &access, held)))
    }

    /// Fills the bounce buffer from memory that the TLB knows.
    fn load_beside(&mut self, linear: u64, operand: Operand) -> Option<()> {
        let len = usize::from(operand.size);
        let first = SoftVcpu::in_page(linear, len);
        let mut data = [0; BOUNCE_BYTES];
        let (head, tail) = data[..len].split_at_mut(first);
        self.load_known(linear, head)?;
        if !tail.is_empty() {
            let mut next = linear.wrapping_add(first as u64);
            if !self.is_long_mode() {
                next &= 0xffff_ffff;
            }
            self.load_known(next, tail)?;
        }
        self.block.bounce.0 = data;
        self.counters.beside += 1;
        Some(())
    }

    fn load_known(&mut self, linear: u64, bytes: &mut [u8]) -> Option<()> {
        let host = self.banks.tlbs().read.lookup(Gva(linear))?;
        let page = self.memory.gpa(mem::Hva(host))?;
        let gpa = x86::Gpa(page.0 | (linear % PAGE_SIZE));
        self.memory.read(gpa, bytes).ok()
    }

    /// Where the site's code goes on once its check has held, with registers that say so: the operand lies at the start of a page
    /// that is the bounce buffer.
    fn behind_check(&mut self, site: &Site, access: &SiteAccess, held: &[u64; 16]) -> HostPc {
        let mut held = *held;
        held[usize::from(access.address.0)] = 0;
        held[usize::from(access.entry.0)] = self.block.bounce_entry_address();
        let of_check = 1 << access.address.0 | 1 << access.entry.0;
        let mask = site.borrowed | site.shared().anchors | of_check;
        self.block.fp_loaded = self.block.fp_was_loaded;
        self.hold_anchors(mask, held);
        site.end(self.soft.stubs().cache)
    }

    /// Does a MOV of a general register or a constant to memory; false if it is none, and nothing was done.
    fn store_beside(&mut self, decoded: &Decoded, linear: u64, len: usize) -> bool {
        let instruction = &decoded.instruction;
        let Some(value) = self.moved_value(instruction) else {
            return false;
        };
        let access = self.access(true);
        let Ok(pieces) = self.pieces(linear, len, access) else {
            return false;
        };
        let is_memory =
            |&(gpa, len): &(x86::Gpa, usize)| len == 0 || self.memory.hva(gpa).is_some();
        if !pieces.iter().all(is_memory) {
            return false;
        }
        let value = value.to_le_bytes();
        let mut at = 0;
        for (gpa, part) in pieces {
            self.write_physical(gpa, &value[at..at + part]);
            at += part;
        }
        self.counters.beside += 1;
        self.block.rip = instruction.next_ip();
        true
    }

    /// What a MOV to memory moves there.
    fn moved_value(&self, instruction: &Instruction) -> Option<u64> {
        let is_move = instruction.mnemonic() == Mnemonic::Mov
            && instruction.op0_kind() == OpKind::Memory
            && instruction.op_count() == 2;
        if !is_move {
            return None;
        }
        match instruction.op1_kind() {
            OpKind::Register if instruction.op1_register().is_gpr() => {
                Some(self.register(instruction.op1_register()))
            }
            OpKind::Register => None,
            _ => Some(instruction.immediate(1)),
        }
    }
}
