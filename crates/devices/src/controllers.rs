//! All interrupt controllers of the board and the wiring between them.
//!
//! ```text
//! lines 0..15 ──> 8259 pair ──> LINT0 of local APIC 0
//! lines 0..23 ──> IOAPIC ─┐
//! MSI ────────────────────┼──> local APICs ──> sink.notify(vcpu)
//! local APIC (ICR) ───────┘
//! ```
//!
//! An engine may have local APICs of its own ([`Controllers::set_apics`]). Then those here rest, and what would go to
//! them goes there as messages; the 8259 pair still interrupts vCPU 0, whose engine knows whether its APIC lets it.
//!
//! Line 0, the timer, goes to IOAPIC pin 2, as the ACPI tables say; every other line to the pin of its number.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vcpu::{LocalApicState, LocalApics};
use x86::{Gpa, Vector, msr};

use crate::apic::{Delivery, Effect, LocalApic, Message, RegisterFault};
use crate::clock::{GuestClock, Nanos};
use crate::ioapic::IoApic;
use crate::irq::{Edges, IrqSink};
use crate::layout;
use crate::pic::PicPair;
use crate::saved::{Saved, Unfit, ensure};

/// IOAPIC pin of the timer.
pub const PIT_PIN: u8 = 2;

/// A startup request for the machine to carry out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Startup {
    /// INIT: go to the state after INIT and wait for SIPI.
    Init,
    /// SIPI: start in real mode at `vector << 12`, if waiting for it.
    Sipi(Vector),
}

/// What the controllers counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InterruptCounters {
    /// Interrupts that local APICs took in, from wherever.
    pub accepted: u64,
    /// Interrupts that the IOAPIC sent.
    pub from_ioapic: u64,
    /// Interrupts that the 8259 pair gave a vector for.
    pub from_pic: u64,
    /// Interprocessor interrupts sent.
    pub from_vcpus: u64,
    /// Message-signalled interrupts.
    pub from_messages: u64,
}

/// The interrupt controllers.
pub struct Controllers {
    local: Vec<LocalApic>,
    ioapic: IoApic,
    pics: PicPair,
    /// Levels of the lines as last seen.
    high: u32,
    sink: Arc<dyn IrqSink>,
    /// The engine's own local APICs.
    elsewhere: Option<Arc<dyn LocalApics>>,
    /// One from outside, for the first vCPU of an engine that has its local APIC itself.
    nmi_waits: bool,
    counters: InterruptCounters,
}

/// What all interrupt controllers are at a moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ControllersState {
    /// By vCPU.
    local: Vec<LocalApic>,
    ioapic: IoApic,
    pics: PicPair,
    /// Levels of the lines as the controllers know them.
    high: u32,
}

impl Saved for Controllers {
    type State = ControllersState;

    fn save(&self) -> ControllersState {
        ControllersState {
            local: self.local.iter().map(Saved::save).collect(),
            ioapic: self.ioapic.save(),
            pics: self.pics.save(),
            high: self.high,
        }
    }

    fn restore(&mut self, state: ControllersState) -> Result<(), Unfit> {
        let is_fit = state.local.len() == self.local.len();
        ensure(is_fit, "interrupt controllers", "another number of vCPUs")?;
        let mut new = (self.local.clone(), self.ioapic.clone(), self.pics);
        for (apic, state) in new.0.iter_mut().zip(state.local) {
            apic.restore(state)?;
        }
        new.1.restore(state.ioapic)?;
        new.2.restore(state.pics)?;
        (self.local, self.ioapic, self.pics) = new;
        self.high = state.high;
        self.tell_pins();
        Ok(())
    }
}

impl Controllers {
    /// The controllers of a board with this many vCPUs, as firmware leaves them.
    pub fn new(vcpu_count: u32, clock: GuestClock, sink: Arc<dyn IrqSink>) -> Controllers {
        let local = (0..vcpu_count)
            .map(|id| LocalApic::new(id, clock))
            .collect();
        // An IOAPIC id is four bits: with many vCPUs it cannot be one that no vCPU has, and need not be.
        let ioapic = IoApic::new(layout::ioapic_id(vcpu_count));
        let counters = InterruptCounters::default();
        Controllers {
            local,
            ioapic,
            pics: PicPair::default(),
            high: 0,
            sink,
            elsewhere: None,
            nmi_waits: false,
            counters,
        }
    }

