//! Locked instructions that translated code does not do where they are: their operand crosses pages or cache lines, shares
//! a page with translated code, or is watched.
//!
//! They must be as atomic towards all other vCPUs as the silicon's. An operand that is aligned is taken out, changed
//! by the instruction on the bounce buffer, and put back by a compare-and-exchange; if somebody changed it meanwhile, all
//! is done again. Everything else happens while all other vCPUs are kept out of translated code and of the
//! interpreter's stores (`door`): what a bus lock is on silicon, and as dear. Devices are as free to race with that as
//! they are on a board whose bus locks end at the root complex.

use std::sync::Arc;

use iced_x86::Instruction;
use mem::GuestMemory;
use x86::Gpa;
use x86::paging::Access;

use crate::block::BOUNCE_BYTES;
use crate::cpu::{SoftVcpu, Step, Stop};
use crate::enter::make_room;
use crate::translations::Translations;

/// Exchanges that may fail before the vCPU looks whether somebody wants it.
const ATTEMPTS: usize = 100;

/// An operand: one piece, or two if it crosses pages.
type Pieces = [(Gpa, usize); 2];

/// Address and size of an operand that one compare-and-exchange can change.
fn exchangeable(pieces: &Pieces) -> Option<(Gpa, u8)> {
    let [(gpa, len), (_, rest)] = *pieces;
    let fits = rest == 0 && matches!(len, 1 | 2 | 4 | 8) && gpa.0.is_multiple_of(len as u64);
    fits.then_some((gpa, len as u8))
}

fn load(memory: &GuestMemory, pieces: &Pieces) -> [u8; BOUNCE_BYTES] {
    let mut data = [0; BOUNCE_BYTES];
    let mut at = 0;
    for &(gpa, len) in pieces {
        // All of it is memory: that was found out before.
        if memory.read(gpa, &mut data[at..at + len]).is_ok() {
            at += len;
        }
    }
    data
}

fn store(memory: &GuestMemory, translations: &mut Translations, pieces: &Pieces, data: &[u8]) {
    let mut at = 0;
    for &(gpa, len) in pieces.iter().filter(|(_, len)| *len > 0) {
        if memory.write_by_vcpu(gpa, &data[at..at + len]).is_ok() {
            at += len;
            if memory.notes().is_code(gpa.gfn()) {
                translations.invalidate(gpa, len as u64, memory);
            }
        }
    }
}

fn value_of(data: &[u8; BOUNCE_BYTES]) -> u64 {
    u64::from_le_bytes([
        data[0], data[1], data[2], data[3], data[4], data[5], data[6], data[7],
    ])
}

impl SoftVcpu {
    /// Whether all of an operand is memory that other vCPUs may use too.
    pub(crate) fn is_shared_memory(&self, pieces: &Pieces) -> bool {
        !self.soft.is_alone()
            && pieces
                .iter()
                .all(|&(gpa, len)| len == 0 || self.memory.hva(gpa).is_some())
    }

    /// Runs a locked instruction through the bounce buffer.
    pub(crate) fn bounce_locked(
        &mut self,
        instruction: &Instruction,
        bytes: &[u8],
        pieces: Pieces,
    ) -> Step {
        match exchangeable(&pieces) {
            Some((gpa, size)) => self.bounce_exchanged(instruction, bytes, gpa, size)?,
            None => self.bounce_alone(instruction, bytes, pieces)?,
        }
        self.block.rip = instruction.next_ip();
        Ok(())
    }

    fn bounce_exchanged(
        &mut self,
        instruction: &Instruction,
        bytes: &[u8],
        gpa: Gpa,
        size: u8,
    ) -> Step {
        let gprs = self.block.gprs;
        let rflags = self.block.rflags;
        for _ in 0..ATTEMPTS {
            let data = load(&self.memory, &[(gpa, usize::from(size)), (Gpa(0), 0)]);
            self.block.bounce.0 = data;
            let thunk = self.thunk(instruction, bytes)?;
            if !self.run_thunk(instruction, thunk)? {
                continue;
            }
            let new = value_of(&self.block.bounce.0);
            let is_done = self
                .store_slowly(|memory| memory.compare_exchange(gpa, size, value_of(&data), new));
            if is_done.is_ok_and(|is_done| is_done) {
                self.stored(gpa, u64::from(size));
                return Ok(());
            }
            // As if nothing had happened: locked instructions change nothing but memory, these and RIP.
            (self.block.gprs, self.block.rflags) = (gprs, rflags);
        }
        Err(Stop::Again)
    }

    /// Runs a locked instruction while everybody else is kept out.
    fn bounce_alone(&mut self, instruction: &Instruction, bytes: &[u8], pieces: Pieces) -> Step {
        let soft = Arc::clone(&self.soft);
        let mut translations = soft.translations();
        make_room(&soft, self.index, &mut translations);
        self.follow_generation();
        let thunk = translations.bounce_thunk(instruction, bytes, self.mode);
        let thunk = thunk.ok_or(Stop::Exception(x86::Exception::InvalidOpcode))?;
        let shut = soft.doors().shut(self.index);
        self.block.bounce.0 = load(&self.memory, &pieces);
        if !self.run_thunk(instruction, thunk)? {
            return Err(Stop::Again);
        }
        store(
            &self.memory,
            &mut translations,
            &pieces,
            &self.block.bounce.0,
        );
        drop(shut);
        Ok(())
    }

    /// Changes a value in memory as a locked instruction does; returns what it was.
    pub(crate) fn update_locked(
        &mut self,
        linear: u64,
        size: u8,
        access: Access,
        change: impl Fn(u64) -> u64,
    ) -> Step<u64> {
        let pieces = self.pieces(linear, usize::from(size), access)?;
        if !self.is_shared_memory(&pieces) {
            let value = self.read_linear(linear, size, access)?;
            self.write_linear(linear, size, change(value), access)?;
            return Ok(value);
        }
        self.note_data_access(linear, u64::from(size), access.write);
        let Some((gpa, size)) = exchangeable(&pieces) else {
            let soft = Arc::clone(&self.soft);
            let mut translations = soft.translations();
            let _shut = soft.doors().shut(self.index);
            let value = value_of(&load(&self.memory, &pieces));
            store(
                &self.memory,
                &mut translations,
                &pieces,
                &change(value).to_le_bytes(),
            );
            return Ok(value);
        };
        for _ in 0..ATTEMPTS {
            let old = value_of(&load(&self.memory, &pieces));
            let is_done =
                self.store_slowly(|memory| memory.compare_exchange(gpa, size, old, change(old)));
            if is_done.is_ok_and(|is_done| is_done) {
                self.stored(gpa, u64::from(size));
                return Ok(old);
            }
        }
        Err(Stop::Again)
    }
}
