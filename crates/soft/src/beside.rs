//! Accesses that translated code cannot make itself, made beside it: it goes on right away.
//!
//! The usual way for an operand that lies in two pages, or on a page with translated code, is to interpret the
//! instruction (`bounce`): it runs alone on a copy of its operand, and the vCPU's loop looks for everything that may wait
//! before translated code is found again. Of eight bytes that lie anywhere every 585th lie in two pages. What only
//! reads and writes memory needs less:
//!
//! - One that **only reads** memory finds its bytes in the bounce buffer. The registers of its check are made to say that
//!   the check has held, and that the page lies there; it goes on behind the check, in the middle of its block. If it is
//!   not let in there any more, it starts over: nothing has been done.
//! - A **MOV to memory** is done here, and translated code goes on behind it.
//! - **All others**, which change memory, store vectors or read under a shared check, are bounced from here: on the
//!   silicon, locked ones among several vCPUs as `locked` does them. The walk that found the page is not made again, and
//!   translated code goes on behind. FP state that was loaded is loaded again for an instruction that uses it; for others
//!   it waits until something does, since many accesses may come before that.
//!
//! Whatever is unusual (a fault, a device, a breakpoint, alignment that is checked) takes the usual way.

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86::{Gpa, Gva, PAGE_SIZE};

use crate::block::BOUNCE_BYTES;
use crate::code_cache::HostPc;
use crate::cpu::{SoftVcpu, Step};
use crate::decoded::{Decoded, Place};
use crate::mode::Mode;
use crate::translate::{Kind, Operand, Site, SiteAccess, fp_level};

/// How translated code goes on.
pub(crate) enum Beside {
    /// From here, in the middle of a block.
    Within(HostPc),
    /// With the next instruction.
    Behind,
}

/// A site's access: address and size are those of the instruction's own bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Missed {
    pub(crate) linear: u64,
    pub(crate) size: u8,
    /// Where a walk of the page tables for this very access has led to, if it does not cross.
    pub(crate) walked: Option<Gpa>,
}

impl SoftVcpu {
    /// Makes the access of a site that has missed, if it can be made here, or says why the instruction cannot be
    /// completed. `held` is what registers held when translated code came out; the guest's own are in place.
    pub(crate) fn make_beside(
        &mut self,
        site: &Site,
        missed: Missed,
        held: &[u64; 16],
    ) -> Option<Step<Beside>> {
        let is_watched = self.debug.dr7 & 0xff != 0;
        if is_watched || self.mode.has(Mode::CAREFUL | Mode::ALIGNED) {
            return None;
        }
        let place = Place::of_site(self.block.exit_info);
        let decoded = match self.decoded.get(place, self.generation) {
            Some(decoded) => decoded,
            None => self.decoded_at(place).ok()?,
        };
        let Kind::Copy(Some(operand)) = decoded.kind else {
            return None;
        };
        if operand.size != missed.size || decoded.needs.alignment {
            return None;
        }
        if !operand.write && site.shared().own_size == 0 {
            let access = site.access()?;
            self.load_beside(missed.linear, operand)?;
            return Some(Ok(Beside::Within(self.behind_check(site, &access, held))));
        }
        let pieces = self.memory_pieces(missed, operand)?;
        match self.moved_value(&decoded.instruction) {
            Some(value) => self.store_beside(&decoded, pieces, value),
            None => {
                if let Err(stop) = self.bounce_beside(&decoded, operand, pieces)? {
                    return Some(Err(stop));
                }
            }
        }
        self.counters.beside += 1;
        Some(Ok(Beside::Behind))
    }

    /// Where an operand lies that is memory as a whole. None otherwise, and if the access faults.
    fn memory_pieces(&mut self, missed: Missed, operand: Operand) -> Option<[(Gpa, usize); 2]> {
        let len = usize::from(missed.size);
        let pieces = match missed.walked {
            Some(gpa) => [(gpa, len), (Gpa(0), 0)],
            None => {
                let access = self.access(operand.write);
                self.pieces(missed.linear, len, access).ok()?
            }
        };
        let is_memory = |&(gpa, len): &(Gpa, usize)| len == 0 || self.memory.hva(gpa).is_some();
        pieces.iter().all(is_memory).then_some(pieces)
    }

    /// Runs the instruction on a copy of its operand. None if it is one for a closer look, and nothing was done.
    #[inline(never)]
    fn bounce_beside(
        &mut self,
        decoded: &Decoded,
        operand: Operand,
        pieces: [(Gpa, usize); 2],
    ) -> Option<Step> {
        let instruction = &decoded.instruction;
        self.check_pending_x87(instruction).ok()?;
        // What translated code has loaded it loads again: the guest may use it, as it did just now.
        let was_loaded = self.block.fp_was_loaded;
        let uses_fp = fp_level(instruction) != 0;
        if uses_fp {
            self.block.fp_loaded = was_loaded;
        }
        let bytes = &decoded.bytes[..instruction.len()];
        let done = self.bounce_pieces(instruction, bytes, operand, decoded.needs, pieces);
        if done.is_err() {
            self.block.fp_loaded = 0;
        }
        Some(done)
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
        let host = self.tlbs().read.lookup(Gva(linear))?;
        let page = self.memory.gpa(mem::Hva(host))?;
        let gpa = Gpa(page.0 | (linear % PAGE_SIZE));
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

    /// Does a MOV of a general register or a constant to memory.
    fn store_beside(&mut self, decoded: &Decoded, pieces: [(Gpa, usize); 2], value: u64) {
        let value = value.to_le_bytes();
        let mut at = 0;
        for (gpa, part) in pieces {
            self.write_physical(gpa, &value[at..at + part]);
            at += part;
        }
        self.block.rip = decoded.instruction.next_ip();
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
