//! ACPI power management registers (ACPI 6.5, 4.8): events, control, timer, general-purpose events.
//!
//! The board is always in ACPI mode, there is no legacy mode to switch from. Of the sleep states there is S5, off.
//! The power button is a fixed-feature button.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::bus::{PioDevice, low_bytes};
use crate::clock::Nanos;
use crate::event::{BoardEvent, BoardEvents};
use crate::irq::IrqLine;
use crate::layout::port;
use crate::saved::{Saved, Unfit};

/// Frequency of the power management timer (ACPI 6.5, 4.8.2.1).
pub const PM_TIMER_HZ: u64 = 3_579_545;
/// Sleep type that the DSDT gives for S5.
pub const S5_SLEEP_TYPE: u8 = 5;
/// Bytes of the general-purpose event block: half status, half enable.
pub const GPE0_BYTES: u8 = 4;

/// The ports, in the order in which offsets count through them.
pub const PLACES: [(u16, u16); 4] = [
    (port::PM1_EVENT, 4),
    (port::PM1_CONTROL, 2),
    (port::PM_TIMER, 4),
    (port::GPE0, GPE0_BYTES as u16),
];

/// Registers behind the ports, by offset.
const BYTES: usize = 14;
const STATUS: usize = 0;
const ENABLE: usize = 2;
const CONTROL: usize = 4;
const TIMER: usize = 6;
const GPE_STATUS: usize = 10;
const GPE_ENABLE: usize = 12;

/// Bits of PM1 status and enable (ACPI 6.5, 4.8.3.1).
const TIMER_EVENT: u16 = 1 << 0;
const POWER_BUTTON_EVENT: u16 = 1 << 8;
const STATUS_BITS: u16 = TIMER_EVENT | 1 << 5 | POWER_BUTTON_EVENT | 1 << 9 | 1 << 10 | 1 << 15;
const ENABLE_BITS: u16 = TIMER_EVENT | 1 << 5 | POWER_BUTTON_EVENT | 1 << 9 | 1 << 10;
/// Bits of PM1 control (ACPI 6.5, 4.8.3.2).
const SCI_ENABLED: u16 = 1 << 0;
const SLEEP_ENABLE: u16 = 1 << 13;
const CONTROL_BITS: u16 = 1 << 1 | 7 << 10;

/// The general-purpose event of a new [generation](crate::generation), as the DSDT has it.
const GENERATION_EVENT: u16 = 1 << 0;

/// The button on the outside.
#[derive(Clone, Debug, Default)]
pub struct PowerButton(Arc<AtomicBool>);

