//! The 8259 pair: the PC's first interrupt controller (Intel 8259A datasheet), with the trigger mode registers of
//! later chipsets (ELCR, ports 0x4d0 and 0x4d1).
//!
//! Kernels use it until they find the IOAPIC, and some never look further. Both chips are the same state machine;
//! the second one's output is input 2 of the first.

use serde::{Deserialize, Serialize};
use x86::Vector;

use crate::layout::port;
use crate::saved::{Saved, Unfit, ensure};

/// The input of the first chip that the second one drives.
const CASCADE: u8 = 2;
/// Inputs that can be level-triggered, per chip: not the timer, keyboard, cascade, RTC and FPU.
const ELCR_WRITABLE: [u8; 2] = [0xf8, 0xde];

/// What a chip expects at its second port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
enum Step {
    /// OCW1, the mask.
    #[default]
    Ready,
    /// ICW2, the vector base.
    Base,
    /// ICW3, the cascade wiring.
    Cascade,
    /// ICW4, the mode.
    Mode,
}

/// One 8259.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Chip {
    /// Levels of the inputs.
    lines: u8,
    irr: u8,
    imr: u8,
    isr: u8,
    elcr: u8,
    /// The input with the lowest priority is the one before this one.
    highest: u8,
    vector_base: u8,
    step: Step,
    wants_mode: bool,
    is_single: bool,
    is_auto_eoi: bool,
    rotates_on_auto_eoi: bool,
    is_special_mask: bool,
    is_special_fully_nested: bool,
    reads_isr: bool,
    polls: bool,
    is_first: bool,
}

impl Chip {
    fn set_line(&mut self, line: u8, high: bool) {
        let bit = 1 << line;
        let rose = high && self.lines & bit == 0;
        self.lines = if high {
            self.lines | bit
        } else {
            self.lines & !bit
        };
        if self.elcr & bit != 0 {
            self.irr = if high {
                self.irr | bit
            } else {
                self.irr & !bit
            };
        } else if rose {
            self.irr |= bit;
        }
    }

    /// Distance of the most urgent of these inputs from the highest priority; 8 if there is none.
    fn priority(&self, inputs: u8) -> u8 {
        inputs
            .rotate_right(u32::from(self.highest))
            .trailing_zeros() as u8
    }

    /// The input that may interrupt now.
    fn requesting(&self) -> Option<u8> {
        let priority = self.priority(self.irr & !self.imr);
        let mut in_service = self.isr;
        if self.is_special_mask {
            in_service &= !self.imr;
        }
        if self.is_special_fully_nested && self.is_first {
            in_service &= !(1 << CASCADE);
        }
        (priority < self.priority(in_service)).then(|| self.input(priority))
    }

    fn input(&self, priority: u8) -> u8 {
        (priority + self.highest) & 7
    }

