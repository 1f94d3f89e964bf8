//! The buses: which device answers at an I/O port or a guest physical address.
//!
//! A bus has devices by number: it is given a store of them ([`Devices`]), so that its owner can keep each in a field
//! of its own and ask it by its name. Before a device is touched it is told the time ([`PioDevice::advance`]), so no device
//! reads a clock. What no device answers reads as all ones and swallows writes, as on a PC; both are counted, and
//! the first few are logged.
//!
//! Ports are spans of bytes, and most devices are byte-wide: a wider access is split into the widest pieces that
//! the device takes, as the ISA bridge does. An access that leaves a device's span goes byte by byte.

use thiserror::Error;

use crate::clock::Nanos;

/// A device on the I/O ports.
pub trait PioDevice: Send {
    /// Reads `size` bytes (1, 2 or 4, never more than [`PioDevice::width`]) at `offset` into the device's ports.
    fn read(&mut self, offset: u16, size: u8) -> u32;

    /// Writes the low `size` bytes of `value`.
    fn write(&mut self, offset: u16, size: u8, value: u32);

    /// The widest access that the device understands, in bytes.
    fn width(&self) -> u8 {
        1
    }

    /// It is `now`: lets timers pass and looks at what came from outside. Time never goes back.
    fn advance(&mut self, _now: Nanos) {}

    /// When the device next wants [`PioDevice::advance`], if it does not touch it before.
    fn deadline(&self) -> Option<Nanos> {
        None
    }
}

/// Where a bus finds its devices: by numbers from 0, the same device for the same number always.
pub trait Devices<D: ?Sized> {
    /// How many there are.
    fn count(&self) -> usize;

    /// The device of a number below [`Devices::count`].
    fn get(&self, number: usize) -> &D;

    /// The same, to be changed.
    fn get_mut(&mut self, number: usize) -> &mut D;
}

/// Devices of which nobody has to know more than that they are there.
impl<D: ?Sized> Devices<D> for Vec<Box<D>> {
    fn count(&self) -> usize {
        self.len()
    }

    fn get(&self, number: usize) -> &D {
        &self[number]
    }

    fn get_mut(&mut self, number: usize) -> &mut D {
        &mut self[number]
    }
}

/// A device in guest physical memory.
pub trait MmioDevice: Send {
    /// Reads `size` bytes (1 to 8) at `offset` into the device's memory.
    fn read(&mut self, offset: u64, size: u8) -> u64;

    /// Writes the low `size` bytes of `value`.
    fn write(&mut self, offset: u64, size: u8, value: u64);

    /// As [`PioDevice::advance`].
    fn advance(&mut self, _now: Nanos) {}

    /// As [`PioDevice::deadline`].
    fn deadline(&self) -> Option<Nanos> {
        None
    }
}

/// Two devices want the same place.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("cannot place {new} at {start:#x}..+{len:#x}: {old} is in its way")]
pub struct Overlap {
    /// Who came second.
    pub new: &'static str,
    /// Who was there.
    pub old: &'static str,
    /// First port or address wanted.
    pub start: u64,
    /// How many.
    pub len: u64,
}

/// What a bus counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BusCounters {
    /// Reads, answered or not.
    pub reads: u64,
    /// Writes, answered or not.
    pub writes: u64,
    /// Reads that no device answered.
    pub unmapped_reads: u64,
    /// Writes that no device took.
    pub unmapped_writes: u64,
}

/// How many unmapped accesses a bus logs; a guest decides how many there are.
const LOGGED_ACCESSES: u64 = 32;

impl BusCounters {
    fn unmapped_read(&mut self, bus: &str, at: u64) {
        self.unmapped_reads += 1;
        if self.unmapped_reads <= LOGGED_ACCESSES {
            tracing::debug!("{bus} read at {at:#x}: no device");
        }
    }

    fn unmapped_write(&mut self, bus: &str, at: u64, value: u64) {
        self.unmapped_writes += 1;
        if self.unmapped_writes <= LOGGED_ACCESSES {
            tracing::debug!("{bus} write of {value:#x} at {at:#x}: no device");
        }
    }
}

/// A stretch of ports or addresses and who has it.
struct Span {
    name: &'static str,
    start: u64,
    len: u64,
    /// Its number.
    device: usize,
    /// The device's offset of `start`: its stretches are numbered through.
    offset: u64,
}

/// Stretches in order of their start, never overlapping, never empty.
#[derive(Default)]
struct Spans(Vec<Span>);

