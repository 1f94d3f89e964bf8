//! The board as the machine sees it: one value that answers accesses and tells what came of them.
//!
//! The machine keeps it behind one lock. A visit is short: find the device, let it act, carry its lines to the
//! interrupt controllers. A visit to a vCPU's own local APIC needs the vCPU's number, everything else does not.
//!
//! After a visit on behalf of a vCPU the machine asks [`Board::has_interrupt`] for that vCPU anyway, so the sink is
//! told only of what comes from elsewhere: other vCPUs, lines, timers, messages (and of what a vCPU sends itself).

use std::io::Write;
use std::sync::Arc;

use mem::GuestMemory;
use thiserror::Error;
use x86::{Gpa, Vector, msr};

use crate::bus::{BusCounters, MmioBus, PioBus};
use crate::clock::{GuestClock, Nanos};
use crate::console::{ConsoleInput, ConsoleOutput};
use crate::controllers::{Controllers, InterruptCounters, Startup};
use crate::event::{BoardEvent, BoardEvents};
use crate::fixed::{FixedDevices, Surroundings};
use crate::generation::Generation;
use crate::irq::{IrqLine, IrqLines, IrqSink};
use crate::kvmclock::{self, SystemTime};
use crate::layout::{self, irq, port};
use crate::pci::{self, PciBus};
use crate::pic::PicPair;
use crate::pm::{GenerationSignal, PowerButton};
use crate::rtc::RamSizes;
use crate::serial::SerialCounters;

mod state;

pub use crate::plan::BoardPlan;
pub use state::BoardState;

/// There is no such MSR, or not that value for it: the guest gets #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("no such MSR or value")]
pub struct MsrFault;

/// What was counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BoardCounters {
    /// I/O ports of devices.
    pub pio: BusCounters,
    /// Memory of devices.
    pub mmio: BusCounters,
    /// Accesses to the registers of interrupt controllers and to PCI configuration space.
    pub core_accesses: u64,
    /// Accesses to MSRs of the local APIC and the paravirtual clock.
    pub msr_accesses: u64,
    /// MSR accesses that faulted.
    pub msr_faults: u64,
    /// Interrupts that the board took in and sent.
    pub interrupts: InterruptCounters,
    /// The serial port.
    pub serial: SerialCounters,
}

/// The paravirtual clock of one vCPU.
#[derive(Clone, Copy)]
struct VcpuTime {
    clock: GuestClock,
    system_time: SystemTime,
}

/// The board of one VM.
pub struct Board {
    memory: Arc<GuestMemory>,
    events: BoardEvents,
    input: ConsoleInput,
    output: ConsoleOutput,
    button: PowerButton,
    generation: GenerationSignal,
    lines: IrqLines,
    controllers: Controllers,
    pci: PciBus,
    pci_lines: [IrqLine; pci::LINE_COUNT],
    pio: PioBus<FixedDevices>,
    mmio: MmioBus,
    times: Vec<VcpuTime>,
    wall_clock_msr: u64,
    counters: BoardCounters,
    /// The engine, if it takes notifications, and what it was told.
    wires: Option<Arc<dyn vcpu::Wires>>,
    laid: Vec<vcpu::Wire>,
}

/// Who answers at a port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Pics,
    Pci,
    Bus,
}

fn owner(at: u16) -> Owner {
    match at {
        port::PCI_ADDRESS..=port::PCI_LAST => Owner::Pci,
        _ if PicPair::has_port(at) => Owner::Pics,
        _ => Owner::Bus,
    }
}

/// Who answers an access, if it is one device in one piece.
fn sole_owner(at: u16, size: u8) -> Option<Owner> {
    let first = owner(at);
    let is_sole = (1..size).all(|n| owner(at.wrapping_add(u16::from(n))) == first);
    let is_whole = match first {
        Owner::Bus => true,
        Owner::Pics => size == 1,
        Owner::Pci => at % 4 + u16::from(size) <= 4,
    };
    (is_sole && is_whole).then_some(first)
}

