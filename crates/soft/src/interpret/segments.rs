//! Segment registers and descriptor tables: loading, LAR and its kin, LTR and LLDT (APM vol. 2, chapter 4).

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use x86::{Exception, Gva, Rflags, Segment};

use crate::block::seg;
use crate::cpu::{GP0, SoftVcpu, Step, Stop};
use crate::translate::segment_index;

fn gp(selector: u16) -> Stop {
    Exception::GeneralProtection(u32::from(selector & !3)).into()
}

impl SoftVcpu {
    /// Linear address of the descriptor a selector names.
    pub(super) fn descriptor_address(&self, selector: u16, len: u64) -> Step<u64> {
        let (base, limit) = if selector & 4 != 0 {
            if !self.ldtr.is_present() || self.ldtr.selector & !3 == 0 {
                return Err(gp(selector));
            }
            (self.ldtr.base, u64::from(self.ldtr.limit))
        } else {
            (self.gdtr.base, u64::from(self.gdtr.limit))
        };
        let at = u64::from(selector & !7);
        if at + len - 1 > limit {
            return Err(gp(selector));
        }
        Ok(base.wrapping_add(at))
    }

    /// The descriptor that a selector names, as a segment.
    pub(crate) fn read_descriptor(&mut self, selector: u16) -> Step<Segment> {
        let address = self.descriptor_address(selector, 8)?;
        let low = self.read_linear(address, 8, SoftVcpu::system_access(false))?;
        let segment = Segment::from_descriptor(selector, low);
        Ok(segment)
    }

    /// A 16-byte system descriptor in long mode, 8 bytes otherwise.
    fn read_system_descriptor(&mut self, selector: u16) -> Step<Segment> {
        let len = if self.is_long_mode() { 16 } else { 8 };
        let address = self.descriptor_address(selector, len)?;
        let access = SoftVcpu::system_access(false);
        let mut segment = Segment::from_descriptor(selector, self.read_linear(address, 8, access)?);
        if len == 16 {
            segment.base |= self.read_linear(address.wrapping_add(8), 4, access)? << 32;
            // A type of 0 in the upper half keeps it from being taken for a descriptor of its own.
            let upper_type = self.read_linear(address.wrapping_add(13), 1, access)? & 0x1f;
            if upper_type != 0 {
                return Err(gp(selector));
            }
        }
        Ok(segment)
    }

    /// Sets the accessed bit of a code or data descriptor.
    pub(crate) fn mark_accessed(&mut self, segment: &mut Segment) -> Step {
        if segment.attributes & 1 == 0 {
            let address = self.descriptor_address(segment.selector, 8)?;
            let access = SoftVcpu::system_access(true);
            self.update_locked(address.wrapping_add(5), 1, access, |byte| byte | 1)?;
            segment.attributes |= 1;
        }
        Ok(())
    }

    /// Loads ES, SS, DS, FS or GS as MOV and POP do.
    pub(crate) fn load_segment(&mut self, index: usize, selector: u16) -> Step {
        if self.is_real_or_v86() {
            let attributes = if self.is_v86() { 0xf3 } else { 0x93 };
            let limit = if self.is_v86() {
                0xffff
            } else {
                self.segments[index].limit
            };
            let base = u64::from(selector) << 4;
            self.segments[index] = Segment {
                selector,
                base,
                limit,
                attributes,
            };
            self.update_context();
            return Ok(());
        }
        let cpl = self.cpl();
        if selector & !3 == 0 {
            return self.load_null(index, selector);
        }
        let mut segment = self.read_descriptor(selector)?;
        let rpl = (selector & 3) as u8;
        let is_valid = if index == seg::SS {
            segment.is_code_or_data()
                && !segment.is_code()
                && segment.kind() & 2 != 0
                && rpl == cpl
                && segment.dpl() == cpl
        } else {
            let is_conforming = segment.is_code() && segment.kind() & 4 != 0;
            segment.is_code_or_data()
                && (!segment.is_code() || segment.kind() & 2 != 0)
                && (is_conforming || segment.dpl() >= rpl.max(cpl))
        };
        if !is_valid {
            return Err(gp(selector));
        }
        if !segment.is_present() {
            let error = u32::from(selector & !3);
            let fault = if index == seg::SS {
                Exception::StackFault(error)
            } else {
                Exception::SegmentNotPresent(error)
            };
            return Err(fault.into());
        }
        self.mark_accessed(&mut segment)?;
        self.segments[index] = segment;
        self.update_context();
        Ok(())
    }

