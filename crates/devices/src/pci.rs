//! PCI bus 0: configuration space by ports (mechanism #1) and by memory (ECAM), and the host bridge.
//!
//! A function is what has a configuration space and, if it wants, one window of memory that the guest may move.
//! Windows come last: where RAM, a controller or configuration space is, they answer; of two windows in one place
//! the one of the lower device number does. So a guest that puts a window somewhere strange only loses the window.
//!
//! Sources: PCI Local Bus Specification 3.0, 3.2.2.3.2 and chapter 6; PCI Express Base Specification 5.0, 7.2.2.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use x86::Gpa;

use crate::event::{BoardEvent, BoardEvents};
use crate::layout;
use crate::saved::{Saved, Unfit, ensure};

/// Devices on a bus, functions in a device.
const DEVICE_COUNT: u8 = 32;
const FUNCTION_COUNT: u8 = 8;

/// Bit of the address port that makes the data port a window.
const ADDRESS_ENABLED: u32 = 1 << 31;
/// Bits of the reset control register at 0xcf9 (Intel ICH9 datasheet, 13.7.5).
const RESET_CPU: u8 = 1 << 2;
const RESET_BITS: u8 = 0x0e;

/// Something with a configuration space.
pub trait PciFunction: Send {
    /// Reads `size` bytes (1, 2 or 4, within an aligned word) at `offset`, which is below 4096.
    fn read_config(&mut self, offset: u16, size: u8) -> u32;

    /// Writes likewise.
    fn write_config(&mut self, offset: u16, size: u8, value: u32);

    /// Its memory, as first address and length, while it answers there.
    fn window(&self) -> Option<(Gpa, u64)> {
        None
    }

    /// Reads `size` bytes (1 to 8) at `offset` into its memory; all of them are inside.
    fn read_memory(&mut self, _offset: u64, _size: u8) -> u64 {
        u64::MAX
    }

    /// Writes likewise.
    fn write_memory(&mut self, _offset: u64, _size: u8, _value: u64) {}

    /// Places in its memory where a store is nothing but a notification.
    fn wires(&self) -> Vec<vcpu::Wire> {
        Vec::new()
    }

    /// Whether it asserts its interrupt pin, INTA.
    fn has_interrupt(&self) -> bool {
        false
    }

    /// As [`Saved::save`].
    fn save(&self) -> FunctionState;

    /// As [`Saved::restore`].
    ///
    /// # Errors
    /// [`Unfit`] for a state that this function cannot have.
    fn restore(&mut self, state: FunctionState) -> Result<(), Unfit>;
}

/// What a function is at a moment, in the function's own words: the bus keeps them and does not read them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FunctionState(serde_json::Value);

impl FunctionState {
    /// Wraps what a function is.
    ///
    /// # Panics
    /// If it has maps whose keys are no text, which is a mistake of ours.
    pub fn of(state: &impl Serialize) -> FunctionState {
        FunctionState(serde_json::to_value(state).expect("states have no maps"))
    }

    /// What the function `name` is, by these words.
    ///
    /// # Errors
    /// [`Unfit`] for the words of another kind of function.
    pub fn read<T: DeserializeOwned>(self, name: &'static str) -> Result<T, Unfit> {
        serde_json::from_value(self.0).map_err(|_| Unfit {
            device: name,
            what: "it is of another kind of function",
        })
    }
}

/// The bytes of a configuration space; which of them a guest can change is the function's own affair.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigState(#[serde(with = "crate::saved::bytes")] [u8; 256]);

/// What bus 0 is at a moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PciState {
    address: u32,
    reset_control: u8,
    /// By place, device number and function number in one byte.
    functions: Vec<(u8, FunctionState)>,
}

/// How many lines the interrupt pins of all functions share.
pub const LINE_COUNT: usize = 4;

/// Which of the lines pin `pin` (0 is INTA) of a device goes to: in turn, so that neighbours share least.
pub fn line_of(device: u8, pin: u8) -> usize {
    (usize::from(device) + usize::from(pin)) % LINE_COUNT
}

/// Plain configuration space: bytes, and which of their bits a guest can change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigSpace {
    bytes: [u8; 256],
    writable: [u8; 256],
}

/// Who a function says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the specification's own names")]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    pub revision: u8,
    /// Base class, subclass, programming interface.
    pub class: [u8; 3],
    pub subsystem_vendor: u16,
    pub subsystem: u16,
}

