//! Bounced instructions: the memory operand is copied into the vCPU block, the instruction runs on it there, and the
//! result is copied back.
//!
//! The way for operands that translated code cannot reach: across a page end, in a device, on a page with translated
//! code, under a data breakpoint. A store to a device is posted and reported after the instruction is done.

use iced_x86::{Instruction, InstructionInfo, OpAccess, OpKind};
use x86::{Exception, Gpa};

use crate::block::{BOUNCE_BYTES, ExitReason};
use crate::code_cache::HostPc;
use crate::cpu::{SoftVcpu, Step, Stop};
use crate::decoded::Needs;
use crate::translate::{Operand, is_locked};

/// FP loads and the instruction itself: a thunk never exits more often.
const THUNK_ENTRIES: usize = 4;

impl SoftVcpu {
    /// Runs one instruction with a memory operand through the bounce buffer.
    pub(crate) fn bounce(
        &mut self,
        instruction: &Instruction,
        bytes: &[u8],
        Operand { size, write }: Operand,
        needs: Needs,
    ) -> Step {
        self.counters.bounced += 1;
        let len = usize::from(size);
        self.check_pending_x87(instruction)?;
        // Alignment is judged before anything else about the address.
        if needs.alignment
            && !self
                .unchecked_linear(instruction)
                .is_multiple_of(u64::from(size))
        {
            return Err(crate::cpu::GP0.into());
        }
        let linear = self.operand_linear(instruction, u64::from(size), write)?;
        let access = self.access(write);
        // With write access for a read-modify-write: a fault says "write", as the hardware's does.
        let pieces = self.pieces(linear, len, access)?;
        self.note_data_access(linear, u64::from(size), write);
        self.bounce_pieces(instruction, bytes, Operand { size, write }, needs, pieces)
    }

    /// Runs an instruction through the bounce buffer whose operand has been found and may be accessed.
    pub(crate) fn bounce_pieces(
        &mut self,
        instruction: &Instruction,
        bytes: &[u8],
        Operand { write, .. }: Operand,
        needs: Needs,
        pieces: [(Gpa, usize); 2],
    ) -> Step {
        if write && is_locked(instruction) && self.is_shared_memory(&pieces) {
            return self.bounce_locked(instruction, bytes, pieces);
        }
        let mut data = [0; BOUNCE_BYTES];
        if needs.value {
            let mut at = 0;
            for (gpa, part) in pieces {
                self.read_physical(gpa, &mut data[at..at + part])?;
                at += part;
            }
        }
        loop {
            self.block.bounce.0 = data;
            let thunk = self.thunk(instruction, bytes)?;
            if self.run_thunk(instruction, thunk)? {
                break;
            }
        }
        if write {
            let data = self.block.bounce.0;
            let mut at = 0;
            for (gpa, part) in pieces {
                self.write_physical(gpa, &data[at..at + part]);
                at += part;
            }
        }
        self.block.rip = instruction.next_ip();
        Ok(())
    }

    pub(crate) fn thunk(
        &mut self,
        instruction: &Instruction,
        bytes: &[u8],
    ) -> Result<HostPc, Stop> {
        let mode = self.mode;
        if let Some(thunk) = self.thunks.get(bytes, mode, self.generation) {
            return Ok(thunk);
        }
        let thunk = self.make_translation(&[], |translations, _| {
            Ok(translations.bounce_thunk(instruction, bytes, mode))
        })?;
        let thunk = thunk.ok_or(Stop::Exception(Exception::InvalidOpcode))?;
        self.thunks.add(bytes, mode, self.generation, thunk);
        Ok(thunk)
    }

    /// Runs a thunk; false if it is not there any more and nothing has been done.
    pub(crate) fn run_thunk(&mut self, instruction: &Instruction, thunk: HostPc) -> Step<bool> {
        // A thunk is shared by every copy of the instruction, so the address in its sites is only one of theirs.
        let rip = self.block.rip;
        let done = self.enter_thunk(instruction, thunk);
        self.block.rip = rip;
        done
    }

    fn enter_thunk(&mut self, instruction: &Instruction, thunk: HostPc) -> Step<bool> {
        for _ in 0..THUNK_ENTRIES {
            let left = match self.run_code(thunk) {
                Ok(Some(left)) => left,
                Ok(None) => return Ok(false),
                Err(_) => return Err(Stop::Again),
            };
            match (left.reason, left.site) {
                (Some(ExitReason::Bounced), _) => return Ok(true),
                (Some(ExitReason::FpState), Some(site)) => {
                    self.check_fp(instruction)?;
                    self.restore_site(&site);
                    self.block.fp_loaded = 1;
                }
                (Some(ExitReason::Fault), _) => return Err(self.host_fault()),
                _ => break,
            }
        }
        Err(Exception::InvalidOpcode.into())
    }

    /// The guest exception for a host fault of a copied instruction.
    pub(crate) fn host_fault(&self) -> Stop {
        let exception = match self.block.fault.vector {
            0 => Exception::DivideError,
            6 => Exception::InvalidOpcode,
            12 => Exception::StackFault(0),
            16 => Exception::X87Fault,
            17 => Exception::AlignmentCheck,
            // Unmasked SSE exceptions are #UD unless the kernel says that it handles #XM.
            19 if self.cr4.contains(x86::Cr4::OSXMMEXCPT) => Exception::SimdFault,
            19 => Exception::InvalidOpcode,
            _ => Exception::GeneralProtection(0),
        };
        Stop::Exception(exception)
    }
}

/// What an instruction with a memory operand needs of it.
pub(crate) fn operand_needs(instruction: &Instruction, info: &InstructionInfo) -> Needs {
    let memory_op =
        (0..instruction.op_count()).find(|&op| instruction.op_kind(op) == OpKind::Memory);
    // An x87 store with an unmasked exception stores nothing: what was there goes back.
    let value = memory_op.is_none_or(|op| !matches!(info.op_access(op), OpAccess::Write))
        || crate::translate::fp_level(instruction) == 1;
    Needs {
        value,
        alignment: must_be_aligned(instruction),
    }
}

/// Instructions that fault on a misaligned operand, which the aligned bounce buffer would hide.
fn must_be_aligned(instruction: &Instruction) -> bool {
    use iced_x86::{EncodingKind, Mnemonic as M};
    let mnemonic = instruction.mnemonic();
    let always = matches!(
        mnemonic,
        M::Movaps
            | M::Movapd
            | M::Movdqa
            | M::Movntps
            | M::Movntpd
            | M::Movntdq
            | M::Movntdqa
            | M::Vmovaps
            | M::Vmovapd
            | M::Vmovdqa
            | M::Vmovntps
            | M::Vmovntpd
            | M::Vmovntdq
            | M::Vmovntdqa
            | M::Cmpxchg16b
    );
    if always {
        return true;
    }
    let is_legacy_sse = instruction.encoding() == EncodingKind::Legacy
        && instruction.memory_size().size() == 16
        && (0..instruction.op_count()).any(|op| {
            let register = instruction.op_register(op);
            register.is_xmm() || register.is_mm()
        });
    let is_sha = instruction
        .cpuid_features()
        .contains(&iced_x86::CpuidFeature::SHA);
    is_legacy_sse
        && !is_sha
        && !matches!(
            mnemonic,
            M::Movups
                | M::Movupd
                | M::Movdqu
                | M::Lddqu
                | M::Pcmpestri
                | M::Pcmpestri64
                | M::Pcmpestrm64
                | M::Pcmpestrm
                | M::Pcmpistri
                | M::Pcmpistrm
        )
}