    /// Loads a null selector into ES, SS, DS, FS or GS.
    fn load_null(&mut self, index: usize, selector: u16) -> Step {
        let cpl = self.cpl();
        let is_stack = index == seg::SS;
        if is_stack && !(self.is_64_bit() && cpl < 3 && (selector & 3) as u8 == cpl) {
            return Err(GP0.into());
        }
        // A null SS keeps its DPL: that is where the CPL is kept.
        let (limit, attributes) = if is_stack {
            (u32::MAX, 0x93 | u16::from(cpl) << 5)
        } else {
            (0, 0)
        };
        self.segments[index] = Segment {
            selector,
            base: 0,
            limit,
            attributes,
        };
        self.update_context();
        Ok(())
    }

    /// MOV to and from segment registers, LDS and its kin.
    pub(crate) fn move_segment(&mut self, instruction: &Instruction) -> Step {
        let target = instruction.op0_register();
        if instruction.op0_kind() == OpKind::Register && target.is_segment_register() {
            if target == Register::CS {
                return Err(Exception::InvalidOpcode.into());
            }
            let selector = self.read_operand(instruction, 1, 2)? as u16;
            self.load_segment(segment_index(target), selector)?;
            if target == Register::SS {
                self.shadow_stack_change();
            }
            return Ok(());
        }
        let selector = u64::from(self.segments[segment_index(instruction.op1_register())].selector);
        self.write_operand(instruction, 0, 2, selector)
    }

    /// A load of SS holds interrupts and debug traps off for one instruction, so that RSP can follow.
    fn shadow_stack_change(&mut self) {
        self.pending.shadow = true;
        self.pending.delivered = true;
    }

    /// LDS, LES, LFS, LGS, LSS.
    pub(crate) fn load_far_pointer(&mut self, instruction: &Instruction) -> Step {
        let size = instruction.op0_register().size() as u8;
        let index = match instruction.mnemonic() {
            Mnemonic::Les => seg::ES,
            Mnemonic::Lds => seg::DS,
            Mnemonic::Lss => seg::SS,
            Mnemonic::Lfs => seg::FS,
            _ => seg::GS,
        };
        let linear = self.operand_linear(instruction, u64::from(size) + 2, false)?;
        let access = self.access(false);
        let offset = self.read_linear(linear, size, access)?;
        let selector = self.read_linear(linear.wrapping_add(u64::from(size)), 2, access)? as u16;
        self.load_segment(index, selector)?;
        self.set_register(instruction.op0_register(), offset);
        Ok(())
    }

    /// PUSH and POP of a segment register.
    pub(crate) fn push_segment(&mut self, instruction: &Instruction, size: u8) -> Step {
        let selector = self.segments[segment_index(instruction.op0_register())].selector;
        self.push(size, u64::from(selector))
    }

    pub(crate) fn pop_segment(&mut self, instruction: &Instruction, size: u8) -> Step {
        let selector = self.peek(0, size)? as u16;
        let index = segment_index(instruction.op0_register());
        let mask = self.stack_mask();
        let moved = self.moved_stack_pointer(i64::from(size));
        self.load_segment(index, selector)?;
        if index == seg::SS {
            self.shadow_stack_change();
        }
        let rsp = &mut self.block.gprs[vcpu::gpr::RSP];
        *rsp = if mask == 0xffff {
            *rsp & !0xffff | moved & 0xffff
        } else {
            moved
        };
        Ok(())
    }