impl Board {
    /// A board as firmware leaves it at time zero: interrupts reach vCPU 0 through the 8259 pair. What the guest
    /// sends to COM1 goes to `console`. A guest that resets gets a new board.
    pub fn new(
        plan: BoardPlan,
        memory: Arc<GuestMemory>,
        console: Box<dyn Write + Send>,
        sink: Arc<dyn IrqSink>,
    ) -> Board {
        let events = BoardEvents::default();
        let time = VcpuTime {
            clock: plan.clock,
            system_time: SystemTime::default(),
        };
        let lines = IrqLines::default();
        let input = ConsoleInput::default();
        let output = ConsoleOutput::new(console);
        let button = PowerButton::default();
        let generation = GenerationSignal::default();
        let around = Surroundings {
            lines: &lines,
            events: &events,
            input: &input,
            output: &output,
            button: &button,
            generation: &generation,
            ram: ram_sizes(&memory),
        };
        let pio = FixedDevices::new(&plan, &around)
            .on_ports(&plan)
            .expect("the layout gives every port once");
        let mut board = Board {
            pci_lines: [0, 1, 2, 3].map(|n| lines.line(irq::PCI_FIRST + n)),
            controllers: Controllers::new(plan.vcpu_count, plan.clock, sink),
            pci: PciBus::new(events.clone()),
            times: vec![time; plan.vcpu_count as usize],
            memory,
            events,
            input,
            output,
            button,
            generation,
            lines,
            pio,
            mmio: MmioBus::default(),
            wall_clock_msr: 0,
            counters: BoardCounters::default(),
            wires: None,
            laid: Vec::new(),
        };
        board.settle();
        board
    }

    /// Carries what devices did to their lines to the controllers.
    fn settle(&mut self) {
        if self.pci.take_touched() {
            self.set_pci_lines();
            self.lay_wires();
        }
        self.controllers.settle(self.lines.take_edges());
    }

    fn set_pci_lines(&mut self) {
        for (line, high) in self.pci_lines.iter().zip(self.pci.lines()) {
            line.set(high);
        }
    }

    /// Tells the engine where notifications go now, if that has changed.
    fn lay_wires(&mut self) {
        let Some(wires) = &self.wires else { return };
        let wanted = self.pci.wires();
        if wanted != self.laid {
            wires.set_wires(&wanted);
            self.laid = wanted;
        }
    }

    /// The interrupt pin of a PCI function may have changed from outside a visit: its worker said so.
    pub fn look_at_pci_lines(&mut self) {
        self.set_pci_lines();
        self.settle();
    }

    /// IN of 1, 2 or 4 bytes.
    pub fn pio_read(&mut self, now: Nanos, at: u16, size: u8) -> u32 {
        let value = match sole_owner(at, size) {
            Some(Owner::Bus) => self.pio.read(now, at, size),
            Some(Owner::Pics) => {
                self.counters.core_accesses += 1;
                self.controllers.pio_read(at).map_or(u32::MAX, u32::from)
            }
            Some(Owner::Pci) => {
                self.counters.core_accesses += 1;
                self.pci.pio_read(at - port::PCI_ADDRESS, size)
            }
            None => (0..size).fold(0, |value, n| {
                let byte = self.pio_read(now, at.wrapping_add(u16::from(n)), 1) & 0xff;
                value | byte << (8 * n)
            }),
        };
        self.settle();
        value & crate::bus::low_bytes(size) as u32
    }

    /// OUT of 1, 2 or 4 bytes.
    pub fn pio_write(&mut self, now: Nanos, at: u16, size: u8, value: u32) {
        match sole_owner(at, size) {
            Some(Owner::Bus) => self.pio.write(now, at, size, value),
            Some(Owner::Pics) => {
                self.counters.core_accesses += 1;
                self.controllers.pio_write(at, value as u8);
            }
            Some(Owner::Pci) => {
                self.counters.core_accesses += 1;
                self.pci.pio_write(at - port::PCI_ADDRESS, size, value);
            }
            None => {
                for n in 0..size {
                    self.pio_write(
                        now,
                        at.wrapping_add(u16::from(n)),
                        1,
                        value >> (8 * n) & 0xff,
                    );
                }
            }
        }
        self.settle();
    }

