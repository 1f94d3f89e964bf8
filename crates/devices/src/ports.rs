//! Single ports: system control A, debug exit, and the ports that are written to and mean nothing.

use crate::bus::PioDevice;
use crate::event::{BoardEvent, BoardEvents};
use crate::saved::{Saved, Unfit};

/// System control port A, 0x92 (PS/2 technical reference): fast reset and the A20 gate, which is always open.
pub struct SystemControlA {
    value: u8,
    events: BoardEvents,
}

impl SystemControlA {
    /// The port after reset.
    pub fn new(events: BoardEvents) -> SystemControlA {
        SystemControlA {
            value: 0x02,
            events,
        }
    }
}

impl Saved for SystemControlA {
    type State = u8;

    fn save(&self) -> u8 {
        self.value
    }

    fn restore(&mut self, state: u8) -> Result<(), Unfit> {
        self.value = state;
        Ok(())
    }
}

impl PioDevice for SystemControlA {
    fn read(&mut self, _offset: u16, _size: u8) -> u32 {
        u32::from(self.value)
    }

    fn write(&mut self, _offset: u16, _size: u8, value: u32) {
        let value = value as u8;
        if value & !self.value & 1 != 0 {
            self.events.post(BoardEvent::Reset);
        }
        self.value = value & 0x03;
    }
}

/// The port by which test kernels end: a value `v` ends the VM with exit status `v << 1 | 1`.
pub struct DebugExit(BoardEvents);

impl DebugExit {
    /// A port that posts to `events`.
    pub fn new(events: BoardEvents) -> DebugExit {
        DebugExit(events)
    }
}

impl PioDevice for DebugExit {
    fn read(&mut self, _offset: u16, _size: u8) -> u32 {
        0
    }

    fn write(&mut self, _offset: u16, _size: u8, value: u32) {
        self.0.post(BoardEvent::DebugExit((value << 1 | 1) as u8));
    }

    fn width(&self) -> u8 {
        4
    }
}

/// Ports that kernels write for lack of anything better: POST codes and I/O delays (0x80), DMA pages, the math
/// coprocessor's reset. They read as what was last written, as the latches they once were.
#[derive(Default)]
pub struct Latches([u8; 16]);

impl Saved for Latches {
    type State = [u8; 16];

    fn save(&self) -> [u8; 16] {
        self.0
    }

    fn restore(&mut self, state: [u8; 16]) -> Result<(), Unfit> {
        self.0 = state;
        Ok(())
    }
}

impl PioDevice for Latches {
    fn read(&mut self, offset: u16, _size: u8) -> u32 {
        u32::from(self.0[usize::from(offset) % 16])
    }

    fn write(&mut self, offset: u16, _size: u8, value: u32) {
        self.0[usize::from(offset) % 16] = value as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_92_resets_on_a_rising_bit() {
        let check = |writes: &[u32], expected| {
            let events = BoardEvents::default();
            let mut port = SystemControlA::new(events.clone());
            writes.iter().for_each(|&value| port.write(0, 1, value));
            assert_eq!(events.take(), expected, "{writes:x?}");
        };
        check(&[0x02], None);
        check(&[0x00, 0x02], None);
        check(&[0x03], Some(BoardEvent::Reset));
    }

    #[test]
    fn the_debug_exit_status_is_odd() {
        let check = |value, expected| {
            let events = BoardEvents::default();
            DebugExit::new(events.clone()).write(0, 4, value);
            assert_eq!(
                events.take(),
                Some(BoardEvent::DebugExit(expected)),
                "{value:#x}"
            );
        };
        check(0, 1);
        check(0x10, 0x21);
        check(0x80, 1);
        check(u32::MAX, 0xff);
    }
}
