//! Drivers that mean harm, against every device: random register writes, random rings, and memory that changes under
//! the device's hands. Nothing may panic, and nothing may take long.
//!
//! More than a million operations in all, the same ones on every run.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bench::*;
use super::random::Random;
use crate::pci::PciFunction;
use crate::virtio::VirtioDevice;
use crate::virtio::balloon::{Balloon, BalloonControl};
use crate::virtio::blk::{Disk, DiskOptions, Image, ImageFormat, VirtioBlock};
use crate::virtio::console::{Console, Port, PortEnd, Window, share};
use crate::virtio::entropy::Entropy;
use crate::virtio::folder::{Folder, FolderPort};
use crate::virtio::net::{MacAddress, Net, NetPort};

/// Operations against each device.
const OPERATIONS: u64 = 400_000;
const MEMORY_BYTES: u64 = 0x4_0000;
/// Longest that one operation may take. Ordinary ones take microseconds; this one is for a busy host.
const PATIENCE: Duration = Duration::from_secs(5);

impl Random {
    /// An address that a driver may name: rings, buffers, edges, and nowhere.
    fn address(&mut self) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => self.of(&[
                0,
                MEMORY_BYTES - 16,
                MEMORY_BYTES,
                !15,
                1 << 63,
                0xfee0_0000,
            ]),
            2 => self.below(MEMORY_BYTES),
            _ => self.below(MEMORY_BYTES / 64) * 64,
        }
    }

    fn len(&mut self) -> u64 {
        match self.below(4) {
            0 => self.of(&[0, 1, 15, 0x1_0000, 0xffff_f000, 0xffff_ffff]),
            1 => self.below(MEMORY_BYTES),
            _ => self.below(96) * 16,
        }
    }
}

/// Where the driver says its rings are: usually somewhere sensible, sometimes over each other.
fn rings(seed: u64, queue: u16) -> Option<[u64; 3]> {
    let mut random = Random(seed ^ u64::from(queue) << 32 | 1);
    let base = 0x1000 + 0x3000 * u64::from(queue % 16);
    match random.below(16) {
        0 => None,
        1 => Some([base, base, base]),
        2 => Some([
            random.address() & !15,
            random.address() & !1,
            random.address() & !3,
        ]),
        3 => Some([0x1000, 0x2000, 0x3000]),
        _ => Some([base, base + 0x1000, base + 0x2000]),
    }
}

/// One hostile driver.
struct Driver {
    random: Random,
    seed: u64,
    /// The chain written last.
    head: u64,
    bench: Bench,
}

impl Driver {
    fn act(&mut self) {
        // A device that does not run, or asks for a reset, is set up again before long: most harm is done to one
        // that runs.
        if self.random.below(32) == 0 && self.bench.read(STATUS, 1) != 0xf {
            return self.set_up();
        }
        match self.random.below(200) {
            0 => self.set_up(),
            1..=14 => self.write_register(),
            15..=19 => self.write_anything(),
            20..=22 => self.write_config_space(),
            23..=29 => self.read_anything(),
            30..=39 => self.write_descriptor(),
            40..=109 => self.write_request(),
            110..=149 => self.offer(),
            150..=194 => self.notify(),
            195 => self.scribble(),
            _ => self.bench.serve(true),
        }
    }

    fn set_up(&mut self) {
        self.seed = self.random.next();
        let seed = self.seed;
        let refused = if self.random.below(2) == 0 {
            0
        } else {
            self.random.next() & !(1 << 32)
        };
        self.bench
            .function
            .write_config(MSIX_CONTROL, 2, (self.random.below(4) << 14) as u32);
        self.bench.set_up(refused, |queue| rings(seed, queue));
    }

    fn write_register(&mut self) {
        let (register, size, value) = match self.random.below(12) {
            0 => (STATUS, 1, self.random.of(&[0, 1, 3, 0xb, 0xf, 0x80, 0xff])),
            1 => (
                QUEUE_SELECT,
                2,
                self.random.below(u64::from(self.bench.queue_count) + 2),
            ),
            2 => (
                QUEUE_SIZE,
                2,
                self.random.of(&[0, 1, 2, 3, 16, 128, 256, 0x8000, 0xffff]),
            ),
            3 => (QUEUE_ENABLE, 2, self.random.below(3)),
            4 => (QUEUE_VECTOR, 2, self.random.below(16)),
            5 => (CONFIG_VECTOR, 2, self.random.below(16)),
            6 => (DRIVER_FEATURE_SELECT, 4, self.random.below(3)),
            7 => (DRIVER_FEATURE, 4, self.random.next()),
            8 => (
                CONFIG + self.random.below(64),
                self.random.of(&[1, 2, 4, 8]) as u8,
                self.random.next(),
            ),
            9 => (
                TABLE + 4 * self.random.below(64),
                4,
                self.random.of(&[0, 1, 0xfee0_0000]),
            ),
            _ => (
                DESCRIPTORS + 8 * self.random.below(3),
                8,
                self.random.address(),
            ),
        };
        self.bench.write(register, size, value);
    }

