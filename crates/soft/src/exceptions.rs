//! Delivery of exceptions and interrupts through the IDT (APM vol. 2, chapter 8), and what happens when delivery
//! itself fails: double fault, then shutdown.

use vcpu::{At, TripleFault, What};
use x86::{Exception, Rflags, Segment, Vector};

use crate::block::seg;
use crate::cpu::{SoftVcpu, Step, Stop};

/// Where an event comes from; decides about privilege checks and the error code's EXT bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// A fault or trap of the processor.
    Exception,
    /// An external interrupt or NMI.
    External,
    /// INT n, INT3, INTO.
    Software,
}

/// An event on its way through the IDT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) vector: Vector,
    pub(crate) error_code: Option<u32>,
    pub(crate) source: Source,
    /// RIP to push: of the faulting instruction, or behind a trapping one.
    pub(crate) return_rip: u64,
}

/// What leads to another task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Switch {
    Jump,
    /// The new task may come back by IRET.
    Call,
    /// IRET with NT set.
    Return,
    /// An exception or interrupt through a task gate.
    Event {
        /// The error codes of faults have EXT set.
        is_external: bool,
    },
}

/// A gate descriptor of the IDT.
struct Gate {
    offset: u64,
    selector: u16,
    kind: u8,
    dpl: u8,
    ist: u8,
}

impl SoftVcpu {
    /// Raises a fault of the instruction at RIP. A fault during delivery becomes a double fault, and one during
    /// that a shutdown, which is the returned error.
    pub(crate) fn raise(&mut self, exception: Exception) -> Result<(), TripleFault> {
        self.counters.exceptions += 1;
        let first_vector = Some(exception.vector());
        let rip = self.block.rip;
        let mut current = exception;
        loop {
            let Err(next) = self.deliver_exception(current) else {
                return Ok(());
            };
            let is_fault_like = |exception: Exception| {
                exception.is_contributory() || matches!(exception, Exception::PageFault { .. })
            };
            current = match current {
                Exception::DoubleFault => return Err(TripleFault { first_vector, rip }),
                Exception::PageFault { .. } if is_fault_like(next) => Exception::DoubleFault,
                _ if current.is_contributory() && next.is_contributory() => Exception::DoubleFault,
                _ => next,
            };
        }
    }

    fn deliver_exception(&mut self, exception: Exception) -> Result<(), Exception> {
        match exception {
            Exception::PageFault { address, .. } => self.cr2 = address,
            Exception::Debug { dr6 } => {
                self.debug.dr6 = self.debug.dr6 & !0xf | dr6 | 0xffff_0ff0;
                self.debug.dr7 &= !(1 << 13);
                self.update_context();
            }
            _ => {}
        }
        let event = Event {
            vector: exception.vector(),
            error_code: exception.error_code(),
            source: Source::Exception,
            return_rip: self.block.rip,
        };
        self.deliver(event)
    }

    /// Takes an event: pushes the frame and goes to the handler. Nothing has changed if this fails.
    pub(crate) fn deliver(&mut self, event: Event) -> Result<(), Exception> {
        self.spot.begin(At::plain(What::Event), self.block.rip);
        self.pending.halted = false;
        let done = if !self.is_protected() {
            self.deliver_real(event)
        } else if self.is_long_mode() {
            self.deliver_long(event)
        } else {
            self.deliver_protected(event)
        };
        done.map_err(|stop| match stop {
            Stop::Exception(exception) => exception,
            // A stack or table in device memory: no real system has one.
            Stop::Ask(_) | Stop::Again => Exception::GeneralProtection(0),
        })
    }

    fn selector_error(vector: Vector, source: Source) -> u32 {
        u32::from(vector) << 3 | 2 | u32::from(source != Source::Software)
    }

