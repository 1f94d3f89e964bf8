//! A keyboard or mouse on the PS/2 wire: answers commands, never says anything of itself.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Bytes that a device keeps for the controller at most, as the 16 of a real keyboard's buffer.
pub(super) const QUEUE_LIMIT: usize = 16;

const ACKNOWLEDGE: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;

/// Which device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Kind {
    /// A 102-key keyboard.
    Keyboard,
    /// A two-button mouse.
    Mouse,
}

/// The device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Ps2 {
    kind: Kind,
    /// The command whose parameter comes next.
    awaits: Option<u8>,
    queue: VecDeque<u8>,
    /// What was sent last, to be sent again.
    last: u8,
    resolution: u8,
    rate: u8,
    reports: bool,
}

impl Ps2 {
    /// A device after power-on.
    pub(super) fn new(kind: Kind) -> Ps2 {
        Ps2 {
            kind,
            awaits: None,
            queue: VecDeque::new(),
            last: 0,
            resolution: 2,
            rate: 100,
            reports: false,
        }
    }

    /// Bytes that wait.
    /// Whether it is one of this kind, with no more bytes to say than it would keep.
    pub(super) fn is(&self, kind: Kind) -> bool {
        self.kind == kind && self.queue.len() <= QUEUE_LIMIT
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Takes the next byte. Translated, a keyboard's identity reads as the scan codes it looks like.
    pub(super) fn pop(&mut self, translated: bool) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        self.last = byte;
        Some(if translated && byte == 0x83 {
            0x41
        } else {
            byte
        })
    }

    fn answer(&mut self, bytes: &[u8]) {
        let room = QUEUE_LIMIT - self.queue.len();
        self.queue.extend(&bytes[..bytes.len().min(room)]);
    }

    /// Takes a byte from the controller. A new command throws away what waited, as on the wire.
    pub(super) fn write(&mut self, value: u8) {
        self.queue.clear();
        if let Some(command) = self.awaits.take() {
            return self.write_parameter(command, value);
        }
        match self.kind {
            Kind::Keyboard => self.keyboard_command(value),
            Kind::Mouse => self.mouse_command(value),
        }
    }

    fn write_parameter(&mut self, command: u8, value: u8) {
        self.answer(&[ACKNOWLEDGE]);
        match (self.kind, command) {
            // The set in use, when asked for with 0.
            (Kind::Keyboard, 0xf0) if value == 0 => self.answer(&[2]),
            (Kind::Mouse, 0xe8) => self.resolution = value,
            (Kind::Mouse, 0xf3) => self.rate = value,
            _ => {}
        }
    }

    fn keyboard_command(&mut self, value: u8) {
        match value {
            // Lights, scan code set, repeat rate.
            0xed | 0xf0 | 0xf3 => self.await_parameter(value),
            0xee => self.answer(&[0xee]),
            0xf2 => self.answer(&[ACKNOWLEDGE, 0xab, 0x83]),
            0xf4..=0xfa => self.answer(&[ACKNOWLEDGE]),
            0xfe => self.answer(&[self.last]),
            0xff => self.answer(&[ACKNOWLEDGE, SELF_TEST_PASSED]),
            _ => self.answer(&[RESEND]),
        }
    }

    fn mouse_command(&mut self, value: u8) {
        match value {
            // Resolution, sample rate.
            0xe8 | 0xf3 => self.await_parameter(value),
            0xe9 => {
                let status = if self.reports { 0x20 } else { 0 };
                self.answer(&[ACKNOWLEDGE, status, self.resolution, self.rate]);
            }
            // A packet that says: no button, no movement.
            0xeb => self.answer(&[ACKNOWLEDGE, 0x08, 0, 0]),
            0xf2 => self.answer(&[ACKNOWLEDGE, 0]),
            0xf4 | 0xf5 => {
                self.reports = value == 0xf4;
                self.answer(&[ACKNOWLEDGE]);
            }
            // Scaling, modes.
            0xe6 | 0xe7 | 0xea | 0xec | 0xee | 0xf0 => self.answer(&[ACKNOWLEDGE]),
            0xf6 => {
                *self = Ps2::new(Kind::Mouse);
                self.answer(&[ACKNOWLEDGE]);
            }
            0xfe => self.answer(&[self.last]),
            0xff => {
                *self = Ps2::new(Kind::Mouse);
                self.answer(&[ACKNOWLEDGE, SELF_TEST_PASSED, 0]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    fn await_parameter(&mut self, command: u8) {
        self.awaits = Some(command);
        self.answer(&[ACKNOWLEDGE]);
    }
}
