//! The IOAPIC: 24 pins, each with an entry that says which vector goes to whom (82093AA datasheet).
//!
//! Guests reach its registers through an index and a window in memory. A pin's change or a write may send a
//! [`Message`]; it comes back to the caller, who knows the local APICs.

use serde::{Deserialize, Serialize};
use x86::Vector;

use crate::apic::{Delivery, Destination, Message};
use crate::saved::{Saved, Unfit, ensure};

/// Number of pins.
pub const PIN_COUNT: usize = 24;

/// Register offsets in memory (82093AA, 3.1).
const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;

/// Registers behind the window (82093AA, 3.2).
const ID: u8 = 0x00;
const VERSION: u8 = 0x01;
const ARBITRATION: u8 = 0x02;
const TABLE: u8 = 0x10;
const TABLE_LAST: u8 = TABLE + 2 * PIN_COUNT as u8 - 1;

/// Version 0x11 with the number of the last entry.
const VERSION_VALUE: u32 = (PIN_COUNT as u32 - 1) << 16 | 0x11;

/// Bits of a redirection entry (82093AA, 3.2.4).
const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const LOGICAL: u64 = 1 << 11;
const READ_ONLY: u64 = DELIVERY_STATUS | REMOTE_IRR;
/// Everything that can be written.
const WRITABLE: u64 = 0xff00_0000_0001_ffff & !READ_ONLY;

/// The IOAPIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApic {
    id: u8,
    index: u8,
    entries: [u64; PIN_COUNT],
    /// Pins that are asserted, one bit each. Polarity is the wire's affair: a raised line is an asserted pin.
    asserted: u32,
}

impl IoApic {
    /// An IOAPIC after reset: everything masked.
    pub fn new(id: u8) -> IoApic {
        IoApic {
            id,
            index: 0,
            entries: [MASKED; PIN_COUNT],
            asserted: 0,
        }
    }

    /// A load.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        let value = match offset & !3 {
            IOREGSEL => u32::from(self.index),
            IOWIN => self.read_register(),
            _ => 0,
        };
        (u64::from(value) >> (8 * (offset & 3))) & crate::bus::low_bytes(size)
    }

    /// A store; the message that it sets free.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) -> Option<Message> {
        match offset {
            IOREGSEL => self.index = value as u8,
            // The window is written in whole words only (82093AA, 3.1.2).
            IOWIN if size >= 4 => return self.write_register(value as u32),
            _ => {}
        }
        None
    }

    fn read_register(&self) -> u32 {
        match self.index {
            ID | ARBITRATION => u32::from(self.id) << 24,
            VERSION => VERSION_VALUE,
            TABLE..=TABLE_LAST => {
                let entry = self.entries[usize::from(self.index - TABLE) / 2];
                if self.index.is_multiple_of(2) {
                    entry as u32
                } else {
                    (entry >> 32) as u32
                }
            }
            _ => 0,
        }
    }

    fn write_register(&mut self, value: u32) -> Option<Message> {
        match self.index {
            ID => self.id = (value >> 24) as u8 & 0xf,
            TABLE..=TABLE_LAST => {
                let pin = usize::from(self.index - TABLE) / 2;
                let old = self.entries[pin];
                let new = if self.index.is_multiple_of(2) {
                    old & !0xffff_ffff | u64::from(value)
                } else {
                    old & 0xffff_ffff | u64::from(value) << 32
                };
                let mut entry = new & WRITABLE | old & READ_ONLY;
                // An edge-triggered entry waits for nobody: Linux switches there and back to get rid of a
                // remote IRR that was never answered.
                if entry & LEVEL == 0 {
                    entry &= !REMOTE_IRR;
                }
                self.entries[pin] = entry;
                return self.service_level(pin);
            }
            _ => {}
        }
        None
    }

    /// A pin changed. The message that it sends.
    pub fn set_pin(&mut self, pin: usize, high: bool) -> Option<Message> {
        let bit = 1 << pin;
        let entry = *self.entries.get(pin)?;
        let rose = high && self.asserted & bit == 0;
        if high {
            self.asserted |= bit;
        } else {
            self.asserted &= !bit;
        }
        if entry & LEVEL != 0 {
            return self.service_level(pin);
        }
        // An edge at a masked pin is lost (82093AA, 3.2.4, interrupt mask).
        (rose && entry & MASKED == 0)
            .then(|| message(entry))
            .flatten()
    }

    /// What each pin sends when it is asserted; `None` where it is masked.
    pub fn messages(&self) -> [Option<Message>; PIN_COUNT] {
        self.entries.map(|entry| {
            if entry & MASKED == 0 {
                message(entry)
            } else {
                None
            }
        })
    }

    /// A level-triggered interrupt with this vector ended at a local APIC: pins that are still asserted send again.
    pub fn end_of_interrupt(&mut self, vector: Vector) -> Vec<Message> {
        let waiting = LEVEL | REMOTE_IRR;
        let mut messages = Vec::new();
        for pin in 0..PIN_COUNT {
            let entry = &mut self.entries[pin];
            if *entry & waiting == waiting && *entry as u8 == vector {
                *entry &= !REMOTE_IRR;
                messages.extend(self.service_level(pin));
            }
        }
        messages
    }

    /// Sends for a level-triggered pin that is asserted and was not sent for yet.
    fn service_level(&mut self, pin: usize) -> Option<Message> {
        let entry = self.entries[pin];
        let is_ready = self.asserted & 1 << pin != 0 && entry & (MASKED | REMOTE_IRR) == 0;
        if entry & LEVEL == 0 || !is_ready {
            return None;
        }
        let message = message(entry)?;
        if matches!(message.delivery, Delivery::Fixed | Delivery::LowestPriority) {
            self.entries[pin] |= REMOTE_IRR;
        }
        Some(message)
    }
}