    fn gate(&mut self, event: Event) -> Step<Gate> {
        let size = if self.is_long_mode() { 16 } else { 8 };
        let error = SoftVcpu::selector_error(event.vector, event.source);
        let at = u64::from(event.vector) * size;
        if at + size - 1 > u64::from(self.idtr.limit) {
            return Err(Exception::GeneralProtection(error).into());
        }
        let address = self.idtr.base.wrapping_add(at);
        let access = SoftVcpu::system_access(false);
        let low = self.read_linear(address, 8, access)?;
        let high = if size == 16 {
            self.read_linear(address.wrapping_add(8), 8, access)?
        } else {
            0
        };
        let kind = (low >> 40 & 0x1f) as u8;
        let gate = Gate {
            offset: low & 0xffff | low >> 32 & 0xffff_0000 | high << 32,
            selector: (low >> 16) as u16,
            kind,
            dpl: (low >> 45 & 3) as u8,
            ist: if size == 16 { (low >> 32 & 7) as u8 } else { 0 },
        };
        let is_known = match size {
            16 => matches!(kind, 0xe | 0xf),
            _ => matches!(kind, 5 | 6 | 7 | 0xe | 0xf),
        };
        if !is_known || event.source == Source::Software && gate.dpl < self.cpl() {
            return Err(Exception::GeneralProtection(error).into());
        }
        if low >> 47 & 1 == 0 {
            return Err(Exception::SegmentNotPresent(error).into());
        }
        Ok(gate)
    }

    /// The handler's code segment and the privilege it runs at.
    fn handler_segment(&mut self, gate: &Gate, source: Source) -> Step<(Segment, u8)> {
        let ext = u32::from(source != Source::Software);
        let error = u32::from(gate.selector & !3) | ext;
        if gate.selector & !3 == 0 {
            return Err(Exception::GeneralProtection(ext).into());
        }
        let segment = self
            .read_descriptor(gate.selector)
            .map_err(|stop| match stop {
                Stop::Exception(Exception::GeneralProtection(_)) => {
                    Exception::GeneralProtection(error).into()
                }
                other => other,
            })?;
        if !segment.is_code() || segment.dpl() > self.cpl() {
            return Err(Exception::GeneralProtection(error).into());
        }
        if !segment.is_present() {
            return Err(Exception::SegmentNotPresent(error).into());
        }
        if self.is_long_mode() && (!segment.is_long() || segment.is_big()) {
            return Err(Exception::GeneralProtection(error).into());
        }
        let is_conforming = segment.kind() & 4 != 0;
        let cpl = if is_conforming {
            self.cpl()
        } else {
            segment.dpl()
        };
        Ok((segment, cpl))
    }

