//! Call gates: far jumps and calls to code that a descriptor names, to more privilege if it says so (APM vol. 2, 4.11.2).

use x86::{Exception, Gva, Segment};

use crate::block::seg;
use crate::cpu::{GP0, SoftVcpu, Step};

/// Descriptor types: the 80286's gate with 16-bit words, and that with 32-bit ones, which is long mode's with 64-bit ones.
const NARROW: u8 = 4;
const WIDE: u8 = 0xc;

/// A call gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallGate {
    selector: u16,
    offset: u64,
    /// Bytes of a word on the stack.
    size: u8,
    /// Words that are copied from the caller's stack.
    parameters: u8,
}

fn error_code(selector: u16) -> u32 {
    u32::from(selector & !3)
}

impl SoftVcpu {
    /// The call gate that a far jump or call to `selector` goes through; `None` if it names something else.
    pub(crate) fn gate_behind(&mut self, selector: u16) -> Step<Option<CallGate>> {
        if self.is_real_or_v86() || selector & !3 == 0 {
            return Ok(None);
        }
        let is_long = self.is_long_mode();
        let descriptor = self.read_descriptor(selector)?;
        let kind = descriptor.kind();
        let is_gate = kind == WIDE || kind == NARROW && !is_long;
        if descriptor.is_code_or_data() || !is_gate {
            return Ok(None);
        }
        let error = error_code(selector);
        let forbidden = Exception::GeneralProtection(error);
        if descriptor.dpl() < self.cpl().max((selector & 3) as u8) {
            return Err(forbidden.into());
        }
        let access = SoftVcpu::system_access(false);
        let len = if is_long { 16 } else { 8 };
        let address = self.descriptor_address(selector, len)?;
        let low = self.read_linear(address, 8, access)?;
        let high = match is_long {
            true => self.read_linear(address.wrapping_add(8), 8, access)?,
            false => 0,
        };
        // A type in the upper half would make a descriptor of it.
        if high >> 40 & 0x1f != 0 {
            return Err(forbidden.into());
        }
        if !descriptor.is_present() {
            return Err(Exception::SegmentNotPresent(error).into());
        }
        let offset = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
        Ok(Some(CallGate {
            selector: (low >> 16) as u16,
            offset: if kind == NARROW {
                offset & 0xffff
            } else {
                offset
            },
            size: match (is_long, kind) {
                (true, _) => 8,
                (false, WIDE) => 4,
                _ => 2,
            },
            parameters: if is_long { 0 } else { (low >> 32 & 0x1f) as u8 },
        }))
    }

    /// The code that a gate leads to, judged, and the privilege that it runs at.
    fn gate_code(&mut self, gate: &CallGate, is_call: bool) -> Step<(Segment, u8)> {
        if gate.selector & !3 == 0 {
            return Err(GP0.into());
        }
        let mut code = self.read_descriptor(gate.selector)?;
        let cpl = self.cpl();
        let is_conforming = code.kind() & 4 != 0;
        let may_raise = is_call || is_conforming;
        let is_allowed = code.dpl() == cpl || may_raise && code.dpl() < cpl;
        let is_bad_long = self.is_long_mode() && (!code.is_long() || code.is_big());
        if !code.is_code() || !is_allowed || is_bad_long {
            return Err(Exception::GeneralProtection(error_code(gate.selector)).into());
        }
        if !code.is_present() {
            return Err(Exception::SegmentNotPresent(error_code(gate.selector)).into());
        }
        self.check_target(&code, gate.offset)?;
        self.mark_accessed(&mut code)?;
        let new_cpl = if is_conforming { cpl } else { code.dpl() };
        code.selector = gate.selector & !3 | u16::from(new_cpl);
        Ok((code, new_cpl))
    }

    fn go_to_gate(&mut self, code: Segment, gate: &CallGate) {
        self.segments[seg::CS] = code;
        self.block.rip = gate.offset;
        self.update_context();
    }

    /// JMP through a gate.
    pub(crate) fn jump_through(&mut self, gate: &CallGate) -> Step {
        let (code, _) = self.gate_code(gate, false)?;
        self.go_to_gate(code, gate);
        Ok(())
    }

    /// CALL through a gate.
    pub(crate) fn call_through(&mut self, gate: &CallGate, next_rip: u64) -> Step {
        let (code, new_cpl) = self.gate_code(gate, true)?;
        let old_cs = u64::from(self.segments[seg::CS].selector);
        let size = gate.size;
        if new_cpl == self.cpl() {
            let first = self.moved_stack_pointer(-i64::from(size));
            let second = self.moved_stack_pointer(-2 * i64::from(size));
            self.store_stack(first, size, old_cs)?;
            self.store_stack(second, size, next_rip)?;
            self.block.gprs[vcpu::gpr::RSP] = second;
            self.go_to_gate(code, gate);
            return Ok(());
        }
        let mut words = vec![
            u64::from(self.segments[seg::SS].selector),
            self.block.gprs[vcpu::gpr::RSP],
        ];
        for number in (0..u64::from(gate.parameters)).rev() {
            words.push(self.peek(number * u64::from(size), size)?);
        }
        words.extend([old_cs, next_rip]);
        let (ss, rsp) = self.inner_stack(new_cpl)?;
        let rsp = self.push_words(&ss, rsp, size, &words)?;
        self.segments[seg::SS] = ss;
        self.block.gprs[vcpu::gpr::RSP] = rsp;
        self.go_to_gate(code, gate);
        Ok(())
    }

    /// The stack that the TSS has for a privilege.
    fn inner_stack(&mut self, cpl: u8) -> Step<(Segment, u64)> {
        if !self.is_long_mode() {
            return self.tss_stack_32(cpl);
        }
        let rsp = self.tss_stack_64(u64::from(cpl) * 8 + 4)?;
        Ok((SoftVcpu::null_stack(cpl), rsp))
    }

    /// Pushes words on a stack that is not the current one yet; returns where its pointer is then.
    fn push_words(&mut self, ss: &Segment, rsp: u64, size: u8, words: &[u64]) -> Step<u64> {
        let mask = match (size, ss.is_big()) {
            (8, _) => u64::MAX,
            (_, true) => 0xffff_ffff,
            _ => 0xffff,
        };
        let mut rsp = rsp;
        for &word in words {
            rsp = rsp & !mask | rsp.wrapping_sub(u64::from(size)) & mask;
            let linear = ss.base.wrapping_add(rsp & mask);
            let linear = if size == 8 {
                linear
            } else {
                linear & 0xffff_ffff
            };
            if size == 8 && !Gva(linear).is_canonical() {
                return Err(Exception::StackFault(0).into());
            }
            self.write_linear(linear, size, word, SoftVcpu::system_access(true))?;
        }
        Ok(rsp)
    }
}
