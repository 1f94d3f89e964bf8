//! Control transfers that are not copied: far branches, IRET, INT n, SYSCALL and SYSENTER and their returns, and the
//! near forms in modes where translated code leaves them to us.

use iced_x86::{Instruction, Mnemonic, OpKind};
use vcpu::gpr;
use x86::{Cr0, Efer, Exception, Gva, Rflags, Segment};

use crate::block::seg;
use crate::cpu::{GP0, SoftVcpu, Step, Stop};
use crate::exceptions::{Event, Source, Switch};

fn gp(selector: u16) -> Stop {
    Exception::GeneralProtection(u32::from(selector & !3)).into()
}

impl SoftVcpu {
    /// Goes to a near target, cut to the operand size, with the checks that a branch makes.
    pub(crate) fn jump_near(&mut self, target: u64, size: u8) -> Step {
        let target = match size {
            2 => target & 0xffff,
            4 => target & 0xffff_ffff,
            _ => target,
        };
        if self.is_64_bit() {
            if !Gva(target).is_canonical() {
                return Err(GP0.into());
            }
        } else if target > u64::from(self.segments[seg::CS].limit) {
            return Err(GP0.into());
        }
        self.block.rip = target;
        Ok(())
    }

    /// Code segment for a far transfer to `selector` at privilege `cpl`, checked as JMP and CALL do.
    fn far_code_segment(&mut self, selector: u16) -> Step<Segment> {
        if selector & !3 == 0 {
            return Err(GP0.into());
        }
        let mut segment = self.read_descriptor(selector)?;
        let cpl = self.cpl();
        let rpl = (selector & 3) as u8;
        let is_conforming = segment.kind() & 4 != 0;
        let is_allowed = if is_conforming {
            segment.dpl() <= cpl
        } else {
            rpl <= cpl && segment.dpl() == cpl
        };
        if !segment.is_code() || !is_allowed {
            return Err(gp(selector));
        }
        if !segment.is_present() {
            return Err(Exception::SegmentNotPresent(u32::from(selector & !3)).into());
        }
        if self.is_long_mode() && segment.is_long() && segment.is_big() {
            return Err(gp(selector));
        }
        self.mark_accessed(&mut segment)?;
        segment.selector = selector & !3 | u16::from(cpl);
        Ok(segment)
    }

    fn enter_far(&mut self, selector: u16, offset: u64) -> Step {
        if self.is_real_or_v86() {
            let attributes = self.segments[seg::CS].attributes;
            let limit = self.segments[seg::CS].limit;
            let base = u64::from(selector) << 4;
            self.segments[seg::CS] = Segment {
                selector,
                base,
                limit,
                attributes,
            };
            self.block.rip = offset & 0xffff_ffff;
            self.update_context();
            return Ok(());
        }
        let segment = self.far_code_segment(selector)?;
        self.check_target(&segment, offset)?;
        self.segments[seg::CS] = segment;
        self.block.rip = offset;
        self.update_context();
        Ok(())
    }

    pub(super) fn check_target(&self, segment: &Segment, offset: u64) -> Step {
        let is_64 = self.is_long_mode() && segment.is_long();
        let is_bad = if is_64 {
            !Gva(offset).is_canonical()
        } else {
            offset > u64::from(segment.limit)
        };
        if is_bad { Err(GP0.into()) } else { Ok(()) }
    }

    /// Operand of a far branch: selector, offset, operand size.
    fn far_operand(&mut self, instruction: &Instruction) -> Step<(u16, u64, u8)> {
        match instruction.op0_kind() {
            OpKind::FarBranch16 => Ok((
                instruction.far_branch_selector(),
                u64::from(instruction.far_branch16()),
                2,
            )),
            OpKind::FarBranch32 => Ok((
                instruction.far_branch_selector(),
                u64::from(instruction.far_branch32()),
                4,
            )),
            _ => {
                let size = (instruction.memory_size().size() - 2) as u8;
                let linear = self.operand_linear(instruction, u64::from(size) + 2, false)?;
                let access = self.access(false);
                let offset = self.read_linear(linear, size, access)?;
                let selector = self.read_linear(linear.wrapping_add(u64::from(size)), 2, access)?;
                Ok((selector as u16, offset, size))
            }
        }
    }

    pub(crate) fn jump_far(&mut self, instruction: &Instruction) -> Step {
        let (selector, offset, _) = self.far_operand(instruction)?;
        if let Some(task) = self.task_behind(selector)? {
            return self.switch_task(task, Switch::Jump, instruction.next_ip());
        }
        if let Some(gate) = self.gate_behind(selector)? {
            return self.jump_through(&gate);
        }
        self.enter_far(selector, offset)
    }