/// Which device was found, and what the access is to it.
struct Found {
    device: usize,
    offset: u64,
    /// Bytes from there to the end of the stretch.
    room: u64,
}

impl Spans {
    fn add(
        &mut self,
        name: &'static str,
        places: impl IntoIterator<Item = (u64, u64)>,
        device: usize,
    ) -> Result<(), Overlap> {
        let mut offset = 0;
        for (start, len) in places {
            assert!(
                len > 0 && start.checked_add(len).is_some(),
                "a layout has no empty or wrapping stretch"
            );
            let next = self.0.partition_point(|span| span.start < start);
            let before = next.checked_sub(1).map(|at| &self.0[at]);
            let before = before.filter(|span| span.start + span.len > start);
            let after = self.0.get(next).filter(|span| span.start < start + len);
            if let Some(old) = before.or(after) {
                return Err(Overlap {
                    new: name,
                    old: old.name,
                    start,
                    len,
                });
            }
            self.0.insert(
                next,
                Span {
                    name,
                    start,
                    len,
                    device,
                    offset,
                },
            );
            offset += len;
        }
        Ok(())
    }

    fn has(&self, at: u64) -> bool {
        let next = self.0.partition_point(|span| span.start <= at);
        self.0[..next]
            .last()
            .is_some_and(|span| at - span.start < span.len)
    }

    fn find(&self, at: u64) -> Option<Found> {
        let next = self.0.partition_point(|span| span.start <= at);
        let span = self.0[..next]
            .last()
            .filter(|span| at - span.start < span.len)?;
        let within = at - span.start;
        Some(Found {
            device: span.device,
            offset: span.offset + within,
            room: span.len - within,
        })
    }
}

/// The low `size` bytes.
pub(crate) fn low_bytes(size: u8) -> u64 {
    if size >= 8 {
        u64::MAX
    } else {
        (1 << (8 * u32::from(size))) - 1
    }
}

/// The I/O ports.
pub struct PioBus<S = Vec<Box<dyn PioDevice>>> {
    devices: S,
    spans: Spans,
    counters: BusCounters,
}

impl PioBus {
    /// Gives stretches of ports to a device that the bus keeps: see [`PioBus::place`].
    ///
    /// # Errors
    /// [`Overlap`] if another device has one of them.
    pub fn add(
        &mut self,
        name: &'static str,
        places: &[(u16, u16)],
        device: Box<dyn PioDevice>,
    ) -> Result<(), Overlap> {
        self.devices.push(device);
        self.place(name, places, self.devices.len() - 1)
    }
}

impl Default for PioBus {
    fn default() -> PioBus {
        PioBus::new(Vec::new())
    }
}

impl<S: Devices<dyn PioDevice>> PioBus<S> {
    /// A bus with these devices, which answer nowhere yet.
    pub fn new(devices: S) -> PioBus<S> {
        PioBus {
            devices,
            spans: Spans::default(),
            counters: BusCounters::default(),
        }
    }

    /// The devices.
    pub fn devices(&self) -> &S {
        &self.devices
    }

    /// The devices, for what does not come from the guest.
    pub fn devices_mut(&mut self) -> &mut S {
        &mut self.devices
    }

    /// Gives stretches of ports, each a start and a length, to a device. The device's offsets count through them.
    ///
    /// # Errors
    /// [`Overlap`] if another device has one of them.
    pub fn place(
        &mut self,
        name: &'static str,
        places: &[(u16, u16)],
        device: usize,
    ) -> Result<(), Overlap> {
        let places = places
            .iter()
            .map(|&(start, len)| (u64::from(start), u64::from(len)));
        self.spans.add(name, places, device)
    }

    /// IN of 1, 2 or 4 bytes.
    pub fn read(&mut self, now: Nanos, port: u16, size: u8) -> u32 {
        self.counters.reads += 1;
        let mut value = 0;
        let mut done = 0;
        while done < size {
            let piece = self.piece(port.wrapping_add(u16::from(done)), size - done);
            let at = port.wrapping_add(u16::from(done));
            let part = match self.spans.find(u64::from(at)) {
                Some(found) => {
                    let device = self.devices.get_mut(found.device);
                    device.advance(now);
                    device.read(found.offset as u16, piece)
                }
                None => {
                    self.counters.unmapped_read("port", u64::from(at));
                    u32::MAX
                }
            };
            value |= (u64::from(part) & low_bytes(piece)) << (8 * u32::from(done));
            done += piece;
        }
        value as u32
    }

