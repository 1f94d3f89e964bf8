//! The keyboard controller with a keyboard and a mouse that nobody touches (IBM PS/2 technical reference, keyboard
//! and auxiliary device controller; Intel 8042).
//!
//! Kernels want it for two things: to reset the machine, and to find no fault with it. So controller, keyboard and
//! mouse answer every command as real ones do, and no key is ever pressed.
//!
//! rust-vmm's controller was looked at first: it knows the reset command and the output port, but answers no
//! self-test and has no devices, which Linux reports as errors.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::bus::PioDevice;
use crate::event::{BoardEvent, BoardEvents};
use crate::irq::IrqLine;
use crate::saved::{Saved, Unfit, ensure};

mod ps2;

use ps2::{Kind, Ps2};

/// Offset of the data port, 0x60; the other is the command and status port, 0x64.
const DATA: u16 = 0;

const STATUS_FULL: u8 = 1 << 0;
const STATUS_SYSTEM: u8 = 1 << 2;
const STATUS_COMMAND: u8 = 1 << 3;
const STATUS_UNLOCKED: u8 = 1 << 4;
const STATUS_MOUSE: u8 = 1 << 5;

/// Bits of the command byte.
const KEYBOARD_INTERRUPT: u8 = 1 << 0;
const MOUSE_INTERRUPT: u8 = 1 << 1;
const SYSTEM: u8 = 1 << 2;
const KEYBOARD_DISABLED: u8 = 1 << 4;
const MOUSE_DISABLED: u8 = 1 << 5;
const TRANSLATED: u8 = 1 << 6;

/// Output port: not in reset, A20 open.
const OUTPUT_PORT: u8 = 0x03;
/// Replies that wait at most. A guest that asks without reading loses the oldest questions, not our memory.
const REPLY_LIMIT: usize = 16;

/// What the next byte at the data port is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Next {
    Keyboard,
    Memory(u8),
    OutputPort,
    EchoAsKeyboard,
    EchoAsMouse,
    Mouse,
}

/// A byte in the output buffer and whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Byte {
    value: u8,
    is_mouse: bool,
}

/// What a controller with its keyboard and mouse is at a moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct I8042State {
    /// Command byte and the memory behind it.
    memory: [u8; 32],
    next: Next,
    last_was_command: bool,
    output: Option<Byte>,
    replies: VecDeque<Byte>,
    keyboard: Ps2,
    mouse: Ps2,
}

/// The controller.
pub struct I8042 {
    state: I8042State,
    keyboard_line: IrqLine,
    mouse_line: IrqLine,
    events: BoardEvents,
}

impl Saved for I8042 {
    type State = I8042State;

    fn save(&self) -> I8042State {
        self.state.clone()
    }

    fn restore(&mut self, state: I8042State) -> Result<(), Unfit> {
        const DEVICE: &str = "keyboard controller";
        let has_place =
            !matches!(state.next, Next::Memory(at) if usize::from(at) >= state.memory.len());
        ensure(has_place, DEVICE, "a place that is not there")?;
        ensure(
            state.replies.len() <= REPLY_LIMIT,
            DEVICE,
            "too many replies",
        )?;
        let are_devices = state.keyboard.is(Kind::Keyboard) && state.mouse.is(Kind::Mouse);
        ensure(are_devices, DEVICE, "another keyboard or mouse")?;
        self.state = state;
        Ok(())
    }
}

impl I8042 {
    /// A controller as firmware leaves it: keyboard on, interrupting and translated.
    pub fn new(keyboard_line: IrqLine, mouse_line: IrqLine, events: BoardEvents) -> I8042 {
        let mut memory = [0; 32];
        memory[0] = KEYBOARD_INTERRUPT | SYSTEM | MOUSE_DISABLED | TRANSLATED;
        let state = I8042State {
            memory,
            next: Next::Keyboard,
            last_was_command: false,
            output: None,
            replies: VecDeque::new(),
            keyboard: Ps2::new(Kind::Keyboard),
            mouse: Ps2::new(Kind::Mouse),
        };
        I8042 {
            state,
            keyboard_line,
            mouse_line,
            events,
        }
    }

    fn command_byte(&self) -> u8 {
        self.state.memory[0]
    }

    fn reply(&mut self, value: u8, is_mouse: bool) {
        if self.state.replies.len() < REPLY_LIMIT {
            self.state.replies.push_back(Byte { value, is_mouse });
        }
    }

