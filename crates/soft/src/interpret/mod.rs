//! The interpreter: every instruction that translated code leaves alone.
//!
//! It is not a second CPU. Arithmetic, SIMD and x87 are never interpreted: if such an instruction comes here, it is
//! because its memory operand cannot be reached directly (it crosses pages, is a device, or holds translated code), and
//! then it runs on the silicon too, with its operand in the bounce buffer. What is interpreted is what a guest must
//! not do itself: system instructions, stack and string instructions in their rare forms, segments, control
//! transfers between privileges.
//!
//! Each method either completes its instruction or changes nothing (a string instruction changes what it has done so
//! far), so that a fault is precise and an instruction that must ask a device can start over.

mod fpstate;
mod gates;
mod legacy;
mod operands;
mod segments;
mod strings;
mod system;
mod tasks;
mod transfer;
mod vectors;
mod virtual86;

use iced_x86::{Code, Instruction, InstructionInfoFactory, Mnemonic, OpKind};
use vcpu::{At, What};
use x86::{Exception, Rflags};

use crate::bounce::operand_needs;
use crate::cpu::{GP0, SoftVcpu, Step};
use crate::decoded::{Decoded, MAX_INSTRUCTION_BYTES, Needs};
use crate::translate::{Kind, classify};

impl SoftVcpu {
    /// What the interpreter needs to know of an instruction.
    pub(crate) fn judge(
        &self,
        instruction: Instruction,
        bytes: [u8; MAX_INSTRUCTION_BYTES],
    ) -> Decoded {
        let features = self.soft.features();
        // Bits of the mode that only slow translation down do not change what an instruction is.
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info(&instruction);
        let kind = classify(&instruction, info, self.mode, &features);
        let needs = match kind {
            Kind::Copy(Some(_)) => operand_needs(&instruction, info),
            _ => Needs::default(),
        };
        Decoded {
            instruction,
            bytes,
            kind,
            is_known: features.allows(&instruction),
            needs,
        }
    }

    /// Executes the instruction at RIP and moves RIP behind it (or where it goes).
    pub(crate) fn interpret(&mut self, decoded: &Decoded) -> Step {
        self.counters.interpreted += 1;
        self.spot.tell(|spot| {
            let at = At {
                what: What::Interpreter,
                detail: decoded.instruction.mnemonic() as u16,
            };
            spot.begin(at, self.block.rip);
        });
        let Decoded {
            instruction,
            bytes,
            kind,
            is_known,
            needs,
        } = decoded;
        if instruction.is_invalid() {
            // Prefixes without end: more than 15 bytes are too long an instruction (APM vol. 3, 1.2).
            let is_too_long = instruction.len() == MAX_INSTRUCTION_BYTES
                && bytes.iter().all(|&byte| is_prefix(byte));
            return Err(if is_too_long {
                GP0
            } else {
                Exception::InvalidOpcode
            }
            .into());
        }
        match *kind {
            Kind::Copy(Some(operand)) => {
                return self.bounce(instruction, &bytes[..instruction.len()], operand, *needs);
            }
            Kind::BitTest(_) => self.bit_test(instruction)?,
            Kind::Nothing | Kind::Pause => {}
            Kind::Lea => self.load_effective_address(instruction)?,
            Kind::Copy(None) => return Err(Exception::InvalidOpcode.into()),
            _ if !is_known => return Err(Exception::InvalidOpcode.into()),
            _ => return self.special(decoded),
        }
        self.block.rip = instruction.next_ip();
        Ok(())
    }

    fn special(&mut self, decoded: &Decoded) -> Step {
        let instruction = &decoded.instruction;
        if self.far_transfer(decoded)? || self.near_transfer(instruction)? {
            return Ok(());
        }
        if instruction.is_string_instruction() {
            if !self.string(instruction)? {
                return Ok(());
            }
        } else if self.simple(instruction)?
            || self.stack_instruction(instruction)?
            || self.move_fp_state(instruction)?
            || self.masked_vector(instruction)?
            || self.decimal(instruction)?
        {
        } else {
            return Err(Exception::InvalidOpcode.into());
        }
        self.block.rip = self.wrapped_ip(instruction.next_ip());
        Ok(())
    }

    /// An instruction pointer as wide as the code segment's mode keeps it.
    fn wrapped_ip(&self, ip: u64) -> u64 {
        match self.mode.bitness() {
            16 => ip & 0xffff,
            32 => ip & 0xffff_ffff,
            _ => ip,
        }
    }

