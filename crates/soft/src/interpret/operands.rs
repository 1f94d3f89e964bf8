//! Operands as the interpreter sees them: registers of every size, effective addresses, loads and stores with
//! segment checks.

use iced_x86::{Instruction, OpKind, Register};
use vcpu::gpr;
use x86::{Exception, Gva};

use crate::block::seg;
use crate::cpu::{GP0, SoftVcpu, Step};
use crate::mode::Mode;
use crate::translate::segment_index;

/// Which fault a bad address in this segment raises.
fn segment_fault(index: usize) -> Exception {
    if index == seg::SS {
        Exception::StackFault(0)
    } else {
        GP0
    }
}

impl SoftVcpu {
    /// A general register's value, zero-extended. Anything else reads as 0.
    pub(crate) fn register(&self, register: Register) -> u64 {
        if !register.is_gpr() {
            return 0;
        }
        let value = self.block.gprs[register.full_register().number()];
        match register {
            Register::AH | Register::CH | Register::DH | Register::BH => value >> 8 & 0xff,
            _ => match register.size() {
                1 => value & 0xff,
                2 => value & 0xffff,
                4 => value & 0xffff_ffff,
                _ => value,
            },
        }
    }

    /// Sets a general register as an instruction of that operand size does.
    pub(crate) fn set_register(&mut self, register: Register, value: u64) {
        let slot = &mut self.block.gprs[register.full_register().number()];
        *slot = match register {
            Register::AH | Register::CH | Register::DH | Register::BH => {
                *slot & !0xff00 | (value & 0xff) << 8
            }
            _ => match register.size() {
                1 => *slot & !0xff | value & 0xff,
                2 => *slot & !0xffff | value & 0xffff,
                4 => value & 0xffff_ffff,
                _ => value,
            },
        };
    }

    /// Sets a register by number and operand size in bytes.
    pub(crate) fn set_gpr(&mut self, number: usize, size: u8, value: u64) {
        let slot = &mut self.block.gprs[number];
        *slot = match size {
            1 => *slot & !0xff | value & 0xff,
            2 => *slot & !0xffff | value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        };
    }

    /// Offset of a memory operand in its segment.
    pub(crate) fn effective_address(&self, instruction: &Instruction) -> u64 {
        let base = instruction.memory_base();
        let index = instruction.memory_index();
        let displacement = instruction.memory_displacement64();
        if base.is_ip() {
            return displacement;
        }
        let sum = self
            .register(base)
            .wrapping_add(
                self.register(index)
                    .wrapping_mul(u64::from(instruction.memory_index_scale())),
            )
            .wrapping_add(displacement);
        let bits = match (base, index) {
            (Register::None, Register::None) => {
                return self.cut_to_address_size(instruction, displacement);
            }
            (Register::None, index) => index.size(),
            (base, _) => base.size(),
        };
        match bits {
            2 => sum & 0xffff,
            4 => sum & 0xffff_ffff,
            _ => sum,
        }
    }

    fn cut_to_address_size(&self, instruction: &Instruction, displacement: u64) -> u64 {
        match instruction.memory_displ_size() {
            2 => displacement & 0xffff,
            4 if !self.is_64_bit() => displacement & 0xffff_ffff,
            _ => displacement,
        }
    }

    /// Linear address of `len` bytes at `offset` in a segment, with the checks of the current mode.
    pub(crate) fn linear(
        &self,
        index: usize,
        offset: u64,
        len: u64,
        write: bool,
    ) -> Result<u64, Exception> {
        let segment = &self.segments[index];
        if self.is_64_bit() {
            let base = if index >= seg::FS { segment.base } else { 0 };
            let linear = base.wrapping_add(offset);
            let last = linear.wrapping_add(len.saturating_sub(1));
            if !Gva(linear).is_canonical() || !Gva(last).is_canonical() {
                return Err(segment_fault(index));
            }
            self.check_alignment(linear, len)?;
            return Ok(linear);
        }
        if self.is_protected() && !self.is_v86() {
            let is_writable = !segment.is_code() && segment.kind() & 2 != 0;
            let is_readable = !segment.is_code() || segment.kind() & 2 != 0;
            let is_usable = segment.is_present() && segment.is_code_or_data();
            if !is_usable || write && !is_writable || !write && !is_readable {
                return Err(segment_fault(index));
            }
        }
        let last = offset + len.saturating_sub(1);
        let limit = u64::from(segment.limit);
        let expands_down = !segment.is_code() && segment.kind() & 4 != 0 && self.is_protected();
        let is_inside = if expands_down {
            let top = if segment.is_big() {
                0xffff_ffff
            } else {
                0xffff
            };
            offset > limit && last <= top
        } else {
            last <= limit
        };
        if !is_inside {
            return Err(segment_fault(index));
        }
        let linear = segment.base.wrapping_add(offset) & 0xffff_ffff;
        self.check_alignment(linear, len)?;
        Ok(linear)
    }

