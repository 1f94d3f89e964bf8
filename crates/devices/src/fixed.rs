//! The devices that every board has, each in a field of its own: the bus knows them by number, everybody else by name.

use serde::{Deserialize, Serialize};

use crate::bus::{Devices, Overlap, PioBus, PioDevice};
use crate::clock::Nanos;
use crate::console::{ConsoleInput, ConsoleOutput};
use crate::event::BoardEvents;
use crate::i8042::{I8042, I8042State};
use crate::irq::IrqLines;
use crate::layout::{irq, port};
use crate::pit::{Pit, PitState};
use crate::plan::BoardPlan;
use crate::pm::{self, GenerationSignal, PowerButton, PowerManagement, PowerState};
use crate::ports::{DebugExit, Latches, SystemControlA};
use crate::rtc::{RamSizes, Rtc, RtcState};
use crate::saved::{Saved, Unfit};
use crate::serial::{Serial, SerialState};

/// The devices on the I/O ports.
pub(crate) struct FixedDevices {
    pit: Pit,
    i8042: I8042,
    rtc: Rtc,
    serial: Serial,
    pm: PowerManagement,
    post: Latches,
    coprocessor: Latches,
    control_a: SystemControlA,
    /// It has a number whether or not the plan gives it a place.
    debug_exit: DebugExit,
}

/// What they are at a moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FixedState {
    pit: PitState,
    i8042: I8042State,
    rtc: RtcState,
    serial: SerialState,
    pm: PowerState,
    post: [u8; 16],
    coprocessor: [u8; 16],
    control_a: u8,
}

/// What the devices are connected to.
pub(crate) struct Surroundings<'a> {
    pub(crate) lines: &'a IrqLines,
    pub(crate) events: &'a BoardEvents,
    pub(crate) input: &'a ConsoleInput,
    pub(crate) output: &'a ConsoleOutput,
    pub(crate) button: &'a PowerButton,
    pub(crate) generation: &'a GenerationSignal,
    pub(crate) ram: RamSizes,
}

impl FixedDevices {
    /// The devices after reset, at time zero.
    pub(crate) fn new(plan: &BoardPlan, around: &Surroundings<'_>) -> FixedDevices {
        let now = Nanos(0);
        let line = |number| around.lines.line(number);
        let events = || around.events.clone();
        FixedDevices {
            pit: Pit::new(now, line(irq::PIT)),
            i8042: I8042::new(line(irq::KEYBOARD), line(irq::MOUSE), events()),
            rtc: Rtc::new(now, plan.clock, around.ram, line(irq::RTC)),
            serial: Serial::new(around.input.clone(), around.output.clone(), line(irq::COM1)),
            pm: PowerManagement::new(
                now,
                around.button.clone(),
                around.generation.clone(),
                events(),
                line(irq::SCI),
            ),
            post: Latches::default(),
            coprocessor: Latches::default(),
            control_a: SystemControlA::new(events()),
            debug_exit: DebugExit::new(events()),
        }
    }

    /// A bus on which they stand in their places.
    pub(crate) fn on_ports(self, plan: &BoardPlan) -> Result<PioBus<FixedDevices>, Overlap> {
        let mut bus = PioBus::new(self);
        for (number, (name, places)) in PLACES.iter().enumerate() {
            if number != DEBUG_EXIT || plan.has_debug_exit {
                bus.place(name, places, number)?;
            }
        }
        Ok(bus)
    }

    /// The serial port.
    pub(crate) fn serial(&self) -> &Serial {
        &self.serial
    }
}

/// Names and ports of the devices, by number.
const PLACES: [(&str, &[(u16, u16)]); 9] = [
    ("timer", &[(port::PIT, 4), (port::SYSTEM_CONTROL_B, 1)]),
    (
        "keyboard controller",
        &[(port::I8042_DATA, 1), (port::I8042_COMMAND, 1)],
    ),
    ("clock", &[(port::RTC, 2)]),
    ("serial port", &[(port::COM1, 8)]),
    ("power management", &pm::PLACES),
    ("POST and DMA pages", &[(port::POST, 16)]),
    ("coprocessor", &[(port::COPROCESSOR, 2)]),
    ("system control A", &[(port::SYSTEM_CONTROL_A, 1)]),
    ("debug exit", &[(port::DEBUG_EXIT, 4)]),
];

/// The last number.
const DEBUG_EXIT: usize = PLACES.len() - 1;

impl Devices<dyn PioDevice> for FixedDevices {
    fn count(&self) -> usize {
        PLACES.len()
    }

    fn get(&self, number: usize) -> &(dyn PioDevice + 'static) {
        match number {
            0 => &self.pit,
            1 => &self.i8042,
            2 => &self.rtc,
            3 => &self.serial,
            4 => &self.pm,
            5 => &self.post,
            6 => &self.coprocessor,
            7 => &self.control_a,
            _ => &self.debug_exit,
        }
    }

    fn get_mut(&mut self, number: usize) -> &mut (dyn PioDevice + 'static) {
        match number {
            0 => &mut self.pit,
            1 => &mut self.i8042,
            2 => &mut self.rtc,
            3 => &mut self.serial,
            4 => &mut self.pm,
            5 => &mut self.post,
            6 => &mut self.coprocessor,
            7 => &mut self.control_a,
            _ => &mut self.debug_exit,
        }
    }
}

impl Saved for FixedDevices {
    type State = FixedState;

    fn save(&self) -> FixedState {
        FixedState {
            pit: self.pit.save(),
            i8042: self.i8042.save(),
            rtc: self.rtc.save(),
            serial: self.serial.save(),
            pm: self.pm.save(),
            post: self.post.save(),
            coprocessor: self.coprocessor.save(),
            control_a: self.control_a.save(),
        }
    }

    fn restore(&mut self, state: FixedState) -> Result<(), Unfit> {
        self.pit.restore(state.pit)?;
        self.i8042.restore(state.i8042)?;
        self.rtc.restore(state.rtc)?;
        self.serial.restore(state.serial)?;
        self.pm.restore(state.pm)?;
        self.post.restore(state.post)?;
        self.coprocessor.restore(state.coprocessor)?;
        self.control_a.restore(state.control_a)
    }
}