    fn deliver_long(&mut self, event: Event) -> Step {
        let gate = self.gate(event)?;
        let (code, new_cpl) = self.handler_segment(&gate, event.source)?;
        let old_cpl = self.cpl();
        let rsp = if gate.ist != 0 {
            self.tss_stack_64(u64::from(gate.ist) * 8 + 28)?
        } else if new_cpl < old_cpl {
            self.tss_stack_64(u64::from(new_cpl) * 8 + 4)?
        } else {
            self.block.gprs[vcpu::gpr::RSP]
        };
        let mut frame = rsp & !0xf;
        let flags = self.pushed_flags(event);
        let words = [
            u64::from(self.segments[seg::SS].selector),
            self.block.gprs[vcpu::gpr::RSP],
            flags,
            u64::from(self.segments[seg::CS].selector),
            event.return_rip,
        ];
        let error_words = event.error_code.map(u64::from);
        let mut bytes = [0; 48];
        let count = words.len() + usize::from(error_words.is_some());
        for (index, word) in words.into_iter().chain(error_words).enumerate() {
            let at = (count - 1 - index) * 8;
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        frame = frame.wrapping_sub(count as u64 * 8);
        let mut access = SoftVcpu::system_access(true);
        access.user = new_cpl == 3;
        let is_canonical = x86::Gva(frame).is_canonical();
        if !is_canonical {
            return Err(Exception::StackFault(u32::from(event.source != Source::Software)).into());
        }
        self.write_bytes(frame, &bytes[..count * 8], access)?;
        self.block.gprs[vcpu::gpr::RSP] = frame;
        if new_cpl < old_cpl {
            self.segments[seg::SS] = SoftVcpu::null_stack(new_cpl);
        }
        let selector = gate.selector & !3 | u16::from(new_cpl);
        self.segments[seg::CS] = Segment { selector, ..code };
        self.block.rip = gate.offset;
        self.enter_handler(gate.kind);
        Ok(())
    }

    /// The stack segment in long mode becomes null with a new privilege.
    pub(crate) fn null_stack(cpl: u8) -> Segment {
        Segment {
            selector: u16::from(cpl),
            attributes: 0x80 | u16::from(cpl) << 5 | 0x13,
            limit: u32::MAX,
            base: 0,
        }
    }

    /// RFLAGS as delivery pushes them: a fault sets RF so that the instruction can be resumed past a breakpoint.
    fn pushed_flags(&self, event: Event) -> u64 {
        let mut flags = self.rflags();
        let is_fault = event.source == Source::Exception && !matches!(event.vector, 1 | 3 | 4 | 8);
        if is_fault {
            flags |= Rflags::RF;
        }
        flags.bits()
    }

    fn enter_handler(&mut self, gate_kind: u8) {
        let mut flags = self.rflags() - (Rflags::TF | Rflags::NT | Rflags::RF | Rflags::VM);
        if gate_kind & 1 == 0 {
            flags -= Rflags::IF;
        }
        self.set_rflags(flags);
        self.pending.shadow = false;
        self.show_context();
    }

    /// A stack pointer from the 64-bit TSS.
    pub(crate) fn tss_stack_64(&mut self, offset: u64) -> Step<u64> {
        if offset + 7 > u64::from(self.tr.limit) {
            return Err(Exception::InvalidTss(u32::from(self.tr.selector & !3)).into());
        }
        let rsp = self.read_linear(
            self.tr.base.wrapping_add(offset),
            8,
            SoftVcpu::system_access(false),
        )?;
        if !x86::Gva(rsp).is_canonical() {
            return Err(Exception::StackFault(0).into());
        }
        Ok(rsp)
    }

    fn deliver_real(&mut self, event: Event) -> Step {
        let at = u64::from(event.vector) * 4;
        if at + 3 > u64::from(self.idtr.limit) {
            return Err(Exception::GeneralProtection(0).into());
        }
        let access = SoftVcpu::system_access(false);
        let pointer = self.read_linear(self.idtr.base + at, 4, access)?;
        let words = [
            self.rflags().bits() as u16,
            self.segments[seg::CS].selector,
            event.return_rip as u16,
        ];
        let mut sp = self.block.gprs[vcpu::gpr::RSP] as u16;
        let base = self.segments[seg::SS].base;
        for word in words {
            sp = sp.wrapping_sub(2);
            self.write_linear(
                base + u64::from(sp),
                2,
                u64::from(word),
                SoftVcpu::system_access(true),
            )?;
        }
        let rsp = &mut self.block.gprs[vcpu::gpr::RSP];
        *rsp = *rsp & !0xffff | u64::from(sp);
        let attributes = self.segments[seg::CS].attributes;
        self.segments[seg::CS] = Segment::real((pointer >> 16) as u16, attributes);
        self.block.rip = pointer & 0xffff;
        let flags = self.rflags() - (Rflags::TF | Rflags::IF | Rflags::AC);
        self.set_rflags(flags);
        self.update_context();
        Ok(())
    }

    fn deliver_protected(&mut self, event: Event) -> Step {
        let gate = self.gate(event)?;
        if gate.kind == 5 {
            let is_external = event.source != Source::Software;
            let how = Switch::Event { is_external };
            self.switch_task(gate.selector, how, event.return_rip)?;
            self.pending.shadow = false;
            return event
                .error_code
                .map_or(Ok(()), |code| self.push_for_task(code));
        }
        let (code, new_cpl) = self.handler_segment(&gate, event.source)?;
        let was_v86 = self.is_v86();
        if was_v86 && new_cpl != 0 {
            let ext = u32::from(event.source != Source::Software);
            let error = u32::from(gate.selector & !3) | ext;
            return Err(Exception::GeneralProtection(error).into());
        }
        let size: u8 = if gate.kind & 8 != 0 { 4 } else { 2 };
        let old_ss = self.segments[seg::SS];
        let old_esp = self.block.gprs[vcpu::gpr::RSP];
        let changes_stack = new_cpl < self.cpl();
        let flags = self.pushed_flags(event);
        let (ss, mut esp) = if changes_stack {
            self.tss_stack_32(new_cpl)?
        } else {
            (old_ss, old_esp)
        };
        let mut words = Vec::with_capacity(10);
        if was_v86 {
            let selector = |index: usize| u64::from(self.segments[index].selector);
            words.extend([seg::GS, seg::FS, seg::DS, seg::ES].map(selector));
        }
        if changes_stack {
            words.extend([u64::from(old_ss.selector), old_esp]);
        }
        words.extend([
            flags,
            u64::from(self.segments[seg::CS].selector),
            event.return_rip,
        ]);
        words.extend(event.error_code.map(u64::from));
        let mask = if ss.is_big() { 0xffff_ffff } else { 0xffff };
        let mut access = SoftVcpu::system_access(true);
        access.user = new_cpl == 3;
        for word in words {
            esp = esp & !mask | esp.wrapping_sub(u64::from(size)) & mask;
            let linear = ss.base.wrapping_add(esp & mask) & 0xffff_ffff;
            self.write_linear(linear, size, word, access)?;
        }
        if was_v86 {
            self.drop_v86_segments();
        }
        self.segments[seg::SS] = ss;
        self.block.gprs[vcpu::gpr::RSP] = esp;
        let selector = gate.selector & !3 | u16::from(new_cpl);
        self.segments[seg::CS] = Segment { selector, ..code };
        self.block.rip = if size == 4 {
            gate.offset & 0xffff_ffff
        } else {
            gate.offset & 0xffff
        };
        self.enter_handler(gate.kind);
        Ok(())
    }

    /// Stack segment and pointer for a privilege from the 32-bit TSS.
    pub(crate) fn tss_stack_32(&mut self, cpl: u8) -> Step<(Segment, u64)> {
        let access = SoftVcpu::system_access(false);
        let error = u32::from(self.tr.selector & !3);
        let is_32 = self.tr.kind() & 8 != 0;
        let (at, size) = if is_32 {
            (u64::from(cpl) * 8 + 4, 4)
        } else {
            (u64::from(cpl) * 4 + 2, 2)
        };
        if at + 2 * u64::from(size) - 1 > u64::from(self.tr.limit) {
            return Err(Exception::InvalidTss(error).into());
        }
        let esp = self.read_linear(self.tr.base + at, size, access)?;
        let selector = self.read_linear(self.tr.base + at + u64::from(size), 2, access)? as u16;
        let ss = self.read_descriptor(selector)?;
        let is_writable = ss.is_code_or_data() && !ss.is_code() && ss.kind() & 2 != 0;
        if !is_writable || ss.dpl() != cpl {
            return Err(Exception::InvalidTss(u32::from(selector & !3)).into());
        }
        Ok((ss, esp))
    }

    /// Takes an external interrupt.
    pub(crate) fn deliver_interrupt(&mut self, vector: Vector) -> Result<(), TripleFault> {
        self.counters.interrupts += 1;
        let event = Event {
            vector,
            error_code: None,
            source: Source::External,
            return_rip: self.block.rip,
        };
        match self.deliver(event) {
            Ok(()) => Ok(()),
            Err(exception) => self.raise(exception),
        }
    }
}