impl ConfigSpace {
    /// The header of a plain function (type 0) without BARs and capabilities.
    pub fn new(identity: Identity) -> ConfigSpace {
        let mut config = ConfigSpace {
            bytes: [0; 256],
            writable: [0; 256],
        };
        let [base, sub, interface] = identity.class;
        config.set(0x00, &identity.vendor.to_le_bytes());
        config.set(0x02, &identity.device.to_le_bytes());
        config.set(0x08, &[identity.revision, interface, sub, base]);
        config.set(0x2c, &identity.subsystem_vendor.to_le_bytes());
        config.set(0x2e, &identity.subsystem.to_le_bytes());
        // Command: I/O, memory, bus master, parity, SERR, interrupt disable. Cache line size. Interrupt line.
        config.set_writable(0x04, &0x0547_u16.to_le_bytes());
        config.set_writable(0x0c, &[0xff]);
        config.set_writable(0x3c, &[0xff]);
        config
    }

    /// Sets bytes from the device's side.
    pub fn set(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Says which bits a guest can change. A BAR of size `n` is a word whose bits from `n` up can be.
    pub fn set_writable(&mut self, at: usize, bits: &[u8]) {
        self.writable[at..at + bits.len()].copy_from_slice(bits);
    }

    /// An aligned word of it.
    pub fn word(&self, at: usize) -> u32 {
        let byte = |n: usize| self.bytes.get(at + n).copied().unwrap_or(0);
        u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
    }
}

impl Saved for ConfigSpace {
    type State = ConfigState;

    fn save(&self) -> ConfigState {
        ConfigState(self.bytes)
    }

    fn restore(&mut self, state: ConfigState) -> Result<(), Unfit> {
        let differs = |n: usize| (self.bytes[n] ^ state.0[n]) & !self.writable[n] != 0;
        let is_same = !(0..self.bytes.len()).any(differs);
        ensure(
            is_same,
            "PCI configuration space",
            "it is another function's",
        )?;
        self.bytes = state.0;
        Ok(())
    }
}

impl PciFunction for ConfigSpace {
    fn save(&self) -> FunctionState {
        FunctionState::of(&Saved::save(self))
    }

    fn restore(&mut self, state: FunctionState) -> Result<(), Unfit> {
        Saved::restore(self, state.read("PCI function")?)
    }

    fn read_config(&mut self, offset: u16, size: u8) -> u32 {
        self.word(usize::from(offset)) & crate::bus::low_bytes(size) as u32
    }

    fn write_config(&mut self, offset: u16, size: u8, value: u32) {
        for (n, byte) in value
            .to_le_bytes()
            .into_iter()
            .enumerate()
            .take(usize::from(size))
        {
            let at = usize::from(offset) + n;
            if let (Some(old), Some(writable)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *old = *old & !writable | byte & writable;
            }
        }
    }
}

/// The abstract host bridge of the board. Its identity is nobody's, so that a guest takes it for nobody's (decision 12).
fn host_bridge() -> ConfigSpace {
    ConfigSpace::new(Identity {
        vendor: 0x4d4f,
        device: 0x0001,
        revision: 0,
        class: [0x06, 0x00, 0x00],
        subsystem_vendor: 0,
        subsystem: 0,
    })
}

/// Bus 0.
pub struct PciBus {
    functions: Vec<(u8, Box<dyn PciFunction>)>,
    /// The address port.
    address: u32,
    reset_control: u8,
    events: BoardEvents,
    /// A guest touched a function since interrupt pins were last looked at.
    touched: bool,
}

impl Saved for PciBus {
    type State = PciState;

    fn save(&self) -> PciState {
        let functions = self.functions.iter();
        PciState {
            address: self.address,
            reset_control: self.reset_control,
            functions: functions
                .map(|(place, function)| (*place, function.save()))
                .collect(),
        }
    }

    fn restore(&mut self, state: PciState) -> Result<(), Unfit> {
        let places = self.functions.iter().map(|(place, _)| *place);
        let is_same = places.eq(state.functions.iter().map(|(place, _)| *place));
        ensure(is_same, "PCI bus", "other functions are on it")?;
        for ((_, function), (_, state)) in self.functions.iter_mut().zip(state.functions) {
            function.restore(state)?;
        }
        self.address = state.address;
        self.reset_control = state.reset_control;
        Ok(())
    }
}

impl PciBus {
    /// A bus with the host bridge as device 0.
    pub fn new(events: BoardEvents) -> PciBus {
        let functions: Vec<(u8, Box<dyn PciFunction>)> = vec![(0, Box::new(host_bridge()))];
        PciBus {
            functions,
            address: 0,
            reset_control: 0,
            events,
            touched: false,
        }
    }