    /// `is_wide`: REX.W. The pointer in memory has a 32-bit offset all the same, but what is pushed are 64-bit words
    /// (APM vol. 3, CALL (Far)).
    pub(crate) fn call_far(&mut self, instruction: &Instruction, is_wide: bool) -> Step {
        let (selector, offset, size) = self.far_operand(instruction)?;
        if let Some(task) = self.task_behind(selector)? {
            return self.switch_task(task, Switch::Call, instruction.next_ip());
        }
        if let Some(gate) = self.gate_behind(selector)? {
            return self.call_through(&gate, instruction.next_ip());
        }
        let size = if is_wide { 8 } else { size };
        let old_cs = u64::from(self.segments[seg::CS].selector);
        let first = self.moved_stack_pointer(-i64::from(size));
        let second = self.moved_stack_pointer(-2 * i64::from(size));
        if !self.is_real_or_v86() {
            // Nothing is pushed for a target that cannot be reached.
            let segment = self.far_code_segment(selector)?;
            self.check_target(&segment, offset)?;
        }
        self.store_stack(first, size, old_cs)?;
        self.store_stack(second, size, instruction.next_ip())?;
        self.enter_far(selector, offset)?;
        self.block.gprs[gpr::RSP] = second;
        Ok(())
    }

    pub(crate) fn return_far(&mut self, instruction: &Instruction, size: u8) -> Step {
        // The selector is read first, which a fault shows.
        let selector = self.peek(u64::from(size), size)? as u16;
        let offset = self.peek(0, size)?;
        let extra = if instruction.op_count() == 1 {
            u64::from(instruction.immediate16())
        } else {
            0
        };
        if self.is_real_or_v86() {
            self.enter_far(selector, offset)?;
            self.drop_stack(2 * u64::from(size) + extra);
            return Ok(());
        }
        let at = 2 * u64::from(size) + extra;
        self.return_to(selector, offset, size, at, extra, None)?;
        Ok(())
    }

    /// The protected-mode half of RETF and IRET: goes to `selector:offset`, taking SS:RSP from the stack at
    /// distance `stack_at` if the privilege changes (or, for a 64-bit IRET, always). Bytes of parameters lie on that stack
    /// too.
    fn return_to(
        &mut self,
        selector: u16,
        offset: u64,
        size: u8,
        stack_at: u64,
        parameters: u64,
        flags: Option<Rflags>,
    ) -> Step {
        if selector & !3 == 0 {
            return Err(GP0.into());
        }
        let cpl = self.cpl();
        let rpl = (selector & 3) as u8;
        let mut code = self.read_descriptor(selector)?;
        let is_conforming = code.kind() & 4 != 0;
        let is_dpl_right = if is_conforming {
            code.dpl() <= rpl
        } else {
            code.dpl() == rpl
        };
        let is_bad_long = self.is_long_mode() && code.is_long() && code.is_big();
        if !code.is_code() || rpl < cpl || !is_dpl_right || is_bad_long {
            return Err(gp(selector));
        }
        if !code.is_present() {
            return Err(Exception::SegmentNotPresent(u32::from(selector & !3)).into());
        }
        let is_64_iret = flags.is_some() && self.is_64_bit();
        let stack = if rpl != cpl || is_64_iret {
            let rsp = self.peek(stack_at, size)?.wrapping_add(parameters);
            let ss = self.peek(stack_at + u64::from(size), size)? as u16;
            Some((rsp, self.returned_stack_segment(ss, rpl, &code)?))
        } else {
            None
        };
        self.check_target(&code, offset)?;
        self.mark_accessed(&mut code)?;
        let old_cpl = cpl;
        code.selector = selector;
        match stack {
            Some((rsp, ss)) => {
                self.segments[seg::SS] = ss;
                self.segments[seg::CS] = code;
                let old = self.block.gprs[gpr::RSP];
                self.block.gprs[gpr::RSP] = if self.is_64_bit() {
                    rsp
                } else if ss.is_big() {
                    rsp & 0xffff_ffff
                } else {
                    old & !0xffff | rsp & 0xffff
                };
            }
            None => {
                self.drop_stack(stack_at);
                self.segments[seg::CS] = code;
            }
        }
        self.block.rip = offset;
        if let Some(flags) = flags {
            self.return_flags(flags, size, old_cpl);
        }
        if rpl > old_cpl {
            self.drop_privileged_segments(rpl);
        }
        self.show_context();
        Ok(())
    }

