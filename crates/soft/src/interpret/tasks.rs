//! Hardware task switches, outside long mode (APM vol. 2, chapter 12; SDM vol. 3, chapter 8).
//!
//! A far jump or call to a TSS descriptor, a task gate, and IRET with NT set store the processor's registers in the TSS
//! of the task that was, and load them from the TSS of the task that comes. Kernels use it for one thing if at all: a
//! task gate for #DF, which needs a stack that is surely there.
//!
//! Up to the point of no return, which is where TR changes, a fault is the old task's. Behind it RIP, registers and
//! flags are the new task's, and what its TSS has wrong is the new task's fault.

use x86::{Cr0, Exception, Rflags, Segment};

use crate::block::seg;
use crate::cpu::{SoftVcpu, Step, Stop};
use crate::exceptions::Switch;

/// Where a TSS keeps what: with 32-bit words, or the 80286's with 16-bit ones.
struct Layout {
    /// Bytes of a word.
    size: u8,
    ip: u64,
    flags: u64,
    /// AX, CX, DX, BX, SP, BP, SI, DI.
    gprs: u64,
    /// ES, CS, SS, DS, and FS, GS where there are any: each as wide as a word.
    selectors: u64,
    selector_count: usize,
    ldt: u64,
    /// Smallest limit.
    limit: u32,
}

const WIDE: Layout = Layout {
    size: 4,
    ip: 0x20,
    flags: 0x24,
    gprs: 0x28,
    selectors: 0x48,
    selector_count: 6,
    ldt: 0x60,
    limit: 0x67,
};
const NARROW: Layout = Layout {
    size: 2,
    ip: 0x0e,
    flags: 0x10,
    gprs: 0x12,
    selectors: 0x22,
    selector_count: 4,
    ldt: 0x2a,
    limit: 0x2b,
};
/// CR3 and the word whose bit 0 asks for a debug trap, in a wide TSS.
const CR3: u64 = 0x1c;
const TRAP: u64 = 0x64;
/// Descriptor types: an available TSS and a task gate. Bit 3 of a TSS's says that it is wide, bit 1 that it is busy.
const TSS: u8 = 1;
const WIDE_TSS: u8 = 8;
const BUSY: u8 = 2;
const TASK_GATE: u8 = 5;

/// A task as its TSS has it.
struct Task {
    cr3: Option<u64>,
    ip: u64,
    flags: Rflags,
    gprs: [u64; 8],
    selectors: [u16; 6],
    ldt: u16,
    traps: bool,
}

fn layout(tss: &Segment) -> &'static Layout {
    if tss.kind() & WIDE_TSS != 0 {
        &WIDE
    } else {
        &NARROW
    }
}

impl SoftVcpu {
    /// The TSS selector that a far jump or call to `selector` means, directly or through a task gate.
    pub(crate) fn task_behind(&mut self, selector: u16) -> Step<Option<u16>> {
        if self.is_real_or_v86() || self.is_long_mode() || selector & !3 == 0 {
            return Ok(None);
        }
        let descriptor = self.read_descriptor(selector)?;
        let is_gate = descriptor.kind() == TASK_GATE;
        let is_tss = descriptor.kind() & !(WIDE_TSS | BUSY) == TSS;
        if descriptor.is_code_or_data() || !is_gate && !is_tss {
            return Ok(None);
        }
        let error = u32::from(selector & !3);
        if descriptor.dpl() < self.cpl().max((selector & 3) as u8) {
            return Err(Exception::GeneralProtection(error).into());
        }
        if !descriptor.is_present() {
            return Err(Exception::SegmentNotPresent(error).into());
        }
        // A gate has its selector where other descriptors have the low half of their base.
        Ok(Some(if is_gate {
            descriptor.base as u16
        } else {
            selector
        }))
    }

    /// Back to the task that the current one's TSS links to.
    pub(crate) fn return_to_task(&mut self, next_rip: u64) -> Step {
        let access = SoftVcpu::system_access(false);
        let link = self.read_linear(self.tr.base, 2, access)? as u16;
        self.switch_task(link, Switch::Return, next_rip)
    }

    /// Switches to the task of TSS `selector`. `next_rip` is where the old task will go on.
    pub(crate) fn switch_task(&mut self, selector: u16, how: Switch, next_rip: u64) -> Step {
        let mut tss = self.task_segment(selector, how)?;
        let task = self.read_task(&tss)?;
        self.save_task(how, next_rip)?;
        let old_selector = self.tr.selector;
        if matches!(how, Switch::Jump | Switch::Return) {
            self.mark_busy(old_selector, false)?;
        }
        if how != Switch::Return {
            self.mark_busy(selector, true)?;
        }
        let is_nested = matches!(how, Switch::Call | Switch::Event { .. });
        if is_nested {
            let access = SoftVcpu::system_access(true);
            self.write_linear(tss.base, 2, u64::from(old_selector), access)?;
        }
        tss.attributes |= u16::from(BUSY);
        self.tr = tss;
        self.load_task(&task, is_nested)?;
        if task.traps {
            return Err(Exception::Debug { dr6: 1 << 15 }.into());
        }
        Ok(())
    }