    /// Adds a function at `device` and `function`.
    ///
    /// # Panics
    /// If there is no such place or somebody is there: the plan gives places.
    pub fn add(&mut self, device: u8, function: u8, what: Box<dyn PciFunction>) {
        assert!(
            device < DEVICE_COUNT && function < FUNCTION_COUNT,
            "a bus has 32 devices of 8 functions"
        );
        let place = device << 3 | function;
        assert!(
            self.functions.iter().all(|(taken, _)| *taken != place),
            "the plan gives each place once"
        );
        self.functions.push((place, what));
    }

    fn function(&mut self, place: u8) -> Option<&mut dyn PciFunction> {
        let (_, function) = self
            .functions
            .iter_mut()
            .find(|(taken, _)| *taken == place)?;
        Some(&mut **function)
    }

    /// IN of `size` bytes at `offset` into ports 0xcf8 to 0xcff; all within one aligned word or byte by byte.
    pub fn pio_read(&mut self, offset: u16, size: u8) -> u32 {
        match (offset, size) {
            (0, 4) => self.address,
            (1, 1) => u32::from(self.reset_control),
            (4..=7, _) => match self.selected(offset) {
                Some((place, register)) => self.read_config(place, register, size),
                None => u32::MAX,
            },
            _ => u32::MAX,
        }
    }

    /// OUT likewise.
    pub fn pio_write(&mut self, offset: u16, size: u8, value: u32) {
        match (offset, size) {
            (0, 4) => self.address = value,
            (1, 1) => self.write_reset_control(value as u8),
            (4..=7, _) => {
                if let Some((place, register)) = self.selected(offset) {
                    self.write_config(place, register, size, value);
                }
            }
            _ => {}
        }
    }

    /// Whom the address port points at on bus 0, and where in it.
    fn selected(&self, offset: u16) -> Option<(u8, u16)> {
        let is_ours = self.address & ADDRESS_ENABLED != 0 && self.address >> 16 & 0xff == 0;
        let register = (self.address & 0xfc) as u16 + (offset & 3);
        is_ours.then_some(((self.address >> 8) as u8, register))
    }

    fn write_reset_control(&mut self, value: u8) {
        if value & !self.reset_control & RESET_CPU != 0 {
            self.events.post(BoardEvent::Reset);
        }
        self.reset_control = value & RESET_BITS;
    }

    /// A load from the memory-mapped configuration space.
    pub fn ecam_read(&mut self, offset: u64, size: u8) -> u64 {
        let low =
            u64::from(self.read_config((offset >> 12) as u8, offset as u16 & 0xfff, size.min(4)));
        if size <= 4 {
            return low;
        }
        let high = self.read_config((offset >> 12) as u8, (offset as u16 & 0xfff) + 4, size - 4);
        low & 0xffff_ffff | u64::from(high) << 32
    }

    /// A store to the memory-mapped configuration space. Wider than a word is not a thing there.
    pub fn ecam_write(&mut self, offset: u64, size: u8, value: u64) {
        if size <= 4 {
            self.write_config(
                (offset >> 12) as u8,
                offset as u16 & 0xfff,
                size,
                value as u32,
            );
        }
    }

    /// The function whose window all of an access is in, and where in it.
    fn behind(&mut self, gpa: Gpa, size: u8) -> Option<(u64, &mut dyn PciFunction)> {
        for (_, function) in &mut self.functions {
            let Some((start, len_bytes)) = function.window() else {
                continue;
            };
            let Some(offset) = gpa.0.checked_sub(start.0) else {
                continue;
            };
            if offset < len_bytes && u64::from(size) <= len_bytes - offset {
                return Some((offset, &mut **function));
            }
        }
        None
    }

    /// A load of 1 to 8 bytes; `None` where no function has memory.
    pub fn read_memory(&mut self, gpa: Gpa, size: u8) -> Option<u64> {
        let (offset, function) = self.behind(gpa, size)?;
        let value = function.read_memory(offset, size);
        self.touched = true;
        Some(value)
    }

    /// A store of 1 to 8 bytes; whether a function has memory there.
    pub fn write_memory(&mut self, gpa: Gpa, size: u8, value: u64) -> bool {
        let Some((offset, function)) = self.behind(gpa, size) else {
            return false;
        };
        function.write_memory(offset, size, value);
        self.touched = true;
        true
    }

    /// Whether a guest touched a function since last asked, so that its interrupt pin may have changed.
    pub fn take_touched(&mut self) -> bool {
        std::mem::take(&mut self.touched)
    }

