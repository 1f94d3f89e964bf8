//! String instructions: MOVS, STOS, LODS, SCAS, CMPS, INS, OUTS, with and without REP.
//!
//! A repeated MOVS or STOS going upwards through ordinary memory moves in runs as long as both pages allow; everything
//! else goes element by element. Registers are updated after each run or element, so that a fault or an interrupt
//! in the middle leaves an instruction that can go on, as the architecture wants.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use vcpu::{Exit, gpr};
use x86::paging::Access;
use x86::{Gpa, PAGE_SIZE, Rflags};

use crate::block::seg;
use crate::cpu::{SoftVcpu, Step, Stop};
use crate::translate::segment_index;

/// Elements done before the run loop may look at interrupts.
const ELEMENTS_PER_TURN: u64 = 4096;

/// A string instruction, decoded.
#[derive(Clone, Copy)]
struct StringOp {
    size: u8,
    address_size: u8,
    source_segment: usize,
    step: i64,
    repeats: bool,
}

impl SoftVcpu {
    /// Runs a string instruction. `Ok` says whether it is finished, which it may not be after an element that traps;
    /// [`Stop::Again`] that it should be entered again.
    pub(crate) fn string(&mut self, instruction: &Instruction) -> Step<bool> {
        use Mnemonic as M;
        let op = self.string_op(instruction);
        let steps = self.rflags().contains(Rflags::TF);
        if matches!(
            instruction.mnemonic(),
            M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd
        ) {
            // Also for no element at all.
            self.check_port(self.block.gprs[gpr::RDX] as u16, op.size)?;
        }
        let mut turn = 0;
        loop {
            if op.repeats && self.count(op) == 0 {
                return Ok(true);
            }
            let run = if op.repeats && !steps {
                self.run_of(instruction, op)?
            } else {
                0
            };
            if run == 0 {
                self.element(instruction, op)?;
            }
            // Whatever was asked for this element has been used up.
            self.answers.clear();
            self.answers_used = 0;
            let done = run.max(1);
            if !op.repeats {
                return Ok(true);
            }
            let count = self.count(op).wrapping_sub(done);
            self.set_gpr(gpr::RCX, op.address_size, count);
            if self.repeat_is_over(instruction) {
                return Ok(true);
            }
            if steps || self.pending.breakpoints != 0 {
                return Ok(count == 0);
            }
            turn += done;
            let must_pause = turn >= ELEMENTS_PER_TURN || !self.posted.is_empty();
            if must_pause && count != 0 {
                return Err(Stop::Again);
            }
        }
    }

    fn string_op(&self, instruction: &Instruction) -> StringOp {
        let size = match instruction.mnemonic() {
            Mnemonic::Movsb
            | Mnemonic::Stosb
            | Mnemonic::Lodsb
            | Mnemonic::Scasb
            | Mnemonic::Cmpsb
            | Mnemonic::Insb
            | Mnemonic::Outsb => 1,
            Mnemonic::Movsw
            | Mnemonic::Stosw
            | Mnemonic::Lodsw
            | Mnemonic::Scasw
            | Mnemonic::Cmpsw
            | Mnemonic::Insw
            | Mnemonic::Outsw => 2,
            Mnemonic::Movsq
            | Mnemonic::Stosq
            | Mnemonic::Lodsq
            | Mnemonic::Scasq
            | Mnemonic::Cmpsq => 8,
            _ => 4,
        };
        let kinds = (0..instruction.op_count()).map(|op| instruction.op_kind(op));
        let address_size = kinds
            .filter_map(|kind| match kind {
                OpKind::MemorySegSI | OpKind::MemoryESDI => Some(2),
                OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(4),
                OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(8),
                _ => None,
            })
            .next()
            .unwrap_or(8);
        let goes_down = self.block.rflags & Rflags::DF.bits() != 0;
        let step = if goes_down {
            -i64::from(size)
        } else {
            i64::from(size)
        };
        let source_segment = match instruction.memory_segment() {
            Register::FS => seg::FS,
            Register::GS => seg::GS,
            Register::None => seg::DS,
            _ if self.is_64_bit() => seg::DS,
            register => segment_index(register),
        };
        let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        StringOp {
            size,
            address_size,
            source_segment,
            step,
            repeats,
        }
    }

