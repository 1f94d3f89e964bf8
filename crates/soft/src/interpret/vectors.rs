//! Vector instructions that touch memory element by element: gathers and masked moves.
//!
//! Elements that the mask leaves out are not accessed and cannot fault, so these are not copied.

use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind, Register};
use vcpu::gpr;

use crate::block::seg;
use crate::cpu::{SoftVcpu, Step};

fn lane(bytes: &[u8; 32], index: usize, size: usize) -> u64 {
    let mut value = [0; 8];
    value[..size].copy_from_slice(&bytes[index * size..(index + 1) * size]);
    u64::from_le_bytes(value)
}

fn set_lane(bytes: &mut [u8; 32], index: usize, size: usize, value: u64) {
    bytes[index * size..(index + 1) * size].copy_from_slice(&value.to_le_bytes()[..size]);
}

fn is_selected(mask: &[u8; 32], index: usize, size: usize) -> bool {
    mask[index * size + size - 1] & 0x80 != 0
}

impl SoftVcpu {
    /// Runs one of them. True if the instruction was one.
    pub(crate) fn masked_vector(&mut self, instruction: &Instruction) -> Step<bool> {
        use Mnemonic as M;
        match instruction.mnemonic() {
            M::Maskmovdqu | M::Vmaskmovdqu | M::Maskmovq => self.masked_bytes(instruction)?,
            M::Vmaskmovps | M::Vpmaskmovd => self.masked_move(instruction, 4)?,
            M::Vmaskmovpd | M::Vpmaskmovq => self.masked_move(instruction, 8)?,
            M::Vgatherdps | M::Vgatherqps | M::Vpgatherdd | M::Vpgatherqd => {
                self.gather(instruction, 4)?
            }
            M::Vgatherdpd | M::Vgatherqpd | M::Vpgatherdq | M::Vpgatherqq => {
                self.gather(instruction, 8)?
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn masked_bytes(&mut self, instruction: &Instruction) -> Step {
        self.check_fp(instruction)?;
        self.check_pending_x87(instruction)?;
        let data = instruction.op1_register();
        let mask = instruction.op2_register();
        let (data, mask, len) = if data.is_mm() {
            let mut wide = ([0; 32], [0; 32]);
            wide.0[..8].copy_from_slice(&self.mmx(data.number()).to_le_bytes());
            wide.1[..8].copy_from_slice(&self.mmx(mask.number()).to_le_bytes());
            (wide.0, wide.1, 8)
        } else {
            (self.vector(data.number()), self.vector(mask.number()), 16)
        };
        let index = match instruction.memory_segment() {
            Register::None => seg::DS,
            _ => self.operand_segment(instruction),
        };
        let address_mask = match instruction.op0_kind() {
            OpKind::MemorySegDI => 0xffff,
            OpKind::MemorySegEDI => 0xffff_ffff,
            _ => u64::MAX,
        };
        let offset = self.block.gprs[gpr::RDI] & address_mask;
        let selected: Vec<usize> = (0..len).filter(|&n| is_selected(&mask, n, 1)).collect();
        let access = self.access(true);
        // The presented processor checks the whole operand, whatever the mask leaves out.
        let linear = self.linear(index, offset, len as u64, true)?;
        self.pieces(linear, len, access)?;
        for &n in &selected {
            let linear =
                self.linear(index, offset.wrapping_add(n as u64) & address_mask, 1, true)?;
            self.write_bytes(linear, &data[n..=n], access)?;
        }
        Ok(())
    }

    fn masked_move(&mut self, instruction: &Instruction, size: usize) -> Step {
        self.check_fp(instruction)?;
        let is_store = instruction.op0_kind() == OpKind::Memory;
        let mask = self.vector(instruction.op1_register().number());
        let vector = if is_store {
            instruction.op2_register()
        } else {
            instruction.op0_register()
        };
        let count = vector.size() / size;
        let offset = self.effective_address(instruction);
        let index = self.operand_segment(instruction);
        let mut data = if is_store {
            self.vector(vector.number())
        } else {
            [0; 32]
        };
        let access = self.access(is_store);
        let selected: Vec<usize> = (0..count)
            .filter(|&n| is_selected(&mask, n, size))
            .collect();
        let mut addresses = Vec::with_capacity(selected.len());
        for &n in &selected {
            let linear = self.element_linear(
                index,
                offset.wrapping_add((n * size) as u64),
                size,
                is_store,
            )?;
            self.pieces(linear, size, access)?;
            addresses.push(linear);
        }
        for (&n, &linear) in selected.iter().zip(&addresses) {
            if is_store {
                self.write_linear(linear, size as u8, lane(&data, n, size), access)?;
            } else {
                let value = self.read_linear(linear, size as u8, access)?;
                set_lane(&mut data, n, size, value);
            }
        }
        if !is_store {
            self.set_vector(vector.number(), &data);
        }
        Ok(())
    }

    /// Linear address of one element. Checked at both ends, byte by byte: the presented processor asks the elements of
    /// these instructions for no alignment.
    fn element_linear(
        &self,
        segment: usize,
        offset: u64,
        size: usize,
        write: bool,
    ) -> Result<u64, x86::Exception> {
        let linear = self.linear(segment, offset, 1, write)?;
        self.linear(segment, offset.wrapping_add(size as u64 - 1), 1, write)?;
        Ok(linear)
    }

    /// AVX2 gathers: each element that was loaded clears its mask, so a fault in the middle can go on later.
    fn gather(&mut self, instruction: &Instruction, size: usize) -> Step {
        self.check_fp(instruction)?;
        let target = instruction.op0_register();
        let mask_register = instruction.op2_register();
        let index_register = instruction.memory_index();
        let same = target.number() == mask_register.number()
            || target.number() == index_register.number()
            || mask_register.number() == index_register.number();
        if same {
            return Err(x86::Exception::InvalidOpcode.into());
        }
        let index_size = gather_index_size(instruction.mnemonic());
        debug_assert!(instruction.memory_size() != MemorySize::Unknown);
        // The element count is bounded by both vectors.
        let count = (target.size() / size).min(index_register.size() / index_size);
        let indexes = self.vector(index_register.number());
        let mut data = self.vector(target.number());
        let mut mask = self.vector(mask_register.number());
        let base = self.register(instruction.memory_base());
        let segment = self.operand_segment(instruction);
        let is_32_bit = instruction.memory_base().size() == 4;
        for n in 0..count {
            if !is_selected(&mask, n, size) {
                continue;
            }
            let raw = lane(&indexes, n, index_size);
            let index = if index_size == 4 {
                raw as u32 as i32 as i64 as u64
            } else {
                raw
            };
            let mut offset = base
                .wrapping_add(index.wrapping_mul(u64::from(instruction.memory_index_scale())))
                .wrapping_add(instruction.memory_displacement64());
            if is_32_bit {
                offset &= 0xffff_ffff;
            }
            let loaded = self
                .element_linear(segment, offset, size, false)
                .map_err(Into::into)
                .and_then(|linear| self.read_linear(linear, size as u8, self.access(false)));
            match loaded {
                Ok(value) => {
                    set_lane(&mut data, n, size, value);
                    set_lane(&mut mask, n, size, 0);
                }
                Err(stop) => {
                    self.set_vector(target.number(), &data);
                    self.set_vector(mask_register.number(), &mask);
                    return Err(stop);
                }
            }
        }
        data[(count * size)
            .max(if target.is_ymm() { 32 } else { 16 })
            .min(32)..]
            .fill(0);
        if count * size < 16 {
            data[count * size..].fill(0);
        }
        if !target.is_ymm() {
            data[16..].fill(0);
        }
        self.set_vector(target.number(), &data);
        self.set_vector(mask_register.number(), &[0; 32]);
        Ok(())
    }
}

/// Bytes of each index of a gather.
fn gather_index_size(mnemonic: Mnemonic) -> usize {
    match mnemonic {
        Mnemonic::Vgatherdps
        | Mnemonic::Vgatherdpd
        | Mnemonic::Vpgatherdd
        | Mnemonic::Vpgatherdq => 4,
        _ => 8,
    }
}