    /// Puts the next byte in the output buffer if it is free, and sets the lines.
    fn fill(&mut self) {
        if self.state.output.is_none() {
            self.state.output = self.state.replies.pop_front();
        }
        if self.state.output.is_none() && self.command_byte() & KEYBOARD_DISABLED == 0 {
            let translated = self.command_byte() & TRANSLATED != 0;
            self.state.output = self.state.keyboard.pop(translated).map(|value| Byte {
                value,
                is_mouse: false,
            });
        }
        if self.state.output.is_none() && self.command_byte() & MOUSE_DISABLED == 0 {
            self.state.output = self.state.mouse.pop(false).map(|value| Byte {
                value,
                is_mouse: true,
            });
        }
        let wants = |enabled: u8, is_mouse: bool| {
            let is_its = self
                .state
                .output
                .is_some_and(|byte| byte.is_mouse == is_mouse);
            is_its && self.command_byte() & enabled != 0
        };
        self.keyboard_line.set(wants(KEYBOARD_INTERRUPT, false));
        self.mouse_line.set(wants(MOUSE_INTERRUPT, true));
    }

    fn read_data(&mut self) -> u8 {
        let byte = self.state.output.take();
        // Every byte is an edge of its own.
        self.keyboard_line.lower();
        self.mouse_line.lower();
        byte.map_or(0, |byte| byte.value)
    }

    fn status(&self) -> u8 {
        let full = match self.state.output {
            None => 0,
            Some(Byte {
                is_mouse: false, ..
            }) => STATUS_FULL,
            Some(Byte { is_mouse: true, .. }) => STATUS_FULL | STATUS_MOUSE,
        };
        let command = if self.state.last_was_command {
            STATUS_COMMAND
        } else {
            0
        };
        full | command | STATUS_UNLOCKED | self.command_byte() & SYSTEM & STATUS_SYSTEM
    }

    fn write_command(&mut self, command: u8) {
        self.state.last_was_command = true;
        self.state.next = Next::Keyboard;
        match command {
            0x20..=0x3f => self.reply(self.state.memory[usize::from(command & 0x1f)], false),
            0x60..=0x7f => self.state.next = Next::Memory(command & 0x1f),
            0xa7 => self.state.memory[0] |= MOUSE_DISABLED,
            0xa8 => self.state.memory[0] &= !MOUSE_DISABLED,
            // Interface tests and the controller's self-test: no fault.
            0xa9 | 0xab => self.reply(0x00, false),
            0xaa => {
                self.state.memory[0] |= SYSTEM;
                self.reply(0x55, false);
            }
            0xad => self.state.memory[0] |= KEYBOARD_DISABLED,
            0xae => self.state.memory[0] &= !KEYBOARD_DISABLED,
            // Input port: keyboard not locked.
            0xc0 => self.reply(0x80, false),
            0xd0 => self.reply(OUTPUT_PORT, false),
            0xd1 => self.state.next = Next::OutputPort,
            0xd2 => self.state.next = Next::EchoAsKeyboard,
            0xd3 => self.state.next = Next::EchoAsMouse,
            0xd4 => self.state.next = Next::Mouse,
            // Pulses output lines low; line 0 is the processor's reset.
            0xf0..=0xff if command & 1 == 0 => self.events.post(BoardEvent::Reset),
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        self.state.last_was_command = false;
        match std::mem::replace(&mut self.state.next, Next::Keyboard) {
            Next::Keyboard => {
                // A byte for the keyboard switches its interface on.
                self.state.memory[0] &= !KEYBOARD_DISABLED;
                self.state.keyboard.write(value);
            }
            Next::Memory(at) => self.state.memory[usize::from(at)] = value,
            Next::OutputPort if value & 1 == 0 => self.events.post(BoardEvent::Reset),
            Next::OutputPort => {}
            Next::EchoAsKeyboard => self.reply(value, false),
            Next::EchoAsMouse => self.reply(value, true),
            Next::Mouse => self.state.mouse.write(value),
        }
    }
}

impl PioDevice for I8042 {
    fn read(&mut self, offset: u16, _size: u8) -> u32 {
        let value = if offset == DATA {
            self.read_data()
        } else {
            self.status()
        };
        self.fill();
        u32::from(value)
    }