    /// From now on the engine's own local APICs count, or those here again. Their state is carried by the caller.
    pub fn set_apics(&mut self, elsewhere: Option<Arc<dyn LocalApics>>) {
        self.elsewhere = elsewhere;
        self.tell_pins();
    }

    /// The state of one local APIC.
    pub fn apic_state(&self, vcpu_id: u32, now: Nanos) -> Option<LocalApicState> {
        self.apic(vcpu_id).map(|apic| apic.state(now))
    }

    /// Replaces the state of one local APIC.
    pub fn set_apic_state(&mut self, vcpu_id: u32, state: &LocalApicState, now: Nanos) {
        if let Some(apic) = self.local.get_mut(vcpu_id as usize) {
            apic.set_state(state, now);
        }
    }

    /// How far the guest has moved the TSC of a vCPU.
    pub fn tsc_adjust(&self, vcpu_id: u32) -> u64 {
        let apic = self.local.get(vcpu_id as usize);
        apic.map_or(0, LocalApic::tsc_adjust)
    }

    /// The guest has moved the TSC of a vCPU.
    pub fn set_tsc_adjust(&mut self, vcpu_id: u32, now: Nanos, tsc_adjust: u64) {
        if let Some(apic) = self.local.get_mut(vcpu_id as usize) {
            apic.set_tsc_adjust(now, tsc_adjust);
            self.advance_one(vcpu_id, now);
        }
    }

    fn tell_pins(&self) {
        if let Some(apics) = &self.elsewhere {
            apics.set_pins(
                &self
                    .ioapic
                    .messages()
                    .map(|message| message.and_then(|message| message.to_msi())),
            );
        }
    }

    /// A level-triggered interrupt with this vector ended at a local APIC of the engine.
    pub fn end_of_interrupt(&mut self, vector: Vector) {
        for message in self.ioapic.end_of_interrupt(vector) {
            self.send_from_ioapic(message);
        }
    }

    /// Carries changed lines to the controllers.
    pub fn settle(&mut self, edges: Edges) {
        let mut changed = edges.rose | (edges.high ^ self.high);
        if changed == 0 {
            return;
        }
        while changed != 0 {
            let irq = changed.trailing_zeros() as u8;
            let bit = 1 << irq;
            changed &= !bit;
            if edges.rose & bit != 0 {
                self.set_line(irq, false);
                self.set_line(irq, true);
            }
            if edges.high & bit != self.high & bit {
                self.set_line(irq, edges.high & bit != 0);
            }
        }
        self.settle_pics();
    }

    fn set_line(&mut self, irq: u8, high: bool) {
        let bit = 1 << irq;
        self.high = if high {
            self.high | bit
        } else {
            self.high & !bit
        };
        self.pics.set_line(irq, high);
        let pin = if irq == layout::irq::PIT {
            PIT_PIN
        } else {
            irq
        };
        if let Some(message) = self.ioapic.set_pin(usize::from(pin), high) {
            self.send_from_ioapic(message);
        }
    }

    /// Carries the output of the 8259 pair to the bootstrap processor.
    fn settle_pics(&mut self) {
        let high = self.pics.has_interrupt();
        let Some(first) = self.local.first_mut() else {
            return;
        };
        let is_new = first.set_lint0(high);
        if is_new || high && self.elsewhere.is_some() {
            self.sink.notify(0);
        }
    }

    fn send_from_ioapic(&mut self, message: Message) {
        self.counters.from_ioapic += 1;
        self.send(message, None);
    }

    /// A message-signalled interrupt from a device.
    pub fn send_msi(&mut self, address: u64, data: u32) {
        self.counters.from_messages += 1;
        if let Some(apics) = &self.elsewhere {
            return apics.send(address, data);
        }
        if let Some(message) = Message::of_msi(address, data) {
            self.send(message, None);
        }
    }

    /// Brings a message to whom it is for.
    fn send(&mut self, message: Message, sender: Option<u32>) {
        if let Some(apics) = &self.elsewhere {
            if let Some((address, data)) = message.to_msi() {
                apics.send(address, data);
            }
            return;
        }
        if message.delivery == Delivery::LowestPriority {
            return self.send_to_lowest(message, sender);
        }
        for apic in self
            .local
            .iter_mut()
            .filter(|apic| apic.is_addressed(message.destination, sender))
        {
            if apic.receive(&message) {
                self.sink.notify(apic.id());
            }
        }
    }

