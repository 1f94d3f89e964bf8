//! Virtual-8086 mode: the way in by IRET or a task, and what delivery of an event leaves behind (APM vol. 2, 12 and 8.9.4).
//!
//! In it selectors are addresses, everything runs at CPL 3, and IOPL decides whether CLI, STI, PUSHF, POPF, INT n
//! and IRET do what they say or fault. Its extensions (CR4.VME) are not offered.

use x86::{Rflags, Segment};

use crate::block::seg;
use crate::cpu::{GP0, SoftVcpu, Step};

/// Present, CPL 3, data that may be written.
const ATTRIBUTES: u16 = 0xf3;

impl SoftVcpu {
    /// The part of IRET that goes to virtual-8086 mode: what it needs lies behind EFLAGS on the stack.
    pub(crate) fn return_to_v86(&mut self, selector: u16, offset: u64, flags: Rflags) -> Step {
        // ESP, SS, ES, DS, FS, GS.
        let mut words = [0; 6];
        for (number, word) in (3..).zip(&mut words) {
            *word = self.peek(number * 4, 4)?;
        }
        let [esp, ss, es, ds, fs, gs] = words;
        if offset > 0xffff {
            return Err(GP0.into());
        }
        let others = [ss, es, ds, fs, gs].map(|word| word as u16);
        let [ss, es, ds, fs, gs] = others;
        self.set_rflags(flags);
        self.load_v86_segments([es, selector, ss, ds, fs, gs]);
        self.block.gprs[vcpu::gpr::RSP] = esp;
        self.block.rip = offset;
        Ok(())
    }

    /// Segments of virtual-8086 mode: ES, CS, SS, DS, FS, GS.
    pub(crate) fn load_v86_segments(&mut self, selectors: [u16; 6]) {
        self.segments = selectors.map(|selector| Segment {
            selector,
            base: u64::from(selector) << 4,
            limit: 0xffff,
            attributes: ATTRIBUTES,
        });
        self.update_context();
    }

    /// Data segments that hold addresses are none for a handler in protected mode.
    pub(crate) fn drop_v86_segments(&mut self) {
        for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
            self.segments[index] = Segment::default();
        }
    }
}