    fn write(&mut self, offset: u16, _size: u8, value: u32) {
        if offset == DATA {
            self.write_data(value as u8);
        } else {
            self.write_command(value as u8);
        }
        self.fill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::IrqLines;

    /// Runs a script: `c=aa` writes the command port, `d=f2` the data port, `:55` expects a byte with the status
    /// that belongs to it, `m:5a` one from the mouse, `-` an empty buffer, `1` and `12` expect an interrupt.
    fn check(name: &str, script: &str) {
        let lines = IrqLines::default();
        let events = BoardEvents::default();
        let mut device = I8042::new(lines.line(1), lines.line(12), events.clone());
        let hex = |text: &str| u32::from_str_radix(text, 16).unwrap();
        for word in script.split_whitespace() {
            let status = device.read(1, 1) as u8 & (STATUS_FULL | STATUS_MOUSE);
            match word.split_once([':', '=']) {
                Some(("c", value)) => device.write(1, 1, hex(value)),
                Some(("d", value)) => device.write(0, 1, hex(value)),
                Some((whose, value)) => {
                    let expected = if whose == "m" {
                        STATUS_FULL | STATUS_MOUSE
                    } else {
                        STATUS_FULL
                    };
                    assert_eq!(status, expected, "{name}: {word}");
                    assert_eq!(device.read(0, 1), hex(value), "{name}: {word}");
                }
                None if word == "-" => assert_eq!(status, 0, "{name}"),
                None if word == "reset" => {
                    assert_eq!(events.take(), Some(BoardEvent::Reset), "{name}")
                }
                None => {
                    let rose = lines.take_edges().rose;
                    assert_eq!(rose, 1 << word.parse::<u32>().unwrap(), "{name}: {word}");
                }
            }
        }
        assert_eq!(events.take(), None, "{name}");
    }

    #[test]
    fn linux_finds_no_fault_with_the_controller() {
        check("flush", "- c=20 :65 - c=60 d=74 c=20 :74");
        check("self-test", "c=aa :55 c=aa :55 c=ab :00 c=a9 :00 -");
        check("aux loop", "c=d3 d=5a m:5a -");
        check("aux on and off", "c=a7 c=20 :65 c=a8 c=20 :45");
        check("aux interrupt test", "c=60 d=47 c=d3 d=a5 12 m:a5");
        check(
            "no interrupts while probing",
            "c=60 d=74 c=d3 d=a5 m:a5 c=60 d=77 c=d3 d=a5 12",
        );
    }

    #[test]
    fn the_keyboard_answers() {
        check("reset", "d=ff 1 :fa 1 :aa -");
        check("identify, translated", "d=f2 :fa :ab :41 -");
        check("identify, raw", "c=60 d=05 d=f2 :fa :ab :83 -");
        check("lights", "d=ed :fa d=07 :fa -");
        check("repeat rate", "d=f3 :fa d=00 :fa -");
        check("scan code set", "d=f0 :fa d=02 :fa d=f0 :fa d=00 :fa :02 -");
        check("echo", "d=ee :ee");
        check("unknown", "d=e1 :fe");
        check("held while switched off", "d=f4 c=ad :fa d=f4 :fa");
    }

    #[test]
    fn the_mouse_answers() {
        check("reset", "c=60 d=47 c=d4 d=ff m:fa m:aa m:00 -");
        check("identify", "c=60 d=47 c=d4 d=f2 m:fa m:00 -");
        check(
            "rate, then information",
            "c=60 d=47 c=d4 d=f3 m:fa c=d4 d=50 m:fa c=d4 d=e9 m:fa m:00 m:02 m:50 -",
        );
        check("interrupts", "c=60 d=47 c=d4 d=f4 12 m:fa");
        check("unknown", "c=60 d=47 c=d4 d=e1 m:fe");
        check(
            "poll: nothing moved",
            "c=60 d=47 c=d4 d=eb m:fa m:08 m:00 m:00 -",
        );
    }

    #[test]
    fn both_ways_to_reset_work() {
        check("command 0xfe", "c=fe reset");
        check("output port", "c=d1 d=fe reset");
        check("output port with A20 only", "c=d1 d=03 c=ff");
    }

    #[test]
    fn a_guest_that_never_reads_fills_nothing() {
        let lines = IrqLines::default();
        let events = BoardEvents::default();
        let mut device = I8042::new(lines.line(1), lines.line(12), events);
        for n in 0..10_000 {
            device.write(1, 1, 0x20);
            device.write(0, 1, n);
            device.write(1, 1, 0xd4);
            device.write(0, 1, 0xe9);
        }
        assert!(device.state.replies.len() <= REPLY_LIMIT);
        assert!(
            device.state.keyboard.waiting() <= ps2::QUEUE_LIMIT
                && device.state.mouse.waiting() <= ps2::QUEUE_LIMIT
        );
    }
}
