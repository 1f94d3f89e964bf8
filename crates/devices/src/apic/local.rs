//! One local APIC: its state, and how interrupts come in, are taken and end.

use serde::{Deserialize, Serialize};
use x86::Vector;

use super::message::{Delivery, Destination, Message};
use super::timer::ApicTimer;
use super::vectors::VectorSet;
use crate::clock::{GuestClock, Nanos};
use crate::layout;

/// What a register write means for the rest of the board.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send this to whom it is for.
    Send(Message),
    /// A level-triggered interrupt ended: the IOAPICs want to know.
    EndOfInterrupt(Vector),
}

/// Entries of the local vector table, in the order of their registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the manual's own names")]
pub enum LvtEntry {
    Timer = 0,
    Thermal = 1,
    Performance = 2,
    Lint0 = 3,
    Lint1 = 4,
    Error = 5,
}

/// Mask bit of an LVT entry.
pub(super) const LVT_MASKED: u32 = 1 << 16;
/// Software enable bit of the spurious-interrupt vector register.
pub(super) const SVR_ENABLED: u32 = 1 << 8;
/// Error status: a vector below 16 was sent, received.
pub(super) const ESR_SEND_ILLEGAL: u32 = 1 << 5;
const ESR_RECEIVE_ILLEGAL: u32 = 1 << 6;
/// Error status: a register was accessed that does not exist.
pub(super) const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// APIC_BASE MSR: this is the bootstrap processor; x2APIC mode; enabled (SDM vol. 3, 11.12.1).
pub(super) const BASE_BSP: u64 = 1 << 8;
pub(super) const BASE_X2APIC: u64 = 1 << 10;
pub(super) const BASE_ENABLED: u64 = 1 << 11;

/// A local APIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalApic {
    pub(super) id: u32,
    /// The APIC_BASE MSR.
    pub(super) base: u64,
    pub(super) clock: GuestClock,
    /// How far the guest has moved this processor's TSC. Older states have not got it.
    #[serde(default)]
    pub(super) tsc_adjust: u64,
    pub(super) tpr: u8,
    pub(super) ldr: u32,
    pub(super) dfr: u32,
    pub(super) svr: u32,
    pub(super) esr: u32,
    /// Errors since ESR was last written.
    pub(super) errors: u32,
    pub(super) icr: u64,
    pub(super) lvt: [u32; 6],
    pub(super) irr: VectorSet,
    pub(super) isr: VectorSet,
    pub(super) tmr: VectorSet,
    pub(super) timer: ApicTimer,
    /// Level of LINT0, the 8259 pair's output.
    lint0: bool,
    nmis: u8,
    init: bool,
    startup: Option<Vector>,
    /// Interrupts taken in, for reports.
    accepted: u64,
}

impl LocalApic {
    /// A local APIC after RESET, but as firmware leaves that of the bootstrap processor: enabled, with the 8259
    /// pair on LINT0 and NMI on LINT1 (MultiProcessor Specification 1.4, 3.6.2.2, virtual wire mode).
    pub fn new(id: u32, clock: GuestClock) -> LocalApic {
        let bsp = if id == 0 { BASE_BSP } else { 0 };
        let mut apic = LocalApic {
            id,
            base: layout::LOCAL_APIC.0 | BASE_ENABLED | bsp,
            clock,
            tsc_adjust: 0,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [LVT_MASKED; 6],
            irr: VectorSet::default(),
            isr: VectorSet::default(),
            tmr: VectorSet::default(),
            timer: ApicTimer::default(),
            lint0: false,
            nmis: 0,
            init: false,
            startup: None,
            accepted: 0,
        };
        if id == 0 {
            apic.svr |= SVR_ENABLED;
            apic.lvt[LvtEntry::Lint0 as usize] = 7 << 8;
            apic.lvt[LvtEntry::Lint1 as usize] = 4 << 8;
        }
        apic
    }

