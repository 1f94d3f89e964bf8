//! Memory operands: effective address, software-TLB check, and the copied instruction with its operand rewritten.

use std::mem::offset_of;

use iced_x86::{Code, Instruction, MemorySize, Mnemonic, OpKind, Register};

use super::builder::{Builder, FlagUse, SiteAccess};
use super::place::Place;
use super::registers::gpr_number;
use crate::block::VcpuBlock;
use crate::emit::{Alu, Reg, cond};
use crate::mode::Mode;

/// Bytes that the silicon's caches lock at once.
const LINE_BYTES: i32 = 64;

/// How a copied instruction uses its memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Operand {
    pub(crate) size: u8,
    pub(crate) write: bool,
}

/// Whether an instruction with a memory operand locks it.
pub(crate) fn is_locked(instruction: &Instruction) -> bool {
    let exchanges = instruction.mnemonic() == Mnemonic::Xchg
        && (0..instruction.op_count()).any(|op| instruction.op_kind(op) == OpKind::Memory);
    instruction.has_lock_prefix() || exchanges
}

/// Whether an instruction locks an operand that may lie in two cache lines: larger ones have to be aligned.
fn locks_lines(instruction: &Instruction, operand: Operand) -> bool {
    matches!(operand.size, 2..=8) && is_locked(instruction)
}

/// Position of a segment register in the block's tables.
pub(crate) fn segment_index(register: Register) -> usize {
    match register {
        Register::ES => 0,
        Register::CS => 1,
        Register::SS => 2,
        Register::FS => 4,
        Register::GS => 5,
        _ => 3,
    }
}

/// Bits of the general registers that a memory operand uses.
pub(crate) fn address_registers(instruction: &Instruction) -> u16 {
    let bit = |register| gpr_number(register).map_or(0, |number| 1 << number);
    bit(instruction.memory_base()) | bit(instruction.memory_index())
}

impl Builder {
    /// `to` = offset of the operand in its segment.
    fn effective_address(&mut self, to: Reg, instruction: &Instruction) {
        let base = instruction.memory_base();
        let index = instruction.memory_index();
        let displacement = instruction.memory_displacement64();
        if base.is_ip() || base == Register::None && index == Register::None {
            return if base.is_ip() {
                self.mov_address(to, displacement)
            } else {
                self.e.mov_imm(to, displacement)
            };
        }
        let address_bits = match (base, index) {
            (Register::None, index) => index.size() * 8,
            (base, _) => base.size() * 8,
        };
        // Through iced: every combination of base, index and scale is encoded by somebody who knows them all.
        let mut lea = Instruction::default();
        let is_64 = address_bits == 64;
        lea.set_code(if is_64 {
            Code::Lea_r64_m
        } else {
            Code::Lea_r32_m
        });
        lea.set_op0_kind(OpKind::Register);
        lea.set_op0_register(host_register(to, if is_64 { 8 } else { 4 }));
        lea.set_op1_kind(OpKind::Memory);
        // 16-bit operands are computed with 64-bit registers and cut afterwards.
        let widen = |register: Register| match register {
            Register::None => Register::None,
            register if address_bits == 16 => register.full_register(),
            register => register,
        };
        lea.set_memory_base(widen(base));
        lea.set_memory_index(widen(index));
        lea.set_memory_index_scale(instruction.memory_index_scale());
        lea.set_memory_displacement64(if address_bits == 16 {
            displacement as u16 as i16 as i64 as u64
        } else if address_bits == 32 {
            displacement as u32 as u64
        } else {
            displacement
        });
        if displacement != 0 {
            lea.set_memory_displ_size(if is_64 || address_bits == 16 { 8 } else { 4 });
        }
        let encoded = self.encode(&lea);
        debug_assert!(encoded, "LEA encodes every operand: {instruction}");
        if address_bits == 16 {
            self.e.movzx16(to, to);
        }
    }

    /// `address` = linear address of the operand; may use `entry`. Status flags must have been put away.
    /// Where a segment has a limit, which it may have in segmented mode and FS and GS have outside 64-bit code, it is
    /// checked, and the returned jump is taken when that fails.
    fn linear_address(
        &mut self,
        address: Reg,
        entry: Reg,
        instruction: &Instruction,
        size: u8,
    ) -> Option<crate::emit::Fixup> {
        self.effective_address(address, instruction);
        let segment = instruction.memory_segment();
        self.add_segment(address, entry, segment, size)
    }