    /// OUT of 1, 2 or 4 bytes.
    pub fn write(&mut self, now: Nanos, port: u16, size: u8, value: u32) {
        self.counters.writes += 1;
        let mut done = 0;
        while done < size {
            let at = port.wrapping_add(u16::from(done));
            let piece = self.piece(at, size - done);
            let part = (u64::from(value) >> (8 * u32::from(done)) & low_bytes(piece)) as u32;
            match self.spans.find(u64::from(at)) {
                Some(found) => {
                    let device = self.devices.get_mut(found.device);
                    device.advance(now);
                    device.write(found.offset as u16, piece, part);
                }
                None => self
                    .counters
                    .unmapped_write("port", u64::from(at), u64::from(part)),
            }
            done += piece;
        }
    }

    /// How many of `left` bytes go to the device at `port` in one piece. Never 0.
    fn piece(&self, port: u16, left: u8) -> u8 {
        let Some(found) = self.spans.find(u64::from(port)) else {
            return 1;
        };
        let width = self.devices.get(found.device).width();
        let most = u64::from(left.min(width)).min(found.room);
        let fits = |size: u8| u64::from(size) <= most;
        [4, 2].into_iter().find(|&size| fits(size)).unwrap_or(1)
    }

    /// Tells every device the time.
    pub fn advance(&mut self, now: Nanos) {
        for number in 0..self.devices.count() {
            self.devices.get_mut(number).advance(now);
        }
    }

    /// The first moment at which a device wants to be told the time.
    pub fn deadline(&self) -> Option<Nanos> {
        let numbers = 0..self.devices.count();
        numbers
            .filter_map(|number| self.devices.get(number).deadline())
            .min()
    }

    /// What was counted.
    pub fn counters(&self) -> BusCounters {
        self.counters
    }
}

/// Devices in guest physical memory.
#[derive(Default)]
pub struct MmioBus {
    devices: Vec<Box<dyn MmioDevice>>,
    spans: Spans,
    counters: BusCounters,
}

impl MmioBus {
    /// Gives `len_bytes` of guest physical memory from `start` to a device.
    ///
    /// # Errors
    /// [`Overlap`] if another device has some of it.
    pub fn add(
        &mut self,
        name: &'static str,
        start: x86::Gpa,
        len_bytes: u64,
        device: Box<dyn MmioDevice>,
    ) -> Result<(), Overlap> {
        self.devices.push(device);
        let number = self.devices.len() - 1;
        self.spans.add(name, [(start.0, len_bytes)], number)
    }

    /// A load of 1 to 8 bytes. One that leaves the device it starts in is unmapped.
    pub fn read(&mut self, now: Nanos, gpa: x86::Gpa, size: u8) -> u64 {
        self.counters.reads += 1;
        let Some(found) = self.find(gpa, size) else {
            self.counters.unmapped_read("memory", gpa.0);
            return low_bytes(size);
        };
        let device = self.devices.get_mut(found.device);
        device.advance(now);
        device.read(found.offset, size) & low_bytes(size)
    }

    /// A store of 1 to 8 bytes. One that leaves the device it starts in is unmapped.
    pub fn write(&mut self, now: Nanos, gpa: x86::Gpa, size: u8, value: u64) {
        self.counters.writes += 1;
        let value = value & low_bytes(size);
        let Some(found) = self.find(gpa, size) else {
            self.counters.unmapped_write("memory", gpa.0, value);
            return;
        };
        let device = self.devices.get_mut(found.device);
        device.advance(now);
        device.write(found.offset, size, value);
    }

    /// Whether a device has this address.
    pub fn has(&self, gpa: x86::Gpa) -> bool {
        self.spans.has(gpa.0)
    }

    fn find(&self, gpa: x86::Gpa, size: u8) -> Option<Found> {
        self.spans
            .find(gpa.0)
            .filter(|found| u64::from(size) <= found.room)
    }

    /// Tells every device the time.
    pub fn advance(&mut self, now: Nanos) {
        for number in 0..self.devices.count() {
            self.devices.get_mut(number).advance(now);
        }
    }

    /// The first moment at which a device wants to be told the time.
    pub fn deadline(&self) -> Option<Nanos> {
        let numbers = 0..self.devices.count();
        numbers
            .filter_map(|number| self.devices.get(number).deadline())
            .min()
    }