    /// Transfers that set RIP themselves. True if the instruction was one.
    fn far_transfer(&mut self, decoded: &Decoded) -> Step<bool> {
        use Mnemonic as M;
        let instruction = &decoded.instruction;
        let next = instruction.next_ip();
        match instruction.mnemonic() {
            M::Jmp | M::Call if is_far(instruction) => {
                if instruction.mnemonic() == M::Jmp {
                    self.jump_far(instruction)?;
                } else {
                    let is_wide = self.is_64_bit() && has_rex_w(&decoded.bytes);
                    self.call_far(instruction, is_wide)?;
                }
            }
            M::Retf => {
                let size = match instruction.code() {
                    Code::Retfw | Code::Retfw_imm16 => 2,
                    Code::Retfd | Code::Retfd_imm16 => 4,
                    _ => 8,
                };
                self.return_far(instruction, size)?;
            }
            M::Iret | M::Iretd | M::Iretq => {
                let size = match instruction.code() {
                    Code::Iretw => 2,
                    Code::Iretd => 4,
                    _ => 8,
                };
                self.return_interrupt(size, next)?;
            }
            M::Int3 => self.software_interrupt(3, next)?,
            M::Int1 => self.debug_interrupt(next)?,
            M::Into if self.rflags().contains(Rflags::OF) => self.software_interrupt(4, next)?,
            M::Into => self.block.rip = next,
            M::Int => {
                if self.is_v86() && self.rflags().iopl() < 3 {
                    return Err(GP0.into());
                }
                self.software_interrupt(instruction.immediate8(), next)?;
            }
            M::Syscall => self.syscall(next)?,
            M::Sysret => self.sysret(false)?,
            M::Sysretq => self.sysret(true)?,
            M::Sysenter => self.sysenter()?,
            M::Sysexit | M::Sysexitq => self.sysexit()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Instructions that fall through. True if the instruction was one.
    fn simple(&mut self, instruction: &Instruction) -> Step<bool> {
        use Mnemonic as M;
        match instruction.mnemonic() {
            M::Hlt => {
                self.require_ring_0()?;
                self.pending.halted = true;
            }
            M::Cli => self.set_interrupt_flag(false)?,
            M::Sti => self.set_interrupt_flag(true)?,
            M::Stac => self.set_access_flag(true)?,
            M::Clac => self.set_access_flag(false)?,
            M::In | M::Out => self.port_access(instruction)?,
            M::Cpuid => self.cpuid()?,
            M::Rdmsr => self.read_msr()?,
            M::Wrmsr => self.write_msr()?,
            M::Rdtsc | M::Rdtscp => self.read_tsc(instruction.mnemonic() == M::Rdtscp)?,
            M::Rdpid => {
                let aux = self.block.tsc_aux;
                self.set_register(instruction.op0_register(), aux);
            }
            // No performance counters are offered.
            M::Rdpmc => return Err(GP0.into()),
            M::Swapgs => self.swap_gs()?,
            M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => {
                self.segment_base(instruction)?
            }
            M::Lgdt | M::Lidt | M::Sgdt | M::Sidt => self.descriptor_table(instruction)?,
            M::Lmsw | M::Smsw => self.machine_status_word(instruction)?,
            M::Ltr | M::Lldt => {
                if self.is_real_or_v86() {
                    return Err(Exception::InvalidOpcode.into());
                }
                self.require_ring_0()?;
                self.load_task_register(instruction)?;
            }
            M::Str | M::Sldt => self.store_task_register(instruction)?,
            M::Lar | M::Lsl | M::Verr | M::Verw => self.probe_selector(instruction)?,
            M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss => self.load_far_pointer(instruction)?,
            M::Invlpg => self.invalidate_page(instruction)?,
            M::Invpcid => self.invalidate_pcid(instruction)?,
            M::Invd | M::Wbinvd => self.require_ring_0()?,
            M::Clts => {
                self.require_ring_0()?;
                let value = self.cr0.bits() & !x86::Cr0::TS.bits();
                self.write_cr0(value)?;
            }
            M::Mov if moves_system_register(instruction, true) => self.move_control(instruction)?,
            M::Mov if moves_system_register(instruction, false) => self.move_debug(instruction)?,
            M::Mov => self.move_segment(instruction)?,
            M::Clflush | M::Clflushopt | M::Clwb => {
                let linear = self.operand_linear(instruction, 1, false)?;
                let access = self.access(false);
                self.pieces(linear, 1, access)?;
            }
            M::Bound => self.bound(instruction)?,
            M::Xlatb => self.translate_byte(instruction)?,
            M::Arpl => self.adjust_rpl(instruction)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn read_tsc(&mut self, with_aux: bool) -> Step {
        if self.cr4.contains(x86::Cr4::TSD) && self.cpl() > 0 {
            return Err(GP0.into());
        }
        let tsc = host::tsc::read().wrapping_add(self.block.tsc_offset);
        self.block.gprs[vcpu::gpr::RAX] = tsc & 0xffff_ffff;
        self.block.gprs[vcpu::gpr::RDX] = tsc >> 32;
        if with_aux {
            self.block.gprs[vcpu::gpr::RCX] = self.block.tsc_aux;
        }
        Ok(())
    }

    fn store_task_register(&mut self, instruction: &Instruction) -> Step {
        if self.is_real_or_v86() {
            return Err(Exception::InvalidOpcode.into());
        }
        self.require_no_umip()?;
        let is_str = instruction.mnemonic() == Mnemonic::Str;
        let selector = if is_str {
            self.tr.selector
        } else {
            self.ldtr.selector
        };
        self.write_operand(instruction, 0, 2, u64::from(selector))
    }
}

/// Whether the instruction, one of 64-bit code, has a REX prefix with W set. It counts only as the last of the prefixes.
fn has_rex_w(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .take_while(|&&byte| is_prefix(byte))
        .last()
        .is_some_and(|byte| byte & 0xf8 == 0x48)
}

fn is_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}

fn is_far(instruction: &Instruction) -> bool {
    matches!(
        instruction.op0_kind(),
        OpKind::FarBranch16 | OpKind::FarBranch32
    ) || instruction.is_jmp_far_indirect()
        || instruction.is_call_far_indirect()
}

fn moves_system_register(instruction: &Instruction, control: bool) -> bool {
    [instruction.op0_register(), instruction.op1_register()]
        .into_iter()
        .any(|register| {
            if control {
                register.is_cr()
            } else {
                register.is_dr()
            }
        })
}