    fn cut(value: u64, address_size: u8) -> u64 {
        value & u64::MAX >> (64 - u32::from(address_size) * 8)
    }

    fn count(&self, op: StringOp) -> u64 {
        SoftVcpu::cut(self.block.gprs[gpr::RCX], op.address_size)
    }

    fn advance(&mut self, register: usize, op: StringOp, elements: u64) {
        let distance = op.step.wrapping_mul(elements as i64) as u64;
        let value = self.block.gprs[register].wrapping_add(distance);
        self.set_gpr(
            register,
            op.address_size,
            SoftVcpu::cut(value, op.address_size),
        );
    }

    fn source(&mut self, op: StringOp) -> Step<u64> {
        let offset = SoftVcpu::cut(self.block.gprs[gpr::RSI], op.address_size);
        let linear = self.linear(op.source_segment, offset, u64::from(op.size), false)?;
        self.read_linear(linear, op.size, self.access(false))
    }

    fn target_linear(&self, op: StringOp, write: bool) -> Step<u64> {
        let offset = SoftVcpu::cut(self.block.gprs[gpr::RDI], op.address_size);
        Ok(self.linear(seg::ES, offset, u64::from(op.size), write)?)
    }

    fn element(&mut self, instruction: &Instruction, op: StringOp) -> Step {
        use Mnemonic as M;
        match instruction.mnemonic() {
            M::Movsb | M::Movsw | M::Movsd | M::Movsq => {
                let value = self.source(op)?;
                let target = self.target_linear(op, true)?;
                self.write_linear(target, op.size, value, self.access(true))?;
                self.advance(gpr::RSI, op, 1);
                self.advance(gpr::RDI, op, 1);
            }
            M::Stosb | M::Stosw | M::Stosd | M::Stosq => {
                let target = self.target_linear(op, true)?;
                self.write_linear(
                    target,
                    op.size,
                    self.block.gprs[gpr::RAX],
                    self.access(true),
                )?;
                self.advance(gpr::RDI, op, 1);
            }
            M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => {
                let value = self.source(op)?;
                self.set_gpr(gpr::RAX, op.size, value);
                self.advance(gpr::RSI, op, 1);
            }
            M::Scasb | M::Scasw | M::Scasd | M::Scasq => {
                let target = self.target_linear(op, false)?;
                let value = self.read_linear(target, op.size, self.access(false))?;
                self.compare(self.block.gprs[gpr::RAX], value, op.size);
                self.advance(gpr::RDI, op, 1);
            }
            M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => {
                let left = self.source(op)?;
                let target = self.target_linear(op, false)?;
                let right = self.read_linear(target, op.size, self.access(false))?;
                self.compare(left, right, op.size);
                self.advance(gpr::RSI, op, 1);
                self.advance(gpr::RDI, op, 1);
            }
            M::Insb | M::Insw | M::Insd => {
                let port = self.block.gprs[gpr::RDX] as u16;
                let target = self.target_linear(op, true)?;
                // The store must be possible before the device is asked.
                let access = self.access(true);
                self.pieces(target, usize::from(op.size), access)?;
                let value = self.ask(Exit::PioRead {
                    port,
                    size: op.size,
                })?;
                self.write_linear(target, op.size, value, access)?;
                self.advance(gpr::RDI, op, 1);
            }
            _ => {
                let port = self.block.gprs[gpr::RDX] as u16;
                let value = self.source(op)?;
                self.posted.push(Exit::PioWrite {
                    port,
                    size: op.size,
                    value: value as u32,
                });
                self.advance(gpr::RSI, op, 1);
            }
        }
        Ok(())
    }

