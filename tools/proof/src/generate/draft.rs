//! A case in the making: code so far, start registers, and which of them may still be chosen.

use iced_x86::{
    CpuidFeature, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, OpAccess, Register,
};

use super::start;
use crate::case::Registers;
use crate::flags;
use crate::random::Random;

/// A case in the making.
pub(super) struct Draft<'a> {
    pub(super) random: &'a mut Random,
    pub(super) bits: u32,
    pub(super) start: Registers,
    code: Vec<u8>,
    instructions: Vec<Instruction>,
    facts: InstructionInfoFactory,
    /// General registers that an earlier instruction writes: their value is not known any more.
    written: u32,
    /// General registers whose start value an operand relies on.
    pinned: u32,
    written_vectors: u32,
    /// The last 64-bit register through which alone an operand was reached, and the displacement.
    pub(super) last_base: Option<(Register, i64)>,
}

/// The number of a general register of any width.
pub(super) fn number(register: Register) -> Option<usize> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

impl<'a> Draft<'a> {
    pub(super) fn new(random: &'a mut Random, bits: u32, rip: u64) -> Draft<'a> {
        let mut start = start::registers(random, bits);
        start.rip = rip;
        Draft {
            random,
            bits,
            start,
            code: Vec::new(),
            instructions: Vec::new(),
            facts: InstructionInfoFactory::new(),
            written: 0,
            pinned: 0,
            written_vectors: 0,
            last_base: None,
        }
    }

    pub(super) fn finish(self) -> (Vec<u8>, Registers) {
        (self.code, self.start)
    }

    /// Address of the next instruction.
    pub(super) fn rip(&self) -> u64 {
        self.start.rip + self.code.len() as u64
    }

    pub(super) fn decode(&self, bytes: &[u8]) -> Instruction {
        Decoder::with_ip(self.bits, bytes, self.rip(), DecoderOptions::NONE).decode()
    }

    /// The start value of a register, if it still has it.
    pub(super) fn known(&self, register: Register) -> Option<u64> {
        let index = number(register)?;
        (self.written & 1 << index == 0).then(|| self.start.gprs[index])
    }

    /// Whether the start value of a register may still be chosen.
    pub(super) fn is_free(&self, register: Register) -> bool {
        number(register).is_some_and(|index| (self.written | self.pinned) & 1 << index == 0)
    }

    /// Chooses the start value of a register. False if it is too late for that.
    pub(super) fn choose(&mut self, register: Register, value: u64) -> bool {
        if !self.is_free(register) {
            return false;
        }
        let index = number(register).expect("free registers are general registers");
        self.start.gprs[index] = if self.bits == 32 {
            value & 0xffff_ffff
        } else {
            value
        };
        self.pinned |= 1 << index;
        true
    }

    /// Chooses the start value of a vector register, if no earlier instruction writes it.
    pub(super) fn choose_vector(&mut self, register: Register, lanes: [u8; 32]) {
        let index = register.number();
        if self.written_vectors & 1 << index == 0 {
            self.start.xsave[160 + index * 16..176 + index * 16].copy_from_slice(&lanes[..16]);
            self.start.xsave[576 + index * 16..592 + index * 16].copy_from_slice(&lanes[16..]);
        }
    }

    /// Appends what was prepared. `None` if it reads flags that an earlier instruction leaves undefined.
    pub(super) fn append(&mut self, decoded: &[Instruction], bytes: &[u8]) -> Option<()> {
        let undefined = flags::undefined_after(&self.instructions);
        if decoded
            .iter()
            .any(|instruction| flags::read_by(instruction) & undefined != 0)
        {
            return None;
        }
        for instruction in decoded {
            for used in self.facts.info(instruction).used_registers() {
                let is_write = !matches!(
                    used.access(),
                    OpAccess::Read | OpAccess::CondRead | OpAccess::None
                );
                if !is_write {
                    continue;
                }
                if let Some(index) = number(used.register()) {
                    self.written |= 1 << index;
                } else if used.register().is_vector_register() {
                    self.written_vectors |= 1 << used.register().number();
                }
            }
        }
        self.instructions.extend(decoded);
        self.code.extend(bytes);
        Some(())
    }

    /// Whether there is no instruction yet.
    pub(super) fn is_empty(&self) -> bool {
        self.instructions.is_empty()
    }

    /// Whether an earlier instruction works on the x87 unit or loads it, and so leaves an address there.
    pub(super) fn has_x87(&self) -> bool {
        self.instructions.iter().any(|one| {
            one.cpuid_features().iter().any(|feature| {
                use CpuidFeature as F;
                matches!(feature, F::FPU | F::FPU287 | F::FPU387 | F::FXSR | F::XSAVE)
            })
        })
    }

    /// Makes sure that no component of the vector and x87 state is in its initial configuration.
    pub(super) fn unsettle(&mut self) {
        self.start.xsave[1] |= 4;
        self.start.xsave[160] |= 1;
        self.start.xsave[576] |= 1;
    }

    /// Appends bytes that are no instruction.
    pub(super) fn append_bytes(&mut self, bytes: &[u8]) {
        self.code.extend(bytes);
    }

    /// What can be taken back by [`Draft::restore`].
    pub(super) fn choices(&self) -> (Registers, u32) {
        (self.start.clone(), self.pinned)
    }

    /// Takes choices of registers back.
    pub(super) fn restore(&mut self, choices: (Registers, u32)) {
        (self.start, self.pinned) = choices;
    }

    /// Memory that an instruction uses without naming it in an operand: base registers.
    pub(super) fn implicit_bases(&mut self, instruction: &Instruction) -> Vec<Register> {
        let info = self.facts.info(instruction);
        info.used_memory()
            .iter()
            .filter(|memory| memory.index() == Register::None)
            .map(|memory| memory.base())
            .filter(|&base| number(base).is_some())
            .collect()
    }
}
