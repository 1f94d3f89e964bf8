//! The registers of a local APIC, as memory and as MSRs (SDM vol. 3, tables 11-1 and 11-6).
//!
//! Both forms share one numbering: register `n` is at offset `16 * n` of the page and is MSR `0x800 + n`. They
//! differ in what is forgiven: the page ignores nonsense, an MSR access gets #GP.

use x86::msr;

use super::local::{
    ESR_ILLEGAL_REGISTER, ESR_SEND_ILLEGAL, Effect, LVT_MASKED, LocalApic, LvtEntry, SVR_ENABLED,
};
use super::message::{Delivery, Destination, Message};
use super::timer::TimerMode;
use crate::clock::Nanos;

/// The register or value does not exist: #GP for an MSR access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegisterFault;

const ID: u32 = 0x02;
const VERSION: u32 = 0x03;
pub(super) const TPR: u32 = 0x08;
const APR: u32 = 0x09;
const PPR: u32 = 0x0a;
const EOI: u32 = 0x0b;
const RRD: u32 = 0x0c;
pub(super) const LDR: u32 = 0x0d;
pub(super) const DFR: u32 = 0x0e;
pub(super) const SVR: u32 = 0x0f;
pub(super) const ISR: u32 = 0x10;
pub(super) const TMR: u32 = 0x18;
pub(super) const IRR: u32 = 0x20;
const IRR_LAST: u32 = 0x27;
pub(super) const ESR: u32 = 0x28;
pub(super) const ICR: u32 = 0x30;
pub(super) const ICR_HIGH: u32 = 0x31;
pub(super) const LVT_FIRST: u32 = 0x32;
const LVT_LAST: u32 = 0x37;
pub(super) const INITIAL_COUNT: u32 = 0x38;
pub(super) const CURRENT_COUNT: u32 = 0x39;
pub(super) const DIVIDE: u32 = 0x3e;
const SELF_IPI: u32 = 0x3f;

/// Version of an integrated APIC with six LVT entries.
const VERSION_VALUE: u32 = 5 << 16 | 0x14;
/// Bits of the ICR that can be written: reserved bits and the status are not.
const ICR_MASK: u32 = 0x000c_cfff;
/// Bits of the spurious vector register: vector, enable, focus checking.
pub(super) const SVR_MASK: u32 = 0x3ff;

/// Bits of an LVT entry that can be written, by entry.
pub(super) fn lvt_mask(entry: LvtEntry) -> u32 {
    let vector_and_mask = 0xff | LVT_MASKED;
    match entry {
        LvtEntry::Timer => vector_and_mask | 3 << 17,
        LvtEntry::Error => vector_and_mask,
        LvtEntry::Thermal | LvtEntry::Performance => vector_and_mask | 7 << 8,
        // Polarity and trigger mode too; the pins' remote IRR is read-only.
        LvtEntry::Lint0 | LvtEntry::Lint1 => vector_and_mask | 7 << 8 | 1 << 13 | 1 << 15,
    }
}

pub(super) fn lvt_entry(register: u32) -> LvtEntry {
    match register - LVT_FIRST {
        0 => LvtEntry::Timer,
        1 => LvtEntry::Thermal,
        2 => LvtEntry::Performance,
        3 => LvtEntry::Lint0,
        4 => LvtEntry::Lint1,
        _ => LvtEntry::Error,
    }
}

impl LocalApic {
    /// A load from the register page. Only the first four bytes of each sixteen are a register.
    pub fn mmio_read(&mut self, now: Nanos, offset: u64, size: u8) -> u64 {
        let register = (offset >> 4) as u32 & 0xff;
        let within = offset & 0xf;
        let value = match self.read_register(now, register) {
            Some(value) => u64::from(value),
            None => {
                self.report(ESR_ILLEGAL_REGISTER);
                0
            }
        };
        let shifted = if within < 8 { value >> (8 * within) } else { 0 };
        shifted & crate::bus::low_bytes(size)
    }

    /// A store to the register page. Registers are written whole; other stores are ignored.
    pub fn mmio_write(&mut self, now: Nanos, offset: u64, size: u8, value: u64) -> Option<Effect> {
        if !offset.is_multiple_of(16) || size < 4 {
            return None;
        }
        let register = (offset >> 4) as u32 & 0xff;
        let value = value as u32;
        match register {
            ICR => {
                self.icr = self.icr & !u64::from(u32::MAX) | u64::from(value & ICR_MASK);
                self.send(Message::of_icr(self.icr, false))
            }
            ICR_HIGH => {
                self.icr = u64::from(value & 0xff00_0000) << 32 | self.icr & u64::from(u32::MAX);
                None
            }
            // The id is fixed, as on processors since the first Xeon; the logical id is the guest's.
            ID => None,
            LDR => {
                self.ldr = value & 0xff00_0000;
                None
            }
            DFR => {
                self.dfr = value | 0x0fff_ffff;
                None
            }
            _ => self
                .write_register(now, register, value)
                .unwrap_or_else(|RegisterFault| {
                    self.report(ESR_ILLEGAL_REGISTER);
                    None
                }),
        }
    }

    pub(super) fn set_tsc_deadline(&mut self, now: Nanos, tsc: u64) {
        let clock = self.clock.moved(self.tsc_adjust);
        self.timer
            .set_tsc_deadline(tsc, clock.time_of_tsc(now, tsc));
    }

    /// How far the guest has moved this processor's TSC.
    pub fn tsc_adjust(&self) -> u64 {
        self.tsc_adjust
    }

    /// The guest has moved this processor's TSC: the deadline stays the value it is, and comes sooner or later.
    pub fn set_tsc_adjust(&mut self, now: Nanos, tsc_adjust: u64) {
        self.tsc_adjust = tsc_adjust;
        self.set_tsc_deadline(now, self.timer.tsc_deadline());
    }