    /// LTR and LLDT.
    pub(crate) fn load_task_register(&mut self, instruction: &Instruction) -> Step {
        let selector = self.read_operand(instruction, 0, 2)? as u16;
        let is_ltr = instruction.mnemonic() == Mnemonic::Ltr;
        if selector & !3 == 0 {
            if is_ltr {
                return Err(GP0.into());
            }
            self.ldtr = Segment {
                selector,
                ..Segment::default()
            };
            return Ok(());
        }
        if selector & 4 != 0 {
            return Err(gp(selector));
        }
        let mut segment = self.read_system_descriptor(selector)?;
        let is_right_kind = match (is_ltr, self.is_long_mode()) {
            (true, true) => segment.kind() == 9,
            (true, false) => matches!(segment.kind(), 1 | 9),
            (false, _) => segment.kind() == 2,
        };
        if segment.is_code_or_data() || !is_right_kind {
            return Err(gp(selector));
        }
        if !segment.is_present() {
            return Err(Exception::SegmentNotPresent(u32::from(selector & !3)).into());
        }
        if self.is_long_mode() && !Gva(segment.base).is_canonical() {
            return Err(gp(selector));
        }
        if is_ltr {
            let address = self.descriptor_address(selector, 8)?;
            segment.attributes |= 2;
            let byte = u64::from(segment.attributes & 0xff);
            self.write_linear(
                address.wrapping_add(5),
                1,
                byte,
                SoftVcpu::system_access(true),
            )?;
            self.tr = segment;
        } else {
            self.ldtr = segment;
        }
        Ok(())
    }

    /// LAR, LSL, VERR, VERW: what the selector's descriptor would allow; ZF tells.
    pub(crate) fn probe_selector(&mut self, instruction: &Instruction) -> Step {
        if self.is_real_or_v86() {
            return Err(Exception::InvalidOpcode.into());
        }
        let mnemonic = instruction.mnemonic();
        let op = u32::from(matches!(mnemonic, Mnemonic::Lar | Mnemonic::Lsl));
        let selector = self.read_operand(instruction, op, 2)? as u16;
        let found = if selector & !3 == 0 {
            None
        } else {
            match self.read_descriptor(selector) {
                Ok(segment) => self.probe(mnemonic, selector, segment),
                Err(Stop::Exception(Exception::GeneralProtection(_))) => None,
                Err(other) => return Err(other),
            }
        };
        let mut flags = self.rflags();
        flags.set(Rflags::ZF, found.is_some());
        self.set_rflags(flags);
        if let (1, Some(value)) = (op, found) {
            self.set_register(instruction.op0_register(), u64::from(value));
        }
        Ok(())
    }

    fn probe(&self, mnemonic: Mnemonic, selector: u16, segment: Segment) -> Option<u32> {
        let privilege = self.cpl().max((selector & 3) as u8);
        let is_conforming = segment.is_code() && segment.kind() & 4 != 0;
        if !is_conforming && segment.dpl() < privilege {
            return None;
        }
        let is_system = !segment.is_code_or_data();
        match mnemonic {
            Mnemonic::Verr => {
                (!is_system && (!segment.is_code() || segment.kind() & 2 != 0)).then_some(0)
            }
            Mnemonic::Verw => {
                (!is_system && !segment.is_code() && segment.kind() & 2 != 0).then_some(0)
            }
            Mnemonic::Lar => {
                let is_known = !is_system
                    || match self.is_long_mode() {
                        true => matches!(segment.kind(), 2 | 9 | 0xb | 0xc),
                        false => matches!(segment.kind(), 1..=5 | 9 | 0xb | 0xc),
                    };
                is_known.then(|| u32::from(segment.attributes) << 8)
            }
            _ => {
                let is_known = !is_system
                    || match self.is_long_mode() {
                        true => matches!(segment.kind(), 2 | 9 | 0xb),
                        false => matches!(segment.kind(), 1..=3 | 9 | 0xb),
                    };
                is_known.then_some(segment.limit)
            }
        }
    }
}