    /// A load of 1 to 8 bytes by vCPU `vcpu_id` from where no memory is.
    pub fn mmio_read(&mut self, vcpu_id: u32, now: Nanos, gpa: Gpa, size: u8) -> u64 {
        let value = if let Some(value) = self.controllers.mmio_read(vcpu_id, now, gpa, size) {
            self.counters.core_accesses += 1;
            value
        } else if let Some(offset) = ecam_offset(gpa) {
            self.counters.core_accesses += 1;
            self.pci.ecam_read(offset, size)
        } else {
            self.read_memory_of_devices(now, gpa, size)
        };
        self.settle();
        value & crate::bus::low_bytes(size)
    }

    /// A store of 1 to 8 bytes by vCPU `vcpu_id` to where no memory is.
    pub fn mmio_write(&mut self, vcpu_id: u32, now: Nanos, gpa: Gpa, size: u8, value: u64) {
        if self.controllers.mmio_write(vcpu_id, now, gpa, size, value) {
            self.counters.core_accesses += 1;
        } else if let Some(offset) = ecam_offset(gpa) {
            self.counters.core_accesses += 1;
            self.pci.ecam_write(offset, size, value);
        } else if self.mmio.has(gpa) || !self.pci.write_memory(gpa, size, value) {
            self.mmio.write(now, gpa, size, value);
        }
        self.settle();
    }

    /// A load from a device: one that has its place for good, or else a PCI function.
    fn read_memory_of_devices(&mut self, now: Nanos, gpa: Gpa, size: u8) -> u64 {
        let of_pci = if self.mmio.has(gpa) {
            None
        } else {
            self.pci.read_memory(gpa, size)
        };
        of_pci.unwrap_or_else(|| self.mmio.read(now, gpa, size))
    }

    /// CR8 of a vCPU: the upper half of its local APIC's task priority, 0 to 15.
    pub fn task_priority(&self, vcpu_id: u32) -> u8 {
        self.controllers.task_priority(vcpu_id)
    }

    /// Sets it. What now has priority over the vCPU, [`Board::has_interrupt`] says.
    pub fn set_task_priority(&mut self, vcpu_id: u32, class: u8) {
        self.controllers.set_task_priority(vcpu_id, class);
        self.settle();
    }

    /// RDMSR of a register of the local APIC or the paravirtual clock.
    ///
    /// # Errors
    /// [`MsrFault`] for any other register, and where the APIC's mode forbids it.
    pub fn msr_read(&mut self, vcpu_id: u32, now: Nanos, number: u32) -> Result<u64, MsrFault> {
        self.counters.msr_accesses += 1;
        let time = self.times.get(vcpu_id as usize);
        let result = match number {
            msr::APIC_BASE | msr::TSC_DEADLINE | msr::X2APIC_BASE..=msr::X2APIC_LAST => self
                .controllers
                .msr_read(vcpu_id, now, number)
                .map_err(|_| MsrFault),
            msr::KVM_SYSTEM_TIME => time.map(|time| time.system_time.msr()).ok_or(MsrFault),
            msr::KVM_WALL_CLOCK => Ok(self.wall_clock_msr),
            _ => Err(MsrFault),
        };
        self.counters.msr_faults += u64::from(result.is_err());
        result
    }