    /// Sets flags as CMP does.
    fn compare(&mut self, left: u64, right: u64, size: u8) {
        let bits = u32::from(size) * 8;
        let mask = u64::MAX >> (64 - bits);
        let left = left & mask;
        let right = right & mask;
        let result = left.wrapping_sub(right) & mask;
        let sign = 1 << (bits - 1);
        let mut flags = self.rflags() - Rflags::ARITHMETIC;
        flags.set(Rflags::CF, left < right);
        flags.set(Rflags::PF, (result as u8).count_ones().is_multiple_of(2));
        flags.set(Rflags::AF, (left ^ right ^ result) & 0x10 != 0);
        flags.set(Rflags::ZF, result == 0);
        flags.set(Rflags::SF, result & sign != 0);
        flags.set(Rflags::OF, (left ^ right) & (left ^ result) & sign != 0);
        self.set_rflags(flags);
    }

    fn repeat_is_over(&self, instruction: &Instruction) -> bool {
        use Mnemonic as M;
        let compares = matches!(
            instruction.mnemonic(),
            M::Scasb | M::Scasw | M::Scasd | M::Scasq | M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq
        );
        let is_zero = self.block.rflags & Rflags::ZF.bits() != 0;
        compares
            && if instruction.has_repne_prefix() {
                is_zero
            } else {
                !is_zero
            }
    }

    /// Does as many elements of a REP MOVS or REP STOS at once as can be; returns how many, 0 for "one by one".
    fn run_of(&mut self, instruction: &Instruction, op: StringOp) -> Step<u64> {
        use Mnemonic as M;
        let is_move = matches!(
            instruction.mnemonic(),
            M::Movsb | M::Movsw | M::Movsd | M::Movsq
        );
        let is_store = matches!(
            instruction.mnemonic(),
            M::Stosb | M::Stosw | M::Stosd | M::Stosq
        );
        let is_simple =
            op.step > 0 && op.address_size == 8 && self.is_64_bit() && self.debug.dr7 & 0xff == 0;
        if !(is_move || is_store) || !is_simple {
            return Ok(0);
        }
        let size = u64::from(op.size);
        let mut bytes = self.count(op).saturating_mul(size);
        let source = if is_move {
            let source = self.linear(op.source_segment, self.block.gprs[gpr::RSI], size, false)?;
            bytes = bytes.min(PAGE_SIZE - source % PAGE_SIZE);
            if bytes < size {
                return Ok(0);
            }
            Some(self.translate(x86::Gva(source), self.access(false))?)
        } else {
            None
        };
        let target = self.target_linear(op, true)?;
        bytes = bytes.min(PAGE_SIZE - target % PAGE_SIZE);
        let elements = bytes / size;
        if elements == 0 {
            return Ok(0);
        }
        let bytes = elements * size;
        let write: Access = self.access(true);
        let target_gpa = self.translate(x86::Gva(target), write)?;
        let is_done = match source {
            Some(source) => self.move_run(source, target_gpa, bytes),
            None => self.store_run(target_gpa, op.size, bytes),
        };
        if !is_done {
            return Ok(0);
        }
        self.stored(target_gpa, bytes);
        if is_move {
            self.advance(gpr::RSI, op, elements);
        }
        self.advance(gpr::RDI, op, elements);
        Ok(elements)
    }

    /// False if the run must go element by element: a later element would read what an earlier one wrote, or an
    /// end is not memory.
    fn move_run(&mut self, from: Gpa, to: Gpa, bytes: u64) -> bool {
        let feeds_itself = to > from && to.0 - from.0 < bytes;
        !feeds_itself
            && self
                .store_slowly(|memory| memory.copy_by_vcpu(from, to, bytes))
                .is_ok()
    }

    fn store_run(&mut self, to: Gpa, size: u8, bytes: u64) -> bool {
        let value = self.block.gprs[gpr::RAX].to_le_bytes();
        let pattern = &value[..usize::from(size)];
        if pattern.iter().all(|&byte| byte == pattern[0]) {
            return self
                .store_slowly(|memory| memory.fill_by_vcpu(to, pattern[0], bytes))
                .is_ok();
        }
        let mut run = [0; PAGE_SIZE as usize];
        let run = &mut run[..bytes as usize];
        for chunk in run.chunks_exact_mut(pattern.len()) {
            chunk.copy_from_slice(pattern);
        }
        self.store_slowly(|memory| memory.write_by_vcpu(to, run))
            .is_ok()
    }
}
