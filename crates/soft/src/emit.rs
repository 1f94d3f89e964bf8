//! Emits host machine code: the few instruction shapes that translated code adds around the guest's own.
//!
//! Guest instructions that are copied go through iced's encoder; what stands here is written by hand because it is
//! emitted several times per guest instruction. `gs` in a name means an operand in the vCPU block.

use std::mem::offset_of;

use crate::block::{VcpuBlock, spill_offset};

/// A host general register by encoding number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reg(pub(crate) u8);

#[allow(dead_code, reason = "the whole register file is named once")]
impl Reg {
    pub(crate) const RAX: Reg = Reg(0);
    pub(crate) const RCX: Reg = Reg(1);
    pub(crate) const RDX: Reg = Reg(2);
    pub(crate) const RBX: Reg = Reg(3);
    pub(crate) const RSP: Reg = Reg(4);
    pub(crate) const RBP: Reg = Reg(5);
    pub(crate) const RSI: Reg = Reg(6);
    pub(crate) const RDI: Reg = Reg(7);

    fn low(self) -> u8 {
        self.0 & 7
    }

    fn high(self) -> u8 {
        self.0 >> 3
    }
}

/// Two-operand ALU instructions in the order of their opcodes (APM vol. 3, table A-1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "the whole row of the opcode map is named once")]
pub(crate) enum Alu {
    Add = 0,
    Or = 1,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// Condition codes of Jcc.
pub(crate) mod cond {
    pub(crate) const NE: u8 = 5;
    pub(crate) const A: u8 = 7;
}

/// A forward jump whose target is not emitted yet: where its displacement lies and how wide it is.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(crate) struct Fixup {
    at: usize,
    is_short: bool,
}

/// A buffer of code that will lie at a known address.
#[derive(Debug, Default)]
pub(crate) struct Emitter {
    bytes: Vec<u8>,
    base: u64,
}