    /// What was counted.
    pub fn counters(&self) -> BusCounters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Notes what it is asked; reads as its offset in every byte.
    struct Probe(u8, Arc<Mutex<Vec<String>>>);

    impl PioDevice for Probe {
        fn read(&mut self, offset: u16, size: u8) -> u32 {
            self.1.lock().unwrap().push(format!("r{offset}:{size}"));
            u32::from(offset) * 0x0101_0101
        }

        fn write(&mut self, offset: u16, size: u8, value: u32) {
            self.1
                .lock()
                .unwrap()
                .push(format!("w{offset}:{size}={value:x}"));
        }

        fn width(&self) -> u8 {
            self.0
        }
    }

    fn bus() -> (PioBus, Arc<Mutex<Vec<String>>>) {
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut bus = PioBus::default();
        bus.add("bytes", &[(0x60, 4)], Box::new(Probe(1, Arc::clone(&log))))
            .unwrap();
        bus.add(
            "words",
            &[(0x70, 3), (0x75, 1)],
            Box::new(Probe(4, Arc::clone(&log))),
        )
        .unwrap();
        bus.add("last", &[(0xffff, 1)], Box::new(Probe(4, Arc::clone(&log))))
            .unwrap();
        (bus, log)
    }

    #[test]
    fn wide_accesses_are_split_as_the_device_wants() {
        let check = |port, size, expected_value, expected_log: &str| {
            let (mut bus, log) = bus();
            assert_eq!(
                bus.read(Nanos(0), port, size),
                expected_value,
                "port {port:#x} size {size}"
            );
            assert_eq!(
                log.lock().unwrap().join(" "),
                expected_log,
                "port {port:#x} size {size}"
            );
        };
        check(0x61, 1, 0x01, "r1:1");
        check(0x60, 4, 0x0302_0100, "r0:1 r1:1 r2:1 r3:1");
        check(0x70, 2, 0x0000, "r0:2");
        check(0x70, 4, 0xff02_0000, "r0:2 r2:1");
        check(0x62, 4, 0xffff_0302, "r2:1 r3:1");
        check(0x65, 2, 0xffff, "");
        check(0xffff, 4, 0xffff_ff00, "r0:1");
        check(0x75, 1, 0x03, "r3:1");
        check(0x6f, 4, 0x0200_00ff, "r0:2 r2:1");
    }

    #[test]
    fn unmapped_accesses_are_counted() {
        let (mut bus, _) = bus();
        bus.write(Nanos(0), 0x90, 2, 0x1234);
        bus.read(Nanos(0), 0x63, 2);
        let counters = bus.counters();
        assert_eq!(
            counters,
            BusCounters {
                reads: 1,
                writes: 1,
                unmapped_reads: 1,
                unmapped_writes: 2
            }
        );
    }

    #[test]
    fn two_devices_never_share_a_port() {
        let check = |start, len, expected: Option<&str>| {
            let (mut bus, log) = bus();
            let result = bus.add("new", &[(start, len)], Box::new(Probe(1, log)));
            assert_eq!(
                result.err().map(|overlap| overlap.old),
                expected,
                "{start:#x}+{len}"
            );
        };
        check(0x64, 4, None);
        check(0x5e, 2, None);
        check(0x63, 1, Some("bytes"));
        check(0x5e, 3, Some("bytes"));
        check(0x50, 0x30, Some("bytes"));
        check(0x72, 5, Some("words"));
    }

    struct Memory(u64);

    impl MmioDevice for Memory {
        fn read(&mut self, offset: u64, _size: u8) -> u64 {
            self.0 + offset
        }

        fn write(&mut self, _offset: u64, _size: u8, value: u64) {
            self.0 = value;
        }
    }

    #[test]
    fn loads_that_leave_the_device_read_all_ones() {
        let mut bus = MmioBus::default();
        bus.add("memory", x86::Gpa(0x1000), 0x10, Box::new(Memory(0x100)))
            .unwrap();
        let mut check = |gpa, size, expected| {
            assert_eq!(
                bus.read(Nanos(0), x86::Gpa(gpa), size),
                expected,
                "{gpa:#x} {size}"
            );
        };
        check(0x1004, 4, 0x104);
        check(0x1008, 8, 0x108);
        check(0x100c, 8, u64::MAX);
        check(0xfff, 2, 0xffff);
        check(0x1010, 1, 0xff);
        check(u64::MAX, 8, u64::MAX);
    }
}