    fn send_to_lowest(&mut self, message: Message, sender: Option<u32>) {
        let addressed = self
            .local
            .iter_mut()
            .filter(|apic| apic.is_addressed(message.destination, sender));
        let ranked =
            addressed.filter_map(|apic| apic.arbitration().map(|priority| (priority, apic)));
        if let Some((_, apic)) = ranked.min_by_key(|(priority, apic)| (*priority, apic.id()))
            && apic.receive(&message)
        {
            self.sink.notify(apic.id());
        }
    }

    fn carry_out(&mut self, vcpu_id: u32, effect: Option<Effect>) {
        match effect {
            None => {}
            Some(Effect::Send(message)) => {
                self.counters.from_vcpus += 1;
                self.send(message, Some(vcpu_id));
            }
            Some(Effect::EndOfInterrupt(vector)) => self.end_of_interrupt(vector),
        }
    }

    fn apic(&self, vcpu_id: u32) -> Option<&LocalApic> {
        self.local.get(vcpu_id as usize)
    }

    /// A local APIC that counts.
    fn own_apic(&mut self, vcpu_id: u32) -> Option<&mut LocalApic> {
        if self.elsewhere.is_some() {
            None
        } else {
            self.local.get_mut(vcpu_id as usize)
        }
    }

    /// The local APIC whose registers are at `gpa` for this vCPU, and the offset there.
    fn apic_page(&mut self, vcpu_id: u32, gpa: Gpa) -> Option<(&mut LocalApic, u64)> {
        let apic = self.own_apic(vcpu_id)?;
        (apic.mmio_base()?.gfn() == gpa.gfn()).then_some((apic, gpa.page_offset()))
    }

    /// A load; `None` if no controller is there.
    pub fn mmio_read(&mut self, vcpu_id: u32, now: Nanos, gpa: Gpa, size: u8) -> Option<u64> {
        if gpa.gfn() == layout::IOAPIC.gfn() {
            return Some(self.ioapic.read(gpa.page_offset(), size));
        }
        self.advance_one(vcpu_id, now);
        let (apic, offset) = self.apic_page(vcpu_id, gpa)?;
        Some(apic.mmio_read(now, offset, size))
    }

    /// A store; whether a controller is there.
    pub fn mmio_write(&mut self, vcpu_id: u32, now: Nanos, gpa: Gpa, size: u8, value: u64) -> bool {
        if gpa.gfn() == layout::IOAPIC.gfn() {
            let message = self.ioapic.write(gpa.page_offset(), size, value);
            // The route first: the end of what is sent must find it.
            self.tell_pins();
            if let Some(message) = message {
                self.send_from_ioapic(message);
            }
            return true;
        }
        self.advance_one(vcpu_id, now);
        let Some((apic, offset)) = self.apic_page(vcpu_id, gpa) else {
            return false;
        };
        let effect = apic.mmio_write(now, offset, size, value);
        self.carry_out(vcpu_id, effect);
        self.advance_one(vcpu_id, now);
        true
    }

    /// RDMSR of an APIC register.
    ///
    /// # Errors
    /// If there is no such register now.
    pub fn msr_read(
        &mut self,
        vcpu_id: u32,
        now: Nanos,
        number: u32,
    ) -> Result<u64, RegisterFault> {
        self.advance_one(vcpu_id, now);
        let apic = self.own_apic(vcpu_id).ok_or(RegisterFault)?;
        if number == msr::APIC_BASE {
            Ok(apic.base())
        } else {
            apic.msr_read(now, number)
        }
    }

    /// Upper half of a local APIC's task priority, 0 to 15.
    pub fn task_priority(&self, vcpu_id: u32) -> u8 {
        self.local
            .get(vcpu_id as usize)
            .map_or(0, LocalApic::task_priority)
    }

    /// Sets it.
    pub fn set_task_priority(&mut self, vcpu_id: u32, class: u8) {
        if let Some(apic) = self.local.get_mut(vcpu_id as usize) {
            apic.set_task_priority(class);
        }
    }