    /// The descriptor of the new task's TSS, judged.
    fn task_segment(&mut self, selector: u16, how: Switch) -> Step<Segment> {
        let error = error_code(selector, how);
        let bad = if how == Switch::Return {
            Exception::InvalidTss(error)
        } else {
            Exception::GeneralProtection(error)
        };
        if selector & 4 != 0 || selector & !3 == 0 {
            return Err(bad.into());
        }
        let tss = self.read_descriptor(selector).map_err(|stop| match stop {
            Stop::Exception(Exception::GeneralProtection(_)) => bad.into(),
            other => other,
        })?;
        let wanted = if how == Switch::Return {
            TSS | BUSY
        } else {
            TSS
        };
        if tss.is_code_or_data() || tss.kind() & !WIDE_TSS != wanted {
            return Err(bad.into());
        }
        if !tss.is_present() {
            return Err(Exception::SegmentNotPresent(error).into());
        }
        if tss.limit < layout(&tss).limit {
            return Err(Exception::InvalidTss(error).into());
        }
        Ok(tss)
    }

    fn read_task(&mut self, tss: &Segment) -> Step<Task> {
        let layout = layout(tss);
        let mut read = |at: u64, size: u8| {
            let linear = tss.base.wrapping_add(at) & 0xffff_ffff;
            self.read_linear(linear, size, SoftVcpu::system_access(false))
        };
        let size = layout.size;
        let is_wide = size == 4;
        let mut task = Task {
            cr3: None,
            ip: read(layout.ip, size)?,
            flags: Rflags::from_bits_retain(read(layout.flags, size)?),
            gprs: [0; 8],
            selectors: [0; 6],
            ldt: read(layout.ldt, 2)? as u16,
            traps: is_wide && read(TRAP, 2)? & 1 != 0,
        };
        if is_wide {
            task.cr3 = Some(read(CR3, 4)?);
        }
        for (number, value) in (0..).zip(&mut task.gprs) {
            *value = read(layout.gprs + number * u64::from(size), size)?;
        }
        let selectors = task.selectors.iter_mut().take(layout.selector_count);
        for (number, value) in (0..).zip(selectors) {
            *value = read(layout.selectors + number * u64::from(size), 2)? as u16;
        }
        Ok(task)
    }

    /// Stores the current task in its TSS.
    fn save_task(&mut self, how: Switch, next_rip: u64) -> Step {
        let layout = layout(&self.tr);
        let mut flags = self.rflags();
        if how == Switch::Return {
            flags -= Rflags::NT;
        }
        let base = self.tr.base;
        let gprs = self.block.gprs;
        let selectors = self.segments.each_ref().map(|segment| segment.selector);
        let mut write = |at: u64, size: u8, value: u64| {
            let linear = base.wrapping_add(at) & 0xffff_ffff;
            self.write_linear(linear, size, value, SoftVcpu::system_access(true))
        };
        write(layout.ip, layout.size, next_rip)?;
        write(layout.flags, layout.size, flags.bits())?;
        for (at, value) in (layout.gprs..)
            .step_by(usize::from(layout.size))
            .zip(&gprs[..8])
        {
            write(at, layout.size, *value)?;
        }
        let places = (layout.selectors..).step_by(usize::from(layout.size));
        for (at, selector) in places.zip(selectors).take(layout.selector_count) {
            write(at, 2, u64::from(selector))?;
        }
        Ok(())
    }

    /// Sets or clears the busy bit of a TSS's descriptor.
    fn mark_busy(&mut self, selector: u16, is_busy: bool) -> Step {
        let at = u64::from(selector & !7);
        let linear = self.gdtr.base.wrapping_add(at + 5);
        let access = SoftVcpu::system_access(true);
        self.update_locked(linear, 1, access, |byte| {
            byte & !u64::from(BUSY) | u64::from(is_busy) << 1
        })?;
        Ok(())
    }

    /// Loads a task, whose TSS TR names already.
    fn load_task(&mut self, task: &Task, is_nested: bool) -> Step {
        self.cr0 |= Cr0::TS;
        // Breakpoints of the old task alone are off in the new one.
        self.debug.dr7 &= !0x155;
        if let Some(cr3) = task.cr3.filter(|_| self.cr0.contains(Cr0::PG)) {
            self.write_cr3(cr3)?;
        }
        self.block.rip = task.ip;
        let is_wide = task.cr3.is_some();
        for (register, value) in self.block.gprs.iter_mut().zip(task.gprs) {
            *register = if is_wide {
                value
            } else {
                *register & 0xffff_0000 | value
            };
        }
        let mut flags = task.flags;
        flags.set(Rflags::NT, is_nested || flags.contains(Rflags::NT));
        self.set_rflags(flags);
        // Until they are loaded, segments have their selectors and nothing behind them. The CPL is SS's.
        let cpl = (task.selectors[seg::CS] & 3) as u8;
        for (segment, &selector) in self.segments.iter_mut().zip(&task.selectors) {
            *segment = Segment {
                selector,
                ..Segment::default()
            };
        }
        self.segments[seg::SS].attributes = u16::from(cpl) << 5;
        self.update_context();
        self.load_task_table(task)?;
        if self.is_v86() {
            self.load_v86_segments(task.selectors);
            return self.check_task_ip(&self.segments[seg::CS].clone());
        }
        self.load_task_code(task)?;
        for index in [seg::SS, seg::ES, seg::DS, seg::FS, seg::GS] {
            self.load_task_data(index, task.selectors[index], cpl)?;
        }
        self.update_context();
        Ok(())
    }