    /// The processor takes this input.
    fn acknowledge(&mut self, input: u8) {
        let bit = 1 << input;
        if self.is_auto_eoi {
            if self.rotates_on_auto_eoi {
                self.highest = (input + 1) & 7;
            }
        } else {
            self.isr |= bit;
        }
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            // ICW1 clears everything but the wires; edge detection starts anew.
            *self = Chip {
                lines: self.lines,
                elcr: self.elcr,
                irr: self.lines & self.elcr,
                is_first: self.is_first,
                vector_base: self.vector_base,
                step: Step::Base,
                wants_mode: value & 1 != 0,
                is_single: value & 2 != 0,
                ..Chip::default()
            };
        } else if value & 0x08 != 0 {
            // OCW3.
            if value & 4 != 0 {
                self.polls = true;
            }
            if value & 2 != 0 {
                self.reads_isr = value & 1 != 0;
            }
            if value & 0x40 != 0 {
                self.is_special_mask = value & 0x20 != 0;
            }
        } else {
            self.write_ocw2(value);
        }
    }

    fn write_ocw2(&mut self, value: u8) {
        let level = value & 7;
        match value >> 5 {
            0 => self.rotates_on_auto_eoi = false,
            4 => self.rotates_on_auto_eoi = true,
            // Unspecific end of interrupt, with or without rotation.
            1 | 5 => {
                let priority = self.priority(self.isr);
                if priority < 8 {
                    let input = self.input(priority);
                    self.isr &= !(1 << input);
                    if value >> 5 == 5 {
                        self.highest = (input + 1) & 7;
                    }
                }
            }
            3 => self.isr &= !(1 << level),
            6 => self.highest = (level + 1) & 7,
            7 => {
                self.isr &= !(1 << level);
                self.highest = (level + 1) & 7;
            }
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.step {
            Step::Ready => self.imr = value,
            Step::Base => {
                self.vector_base = value & 0xf8;
                let after_cascade = if self.wants_mode {
                    Step::Mode
                } else {
                    Step::Ready
                };
                self.step = if self.is_single {
                    after_cascade
                } else {
                    Step::Cascade
                };
            }
            Step::Cascade => {
                self.step = if self.wants_mode {
                    Step::Mode
                } else {
                    Step::Ready
                }
            }
            Step::Mode => {
                self.is_special_fully_nested = value & 0x10 != 0;
                self.is_auto_eoi = value & 2 != 0;
                self.step = Step::Ready;
            }
        }
    }

    fn read(&mut self, is_data: bool) -> u8 {
        if std::mem::take(&mut self.polls) {
            return match self.requesting() {
                Some(input) => {
                    self.acknowledge(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        match (is_data, self.reads_isr) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => self.irr,
        }
    }
}

/// Both chips.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PicPair([Chip; 2]);

impl Default for PicPair {
    /// As firmware leaves them: everything masked, vectors 8 to 15 and 0x70 to 0x77, the ACPI interrupt
    /// level-triggered.
    fn default() -> PicPair {
        let first = Chip {
            imr: 0xff,
            vector_base: 0x08,
            is_first: true,
            ..Chip::default()
        };
        let second = Chip {
            imr: 0xff,
            vector_base: 0x70,
            elcr: 0x02,
            ..Chip::default()
        };
        PicPair([first, second])
    }
}

impl Saved for PicPair {
    type State = PicPair;

    fn save(&self) -> PicPair {
        *self
    }

    fn restore(&mut self, state: PicPair) -> Result<(), Unfit> {
        let has_inputs = state.0.iter().all(|chip| chip.highest < 8);
        ensure(has_inputs, "8259 pair", "an input that is not there")?;
        let is_wired = state.0[0].is_first && !state.0[1].is_first;
        ensure(is_wired, "8259 pair", "two chips of one kind")?;
        *self = state;
        Ok(())
    }
}

/// Where a port leads.
enum Register {
    Command(usize),
    Data(usize),
    TriggerMode(usize),
}

fn register(at: u16) -> Option<Register> {
    match at {
        port::PIC_PRIMARY => Some(Register::Command(0)),
        port::PIC_SECONDARY => Some(Register::Command(1)),
        _ if at == port::PIC_PRIMARY + 1 => Some(Register::Data(0)),
        _ if at == port::PIC_SECONDARY + 1 => Some(Register::Data(1)),
        port::PIC_ELCR => Some(Register::TriggerMode(0)),
        _ if at == port::PIC_ELCR + 1 => Some(Register::TriggerMode(1)),
        _ => None,
    }
}

impl PicPair {
    /// Whether this port is one of ours.
    pub fn has_port(at: u16) -> bool {
        register(at).is_some()
    }

    /// IN of one byte; all ones for a port that is not ours.
    pub fn read(&mut self, at: u16) -> u8 {
        let value = match register(at) {
            Some(Register::Command(chip)) => self.0[chip].read(false),
            Some(Register::Data(chip)) => self.0[chip].read(true),
            Some(Register::TriggerMode(chip)) => self.0[chip].elcr,
            None => 0xff,
        };
        self.update_cascade();
        value
    }

    /// OUT of one byte.
    pub fn write(&mut self, at: u16, value: u8) {
        match register(at) {
            Some(Register::Command(chip)) => self.0[chip].write_command(value),
            Some(Register::Data(chip)) => self.0[chip].write_data(value),
            Some(Register::TriggerMode(chip)) => self.0[chip].elcr = value & ELCR_WRITABLE[chip],
            None => {}
        }
        self.update_cascade();
    }

    /// One of the 16 inputs changed.
    pub fn set_line(&mut self, irq: u8, high: bool) {
        if irq < 16 && irq != CASCADE {
            self.0[usize::from(irq / 8)].set_line(irq % 8, high);
            self.update_cascade();
        }
    }

    fn update_cascade(&mut self) {
        // The first chip must see a new edge for each request of the second.
        let wants = self.0[1].requesting().is_some();
        self.0[0].set_line(CASCADE, wants);
        if !wants {
            self.0[0].irr &= !(1 << CASCADE);
        } else if self.0[0].isr & 1 << CASCADE == 0 || self.0[0].is_special_fully_nested {
            self.0[0].irr |= 1 << CASCADE;
        }
    }

    /// Level of the output that goes to the processor.
    pub fn has_interrupt(&self) -> bool {
        self.0[0].requesting().is_some()
    }

    /// The processor asks for the vector. If the request went away meanwhile, that of input 7 (8259A, default IR7).
    pub fn acknowledge(&mut self) -> Vector {
        let Some(input) = self.0[0].requesting() else {
            return self.0[0].vector_base | 7;
        };
        self.0[0].acknowledge(input);
        let vector = if input == CASCADE {
            let second = &mut self.0[1];
            match second.requesting() {
                Some(input) => {
                    second.acknowledge(input);
                    second.vector_base | input
                }
                None => second.vector_base | 7,
            }
        } else {
            self.0[0].vector_base | input
        };
        self.update_cascade();
        vector
    }
}

#[cfg(test)]
#[path = "pic_tests.rs"]
mod tests;