    /// #AC where alignment is asked for. Wider operands have rules of their own, which the instructions keep.
    fn check_alignment(&self, linear: u64, len: u64) -> Result<(), Exception> {
        let is_misaligned = matches!(len, 2 | 4 | 8) && !linear.is_multiple_of(len);
        let is_checked = self.mode.has(Mode::ALIGNED);
        if is_checked && is_misaligned {
            Err(Exception::AlignmentCheck)
        } else {
            Ok(())
        }
    }

    /// Segment of a memory operand. In 64-bit mode overrides to CS, DS, ES and SS do not count (APM vol. 1, 2.2.1).
    pub(crate) fn operand_segment(&self, instruction: &Instruction) -> usize {
        let index = segment_index(instruction.memory_segment());
        if !self.is_64_bit() || index >= seg::FS {
            return index;
        }
        match instruction.memory_base().full_register() {
            Register::RSP | Register::RBP => seg::SS,
            _ => seg::DS,
        }
    }

    /// Linear address of an instruction's memory operand of `len` bytes.
    pub(crate) fn operand_linear(
        &self,
        instruction: &Instruction,
        len: u64,
        write: bool,
    ) -> Result<u64, Exception> {
        let offset = self.effective_address(instruction);
        self.linear(self.operand_segment(instruction), offset, len, write)
    }

    /// Linear address of the memory operand, not checked in any way.
    pub(crate) fn unchecked_linear(&self, instruction: &Instruction) -> u64 {
        let index = self.operand_segment(instruction);
        let is_flat = self.is_64_bit() && index < seg::FS;
        let base = if is_flat {
            0
        } else {
            self.segments[index].base
        };
        base.wrapping_add(self.effective_address(instruction))
    }

    /// Reads the memory operand of an instruction.
    pub(crate) fn read_memory_operand(&mut self, instruction: &Instruction, size: u8) -> Step<u64> {
        let linear = self.operand_linear(instruction, u64::from(size), false)?;
        self.read_linear(linear, size, self.access(false))
    }

    /// Writes the memory operand of an instruction.
    pub(crate) fn write_memory_operand(
        &mut self,
        instruction: &Instruction,
        size: u8,
        value: u64,
    ) -> Step {
        let linear = self.operand_linear(instruction, u64::from(size), true)?;
        self.write_linear(linear, size, value, self.access(true))
    }

    /// Reads operand `op` (a general register, an immediate, or memory of `size` bytes).
    pub(crate) fn read_operand(
        &mut self,
        instruction: &Instruction,
        op: u32,
        size: u8,
    ) -> Step<u64> {
        match instruction.op_kind(op) {
            OpKind::Register => Ok(self.register(instruction.op_register(op))),
            OpKind::Memory => self.read_memory_operand(instruction, size),
            _ => Ok(instruction.immediate(op)),
        }
    }

    /// Writes operand `op` (a general register, or memory of `size` bytes).
    pub(crate) fn write_operand(
        &mut self,
        instruction: &Instruction,
        op: u32,
        size: u8,
        value: u64,
    ) -> Step {
        if instruction.op_kind(op) == OpKind::Register {
            self.set_register(instruction.op_register(op), value);
            return Ok(());
        }
        self.write_memory_operand(instruction, size, value)
    }

    /// Bytes that RSP counts with: the stack's address size.
    pub(crate) fn stack_mask(&self) -> u64 {
        if self.is_64_bit() {
            u64::MAX
        } else if self.segments[seg::SS].is_big() && !self.is_real_or_v86() {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// The stack pointer moved by `distance`, as far as the stack's address size reaches.
    pub(crate) fn moved_stack_pointer(&self, distance: i64) -> u64 {
        let rsp = self.block.gprs[gpr::RSP];
        let mask = self.stack_mask();
        let moved = rsp.wrapping_add(distance as u64);
        if mask == u64::MAX || mask == 0xffff_ffff {
            moved & mask
        } else {
            rsp & !mask | moved & mask
        }
    }

    /// Pushes one value; RSP moves only if the store succeeds.
    pub(crate) fn push(&mut self, size: u8, value: u64) -> Step {
        let rsp = self.moved_stack_pointer(-i64::from(size));
        self.store_stack(rsp, size, value)?;
        self.block.gprs[gpr::RSP] = rsp;
        Ok(())
    }

    /// Stores at stack pointer `rsp` without moving it.
    pub(crate) fn store_stack(&mut self, rsp: u64, size: u8, value: u64) -> Step {
        let linear = self.linear(seg::SS, rsp & self.stack_mask(), u64::from(size), true)?;
        self.write_linear(linear, size, value, self.access(true))
    }

    /// Loads `distance` bytes above the stack pointer.
    pub(crate) fn peek(&mut self, distance: u64, size: u8) -> Step<u64> {
        let offset = self.block.gprs[gpr::RSP].wrapping_add(distance) & self.stack_mask();
        let linear = self.linear(seg::SS, offset, u64::from(size), false)?;
        self.read_linear(linear, size, self.access(false))
    }

    /// Moves the stack pointer up.
    pub(crate) fn drop_stack(&mut self, len: u64) {
        self.block.gprs[gpr::RSP] = self.moved_stack_pointer(len as i64);
    }
}