    fn write_anything(&mut self) {
        let size = 1 + self.random.below(8);
        let offset = self.random.below(0x8000 - size + 1);
        let value = self.random.next();
        self.bench.write(offset, size as u8, value);
    }

    fn read_anything(&mut self) {
        let size = 1 + self.random.below(8);
        let offset = self.random.below(0x8000 - size + 1);
        self.bench.read(offset, size as u8);
        self.bench
            .function
            .read_config((self.random.below(64) * 4) as u16, 4);
    }

    fn write_config_space(&mut self) {
        let size = self.random.of(&[1, 2, 4]);
        let offset = self.random.below(256) & !(size - 1);
        let value = self.random.next() as u32;
        self.bench
            .function
            .write_config(offset as u16, size as u8, value);
    }

    /// The table of a queue as this driver set it up.
    fn place(&mut self) -> Option<[u64; 3]> {
        let queue = self.random.below(u64::from(self.bench.queue_count)) as u16;
        rings(self.seed, queue)
    }

    fn write_descriptor(&mut self) {
        let Some([table, ..]) = self.place() else {
            return;
        };
        let table = if self.random.below(4) == 0 {
            self.random.address() & !15
        } else {
            table
        };
        let at = table.wrapping_add(16 * self.random.below(16));
        let flags = self.random.of(&[0, 1, 1, 2, 2, 3, 4, 5, 7]);
        let next = if self.random.below(16) == 0 {
            self.random.next() & 0xffff
        } else {
            self.random.below(16)
        };
        let address = self.random.address();
        let len = self.random.len();
        self.bench.put(at, 8, address);
        self.bench.put(
            at.wrapping_add(8),
            8,
            len & 0xffff_ffff | flags << 32 | next << 48,
        );
    }

    /// A chain that begins as requests of disks, networks, consoles and balloons do, and mostly ends: something to
    /// read, something to read or to fill, something to fill.
    fn write_request(&mut self) {
        let Some([table, ..]) = self.place() else {
            return;
        };
        let header = self.random.below(MEMORY_BYTES / 64) * 64;
        let kind = self.random.of(&[0, 1, 4, 8, 11, 13, 0xffff_ffff]);
        self.bench.put(header, 8, kind);
        let sector = self
            .random
            .of(&[0, 1, 8, 2047, 3 << 32 | 1, 0x7fff_ffff_ffff_ffff, u64::MAX]);
        self.bench.put(header + 8, 8, sector);
        let first = 3 * self.random.below(5);
        let is_filled = self.random.below(2) * 2;
        let parts = [
            (16, 1),
            (self.random.len(), 1 | is_filled),
            (self.random.of(&[1, 1, 16, 2048]), 2),
        ];
        // Where a device only fills or only reads, a single buffer is a chain too.
        let skipped = self.random.below(3);
        for (n, (len, flags)) in (0..).zip(parts).skip(skipped as usize) {
            let address = if n == 0 {
                header
            } else {
                self.random.address()
            };
            let at = table.wrapping_add(16 * (first + n));
            self.bench.put(at, 8, address);
            self.bench.put(
                at.wrapping_add(8),
                8,
                len & 0xffff_ffff | flags << 32 | (first + n + 1) << 48,
            );
        }
        self.head = first + skipped;
    }

    /// Makes chains available, sometimes more than there can be.
    fn offer(&mut self) {
        let Some([_, available, _]) = self.place() else {
            return;
        };
        let at = available.wrapping_add(4 + 2 * self.random.below(128));
        let head = if self.random.below(64) == 0 {
            self.random.next() & 0xffff
        } else {
            self.random.below(16)
        };
        self.bench.put(at, 2, head);
        let index = self
            .bench
            .memory
            .read_value(x86::Gpa(available.wrapping_add(2)), 2)
            .unwrap_or(0);
        let step = if self.random.below(100) == 0 {
            self.random.next()
        } else {
            self.random.below(3)
        };
        self.bench.put(
            available.wrapping_add(2),
            2,
            index.wrapping_add(step) & 0xffff,
        );
    }

    fn notify(&mut self) {
        let queue = self.random.below(u64::from(self.bench.queue_count) + 1);
        self.bench.write(NOTIFY + 4 * queue, 2, queue);
        self.bench.serve(self.random.below(8) == 0);
    }