    fn load_task_table(&mut self, task: &Task) -> Step {
        self.ldtr = Segment {
            selector: task.ldt,
            ..Segment::default()
        };
        if task.ldt & !3 != 0 {
            let table = self.task_descriptor(task.ldt)?;
            let is_table = !table.is_code_or_data() && table.kind() == 2 && task.ldt & 4 == 0;
            if !is_table || !table.is_present() {
                return Err(Exception::InvalidTss(u32::from(task.ldt & !3)).into());
            }
            self.ldtr = table;
        }
        Ok(())
    }

    fn load_task_code(&mut self, task: &Task) -> Step {
        let invalid = |selector: u16| Stop::from(Exception::InvalidTss(u32::from(selector & !3)));
        let selector = task.selectors[seg::CS];
        let mut code = self.task_descriptor(selector)?;
        let rpl = (selector & 3) as u8;
        let is_allowed = if code.kind() & 4 != 0 {
            code.dpl() <= rpl
        } else {
            code.dpl() == rpl
        };
        if !code.is_code() || !is_allowed {
            return Err(invalid(selector));
        }
        if !code.is_present() {
            return Err(Exception::SegmentNotPresent(u32::from(selector & !3)).into());
        }
        self.mark_accessed(&mut code)?;
        self.segments[seg::CS] = code;
        self.check_task_ip(&code)
    }

    fn check_task_ip(&self, code: &Segment) -> Step {
        if self.block.rip > u64::from(code.limit) {
            return Err(Exception::GeneralProtection(0).into());
        }
        Ok(())
    }

    /// A descriptor that a TSS names; #TS if it names none.
    fn task_descriptor(&mut self, selector: u16) -> Step<Segment> {
        let invalid = Exception::InvalidTss(u32::from(selector & !3));
        if selector & !3 == 0 {
            return Err(invalid.into());
        }
        self.read_descriptor(selector).map_err(|stop| match stop {
            Stop::Exception(Exception::GeneralProtection(_)) => invalid.into(),
            other => other,
        })
    }

    fn load_task_data(&mut self, index: usize, selector: u16, cpl: u8) -> Step {
        let is_stack = index == seg::SS;
        if selector & !3 == 0 && !is_stack {
            return Ok(());
        }
        let mut segment = self.task_descriptor(selector)?;
        let rpl = (selector & 3) as u8;
        let is_writable = !segment.is_code() && segment.kind() & 2 != 0;
        let is_readable = !segment.is_code() || segment.kind() & 2 != 0;
        let is_conforming = segment.is_code() && segment.kind() & 4 != 0;
        let is_allowed = if is_stack {
            is_writable && rpl == cpl && segment.dpl() == cpl
        } else {
            is_readable && (is_conforming || segment.dpl() >= rpl.max(cpl))
        };
        let error = u32::from(selector & !3);
        if !segment.is_code_or_data() || !is_allowed {
            return Err(Exception::InvalidTss(error).into());
        }
        if !segment.is_present() {
            return Err(if is_stack {
                Exception::StackFault(error)
            } else {
                Exception::SegmentNotPresent(error)
            }
            .into());
        }
        self.mark_accessed(&mut segment)?;
        self.segments[index] = segment;
        Ok(())
    }

    /// The error code of an event, on the stack of the task that its gate led to.
    pub(crate) fn push_for_task(&mut self, error_code: u32) -> Step {
        let size = layout(&self.tr).size;
        let ss = self.segments[seg::SS];
        let mask = if ss.is_big() { 0xffff_ffff } else { 0xffff };
        let rsp = self.block.gprs[vcpu::gpr::RSP];
        let moved = rsp & !mask | rsp.wrapping_sub(u64::from(size)) & mask;
        let linear = ss.base.wrapping_add(moved & mask) & 0xffff_ffff;
        let access = self.access(true);
        self.write_linear(linear, size, u64::from(error_code), access)?;
        self.block.gprs[vcpu::gpr::RSP] = moved;
        Ok(())
    }
}

fn error_code(selector: u16, how: Switch) -> u32 {
    let ext = matches!(how, Switch::Event { is_external: true });
    u32::from(selector & !3) | u32::from(ext)
}