    /// Notifications of all functions. Where others of the board may be there are none: those would answer.
    pub fn wires(&self) -> Vec<vcpu::Wire> {
        let end = layout::PCI_WINDOW.0 + layout::PCI_WINDOW_BYTES;
        let is_alone = |wire: &vcpu::Wire| (layout::PCI_WINDOW.0..end).contains(&wire.gpa.0);
        self.functions
            .iter()
            .flat_map(|(_, function)| function.wires())
            .filter(is_alone)
            .collect()
    }

    /// Which lines are asserted: each is what all pins on it say together.
    pub fn lines(&self) -> [bool; LINE_COUNT] {
        let mut lines = [false; LINE_COUNT];
        for (place, function) in &self.functions {
            lines[line_of(place >> 3, 0)] |= function.has_interrupt();
        }
        lines
    }

    fn read_config(&mut self, place: u8, register: u16, size: u8) -> u32 {
        match self.function(place) {
            Some(function) if is_within_word(register, size) => {
                function.read_config(register, size)
            }
            _ => u32::MAX,
        }
    }

    fn write_config(&mut self, place: u8, register: u16, size: u8, value: u32) {
        if let Some(function) = self.function(place)
            && is_within_word(register, size)
        {
            function.write_config(register, size, value);
            self.touched = true;
        }
    }
}

/// Configuration requests never cross an aligned word.
fn is_within_word(register: u16, size: u8) -> bool {
    register % 4 + u16::from(size) <= 4 && register < 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus() -> PciBus {
        let mut bus = PciBus::new(BoardEvents::default());
        let mut card = ConfigSpace::new(Identity {
            vendor: 0x1234,
            device: 0x5678,
            revision: 1,
            class: [0x02, 0x00, 0x00],
            subsystem_vendor: 0,
            subsystem: 0,
        });
        // A memory BAR of 16 KiB.
        card.set_writable(0x10, &0xffff_c000_u32.to_le_bytes());
        bus.add(3, 0, Box::new(card));
        bus
    }

    fn address(device: u32, register: u32) -> u32 {
        ADDRESS_ENABLED | device << 11 | register
    }

    #[test]
    fn linux_enumerates_what_is_there() {
        let check = |device, register, offset: u16, size, expected| {
            let mut bus = bus();
            bus.pio_write(0, 4, address(device, register));
            assert_eq!(
                bus.pio_read(4 + offset, size),
                expected,
                "device {device} register {register:#x}"
            );
            let place = u64::from(device) << 15 | u64::from(register) | u64::from(offset);
            assert_eq!(bus.ecam_read(place, size) as u32, expected, "by memory");
        };
        check(0, 0, 0, 4, 0x0001_4d4f);
        check(0, 8, 0, 4, 0x0600_0000);
        check(0, 8, 2, 2, 0x0600);
        check(0, 0xc, 2, 1, 0);
        check(3, 0, 0, 2, 0x1234);
        check(3, 0, 2, 2, 0x5678);
        check(1, 0, 0, 4, u32::MAX);
        check(31, 0, 0, 4, u32::MAX);
    }

    #[test]
    fn a_bar_tells_its_size() {
        let mut bus = bus();
        bus.pio_write(0, 4, address(3, 0x10));
        bus.pio_write(4, 4, u32::MAX);
        assert_eq!(bus.pio_read(4, 4), 0xffff_c000);
        bus.ecam_write(3 << 15 | 0x10, 4, 0xc000_4000);
        assert_eq!(bus.pio_read(4, 4), 0xc000_4000);
    }

    #[test]
    fn other_busses_and_a_closed_window_are_empty() {
        let mut bus = bus();
        for closed in [address(0, 0) & !ADDRESS_ENABLED, address(0, 0) | 1 << 16] {
            bus.pio_write(0, 4, closed);
            assert_eq!(bus.pio_read(4, 4), u32::MAX);
        }
        assert_eq!(
            bus.pio_read(0, 4),
            address(0, 0) | 1 << 16,
            "the address reads back"
        );
    }

    #[test]
    fn port_cf9_resets_and_does_not_disturb_the_address() {
        let check = |writes: &[u32], expected| {
            let events = BoardEvents::default();
            let mut bus = PciBus::new(events.clone());
            bus.pio_write(0, 4, address(3, 4));
            writes.iter().for_each(|&value| bus.pio_write(1, 1, value));
            assert_eq!(events.take(), expected, "{writes:x?}");
            assert_eq!(bus.pio_read(0, 4), address(3, 4));
        };
        check(&[0x02], None);
        check(&[0x02, 0x06], Some(BoardEvent::Reset));
        check(&[0x0e], Some(BoardEvent::Reset));
        check(&[0x00], None);
    }
}