    fn scribble(&mut self) {
        let at = self.random.below(MEMORY_BYTES / 4096) * 4096;
        let bytes: Vec<u8> = (0..512)
            .flat_map(|_| self.random.next().to_le_bytes())
            .collect();
        self.bench.memory.write(x86::Gpa(at), &bytes).unwrap();
    }
}

/// A driver against `device`; `outside` plays the other side now and then.
fn attack(device: Box<dyn VirtioDevice>, seed: u64, mut outside: impl FnMut(u64)) {
    let metrics = device.metrics();
    let name = device.name().to_owned();
    let mut driver = Driver {
        random: Random(seed),
        seed,
        head: 0,
        bench: Bench::new(device, MEMORY_BYTES),
    };
    let mut longest = Duration::ZERO;
    for n in 0..OPERATIONS {
        let start = Instant::now();
        driver.act();
        longest = longest.max(start.elapsed());
        assert!(longest < PATIENCE, "{name}: operation {n} took {longest:?}");
        if n % 64 == 0 {
            outside(n);
            driver.bench.heard.messages.lock().unwrap().clear();
        }
    }
    let reading = metrics.read();
    println!("{name}: {OPERATIONS} operations, longest {longest:?}, {reading:?}");
    assert!(
        reading.requests > 100,
        "{name}: the driver got to requests: {reading:?}"
    );
    assert!(
        reading.violations > 100,
        "{name}: and broke rules: {reading:?}"
    );
    // Whatever was done to it, after a reset it is as new.
    driver.bench.reset();
}

#[test]
fn random_numbers_survive_a_hostile_driver() {
    attack(Box::new(Entropy::new(Arc::default())), 0x1001, |_| ());
}

#[test]
fn a_balloon_survives_a_hostile_driver() {
    let control = BalloonControl::default();
    let device = Balloon::new(control.clone(), Arc::default());
    attack(Box::new(device), 0x2002, |n| {
        control.set_target(n << 8);
    });
}

/// A host's side that is moody.
struct Moody(Random, std::os::fd::OwnedFd);

impl PortEnd for Moody {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.below(bytes.len() as u64 + 1) as usize
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        if self.0.below(3) == 0 {
            self.0.below(bytes.len() as u64 + 1) as usize
        } else {
            0
        }
    }

    fn arrival(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        Some(self.1.as_fd())
    }

    fn quiet(&mut self) {}
}

#[test]
fn a_console_survives_a_hostile_driver() {
    let window = Window::new().unwrap();
    let port = |n: u64| {
        let event = rustix::event::eventfd(1, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        Port {
            name: format!("port{n}"),
            end: share(Moody(Random(n + 1), event)),
        }
    };
    let device = Console::new((0..3).map(port).collect(), window.clone(), Arc::default());
    attack(Box::new(device), 0x3003, |n| window.resize(n as u16, 80));
}

#[test]
fn a_disk_survives_a_hostile_driver() {
    let file = host::MemFd::new(c"disk", 1 << 20)
        .unwrap()
        .file()
        .try_clone()
        .unwrap();
    let image = Image::open(file, ImageFormat::Raw, None, true).unwrap();
    let options = DiskOptions {
        name: "disk0".to_owned(),
        serial: "hostile".to_owned(),
        is_read_only: false,
        is_guessed_raw: false,
    };
    let disk = Arc::new(Disk::new(image, options));
    attack(Box::new(VirtioBlock::new(disk, 2)), 0x4004, |_| ());
}

#[test]
fn a_folder_survives_a_hostile_driver() {
    let (ours, mut server) = UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    let device = Folder::new("folder0", FolderPort::new(ours), Arc::default());
    let mut ticket = 0_u64;
    attack(Box::new(device), 0x6006, move |n| {
        // Whatever is asked gets an answer, of some length; some before they are asked for.
        let _ = server.read(&mut [0; 0x1_0000]);
        ticket += 1 + n % 3;
        let len_bytes = 16 + n as u32 % 200;
        let mut answer = [len_bytes.to_le_bytes(), [0; 4]].concat();
        answer.extend(ticket.to_le_bytes());
        answer.resize(len_bytes as usize, 1);
        let _ = server.write(&answer);
    });
}

#[test]
fn a_network_survives_a_hostile_driver() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let port = NetPort::stream(ours).unwrap();
    let device = Net::new("net0", MacAddress::of_vm("guest"), port, Arc::default());
    let mut sink = vec![0; 1 << 16];
    attack(Box::new(device), 0x5005, move |n| {
        // Errors are a peer that went away or has no room; both may be.
        let _ = theirs.read(&mut sink);
        let _ = theirs.write(&[&60_u32.to_be_bytes()[..], &[n as u8; 60]].concat());
    });
}
