//! Instructions without a 64-bit form or with implicit memory: BCD arithmetic, PUSHA, BOUND, ENTER, XLAT, SALC, and
//! memory forms of PUSH and POP.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};
use vcpu::gpr;
use x86::{Exception, Rflags};

use crate::cpu::{SoftVcpu, Step};
use crate::translate::{has_16_bit_address, has_32_bit_address};

impl SoftVcpu {
    fn al(&self) -> u8 {
        self.block.gprs[gpr::RAX] as u8
    }

    fn set_ax(&mut self, al: u8, ah: u8) {
        self.set_gpr(gpr::RAX, 2, u64::from(u16::from_le_bytes([al, ah])));
    }

    fn set_result_flags(&mut self, mut flags: Rflags, value: u8) {
        flags.set(Rflags::ZF, value == 0);
        flags.set(Rflags::SF, value & 0x80 != 0);
        flags.set(Rflags::PF, value.count_ones().is_multiple_of(2));
        self.set_rflags(flags);
    }

    /// BCD instructions and SALC. True if the instruction was one.
    pub(crate) fn decimal(&mut self, instruction: &Instruction) -> Step<bool> {
        let old_al = self.al();
        let old = self.rflags();
        let ah = (self.block.gprs[gpr::RAX] >> 8) as u8;
        let half = old_al & 0xf > 9 || old.contains(Rflags::AF);
        match instruction.mnemonic() {
            mnemonic @ (Mnemonic::Daa | Mnemonic::Das) => {
                let adds = mnemonic == Mnemonic::Daa;
                let carries = old_al > 0x99 || old.contains(Rflags::CF);
                let adjust = if half { 6 } else { 0 } + if carries { 0x60 } else { 0_u8 };
                let al = if adds {
                    old_al.wrapping_add(adjust)
                } else {
                    old_al.wrapping_sub(adjust)
                };
                let borrows = !adds && half && old_al < 6;
                let mut flags = old;
                flags.set(Rflags::AF, half);
                flags.set(Rflags::CF, carries || borrows);
                self.set_gpr(gpr::RAX, 1, u64::from(al));
                self.set_result_flags(flags, al);
            }
            mnemonic @ (Mnemonic::Aaa | Mnemonic::Aas) => {
                let adds = mnemonic == Mnemonic::Aaa;
                let ax = u16::from_le_bytes([old_al, ah]);
                let ax = match (half, adds) {
                    (false, _) => ax,
                    (true, true) => ax.wrapping_add(0x106),
                    (true, false) => ax.wrapping_sub(6).wrapping_sub(0x100),
                };
                let [al, ah] = ax.to_le_bytes();
                self.set_ax(al & 0xf, ah);
                let mut flags = old;
                flags.set(Rflags::AF, half);
                flags.set(Rflags::CF, half);
                self.set_rflags(flags);
            }
            Mnemonic::Aam => {
                let base = instruction.immediate8();
                if base == 0 {
                    return Err(Exception::DivideError.into());
                }
                let al = old_al % base;
                self.set_ax(al, old_al / base);
                self.set_result_flags(old, al);
            }
            Mnemonic::Aad => {
                let al = old_al.wrapping_add(ah.wrapping_mul(instruction.immediate8()));
                self.set_ax(al, 0);
                self.set_result_flags(old, al);
            }
            Mnemonic::Salc => {
                let value = if old.contains(Rflags::CF) { 0xff } else { 0 };
                self.set_gpr(gpr::RAX, 1, value);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// PUSH and POP in every form, PUSHA, POPA, ENTER, LEAVE. True if the instruction was one.
    pub(crate) fn stack_instruction(&mut self, instruction: &Instruction) -> Step<bool> {
        let size = instruction.stack_pointer_increment().unsigned_abs() as u8;
        match instruction.mnemonic() {
            Mnemonic::Push if instruction.op0_register().is_segment_register() => {
                self.push_segment(instruction, size)?;
            }
            Mnemonic::Pop if instruction.op0_register().is_segment_register() => {
                self.pop_segment(instruction, size)?;
            }
            Mnemonic::Push => {
                let value = self.read_operand(instruction, 0, size)?;
                self.push(size, value)?;
            }
            Mnemonic::Pop => self.pop(instruction, size)?,
            Mnemonic::Pusha | Mnemonic::Pushad => self.push_all(size / 8)?,
            Mnemonic::Popa | Mnemonic::Popad => self.pop_all(size / 8)?,
            Mnemonic::Enter => self.enter(instruction)?,
            Mnemonic::Leave => {
                let size = match instruction.code() {
                    Code::Leavew => 2,
                    Code::Leaved => 4,
                    _ => 8,
                };
                self.leave(size)?;
            }
            Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => self.push_flags(size)?,
            Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => self.pop_flags(size)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// POP: the address of a memory operand is computed with RSP already moved.
    fn pop(&mut self, instruction: &Instruction, size: u8) -> Step {
        let value = self.peek(0, size)?;
        let old_rsp = self.block.gprs[gpr::RSP];
        self.drop_stack(u64::from(size));
        let done = self.write_operand(instruction, 0, size, value);
        if done.is_err() {
            self.block.gprs[gpr::RSP] = old_rsp;
        }
        done
    }

    fn push_all(&mut self, size: u8) -> Step {
        let registers: [u64; 8] = self.block.gprs[..8].try_into().expect("eight registers");
        // Probe both ends first: nothing may be pushed if any of it faults.
        let lowest = self.moved_stack_pointer(-8 * i64::from(size));
        let linear = self.linear(
            crate::block::seg::SS,
            lowest & self.stack_mask(),
            u64::from(size) * 8,
            true,
        )?;
        let access = self.access(true);
        self.pieces(linear, usize::from(size) * 8, access)?;
        for (n, value) in registers.into_iter().enumerate() {
            let rsp = self.moved_stack_pointer(-(n as i64 + 1) * i64::from(size));
            self.store_stack(rsp, size, value)?;
        }
        self.block.gprs[gpr::RSP] = lowest;
        Ok(())
    }

    fn pop_all(&mut self, size: u8) -> Step {
        let mut values = [0; 8];
        for (n, value) in values.iter_mut().enumerate() {
            *value = self.peek(n as u64 * u64::from(size), size)?;
        }
        for (n, value) in values.into_iter().enumerate() {
            let number = 7 - n;
            if number != gpr::RSP {
                self.set_gpr(number, size, value);
            }
        }
        self.drop_stack(8 * u64::from(size));
        Ok(())
    }

    fn enter(&mut self, instruction: &Instruction) -> Step {
        let size: u8 = match instruction.code() {
            Code::Enterw_imm16_imm8 => 2,
            Code::Enterd_imm16_imm8 => 4,
            _ => 8,
        };
        let locals = u64::from(instruction.immediate16());
        let level = instruction.immediate8_2nd() & 31;
        let rsp = self.block.gprs[gpr::RSP];
        let rbp = self.block.gprs[gpr::RBP];
        let done = self.enter_frame(size, locals, level);
        if done.is_err() {
            self.block.gprs[gpr::RSP] = rsp;
            self.block.gprs[gpr::RBP] = rbp;
        }
        done
    }

    fn enter_frame(&mut self, size: u8, locals: u64, level: u8) -> Step {
        let mask = self.stack_mask();
        self.push(size, self.block.gprs[gpr::RBP])?;
        let frame = self.block.gprs[gpr::RSP];
        if level > 0 {
            let mut link = self.block.gprs[gpr::RBP];
            for _ in 1..level {
                link = link.wrapping_sub(u64::from(size));
                let linear =
                    self.linear(crate::block::seg::SS, link & mask, u64::from(size), false)?;
                let value = self.read_linear(linear, size, self.access(false))?;
                self.push(size, value)?;
            }
            self.push(size, frame)?;
        }
        let rsp = self.moved_stack_pointer((locals as i64).wrapping_neg());
        // The new top of stack must be writable (APM vol. 3, ENTER).
        let linear = self.linear(crate::block::seg::SS, rsp & mask, u64::from(size), true)?;
        let access = self.access(true);
        self.pieces(linear, usize::from(size), access)?;
        self.set_gpr(gpr::RBP, size, frame);
        self.block.gprs[gpr::RSP] = rsp;
        Ok(())
    }

    fn leave(&mut self, size: u8) -> Step {
        let mask = self.stack_mask();
        let frame = self.block.gprs[gpr::RBP] & mask;
        let linear = self.linear(crate::block::seg::SS, frame, u64::from(size), false)?;
        let value = self.read_linear(linear, size, self.access(false))?;
        let rsp = self.block.gprs[gpr::RSP];
        self.block.gprs[gpr::RSP] = if mask == 0xffff {
            rsp & !mask | frame
        } else {
            frame
        };
        self.drop_stack(u64::from(size));
        self.set_gpr(gpr::RBP, size, value);
        Ok(())
    }

    pub(crate) fn bound(&mut self, instruction: &Instruction) -> Step {
        let register = instruction.op0_register();
        let size = register.size() as u8;
        let linear = self.operand_linear(instruction, 2 * u64::from(size), false)?;
        let access = self.access(false);
        let signed = |value: u64| {
            if size == 2 {
                i64::from(value as i16)
            } else {
                i64::from(value as i32)
            }
        };
        let low = signed(self.read_linear(linear, size, access)?);
        let high = signed(self.read_linear(linear.wrapping_add(u64::from(size)), size, access)?);
        let index = signed(self.register(register));
        if index < low || index > high {
            Err(Exception::BoundRange.into())
        } else {
            Ok(())
        }
    }

    pub(crate) fn translate_byte(&mut self, instruction: &Instruction) -> Step {
        let mask = match instruction.memory_base() {
            Register::BX => 0xffff,
            Register::EBX => 0xffff_ffff,
            _ => u64::MAX,
        };
        let offset = self.block.gprs[gpr::RBX].wrapping_add(u64::from(self.al())) & mask;
        let linear = self.linear(self.operand_segment(instruction), offset, 1, false)?;
        let value = self.read_linear(linear, 1, self.access(false))?;
        self.set_gpr(gpr::RAX, 1, value);
        Ok(())
    }

    /// ARPL: raises the RPL of a selector.
    pub(crate) fn adjust_rpl(&mut self, instruction: &Instruction) -> Step {
        if self.is_real_or_v86() {
            return Err(Exception::InvalidOpcode.into());
        }
        let selector = self.read_operand(instruction, 0, 2)?;
        let wanted = self.register(instruction.op1_register()) & 3;
        let raises = selector & 3 < wanted;
        if raises {
            self.write_operand(instruction, 0, 2, selector & !3 | wanted)?;
        }
        let mut flags = self.rflags();
        flags.set(Rflags::ZF, raises);
        self.set_rflags(flags);
        Ok(())
    }

    /// BT, BTS, BTR, BTC on memory with a register offset, where the direct way was closed.
    pub(crate) fn bit_test(&mut self, instruction: &Instruction) -> Step {
        let register = instruction.op1_register();
        let size = register.size() as u8;
        let bits = u64::from(size) * 8;
        let raw = self.register(register);
        let signed = match size {
            2 => i64::from(raw as i16),
            4 => i64::from(raw as i32),
            _ => raw as i64,
        };
        let shift = bits.trailing_zeros();
        let distance = (signed >> shift).wrapping_mul(i64::from(size));
        let mut offset = self
            .effective_address(instruction)
            .wrapping_add(distance as u64);
        if has_16_bit_address(instruction) {
            offset &= 0xffff;
        } else if has_32_bit_address(instruction) || !self.is_64_bit() {
            offset &= 0xffff_ffff;
        }
        let writes = instruction.mnemonic() != Mnemonic::Bt;
        let segment = self.operand_segment(instruction);
        let linear = self.linear(segment, offset, u64::from(size), writes)?;
        let access = self.access(writes);
        let bit = 1 << (raw & (bits - 1));
        let change = |value: u64| match instruction.mnemonic() {
            Mnemonic::Bts => value | bit,
            Mnemonic::Btr => value & !bit,
            Mnemonic::Btc => value ^ bit,
            _ => value,
        };
        let value = if instruction.has_lock_prefix() {
            self.update_locked(linear, size, access, change)?
        } else {
            let value = self.read_linear(linear, size, access)?;
            if writes {
                self.write_linear(linear, size, change(value), access)?;
            }
            value
        };
        let mut flags = self.rflags();
        flags.set(Rflags::CF, value & bit != 0);
        self.set_rflags(flags);
        Ok(())
    }

    /// LEA in the forms that have no 64-bit encoding.
    pub(crate) fn load_effective_address(&mut self, instruction: &Instruction) -> Step {
        if instruction.op1_kind() != OpKind::Memory {
            return Err(Exception::InvalidOpcode.into());
        }
        let value = self.effective_address(instruction);
        self.set_register(instruction.op0_register(), value);
        Ok(())
    }
}