    /// WRMSR likewise. An engine tells of TSC_ADJUST, which is its own, what became of it.
    ///
    /// # Errors
    /// [`MsrFault`], also for values that the register does not take.
    pub fn msr_write(
        &mut self,
        vcpu_id: u32,
        now: Nanos,
        number: u32,
        value: u64,
    ) -> Result<(), MsrFault> {
        self.counters.msr_accesses += 1;
        let tsc_adjust = self.controllers.tsc_adjust(vcpu_id);
        let result = match (number, self.times.get_mut(vcpu_id as usize)) {
            (msr::TSC_ADJUST, _) => {
                self.set_tsc_adjust(vcpu_id, now, value);
                Ok(())
            }
            (msr::APIC_BASE | msr::TSC_DEADLINE | msr::X2APIC_BASE..=msr::X2APIC_LAST, _) => self
                .controllers
                .msr_write(vcpu_id, now, number, value)
                .map_err(|_| MsrFault),
            (msr::KVM_SYSTEM_TIME, Some(time)) => {
                let clock = time.clock.moved(tsc_adjust);
                time.system_time.set_msr(&self.memory, &clock, now, value);
                Ok(())
            }
            (msr::KVM_WALL_CLOCK, Some(time)) => {
                self.wall_clock_msr = value;
                kvmclock::write_wall_clock(&self.memory, &time.clock, value);
                Ok(())
            }
            _ => Err(MsrFault),
        };
        self.counters.msr_faults += u64::from(result.is_err());
        self.settle();
        result
    }

    /// Whether an external interrupt waits for this vCPU, its task priority considered.
    pub fn has_interrupt(&self, vcpu_id: u32) -> bool {
        self.controllers.has_interrupt(vcpu_id)
    }

    /// Takes the interrupt that [`Board::has_interrupt`] announced: the caller injects it.
    pub fn acknowledge(&mut self, vcpu_id: u32) -> Option<Vector> {
        self.controllers.acknowledge(vcpu_id)
    }

    /// Takes the NMI that waits for this vCPU, if there is one: the caller injects it.
    pub fn take_nmi(&mut self, vcpu_id: u32) -> bool {
        self.controllers.take_nmi(vcpu_id)
    }

    /// From now on the engine's own local APICs count, or the board's again. [`Board::apic_state`] and
    /// [`Board::set_apic_state`] carry what they are.
    pub fn set_apics(&mut self, elsewhere: Option<Arc<dyn vcpu::LocalApics>>) {
        self.controllers.set_apics(elsewhere);
    }

    /// From now on the engine takes notifications to devices, or none does and they are visits of the board.
    pub fn set_wires(&mut self, wires: Option<Arc<dyn vcpu::Wires>>) {
        self.wires = wires;
        self.laid.clear();
        self.lay_wires();
    }

    /// Tells a guest with a paravirtual clock that it was stopped, so that its watchdogs do not take the time that it was
    /// away for a hang. `tsc_adjusts` is by how much it has moved each vCPU's TSC.
    pub fn tell_of_stop(&mut self, now: Nanos, tsc_adjusts: &[u64]) {
        for (time, &tsc_adjust) in self.times.iter_mut().zip(tsc_adjusts) {
            let clock = time.clock.moved(tsc_adjust);
            time.system_time.update(&self.memory, &clock, now, true);
        }
    }

    /// The state of a vCPU's local APIC, as far as the board has it.
    pub fn apic_state(&self, vcpu_id: u32, now: Nanos) -> Option<vcpu::LocalApicState> {
        self.controllers.apic_state(vcpu_id, now)
    }

    /// Replaces the state of a vCPU's local APIC.
    pub fn set_apic_state(&mut self, vcpu_id: u32, state: &vcpu::LocalApicState, now: Nanos) {
        self.controllers.set_apic_state(vcpu_id, state, now);
    }

    /// A local APIC of the engine's says that a level-triggered interrupt with this vector has ended.
    pub fn end_of_interrupt(&mut self, vector: Vector) {
        self.controllers.end_of_interrupt(vector);
        self.settle();
    }