    fn add_segment(
        &mut self,
        address: Reg,
        entry: Reg,
        segment: Register,
        size: u8,
    ) -> Option<crate::emit::Fixup> {
        let index = segment_index(segment);
        let base_offset = (offset_of!(VcpuBlock, segment_base) + index * 8) as i32;
        if self.mode.is_64() {
            if index >= 4 {
                self.e.load_gs(entry, base_offset);
                self.e.lea_sum(address, entry, address, true);
            }
            return None;
        }
        if !self.mode.has(Mode::SEGMENTED) && index < 4 {
            return None;
        }
        let limit_offset = (offset_of!(VcpuBlock, segment_limit) + index * 8) as i32;
        self.e.lea(entry, address, i32::from(size.max(1)) - 1);
        self.e.alu_gs(Alu::Cmp, entry, limit_offset);
        // The block holds limit + 1; jae.
        let beyond = self.e.jcc(3);
        self.e.load_gs(entry, base_offset);
        self.e.lea_sum(address, entry, address, false);
        Some(beyond)
    }

    /// Turns a linear address into a host address, or leaves through the miss path.
    pub(crate) fn check_tlb(&mut self, address: Reg, entry: Reg, operand: Operand) {
        self.look_up(address, entry, operand.write, operand.size);
        let from = self.e.jcc(cond::A);
        self.miss(from, self.access(address, entry, operand));
        self.add_host(address, entry);
    }

    /// Takes an access beyond its segment's limit to the interpreter, which knows what is wrong with it.
    fn miss_beyond_limit(
        &mut self,
        beyond: Option<crate::emit::Fixup>,
        address: Reg,
        entry: Reg,
        operand: Operand,
    ) {
        if let Some(from) = beyond {
            let access = SiteAccess {
                is_segmented: true,
                ..self.access(address, entry, operand)
            };
            self.miss(from, access);
        }
    }

    fn access(&self, address: Reg, entry: Reg, operand: Operand) -> SiteAccess {
        let Operand { size, write } = operand;
        SiteAccess {
            address,
            entry,
            write,
            size,
            is_segmented: self.mode.has(Mode::SEGMENTED),
        }
    }

    /// Host address of an instruction's memory operand, in the returned register. `used` are the registers that
    /// must keep their guest values; the second register is free to use.
    pub(crate) fn operand_address(
        &mut self,
        instruction: &Instruction,
        operand: Operand,
        used: u16,
        low: bool,
    ) -> (Reg, Reg) {
        let used = used | address_registers(instruction);
        self.put_flags_away();
        self.give_back(used);
        let address = self.borrow(used, low);
        let entry = self.borrow_free_of_rbp(used | 1 << address.0, low);
        let beyond = self.linear_address(address, entry, instruction, operand.size);
        self.miss_beyond_limit(beyond, address, entry, operand);
        self.check_tlb(address, entry, operand);
        (address, entry)
    }

    /// A register that can be the base of `lea [base + index]` without displacement: not RBP or R13.
    pub(crate) fn borrow_free_of_rbp(&mut self, used: u16, low: bool) -> Reg {
        self.borrow(used | 1 << 5 | 1 << 13, low)
    }

    /// Copies an instruction with one memory operand. `used` are all general registers it uses.
    /// Returns false if it has no 64-bit encoding.
    pub(crate) fn copy_with_memory(
        &mut self,
        instruction: &Instruction,
        operand: Operand,
        used: u16,
        flag_use: FlagUse,
    ) -> bool {
        let low = uses_high_byte(instruction);
        let place = self.operand_place(instruction, operand, used, low);
        if locks_lines(instruction, operand) {
            self.put_flags_away();
            self.give_back(used);
            let line = self.borrow(used | 1 << place.register.0, low);
            self.check_line(place, line, operand);
        }
        self.give_back(used);
        let were_saved = self.flags_are_away() && flag_use != FlagUse::Needs;
        self.flags_for(flag_use);
        let mut copy = *instruction;
        retarget_absolute(&mut copy);
        copy.set_memory_base(host_register(place.register, 8));
        copy.set_memory_index(Register::None);
        copy.set_memory_index_scale(1);
        copy.set_memory_displacement64(place.offset as u64);
        copy.set_memory_displ_size(u32::from(place.offset != 0));
        copy.set_segment_prefix(Register::None);
        let encoded = self.encode(&copy);
        if super::may_fault(instruction) {
            self.fault_site_with_flags(were_saved);
        }
        encoded
    }