    /// WRMSR of an APIC register.
    ///
    /// # Errors
    /// If there is no such register now, or not that value for it.
    pub fn msr_write(
        &mut self,
        vcpu_id: u32,
        now: Nanos,
        number: u32,
        value: u64,
    ) -> Result<(), RegisterFault> {
        self.advance_one(vcpu_id, now);
        let apic = self.own_apic(vcpu_id).ok_or(RegisterFault)?;
        let effect = if number == msr::APIC_BASE {
            apic.set_base(value)?;
            None
        } else {
            apic.msr_write(now, number, value)?
        };
        self.carry_out(vcpu_id, effect);
        // A deadline that has passed already interrupts at once, not when the timer thread comes round to it.
        self.advance_one(vcpu_id, now);
        Ok(())
    }

    /// IN from the 8259 pair; `None` if the port is not theirs.
    pub fn pio_read(&mut self, port: u16) -> Option<u8> {
        PicPair::has_port(port).then(|| {
            let value = self.pics.read(port);
            self.settle_pics();
            value
        })
    }

    /// OUT to the 8259 pair; whether the port is theirs.
    pub fn pio_write(&mut self, port: u16, value: u8) -> bool {
        let is_ours = PicPair::has_port(port);
        if is_ours {
            self.pics.write(port, value);
            self.settle_pics();
        }
        is_ours
    }

    /// Whether an external interrupt waits that the vCPU may take, as far as its APIC is concerned.
    pub fn has_interrupt(&self, vcpu_id: u32) -> bool {
        if self.elsewhere.is_some() {
            return vcpu_id == 0 && self.pics.has_interrupt();
        }
        self.apic(vcpu_id)
            .is_some_and(|apic| apic.wants_extint() || apic.pending().is_some())
    }

    /// Takes the interrupt that waits.
    pub fn acknowledge(&mut self, vcpu_id: u32) -> Option<Vector> {
        let apic = self.local.get_mut(vcpu_id as usize)?;
        if apic.wants_extint() || self.elsewhere.is_some() {
            self.counters.from_pic += 1;
            let vector = self.pics.acknowledge();
            self.settle_pics();
            return Some(vector);
        }
        apic.acknowledge()
    }

    /// An NMI comes on LINT1 of the first vCPU. An engine with local APICs of its own is given it by the vCPU's thread,
    /// whether or not the guest has masked that line.
    pub fn send_nmi(&mut self) {
        let is_new = match &self.elsewhere {
            Some(_) => !std::mem::replace(&mut self.nmi_waits, true),
            None => self.local.first_mut().is_some_and(LocalApic::raise_lint1),
        };
        if is_new {
            self.sink.notify(0);
        }
    }

    /// Takes the NMI that waits.
    pub fn take_nmi(&mut self, vcpu_id: u32) -> bool {
        if vcpu_id == 0 && std::mem::take(&mut self.nmi_waits) {
            return true;
        }
        self.local
            .get_mut(vcpu_id as usize)
            .is_some_and(LocalApic::take_nmi)
    }

    /// Takes the startup request that waits; INIT before SIPI.
    pub fn take_startup(&mut self, vcpu_id: u32) -> Option<Startup> {
        let apic = self.local.get_mut(vcpu_id as usize)?;
        if apic.take_init() {
            return Some(Startup::Init);
        }
        apic.take_startup().map(Startup::Sipi)
    }

    fn advance_one(&mut self, vcpu_id: u32, now: Nanos) {
        if self.elsewhere.is_some() {
            return;
        }
        if let Some(apic) = self.local.get_mut(vcpu_id as usize)
            && apic.advance(now)
        {
            self.sink.notify(vcpu_id);
        }
    }

    /// Lets time pass for every timer.
    pub fn advance(&mut self, now: Nanos) {
        if self.elsewhere.is_some() {
            return;
        }
        for apic in &mut self.local {
            if apic.advance(now) {
                self.sink.notify(apic.id());
            }
        }
    }

    /// When a timer next expires.
    pub fn deadline(&self) -> Option<Nanos> {
        if self.elsewhere.is_some() {
            return None;
        }
        self.local.iter().filter_map(LocalApic::deadline).min()
    }

    /// What was counted.
    pub fn counters(&self) -> InterruptCounters {
        let accepted = self.local.iter().map(LocalApic::accepted).sum();
        InterruptCounters {
            accepted,
            ..self.counters
        }
    }
}