    /// Puts the registers in the state after INIT; id, base and wires stay (SDM vol. 3, 11.4.7.3).
    pub fn init(&mut self) {
        let fresh = LocalApic::new(self.id, self.clock);
        *self = LocalApic {
            base: self.base,
            svr: 0xff,
            lvt: [LVT_MASKED; 6],
            lint0: self.lint0,
            accepted: self.accepted,
            ..fresh
        };
        self.update_x2apic_ids();
    }

    /// The APIC id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Page where the registers are, if they are in memory.
    pub fn mmio_base(&self) -> Option<x86::Gpa> {
        let in_memory = self.is_enabled() && !self.is_x2apic();
        in_memory.then_some(x86::Gpa(self.base & !x86::address::PAGE_MASK))
    }

    /// Whether the APIC is on at all (APIC_BASE), whatever software says in it.
    pub fn is_enabled(&self) -> bool {
        self.base & BASE_ENABLED != 0
    }

    /// Whether the registers are MSRs.
    pub fn is_x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    fn is_software_enabled(&self) -> bool {
        self.is_enabled() && self.svr & SVR_ENABLED != 0
    }

    /// In x2APIC mode the logical id follows from the id (SDM vol. 3, 11.12.10.2).
    pub(super) fn update_x2apic_ids(&mut self) {
        if self.is_x2apic() {
            self.ldr = (self.id >> 4) << 16 | 1 << (self.id & 0xf);
        }
    }

    /// Lets time pass for the timer. Whether something new may wait for the vCPU.
    pub fn advance(&mut self, now: Nanos) -> bool {
        self.timer.advance(now) && self.fire(LvtEntry::Timer)
    }

    /// When the timer expires.
    pub fn deadline(&self) -> Option<Nanos> {
        self.timer.deadline()
    }

    /// An event of the local vector table happened. Whether something new waits.
    pub(super) fn fire(&mut self, entry: LvtEntry) -> bool {
        let lvt = self.lvt[entry as usize];
        if lvt & LVT_MASKED != 0 {
            return false;
        }
        // The timer and error entries have no delivery mode: their bits 8 to 10 are reserved.
        let is_fixed_only = matches!(entry, LvtEntry::Timer | LvtEntry::Error);
        match Delivery::of_bits(if is_fixed_only { 0 } else { lvt >> 8 }) {
            Some(Delivery::Fixed) => self.accept(lvt as u8, false),
            Some(Delivery::Nmi) => self.accept_nmi(),
            _ => false,
        }
    }

    /// The NMI line rises. Whether something new waits.
    pub fn raise_lint1(&mut self) -> bool {
        self.is_enabled() && self.fire(LvtEntry::Lint1)
    }

    /// The output of the 8259 pair changed. Whether something new may wait.
    pub fn set_lint0(&mut self, high: bool) -> bool {
        let rose = high && !self.lint0;
        self.lint0 = high;
        if !rose {
            return false;
        }
        if self.is_enabled() && self.lvt_delivery(LvtEntry::Lint0) != Some(Delivery::ExtInt) {
            return self.fire(LvtEntry::Lint0);
        }
        self.wants_extint()
    }

    fn lvt_delivery(&self, entry: LvtEntry) -> Option<Delivery> {
        Delivery::of_bits(self.lvt[entry as usize] >> 8)
    }

    /// Whether the vCPU should ask the 8259 pair for a vector. With the APIC off, LINT0 is the processor's INTR pin.
    pub fn wants_extint(&self) -> bool {
        let lint0 = self.lvt[LvtEntry::Lint0 as usize];
        let passes =
            lint0 & LVT_MASKED == 0 && self.lvt_delivery(LvtEntry::Lint0) == Some(Delivery::ExtInt);
        self.lint0 && (!self.is_enabled() || passes)
    }

    /// Takes a fixed interrupt in. Whether it was not waiting already.
    pub(super) fn accept(&mut self, vector: Vector, is_level: bool) -> bool {
        if vector < 16 {
            self.report(ESR_RECEIVE_ILLEGAL);
            return false;
        }
        if !self.is_software_enabled() {
            return false;
        }
        self.tmr.set(vector, is_level);
        self.accepted += 1;
        self.irr.insert(vector)
    }