    /// Takes a locked access across cache lines to the interpreter, which does it with everybody else kept out
    /// (`locked`). The silicon would lock the bus, and with it every core of the host: no guest may do that to its
    /// neighbours. A host that looks for such locks lets one take milliseconds (`split_lock_detect`, Linux's
    /// Documentation/arch/x86/buslock.rst). `line` is free to use; status flags must have been put away.
    fn check_line(&mut self, place: Place, line: Reg, operand: Operand) {
        self.e.lea32(line, place.register, place.offset);
        self.e.alu_imm32(Alu::And, line, LINE_BYTES - 1);
        self.e
            .alu_imm32(Alu::Cmp, line, LINE_BYTES - i32::from(operand.size));
        let across = self.e.jcc(cond::A);
        // Not a miss of the TLB: what is to be done is not found by its entry.
        self.miss_beyond_limit(Some(across), place.register, line, operand);
    }

    /// Where a copied instruction's memory operand lies, in a register that is none of `used`.
    fn operand_place(
        &mut self,
        instruction: &Instruction,
        operand: Operand,
        used: u16,
        low: bool,
    ) -> Place {
        if let Some(place) = self.anchors.find(used, low) {
            return place;
        }
        self.give_back(used);
        if let Some(place) = self.check_stretch(used, low) {
            return place;
        }
        let (register, _) = self.operand_address(instruction, operand, used, low);
        Place {
            register,
            offset: 0,
        }
    }

    /// Appends the instruction with its operand in the bounce buffer.
    pub(crate) fn encode_bounced(&mut self, copy: &mut Instruction) -> bool {
        retarget_absolute(copy);
        copy.set_memory_base(Register::None);
        copy.set_memory_index(Register::None);
        copy.set_memory_index_scale(1);
        copy.set_memory_displacement64(offset_of!(VcpuBlock, bounce) as u64);
        copy.set_memory_displ_size(8);
        copy.set_segment_prefix(Register::GS);
        self.encode(copy)
    }

    /// BT, BTS, BTR and BTC with a register bit offset reach beyond their operand: the offset selects the word.
    pub(crate) fn copy_bit_test(
        &mut self,
        instruction: &Instruction,
        operand: Operand,
        used: u16,
    ) -> bool {
        let Some(bit) = gpr_number(instruction.op1_register()) else {
            return false;
        };
        if has_16_bit_address(instruction) {
            return false;
        }
        let bit = Reg(bit);
        let used = used | address_registers(instruction);
        self.put_flags_away();
        self.give_back(used);
        let address = self.borrow(used, false);
        let entry = self.borrow_free_of_rbp(used | 1 << address.0, false);
        self.effective_address(address, instruction);
        let log2_size = operand.size.trailing_zeros() as u8;
        if operand.size == 8 {
            self.e.mov(entry, bit);
        } else {
            self.e.movsx(entry, bit, operand.size);
        }
        self.e.sar(entry, 3 + log2_size);
        self.e.shl(entry, log2_size);
        self.e.alu(Alu::Add, address, entry);
        if has_32_bit_address(instruction) || !self.mode.is_64() {
            self.e.mov32(address, address);
        }
        let beyond = self.add_segment(address, entry, instruction.memory_segment(), operand.size);
        self.miss_beyond_limit(beyond, address, entry, operand);
        self.check_tlb(address, entry, operand);
        if locks_lines(instruction, operand) {
            let place = Place {
                register: address,
                offset: 0,
            };
            self.check_line(place, entry, operand);
        }
        self.e.mov(entry, bit);
        self.e
            .alu_imm32(Alu::And, entry, i32::from(operand.size) * 8 - 1);
        self.bring_flags_back();
        let mut copy = *instruction;
        copy.set_memory_base(host_register(address, 8));
        copy.set_memory_index(Register::None);
        copy.set_memory_index_scale(1);
        copy.set_memory_displacement64(0);
        copy.set_memory_displ_size(0);
        copy.set_segment_prefix(Register::None);
        copy.set_op1_register(host_register(entry, operand.size));
        let encoded = self.encode(&copy);
        if super::may_fault(instruction) {
            self.fault_site();
        }
        encoded
    }