impl Emitter {
    /// Starts anew for code that will lie at `base`.
    pub(crate) fn start(&mut self, base: u64) {
        self.bytes.clear();
        self.base = base;
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn offset(&self) -> usize {
        self.bytes.len()
    }

    /// Address at which the next byte will lie.
    pub(crate) fn address(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn imm32(&mut self, value: i32) {
        self.raw(&value.to_le_bytes());
    }

    fn rex_w(&mut self, reg: Reg, base: Reg) {
        self.raw(&[0x48 | reg.high() << 2 | base.high()]);
    }

    fn rex_optional(&mut self, reg: Reg, base: Reg) {
        let rex = reg.high() << 2 | base.high();
        if rex != 0 {
            self.raw(&[0x40 | rex]);
        }
    }

    fn modrm_registers(&mut self, reg: u8, rm: u8) {
        self.raw(&[0xc0 | reg << 3 | rm]);
    }

    /// ModRM, SIB and displacement for `gs:[offset]`.
    fn modrm_gs(&mut self, reg: u8, offset: i32) {
        self.raw(&[reg << 3 | 4, 0x25]);
        self.imm32(offset);
    }

    /// ModRM (and SIB, displacement) for `[base + displacement]`.
    fn modrm_base(&mut self, reg: u8, base: Reg, displacement: i32) {
        let mode = match displacement {
            0 if base.low() != 5 => 0,
            -128..=127 => 0x40,
            _ => 0x80,
        };
        self.raw(&[mode | reg << 3 | base.low()]);
        if base.low() == 4 {
            self.raw(&[0x24]);
        }
        match mode {
            0 => {}
            0x40 => self.raw(&[displacement as i8 as u8]),
            _ => self.imm32(displacement),
        }
    }

    pub(crate) fn mov(&mut self, to: Reg, from: Reg) {
        self.rex_w(from, to);
        self.raw(&[0x89]);
        self.modrm_registers(from.low(), to.low());
    }

    pub(crate) fn mov32(&mut self, to: Reg, from: Reg) {
        self.rex_optional(from, to);
        self.raw(&[0x89]);
        self.modrm_registers(from.low(), to.low());
    }

    pub(crate) fn movzx16(&mut self, to: Reg, from: Reg) {
        self.rex_optional(to, from);
        self.raw(&[0x0f, 0xb7]);
        self.modrm_registers(to.low(), from.low());
    }

    /// `mov to, value` in the shortest form; leaves flags alone.
    pub(crate) fn mov_imm(&mut self, to: Reg, value: u64) {
        if let Ok(small) = u32::try_from(value) {
            self.rex_optional(Reg(0), to);
            self.raw(&[0xb8 | to.low()]);
            self.raw(&small.to_le_bytes());
        } else if let Ok(signed) = i32::try_from(value as i64) {
            self.rex_w(Reg(0), to);
            self.raw(&[0xc7]);
            self.modrm_registers(0, to.low());
            self.imm32(signed);
        } else {
            self.rex_w(Reg(0), to);
            self.raw(&[0xb8 | to.low()]);
            self.raw(&value.to_le_bytes());
        }
    }

    pub(crate) fn load(&mut self, to: Reg, base: Reg, displacement: i32) {
        self.rex_w(to, base);
        self.raw(&[0x8b]);
        self.modrm_base(to.low(), base, displacement);
    }

    /// As [`Emitter::load`], with four bytes of displacement whatever it is.
    pub(crate) fn load_far(&mut self, to: Reg, base: Reg, displacement: i32) {
        debug_assert!(base.low() != 4, "a SIB byte is not made here");
        self.rex_w(to, base);
        self.raw(&[0x8b, 0x80 | to.low() << 3 | base.low()]);
        self.imm32(displacement);
    }

    pub(crate) fn store(&mut self, base: Reg, displacement: i32, from: Reg, size: u8) {
        match size {
            2 => self.raw(&[0x66]),
            8 => return self.store64(base, displacement, from),
            _ => {}
        }
        self.rex_optional(from, base);
        self.raw(&[0x89]);
        self.modrm_base(from.low(), base, displacement);
    }

    fn store64(&mut self, base: Reg, displacement: i32, from: Reg) {
        self.rex_w(from, base);
        self.raw(&[0x89]);
        self.modrm_base(from.low(), base, displacement);
    }

    pub(crate) fn load32(&mut self, to: Reg, base: Reg, displacement: i32) {
        self.rex_optional(to, base);
        self.raw(&[0x8b]);
        self.modrm_base(to.low(), base, displacement);
    }

    pub(crate) fn lea(&mut self, to: Reg, base: Reg, displacement: i32) {
        self.rex_w(to, base);
        self.raw(&[0x8d]);
        self.modrm_base(to.low(), base, displacement);
    }

    /// `lea to32, [base + displacement]`: wraps at 4 GiB.
    pub(crate) fn lea32(&mut self, to: Reg, base: Reg, displacement: i32) {
        self.rex_optional(to, base);
        self.raw(&[0x8d]);
        self.modrm_base(to.low(), base, displacement);
    }

    /// `lea to, [base + index]`, as 64 or 32 bits.
    pub(crate) fn lea_sum(&mut self, to: Reg, base: Reg, index: Reg, is_64: bool) {
        // RSP cannot be an index, RBP and R13 cannot be a base without displacement.
        debug_assert!(index.0 != 4 && base.low() != 5);
        let rex =
            (if is_64 { 0x48 } else { 0x40 }) | to.high() << 2 | index.high() << 1 | base.high();
        if rex != 0x40 {
            self.raw(&[rex]);
        }
        self.raw(&[0x8d, to.low() << 3 | 4, index.low() << 3 | base.low()]);
    }

    pub(crate) fn alu(&mut self, op: Alu, to: Reg, from: Reg) {
        self.rex_w(from, to);
        self.raw(&[(op as u8) << 3 | 1]);
        self.modrm_registers(from.low(), to.low());
    }

    pub(crate) fn alu_load(&mut self, op: Alu, to: Reg, base: Reg, displacement: i32) {
        self.rex_w(to, base);
        self.raw(&[(op as u8) << 3 | 3]);
        self.modrm_base(to.low(), base, displacement);
    }

    pub(crate) fn alu_imm(&mut self, op: Alu, to: Reg, value: i32) {
        self.rex_w(Reg(0), to);
        self.alu_imm_tail(op, to, value);
    }

    pub(crate) fn alu_imm32(&mut self, op: Alu, to: Reg, value: i32) {
        self.rex_optional(Reg(0), to);
        self.alu_imm_tail(op, to, value);
    }

    fn alu_imm_tail(&mut self, op: Alu, to: Reg, value: i32) {
        if let Ok(small) = i8::try_from(value) {
            self.raw(&[0x83]);
            self.modrm_registers(op as u8, to.low());
            self.raw(&[small as u8]);
        } else {
            self.raw(&[0x81]);
            self.modrm_registers(op as u8, to.low());
            self.imm32(value);
        }
    }

    pub(crate) fn shr(&mut self, to: Reg, count: u8) {
        self.rex_w(Reg(0), to);
        self.raw(&[0xc1]);
        self.modrm_registers(5, to.low());
        self.raw(&[count]);
    }

    pub(crate) fn sar(&mut self, to: Reg, count: u8) {
        self.rex_w(Reg(0), to);
        self.raw(&[0xc1]);
        self.modrm_registers(7, to.low());
        self.raw(&[count]);
    }

    pub(crate) fn shl(&mut self, to: Reg, count: u8) {
        self.rex_w(Reg(0), to);
        self.raw(&[0xc1]);
        self.modrm_registers(4, to.low());
        self.raw(&[count]);
    }

    /// Sign-extends the low 16 or 32 bits into 64.
    pub(crate) fn movsx(&mut self, to: Reg, from: Reg, size: u8) {
        self.rex_w(to, from);
        if size == 2 {
            self.raw(&[0x0f, 0xbf]);
        } else {
            self.raw(&[0x63]);
        }
        self.modrm_registers(to.low(), from.low());
    }

    pub(crate) fn load_gs(&mut self, to: Reg, offset: i32) {
        self.raw(&[0x65, 0x48 | to.high() << 2, 0x8b]);
        self.modrm_gs(to.low(), offset);
    }

    pub(crate) fn load_gs32(&mut self, to: Reg, offset: i32) {
        self.raw(&[0x65]);
        self.rex_optional(to, Reg(0));
        self.raw(&[0x8b]);
        self.modrm_gs(to.low(), offset);
    }

    pub(crate) fn store_gs(&mut self, offset: i32, from: Reg) {
        self.raw(&[0x65, 0x48 | from.high() << 2, 0x89]);
        self.modrm_gs(from.low(), offset);
    }

    pub(crate) fn alu_gs(&mut self, op: Alu, to: Reg, offset: i32) {
        self.raw(&[0x65, 0x48 | to.high() << 2, (op as u8) << 3 | 3]);
        self.modrm_gs(to.low(), offset);
    }

    /// `mov dword gs:[offset], value`.
    pub(crate) fn store_gs_imm32(&mut self, offset: i32, value: u32) {
        self.raw(&[0x65, 0xc7]);
        self.modrm_gs(0, offset);
        self.raw(&value.to_le_bytes());
    }

    /// Stores a 64-bit constant, leaving registers and flags alone.
    pub(crate) fn store_gs_imm64(&mut self, offset: i32, value: u64) {
        if let Ok(signed) = i32::try_from(value as i64) {
            self.raw(&[0x65, 0x48, 0xc7]);
            self.modrm_gs(0, offset);
            self.imm32(signed);
        } else {
            self.store_gs_imm32(offset, value as u32);
            self.store_gs_imm32(offset + 4, (value >> 32) as u32);
        }
    }

    /// `push qword gs:[offset]`.
    pub(crate) fn push_gs(&mut self, offset: i32) {
        self.raw(&[0x65, 0xff]);
        self.modrm_gs(6, offset);
    }

    /// `pop qword gs:[offset]`.
    pub(crate) fn pop_gs(&mut self, offset: i32) {
        self.raw(&[0x65, 0x8f]);
        self.modrm_gs(0, offset);
    }

    /// An instruction without register operand on `gs:[offset]`: opcode bytes and ModRM.reg.
    pub(crate) fn op_gs(&mut self, prefix_and_opcode: &[u8], reg: u8, offset: i32) {
        self.raw(&[0x65]);
        self.raw(prefix_and_opcode);
        self.modrm_gs(reg, offset);
    }

    /// `lahf; seto al; mov gs:[saved_flags], ax`: clobbers RAX only.
    pub(crate) fn save_flags(&mut self) {
        self.raw(&[0x9f, 0x0f, 0x90, 0xc0]);
        self.raw(&[0x65, 0x66, 0x89]);
        self.modrm_gs(0, offset_of!(VcpuBlock, saved_flags) as i32);
    }

    /// The reverse: `movzx eax, word gs:[saved_flags]; add al, 0x7f; sahf`. Clobbers RAX only.
    pub(crate) fn restore_flags(&mut self) {
        self.raw(&[0x65, 0x0f, 0xb7]);
        self.modrm_gs(0, offset_of!(VcpuBlock, saved_flags) as i32);
        self.raw(&[0x04, 0x7f, 0x9e]);
    }

    /// `neg to`.
    pub(crate) fn neg(&mut self, to: Reg) {
        self.rex_w(Reg(0), to);
        self.raw(&[0xf7]);
        self.modrm_registers(3, to.low());
    }

    /// `pushfq; pop to`, on whatever RSP points to.
    pub(crate) fn push_flags_pop(&mut self, to: Reg) {
        self.raw(&[0x9c]);
        if to.high() != 0 {
            self.raw(&[0x41]);
        }
        self.raw(&[0x58 | to.low()]);
    }

    /// Keeps a register in a word of the block's small stack that PUSHFQ does not reach.
    pub(crate) fn spill_to_stack_slot(&mut self, register: Reg) {
        self.store_gs(offset_of!(VcpuBlock, stack) as i32, register);
    }

    /// The reverse of [`Emitter::spill_to_stack_slot`].
    pub(crate) fn unspill_from_stack_slot(&mut self, register: Reg) {
        self.load_gs(register, offset_of!(VcpuBlock, stack) as i32);
    }

    pub(crate) fn spill(&mut self, register: Reg) {
        self.store_gs(spill_offset(usize::from(register.0)), register);
    }

    pub(crate) fn unspill(&mut self, register: Reg) {
        self.load_gs(register, spill_offset(usize::from(register.0)));
    }

    /// `jmp target`, an address already known.
    pub(crate) fn jump_to(&mut self, target: u64) {
        let displacement = target.wrapping_sub(self.address() + 5) as i32;
        self.raw(&[0xe9]);
        self.imm32(displacement);
    }

    /// `jmp qword gs:[offset]`.
    pub(crate) fn jump_gs(&mut self, offset: i32) {
        self.raw(&[0x65, 0xff]);
        self.modrm_gs(4, offset);
    }

    /// `jcc` forward, bound later.
    pub(crate) fn jcc(&mut self, condition: u8) -> Fixup {
        self.raw(&[0x0f, 0x80 | condition, 0, 0, 0, 0]);
        Fixup {
            at: self.offset() - 4,
            is_short: false,
        }
    }

    /// `jmp` forward, bound later.
    pub(crate) fn jump(&mut self) -> Fixup {
        self.raw(&[0xe9, 0, 0, 0, 0]);
        Fixup {
            at: self.offset() - 4,
            is_short: false,
        }
    }

    /// `jecxz` (or `jrcxz`) a short way forward: branches on RCX without touching flags.
    pub(crate) fn jump_if_rcx_zero(&mut self, is_64: bool) -> Fixup {
        if !is_64 {
            self.raw(&[0x67]);
        }
        self.raw(&[0xe3, 0]);
        Fixup {
            at: self.offset() - 1,
            is_short: true,
        }
    }

    /// A short form of loop instructions (opcode 0xe0 to 0xe3), with the address-size prefix if `is_32`.
    pub(crate) fn loop_short(&mut self, opcode: u8, is_32: bool) -> Fixup {
        if is_32 {
            self.raw(&[0x67]);
        }
        self.raw(&[opcode, 0]);
        Fixup {
            at: self.offset() - 1,
            is_short: true,
        }
    }

    /// The jump goes here.
    pub(crate) fn bind(&mut self, fixup: Fixup) {
        let after = fixup.at + if fixup.is_short { 1 } else { 4 };
        let distance = self.offset() - after;
        if fixup.is_short {
            let distance =
                i8::try_from(distance).expect("short jumps are only made over short code");
            self.bytes[fixup.at] = distance as u8;
        } else {
            self.bytes[fixup.at..after].copy_from_slice(&(distance as i32).to_le_bytes());
        }
    }

    /// No-operations until the next byte's address plus `ahead` is a multiple of `alignment`.
    pub(crate) fn align(&mut self, alignment: u64, ahead: u64) {
        while !(self.address() + ahead).is_multiple_of(alignment) {
            self.raw(&[0x90]);
        }
    }
}