    /// Upper half of the task priority, which is CR8 in every mode of the APIC: 0 to 15.
    pub fn task_priority(&self) -> u8 {
        self.tpr >> 4
    }

    /// Sets the task priority as MOV to CR8 does: its lower half becomes 0.
    pub fn set_task_priority(&mut self, class: u8) {
        self.tpr = class << 4;
    }

    /// RDMSR of an x2APIC register or TSC_DEADLINE.
    ///
    /// # Errors
    /// In xAPIC mode, and for registers that do not exist or cannot be read.
    pub fn msr_read(&mut self, now: Nanos, number: u32) -> Result<u64, RegisterFault> {
        if number == msr::TSC_DEADLINE {
            return Ok(self.timer.tsc_deadline());
        }
        if !self.is_x2apic() {
            return Err(RegisterFault);
        }
        match number.wrapping_sub(msr::X2APIC_BASE) {
            ICR => Ok(self.icr),
            ICR_HIGH | DFR | RRD | APR => Err(RegisterFault),
            register => self
                .read_register(now, register)
                .map(u64::from)
                .ok_or(RegisterFault),
        }
    }

    /// WRMSR likewise.
    ///
    /// # Errors
    /// As [`LocalApic::msr_read`], and for reserved bits.
    pub fn msr_write(
        &mut self,
        now: Nanos,
        number: u32,
        value: u64,
    ) -> Result<Option<Effect>, RegisterFault> {
        if number == msr::TSC_DEADLINE {
            self.set_tsc_deadline(now, value);
            return Ok(None);
        }
        if !self.is_x2apic() {
            return Err(RegisterFault);
        }
        let register = number.wrapping_sub(msr::X2APIC_BASE);
        let allowed = match register {
            ICR => u64::from(u32::MAX) << 32 | u64::from(ICR_MASK),
            TPR | SELF_IPI => 0xff,
            EOI | ESR => 0,
            SVR => u64::from(SVR_MASK),
            LVT_FIRST..=LVT_LAST => u64::from(lvt_mask(lvt_entry(register)) | 1 << 12 | 1 << 14),
            DIVIDE => 0b1011,
            INITIAL_COUNT => u64::from(u32::MAX),
            _ => return Err(RegisterFault),
        };
        if value & !allowed != 0 {
            return Err(RegisterFault);
        }
        match register {
            ICR => {
                self.icr = value;
                Ok(self.send(Message::of_icr(value, true)))
            }
            SELF_IPI => Ok(self.send(Some(Message {
                delivery: Delivery::Fixed,
                vector: value as u8,
                destination: Destination::SelfOnly,
                is_level: false,
            }))),
            _ => self.write_register(now, register, value as u32),
        }
    }

    /// A register that reads alike in both forms; `None` if there is none.
    pub(super) fn read_register(&self, now: Nanos, register: u32) -> Option<u32> {
        Some(match register {
            ID if self.is_x2apic() => self.id,
            ID => self.id << 24,
            VERSION => VERSION_VALUE,
            TPR => u32::from(self.tpr),
            APR | RRD => 0,
            PPR => u32::from(self.ppr()),
            EOI if !self.is_x2apic() => 0,
            LDR => self.ldr,
            DFR => self.dfr,
            SVR => self.svr,
            ISR..TMR => self.isr.word((register - ISR) as usize),
            TMR..IRR => self.tmr.word((register - TMR) as usize),
            IRR..=IRR_LAST => self.irr.word((register - IRR) as usize),
            ESR => self.esr,
            ICR => self.icr as u32,
            ICR_HIGH => (self.icr >> 32) as u32,
            LVT_FIRST..=LVT_LAST => self.lvt[(register - LVT_FIRST) as usize],
            INITIAL_COUNT => self.timer.initial_count(),
            CURRENT_COUNT => self.timer.current_count(now),
            DIVIDE => self.timer.divide(),
            _ => return None,
        })
    }

    /// A register that is written alike in both forms.
    fn write_register(
        &mut self,
        now: Nanos,
        register: u32,
        value: u32,
    ) -> Result<Option<Effect>, RegisterFault> {
        match register {
            TPR => self.tpr = value as u8,
            EOI => return Ok(self.end_of_interrupt()),
            SVR => self.write_svr(value),
            ESR => {
                self.esr = self.errors;
                self.errors = 0;
            }
            LVT_FIRST..=LVT_LAST => self.write_lvt(lvt_entry(register), value),
            INITIAL_COUNT => self.timer.set_initial_count(now, value),
            DIVIDE => self.timer.set_divide(now, value),
            VERSION | APR | PPR | RRD | ISR..=IRR_LAST | CURRENT_COUNT => {}
            _ => return Err(RegisterFault),
        }
        Ok(None)
    }

    fn write_svr(&mut self, value: u32) {
        self.svr = value & SVR_MASK;
        if self.svr & SVR_ENABLED == 0 {
            self.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
        }
    }

    fn write_lvt(&mut self, entry: LvtEntry, value: u32) {
        let mut value = value & lvt_mask(entry);
        if self.svr & SVR_ENABLED == 0 {
            value |= LVT_MASKED;
        }
        self.lvt[entry as usize] = value;
        if entry == LvtEntry::Timer {
            self.timer.set_mode(TimerMode::of_lvt(value));
        }
    }

    /// Checks a message before it leaves.
    fn send(&mut self, message: Option<Message>) -> Option<Effect> {
        let message = message?;
        let has_vector = matches!(message.delivery, Delivery::Fixed | Delivery::LowestPriority);
        if has_vector && message.vector < 16 {
            self.report(ESR_SEND_ILLEGAL);
            return None;
        }
        Some(Effect::Send(message))
    }
}