impl PowerButton {
    /// Presses and lets go.
    pub fn press(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Says that the machine's generation is another; what is said before the registers look is said once.
#[derive(Clone, Debug, Default)]
pub struct GenerationSignal(Arc<AtomicBool>);

impl GenerationSignal {
    /// It is another now.
    pub fn tell(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What the registers are at a moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PowerState {
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u16,
    gpe_enable: u16,
    now: Nanos,
    /// The button was pressed, and the registers do not show it yet.
    is_pressed: bool,
}

/// The registers.
pub struct PowerManagement {
    state: PowerState,
    button: PowerButton,
    generation: GenerationSignal,
    events: BoardEvents,
    line: IrqLine,
}

impl Saved for PowerManagement {
    type State = PowerState;

    fn save(&self) -> PowerState {
        PowerState {
            is_pressed: self.button.0.load(Ordering::Acquire),
            ..self.state.clone()
        }
    }

    fn restore(&mut self, state: PowerState) -> Result<(), Unfit> {
        self.button.0.store(state.is_pressed, Ordering::Release);
        self.state = PowerState {
            is_pressed: false,
            ..state
        };
        Ok(())
    }
}

impl PowerManagement {
    /// Registers after reset.
    pub fn new(
        now: Nanos,
        button: PowerButton,
        generation: GenerationSignal,
        events: BoardEvents,
        line: IrqLine,
    ) -> PowerManagement {
        let state = PowerState {
            status: 0,
            enable: 0,
            control: SCI_ENABLED,
            gpe_status: 0,
            gpe_enable: 0,
            now,
            is_pressed: false,
        };
        PowerManagement {
            state,
            button,
            generation,
            events,
            line,
        }
    }

    fn bytes(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let timer = (self.state.now.ticks(PM_TIMER_HZ) as u32).to_le_bytes();
        bytes[TIMER..TIMER + 4].copy_from_slice(&timer);
        let words = [
            (STATUS, self.state.status),
            (ENABLE, self.state.enable),
            (CONTROL, self.state.control),
            (GPE_STATUS, self.state.gpe_status),
            (GPE_ENABLE, self.state.gpe_enable),
        ];
        for (at, word) in words {
            bytes[at..at + 2].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Writes one byte of a 16-bit register.
    fn write_byte(&mut self, at: usize, value: u8) {
        let shift = 8 * (at % 2);
        let value = u16::from(value) << shift;
        let kept = !(0xff_u16 << shift);
        match at & !1 {
            // Status bits are cleared by writing ones.
            STATUS => self.state.status &= !value,
            ENABLE => self.state.enable = (self.state.enable & kept | value) & ENABLE_BITS,
            CONTROL => {
                self.state.control =
                    (self.state.control & kept | value) & CONTROL_BITS | SCI_ENABLED;
                let sleep_type = (self.state.control >> 10 & 7) as u8;
                if value & SLEEP_ENABLE != 0 && sleep_type == S5_SLEEP_TYPE {
                    self.events.post(BoardEvent::PowerOff);
                }
            }
            GPE_STATUS => self.state.gpe_status &= !value,
            GPE_ENABLE => self.state.gpe_enable = self.state.gpe_enable & kept | value,
            _ => {}
        }
    }

    /// The interrupt is a level: it stays while an enabled event is unanswered.
    fn update_line(&self) {
        let fixed = self.state.status & self.state.enable & STATUS_BITS != 0;
        self.line
            .set(fixed || self.state.gpe_status & self.state.gpe_enable != 0);
    }

    /// The timer's top bit, whose changes are the timer event.
    fn timer_half(now: Nanos) -> u64 {
        now.ticks(PM_TIMER_HZ) >> 31
    }
}

impl PioDevice for PowerManagement {
    fn read(&mut self, offset: u16, size: u8) -> u32 {
        let bytes = self.bytes();
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        let at = usize::from(offset);
        u32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)])
            & low_bytes(size) as u32
    }

    fn write(&mut self, offset: u16, size: u8, value: u32) {
        for (n, byte) in value
            .to_le_bytes()
            .into_iter()
            .enumerate()
            .take(usize::from(size))
        {
            self.write_byte(usize::from(offset) + n, byte);
        }
        self.update_line();
    }

    fn width(&self) -> u8 {
        4
    }

    fn advance(&mut self, now: Nanos) {
        let last = self.state.now;
        self.state.now = last.max(now);
        if PowerManagement::timer_half(last) != PowerManagement::timer_half(self.state.now) {
            self.state.status |= TIMER_EVENT;
        }
        if self.button.0.swap(false, Ordering::AcqRel) {
            self.state.status |= POWER_BUTTON_EVENT;
        }
        if self.generation.0.swap(false, Ordering::AcqRel) {
            self.state.gpe_status |= GENERATION_EVENT;
        }
        self.update_line();
    }

    fn deadline(&self) -> Option<Nanos> {
        let next = (PowerManagement::timer_half(self.state.now) + 1) << 31;
        (self.state.enable & TIMER_EVENT != 0).then(|| Nanos::of_ticks(next, PM_TIMER_HZ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::IrqLines;

    struct Setup {
        pm: PowerManagement,
        button: PowerButton,
        generation: GenerationSignal,
        events: BoardEvents,
        lines: IrqLines,
    }

    fn setup() -> Setup {
        let button = PowerButton::default();
        let generation = GenerationSignal::default();
        let events = BoardEvents::default();
        let lines = IrqLines::default();
        let pm = PowerManagement::new(
            Nanos(0),
            button.clone(),
            generation.clone(),
            events.clone(),
            lines.line(9),
        );
        Setup {
            pm,
            button,
            generation,
            events,
            lines,
        }
    }

    #[test]
    fn linux_switches_off() {
        let check = |name, writes: &[(usize, u8, u32)], expected| {
            let mut setup = setup();
            writes
                .iter()
                .for_each(|&(at, size, value)| setup.pm.write(at as u16, size, value));
            assert_eq!(setup.events.take(), expected, "{name}");
        };
        let off = Some(BoardEvent::PowerOff);
        check(
            "type first, then enable",
            &[(CONTROL, 2, 0x1401), (CONTROL, 2, 0x3401)],
            off,
        );
        check("at once", &[(CONTROL, 2, 0x3400)], off);
        check("by bytes", &[(CONTROL + 1, 1, 0x34)], off);
        check("another sleep state", &[(CONTROL, 2, 0x2401)], None);
        check("enable forgotten", &[(CONTROL, 2, 0x1401)], None);
    }

    #[test]
    fn acpi_mode_cannot_be_left() {
        let mut setup = setup();
        setup.pm.write(CONTROL as u16, 2, 0);
        assert_eq!(setup.pm.read(CONTROL as u16, 2), u32::from(SCI_ENABLED));
    }

    #[test]
    fn the_power_button_interrupts_until_it_is_answered() {
        let mut setup = setup();
        setup.button.press();
        setup.pm.advance(Nanos(1));
        assert_eq!(setup.lines.take_edges().high, 0, "not enabled");
        setup
            .pm
            .write(ENABLE as u16, 2, u32::from(POWER_BUTTON_EVENT));
        assert_eq!(setup.lines.take_edges().high, 1 << 9);
        assert_eq!(setup.pm.read(STATUS as u16, 4), 0x0100_0100);
        setup.pm.write(STATUS as u16, 2, 0x0100);
        assert_eq!(setup.lines.take_edges().high, 0);
        assert_eq!(setup.pm.read(STATUS as u16, 2), 0);
    }

    #[test]
    fn a_new_generation_is_an_event_until_it_is_answered() {
        let mut setup = setup();
        setup.generation.tell();
        setup.pm.advance(Nanos(1));
        assert_eq!(setup.lines.take_edges().high, 0, "not enabled");
        setup.pm.write(GPE_ENABLE as u16, 2, 1);
        assert_eq!(setup.lines.take_edges().high, 1 << 9);
        assert_eq!(setup.pm.read(GPE_STATUS as u16, 2), 1);
        setup.pm.write(GPE_STATUS as u16, 1, 1);
        assert_eq!(setup.lines.take_edges().high, 0);
    }

    #[test]
    fn the_timer_counts_at_its_frequency_and_tells_when_the_top_bit_changes() {
        let mut setup = setup();
        setup.pm.advance(Nanos(1_000_000_000));
        assert_eq!(setup.pm.read(TIMER as u16, 4), PM_TIMER_HZ as u32);
        assert_eq!(setup.pm.deadline(), None);
        setup.pm.write(ENABLE as u16, 2, 1);
        let deadline = setup.pm.deadline().unwrap();
        setup.pm.advance(Nanos(deadline.0 - 1));
        assert_eq!(setup.lines.take_edges().high, 0);
        setup.pm.advance(deadline);
        assert_eq!(setup.pm.read(TIMER as u16, 4), 1 << 31);
        assert_eq!(setup.lines.take_edges().high, 1 << 9);
    }
}