    fn returned_stack_segment(&mut self, selector: u16, rpl: u8, code: &Segment) -> Step<Segment> {
        if selector & !3 == 0 {
            let allowed =
                self.is_long_mode() && code.is_long() && rpl != 3 && (selector & 3) as u8 == rpl;
            if !allowed {
                return Err(GP0.into());
            }
            let attributes = 0x93 | u16::from(rpl) << 5;
            return Ok(Segment {
                selector,
                base: 0,
                limit: u32::MAX,
                attributes,
            });
        }
        let mut segment = self.read_descriptor(selector)?;
        let is_writable =
            segment.is_code_or_data() && !segment.is_code() && segment.kind() & 2 != 0;
        if !is_writable || (selector & 3) as u8 != rpl || segment.dpl() != rpl {
            return Err(gp(selector));
        }
        if !segment.is_present() {
            return Err(Exception::StackFault(u32::from(selector & !3)).into());
        }
        self.mark_accessed(&mut segment)?;
        Ok(segment)
    }

    /// Data segments that the lower privilege may not use become null.
    fn drop_privileged_segments(&mut self, cpl: u8) {
        for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let segment = &mut self.segments[index];
            let is_conforming_code = segment.is_code() && segment.kind() & 4 != 0;
            if segment.dpl() < cpl && !is_conforming_code {
                *segment = Segment {
                    base: segment.base,
                    ..Segment::default()
                };
            }
        }
    }

    /// RFLAGS from a stack, with the bits that `old_cpl` may change.
    fn return_flags(&mut self, flags: Rflags, size: u8, old_cpl: u8) {
        let mut allowed = Rflags::ARITHMETIC | Rflags::TF | Rflags::DF | Rflags::NT;
        if size > 2 {
            allowed |= Rflags::RF | Rflags::AC | Rflags::ID;
        }
        if old_cpl <= self.rflags().iopl() {
            allowed |= Rflags::IF;
        }
        if old_cpl == 0 {
            allowed |= Rflags::IOPL;
        }
        let old = self.rflags();
        self.set_rflags(old & !allowed | flags & allowed);
    }

    pub(crate) fn return_interrupt(&mut self, size: u8, next_rip: u64) -> Step {
        if self.is_v86() && self.rflags().iopl() < 3 {
            return Err(GP0.into());
        }
        if self.is_protected() && !self.is_v86() && self.rflags().contains(Rflags::NT) {
            if self.is_long_mode() {
                return Err(GP0.into());
            }
            self.pending.nmi_blocked = false;
            return self.return_to_task(next_rip);
        }
        let width = u64::from(size);
        // In the order of the presented processor, which a fault shows.
        let flags = Rflags::from_bits_retain(self.peek(2 * width, size)?);
        let selector = self.peek(width, size)? as u16;
        let offset = self.peek(0, size)?;
        if self.is_real_or_v86() {
            self.enter_far(selector, offset)?;
            self.drop_stack(3 * width);
            let is_v86 = self.is_v86();
            self.return_flags(flags, size, if is_v86 { 3 } else { 0 });
        } else {
            let wants_v86 = flags.contains(Rflags::VM) && self.cpl() == 0 && !self.is_long_mode();
            if wants_v86 && size == 4 {
                self.return_to_v86(selector, offset, flags)?;
            } else {
                self.return_to(selector, offset, size, 3 * width, 0, Some(flags))?;
            }
        }
        self.pending.nmi_blocked = false;
        self.pending.resumes = flags.contains(Rflags::RF);
        Ok(())
    }

    /// INT n, INT3, INTO, INT1.
    pub(crate) fn software_interrupt(&mut self, vector: u8, next_rip: u64) -> Step {
        let event = Event {
            vector,
            error_code: None,
            source: Source::Software,
            return_rip: next_rip,
        };
        self.pending.delivered = true;
        self.deliver(event).map_err(Stop::Exception)
    }

    /// INT1: like a debug exception of the processor, so the gate's privilege does not matter.
    pub(crate) fn debug_interrupt(&mut self, next_rip: u64) -> Step {
        let event = Event {
            vector: 1,
            error_code: None,
            source: Source::Exception,
            return_rip: next_rip,
        };
        self.pending.delivered = true;
        self.deliver(event).map_err(Stop::Exception)
    }

    pub(crate) fn syscall(&mut self, next_rip: u64) -> Step {
        if !self.efer.contains(Efer::SCE) || !self.is_protected() {
            return Err(Exception::InvalidOpcode.into());
        }
        // A single step that the mask clears does not trap behind SYSCALL.
        self.pending.delivered = self.msrs.syscall_mask & Rflags::TF.bits() != 0;
        let selector = (self.msrs.star >> 32) as u16 & !3;
        let was_64 = self.is_64_bit();
        let before = self.side();
        if self.is_long_mode() {
            self.block.gprs[1] = next_rip;
            self.block.gprs[11] = self.rflags().bits() & !Rflags::RF.bits();
            self.block.rip = if was_64 {
                self.msrs.lstar
            } else {
                self.msrs.cstar
            };
            (self.segments[seg::CS], self.segments[seg::SS]) = self.syscall_segments();
            let mask = Rflags::from_bits_retain(self.msrs.syscall_mask);
            let flags = self.rflags() & !mask & !Rflags::RF;
            self.set_rflags(flags);
        } else {
            self.block.gprs[1] = next_rip;
            self.block.rip = self.msrs.star & 0xffff_ffff;
            self.segments[seg::CS] = Segment::flat(selector, Segment::CODE32);
            self.segments[seg::SS] = Segment::flat(selector.wrapping_add(8), Segment::DATA32);
            let flags = self.rflags() - (Rflags::IF | Rflags::VM | Rflags::RF);
            self.set_rflags(flags);
        }
        self.update_privilege();
        if was_64 {
            self.open_passages(before);
        }
        Ok(())
    }

    pub(crate) fn sysret(&mut self, is_64: bool) -> Step {
        if !self.efer.contains(Efer::SCE) {
            return Err(Exception::InvalidOpcode.into());
        }
        if self.cpl() != 0 || !self.is_protected() {
            return Err(GP0.into());
        }
        let base = (self.msrs.star >> 48) as u16;
        let rcx = self.block.gprs[1];
        if is_64 && !Gva(rcx).is_canonical() {
            return Err(GP0.into());
        }
        (self.segments[seg::CS], self.segments[seg::SS]) = self.sysret_segments();
        if !is_64 {
            self.segments[seg::CS] = Segment::flat(base | 3, 0xc0fb);
        }
        self.block.rip = if is_64 { rcx } else { rcx & 0xffff_ffff };
        if self.is_long_mode() {
            let flags = Rflags::from_bits_retain(self.block.gprs[11]) & !(Rflags::RF | Rflags::VM);
            self.set_rflags(flags);
            self.pending.steps_already = flags.contains(Rflags::TF);
        } else {
            let flags = self.rflags() | Rflags::IF;
            self.set_rflags(flags);
        }
        self.update_privilege();
        Ok(())
    }

    pub(crate) fn sysenter(&mut self) -> Step {
        // The presented vendor has no SYSENTER in long mode (APM vol. 3).
        if self.is_long_mode() {
            return Err(Exception::InvalidOpcode.into());
        }
        let selector = self.msrs.sysenter_cs as u16 & !3;
        if !self.is_protected() || selector == 0 {
            return Err(GP0.into());
        }
        self.segments[seg::CS] = Segment::flat(selector, Segment::CODE32);
        self.segments[seg::SS] = Segment::flat(selector.wrapping_add(8), Segment::DATA32);
        self.block.gprs[gpr::RSP] = self.msrs.sysenter_esp & 0xffff_ffff;
        self.block.rip = self.msrs.sysenter_eip & 0xffff_ffff;
        let flags = self.rflags() - (Rflags::IF | Rflags::VM);
        self.set_rflags(flags);
        self.update_context();
        Ok(())
    }

    pub(crate) fn sysexit(&mut self) -> Step {
        if self.cpl() != 0 {
            return Err(GP0.into());
        }
        if self.is_long_mode() {
            return Err(Exception::InvalidOpcode.into());
        }
        let selector = self.msrs.sysenter_cs as u16 & !3;
        if self.cpl() != 0 || !self.cr0.contains(Cr0::PE) || selector == 0 {
            return Err(GP0.into());
        }
        self.segments[seg::CS] = Segment::flat(selector.wrapping_add(16) | 3, 0xc0fb);
        self.segments[seg::SS] = Segment::flat(selector.wrapping_add(24) | 3, 0xc0f3);
        self.block.gprs[gpr::RSP] = self.block.gprs[1] & 0xffff_ffff;
        self.block.rip = self.block.gprs[2] & 0xffff_ffff;
        self.update_context();
        Ok(())
    }

    /// Near branches, calls and returns. True if the instruction was one.
    pub(crate) fn near_transfer(&mut self, instruction: &Instruction) -> Step<bool> {
        let size = self.near_size(instruction);
        match instruction.mnemonic() {
            Mnemonic::Jmp => {
                let target = self.near_target(instruction, size)?;
                self.jump_near(target, size)?;
            }
            Mnemonic::Call => {
                let target = self.near_target(instruction, size)?;
                let rsp = self.moved_stack_pointer(-i64::from(size));
                self.store_stack(rsp, size, instruction.next_ip())?;
                self.jump_near(target, size)?;
                self.block.gprs[gpr::RSP] = rsp;
            }
            Mnemonic::Ret => {
                let target = self.peek(0, size)?;
                let extra = if instruction.op_count() == 1 {
                    u64::from(instruction.immediate16())
                } else {
                    0
                };
                self.jump_near(target, size)?;
                self.drop_stack(u64::from(size) + extra);
            }
            _ if instruction.is_jcc_short_or_near() => {
                let taken = self.condition(instruction.condition_code());
                if taken {
                    self.jump_near(instruction.near_branch_target(), size)?;
                } else {
                    self.block.rip = instruction.next_ip();
                }
            }
            _ if instruction.is_loop() || instruction.is_loopcc() || instruction.is_jcx_short() => {
                self.jump_counted(instruction, size)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn near_size(&self, instruction: &Instruction) -> u8 {
        match instruction.op0_kind() {
            OpKind::Register if instruction.op_count() == 0 => return_size(instruction),
            OpKind::NearBranch16 => 2,
            OpKind::NearBranch32 => 4,
            OpKind::NearBranch64 => 8,
            OpKind::Register => instruction.op0_register().size() as u8,
            OpKind::Memory => instruction.memory_size().size() as u8,
            _ => return_size(instruction),
        }
    }

    fn near_target(&mut self, instruction: &Instruction, size: u8) -> Step<u64> {
        match instruction.op0_kind() {
            OpKind::Register | OpKind::Memory => self.read_operand(instruction, 0, size),
            _ => Ok(instruction.near_branch_target()),
        }
    }

    fn jump_counted(&mut self, instruction: &Instruction, size: u8) -> Step {
        use iced_x86::Code as C;
        let count_size: u8 = match instruction.code() {
            C::Loopne_rel8_16_CX
            | C::Loopne_rel8_32_CX
            | C::Loope_rel8_16_CX
            | C::Loope_rel8_32_CX
            | C::Loop_rel8_16_CX
            | C::Loop_rel8_32_CX
            | C::Jcxz_rel8_16
            | C::Jcxz_rel8_32 => 2,
            C::Loopne_rel8_16_RCX
            | C::Loopne_rel8_64_RCX
            | C::Loope_rel8_16_RCX
            | C::Loope_rel8_64_RCX
            | C::Loop_rel8_16_RCX
            | C::Loop_rel8_64_RCX
            | C::Jrcxz_rel8_16
            | C::Jrcxz_rel8_64 => 8,
            _ => 4,
        };
        let mask = u64::MAX >> (64 - u32::from(count_size) * 8);
        let flags = self.rflags();
        let count = self.block.gprs[1] & mask;
        let (count_after, taken) = match instruction.mnemonic() {
            Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => (None, count == 0),
            mnemonic => {
                let after = count.wrapping_sub(1) & mask;
                let zf_allows = match mnemonic {
                    Mnemonic::Loope => flags.contains(Rflags::ZF),
                    Mnemonic::Loopne => !flags.contains(Rflags::ZF),
                    _ => true,
                };
                (Some(after), after != 0 && zf_allows)
            }
        };
        if taken {
            self.jump_near(instruction.near_branch_target(), size)?;
        } else {
            self.block.rip = instruction.next_ip();
        }
        if let Some(after) = count_after {
            self.set_gpr(1, count_size, after);
        }
        Ok(())
    }

    fn condition(&self, code: iced_x86::ConditionCode) -> bool {
        let flags = self.rflags();
        let index = (code as u8).wrapping_sub(1);
        let sign_differs = flags.contains(Rflags::SF) != flags.contains(Rflags::OF);
        let holds = match index >> 1 {
            0 => flags.contains(Rflags::OF),
            1 => flags.contains(Rflags::CF),
            2 => flags.contains(Rflags::ZF),
            3 => flags.intersects(Rflags::CF | Rflags::ZF),
            4 => flags.contains(Rflags::SF),
            5 => flags.contains(Rflags::PF),
            6 => sign_differs,
            _ => sign_differs || flags.contains(Rflags::ZF),
        };
        holds != (index & 1 == 1)
    }
}

/// Operand size of a near return.
fn return_size(instruction: &Instruction) -> u8 {
    use iced_x86::Code;
    match instruction.code() {
        Code::Retnw | Code::Retnw_imm16 => 2,
        Code::Retnd | Code::Retnd_imm16 => 4,
        _ => 8,
    }
}