    /// The guest has moved a vCPU's TSC, so far in all that TSC_ADJUST reads `tsc_adjust`: the TSC deadline and the
    /// paravirtual clock follow.
    pub fn set_tsc_adjust(&mut self, vcpu_id: u32, now: Nanos, tsc_adjust: u64) {
        self.controllers.set_tsc_adjust(vcpu_id, now, tsc_adjust);
        if let Some(time) = self.times.get_mut(vcpu_id as usize) {
            let clock = time.clock.moved(tsc_adjust);
            time.system_time.update(&self.memory, &clock, now, false);
        }
        self.settle();
    }

    /// Takes the next startup request for this vCPU.
    pub fn take_startup(&mut self, vcpu_id: u32) -> Option<Startup> {
        self.controllers.take_startup(vcpu_id)
    }

    /// When the board next wants [`Board::advance`], if nothing else happens. Ask after every visit.
    pub fn deadline(&self) -> Option<Nanos> {
        let devices = self.pio.deadline().into_iter().chain(self.mmio.deadline());
        devices.chain(self.controllers.deadline()).min()
    }

    /// It is `now`: lets timers expire.
    pub fn advance(&mut self, now: Nanos) {
        self.controllers.advance(now);
        self.pio.advance(now);
        self.mmio.advance(now);
        self.settle();
    }

    /// Takes what the guest asked of the VM as a whole. Ask after every access.
    pub fn take_event(&mut self) -> Option<BoardEvent> {
        let event = self.events.take();
        if event.is_some() {
            self.output.flush();
        }
        event
    }

    /// Types on the console. Returns how many bytes were taken; the rest has to be offered again later.
    pub fn type_console(&mut self, now: Nanos, bytes: &[u8]) -> usize {
        let taken = self.input.push(bytes);
        self.pio.advance(now);
        self.settle();
        taken
    }

    /// From now on the console's reader is behind, or no longer: programs in the guest are to wait.
    pub fn slow_console(&mut self, now: Nanos, is_slow: bool) {
        self.output.slow_down(is_slow);
        self.pio.advance(now);
        self.settle();
    }

    /// The machine is of another generation from now on, whose number is `generation`; a guest that knows of such numbers
    /// is told.
    pub fn begin_generation(&mut self, now: Nanos, generation: &Generation) {
        generation.write(&self.memory);
        self.generation.tell();
        self.pio.advance(now);
        self.settle();
    }

    /// Presses the power button.
    pub fn press_power_button(&mut self, now: Nanos) {
        self.button.press();
        self.pio.advance(now);
        self.settle();
    }

    /// Raises the line that an operator's NMI button is on, LINT1 of the first vCPU.
    pub fn send_nmi(&mut self) {
        self.controllers.send_nmi();
    }

    /// A message-signalled interrupt from a device.
    pub fn send_msi(&mut self, address: u64, data: u32) {
        self.controllers.send_msi(address, data);
    }

    /// PCI bus 0.
    pub fn pci(&mut self) -> &mut PciBus {
        &mut self.pci
    }

    /// What was counted.
    pub fn counters(&self) -> BoardCounters {
        BoardCounters {
            pio: self.pio.counters(),
            mmio: self.mmio.counters(),
            interrupts: self.controllers.counters(),
            serial: self.pio.devices().serial().counters(),
            ..self.counters
        }
    }
}

fn ecam_offset(gpa: Gpa) -> Option<u64> {
    gpa.0
        .checked_sub(layout::ECAM.0)
        .filter(|offset| *offset < layout::ECAM_BYTES)
}

/// RAM below and above 4 GiB.
fn ram_sizes(memory: &GuestMemory) -> RamSizes {
    let slots = memory.slots().as_slice();
    let low = slots
        .iter()
        .filter(|slot| slot.gpa < layout::HIGH_RAM_START);
    let high = slots
        .iter()
        .filter(|slot| slot.gpa >= layout::HIGH_RAM_START);
    RamSizes {
        low_bytes: low
            .map(|slot| slot.end().0)
            .max()
            .unwrap_or(0)
            .min(layout::LOW_RAM_LIMIT.0),
        high_bytes: high.map(|slot| slot.len_bytes).sum(),
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