    /// Where the word of the stack lies that is `displacement` away from RSP, in a register that is none of `used`.
    pub(crate) fn stack_place(&mut self, displacement: i32, write: bool, used: u16) -> Place {
        if let Some(place) = self.anchors.find(used, false) {
            return place;
        }
        if let Some(place) = self.check_stretch(used, false) {
            return place;
        }
        self.put_flags_away_from(used);
        let register = self.borrow(used, false);
        let entry = self.borrow_free_of_rbp(used | 1 << register.0, false);
        self.stack_access(register, entry, Reg::RSP, displacement, write);
        Place {
            register,
            offset: 0,
        }
    }

    /// Linear address `rsp + displacement` in `address`, checked for an access of the stack's word size.
    pub(crate) fn stack_access(
        &mut self,
        address: Reg,
        entry: Reg,
        base: Reg,
        displacement: i32,
        write: bool,
    ) {
        let size = self.stack_word();
        if size == 8 {
            self.e.lea(address, base, displacement);
        } else {
            self.e.lea32(address, base, displacement);
        }
        self.check_tlb(address, entry, Operand { size, write });
    }

    /// Bytes of a near push in this mode.
    pub(crate) fn stack_word(&self) -> u8 {
        if self.mode.is_64() { 8 } else { 4 }
    }
}

/// Whether the memory operand of an instruction in 64-bit code has a 32-bit address.
pub(crate) fn has_32_bit_address(instruction: &Instruction) -> bool {
    let base = instruction.memory_base();
    let index = instruction.memory_index();
    let is_absolute = base == Register::None && index == Register::None;
    let narrow =
        |register: Register| register.size() == 4 && register.is_gpr() || register == Register::EIP;
    if is_absolute {
        instruction.memory_displ_size() == 4
    } else {
        narrow(base) || narrow(index)
    }
}

/// Whether the memory operand has a 16-bit address.
pub(crate) fn has_16_bit_address(instruction: &Instruction) -> bool {
    let base = instruction.memory_base();
    let index = instruction.memory_index();
    let is_absolute = base == Register::None && index == Register::None;
    base.size() == 2 || index.size() == 2 || is_absolute && instruction.memory_displ_size() == 2
}

/// iced's name of host register `register` at a size in bytes.
pub(crate) fn host_register(register: Reg, size: u8) -> Register {
    let first = match size {
        1 => {
            // SPL, BPL, SIL, DIL and up, never AH..BH.
            let names = [Register::AL, Register::CL, Register::DL, Register::BL];
            return match register.0 {
                number @ 0..=3 => names[usize::from(number)],
                number => Register::SPL + u32::from(number - 4),
            };
        }
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    first + u32::from(register.0)
}

fn uses_high_byte(instruction: &Instruction) -> bool {
    let high = [Register::AH, Register::BH, Register::CH, Register::DH];
    (0..instruction.op_count()).any(|op| {
        instruction.op_kind(op) == OpKind::Register && high.contains(&instruction.op_register(op))
    })
}

/// The accumulator forms of MOV have an absolute address instead of ModRM: use the general forms.
fn retarget_absolute(instruction: &mut Instruction) {
    let code = match instruction.code() {
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_RAX_moffs64 => Code::Mov_r64_rm64,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        Code::Mov_moffs64_RAX => Code::Mov_rm64_r64,
        _ => return,
    };
    instruction.set_code(code);
}

/// Size in bytes of what a copied instruction accesses; `None` if it is not a fixed number up to 64.
pub(crate) fn operand_size(instruction: &Instruction) -> Option<u8> {
    // The presented vendor's silicon reads four bytes here and throws two away.
    if instruction.code() == Code::Movsxd_r16_rm16 {
        return Some(4);
    }
    let size = instruction.memory_size();
    if matches!(size, MemorySize::Unknown) {
        return None;
    }
    u8::try_from(size.size())
        .ok()
        .filter(|size| (1..=64).contains(size))
}