impl Saved for IoApic {
    type State = IoApic;

    fn save(&self) -> IoApic {
        self.clone()
    }

    fn restore(&mut self, state: IoApic) -> Result<(), Unfit> {
        let has_pins = state.asserted >> PIN_COUNT == 0;
        ensure(has_pins, "IOAPIC", "a pin that is not there")?;
        *self = state;
        Ok(())
    }
}

/// What an entry sends; `None` for reserved delivery modes.
fn message(entry: u64) -> Option<Message> {
    Some(Message {
        delivery: Delivery::of_bits((entry >> 8) as u32)?,
        vector: entry as u8,
        destination: Destination::of_byte((entry >> 56) as u8, entry & LOGICAL != 0),
        is_level: entry & LEVEL != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_entry(pin: u8, entry: u64) -> IoApic {
        let mut ioapic = IoApic::new(1);
        for (half, value) in [(1, entry >> 32), (0, entry & 0xffff_ffff)] {
            assert_eq!(
                ioapic.write(IOREGSEL, 4, u64::from(TABLE + 2 * pin + half)),
                None
            );
            assert_eq!(ioapic.write(IOWIN, 4, value), None);
        }
        ioapic
    }

    fn register(ioapic: &mut IoApic, index: u8) -> u64 {
        ioapic.write(IOREGSEL, 4, u64::from(index));
        ioapic.read(IOWIN, 4)
    }

    #[test]
    fn linux_sees_version_0x11_with_24_entries() {
        let mut ioapic = IoApic::new(1);
        assert_eq!(register(&mut ioapic, VERSION), 0x0017_0011);
        assert_eq!(register(&mut ioapic, ID), 0x0100_0000);
        assert_eq!(register(&mut ioapic, TABLE), MASKED);
        assert_eq!(register(&mut ioapic, TABLE_LAST + 1), 0);
    }

    #[test]
    fn an_edge_is_sent_once_and_lost_while_masked() {
        let mut ioapic = with_entry(4, 0x41);
        let sent = ioapic.set_pin(4, true).unwrap();
        assert_eq!(
            (sent.vector, sent.is_level, sent.destination),
            (0x41, false, Destination::Physical(0))
        );
        assert_eq!(ioapic.set_pin(4, true), None);
        assert_eq!(ioapic.set_pin(4, false), None);
        assert!(ioapic.set_pin(4, true).is_some());
        let mut ioapic = with_entry(4, MASKED | 0x41);
        assert_eq!(ioapic.set_pin(4, true), None);
        assert_eq!(
            ioapic.write(IOWIN, 4, 0x41),
            None,
            "unmasking does not bring the edge back"
        );
    }

    #[test]
    fn a_level_is_sent_again_until_it_falls() {
        let mut ioapic = with_entry(9, LEVEL | 0x51);
        assert!(ioapic.set_pin(9, true).unwrap().is_level);
        assert_eq!(register(&mut ioapic, TABLE + 18), LEVEL | REMOTE_IRR | 0x51);
        assert_eq!(ioapic.set_pin(9, true), None, "remote IRR holds it back");
        assert_eq!(ioapic.end_of_interrupt(0x52), vec![]);
        assert_eq!(ioapic.end_of_interrupt(0x51).len(), 1);
        assert_eq!(ioapic.set_pin(9, false), None);
        assert_eq!(ioapic.end_of_interrupt(0x51), vec![]);
        assert_eq!(register(&mut ioapic, TABLE + 18), LEVEL | 0x51);
    }

    #[test]
    fn unmasking_an_asserted_level_sends_it() {
        let mut ioapic = with_entry(9, LEVEL | MASKED | 0x51);
        assert_eq!(ioapic.set_pin(9, true), None);
        assert_eq!(
            ioapic.write(IOWIN, 4, LEVEL | 0x51).map(|sent| sent.vector),
            Some(0x51)
        );
    }

    #[test]
    fn remote_irr_cannot_be_written_but_goes_with_edge_mode() {
        let mut ioapic = with_entry(9, LEVEL | REMOTE_IRR | 0x51);
        assert_eq!(ioapic.read(IOWIN, 4), LEVEL | 0x51);
        ioapic.set_pin(9, true);
        ioapic.write(IOWIN, 4, MASKED | 0x51);
        assert_eq!(ioapic.read(IOWIN, 4), MASKED | 0x51);
    }

    #[test]
    fn destinations_are_bytes() {
        let check = |entry, expected| {
            assert_eq!(
                with_entry(1, entry).set_pin(1, true).unwrap().destination,
                expected,
                "{entry:#x}"
            );
        };
        check(0x0300_0000_0000_0041, Destination::Physical(3));
        check(0x0300_0000_0000_0841, Destination::Logical(3));
        check(0xff00_0000_0000_0041, Destination::All);
        assert_eq!(
            with_entry(1, 0x341).set_pin(1, true),
            None,
            "reserved delivery mode"
        );
    }
}