    /// Notes an error and tells the guest, if it wants to know.
    pub(super) fn report(&mut self, error: u32) {
        let is_new = self.errors & error == 0;
        self.errors |= error;
        let entry = self.lvt[LvtEntry::Error as usize];
        // An error interrupt with an illegal vector of its own must not report itself for ever.
        if is_new && entry & LVT_MASKED == 0 && entry as u8 >= 16 {
            self.accept(entry as u8, false);
        }
    }

    /// Whether a message with this destination, sent by APIC `sender`, is for this APIC (SDM vol. 3, 11.6.2).
    pub fn is_addressed(&self, destination: Destination, sender: Option<u32>) -> bool {
        match destination {
            Destination::All => true,
            Destination::SelfOnly => sender == Some(self.id),
            Destination::AllButSelf => sender != Some(self.id),
            Destination::Physical(id) => id == self.id,
            Destination::Logical(id) if self.is_x2apic() => {
                id >> 16 == self.ldr >> 16 && id & self.ldr & 0xffff != 0
            }
            Destination::Logical(id) => self.matches_logical(id),
        }
    }

    /// The flat and the cluster model of xAPIC.
    fn matches_logical(&self, id: u32) -> bool {
        let own = self.ldr >> 24;
        match self.dfr >> 28 {
            0xf => id & own & 0xff != 0,
            0x0 => id >> 4 & 0xf == own >> 4 && id & own & 0xf != 0,
            _ => false,
        }
    }

    /// Takes a message in that [`LocalApic::is_addressed`]. Whether something new waits for the vCPU.
    pub fn receive(&mut self, message: &Message) -> bool {
        if !self.is_enabled() {
            return false;
        }
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                self.accept(message.vector, message.is_level)
            }
            Delivery::Nmi => self.accept_nmi(),
            Delivery::Init => {
                self.startup = None;
                !std::mem::replace(&mut self.init, true)
            }
            Delivery::Startup => self.startup.replace(message.vector).is_none(),
            Delivery::Smi | Delivery::ExtInt => false,
        }
    }

    /// Whether the APIC takes part when the lowest priority is looked for, and its priority.
    pub fn arbitration(&self) -> Option<u8> {
        self.is_software_enabled().then(|| self.ppr())
    }

    /// Processor priority (SDM vol. 3, 11.8.3.1).
    pub fn ppr(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= in_service {
            self.tpr
        } else {
            in_service
        }
    }

    /// The interrupt that waits and has priority over what the vCPU does.
    pub fn pending(&self) -> Option<Vector> {
        if !self.is_enabled() {
            return None;
        }
        self.irr
            .highest()
            .filter(|vector| vector & 0xf0 > self.ppr() & 0xf0)
    }

    /// Takes the interrupt that [`LocalApic::pending`] shows: it is in service from now on.
    pub fn acknowledge(&mut self) -> Option<Vector> {
        let vector = self.pending()?;
        self.irr.remove(vector);
        self.isr.insert(vector);
        Some(vector)
    }

    /// The guest says that the interrupt in service is done.
    pub(super) fn end_of_interrupt(&mut self) -> Option<Effect> {
        let vector = self.isr.highest()?;
        self.isr.remove(vector);
        self.tmr
            .contains(vector)
            .then_some(Effect::EndOfInterrupt(vector))
    }

    /// Takes the NMI that waits.
    pub fn take_nmi(&mut self) -> bool {
        let waits = self.nmis > 0;
        self.nmis -= u8::from(waits);
        waits
    }

    /// An NMI comes: two can be under way, one that is taken next and one latched behind it. Whether it is a new one.
    fn accept_nmi(&mut self) -> bool {
        let is_new = self.nmis < 2;
        self.nmis += u8::from(is_new);
        is_new
    }

    /// Takes the INIT that waits, and puts the APIC itself in the state after INIT.
    pub fn take_init(&mut self) -> bool {
        if !self.init {
            return false;
        }
        let startup = self.startup;
        self.init();
        self.startup = startup;
        true
    }

    /// Takes the startup vector that waits.
    pub fn take_startup(&mut self) -> Option<Vector> {
        self.startup.take()
    }

    /// Interrupts taken in since the start.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }
}
