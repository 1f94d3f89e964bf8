//! Each device is used by a driver, written down in the middle of that, and brought back in another machine: there it
//! must go on as the first does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use x86::Gpa;

use super::bench::*;
use super::random::Random;
use crate::pci::{FunctionState, PciFunction};
use crate::virtio::VirtioDevice;
use crate::virtio::balloon::{Balloon, BalloonControl};
use crate::virtio::blk::{Disk, DiskOptions, Image, ImageFormat, VirtioBlock};
use crate::virtio::console::{Console, Port, PortEnd, Window, share};
use crate::virtio::entropy::Entropy;
use crate::virtio::net::{MacAddress, Net, NetPort};
use crate::virtio::vsock::{Connector, SocketsBeside, Vsock};

const MEMORY_BYTES: usize = 0x4_0000;
/// Buffers lie from here on, rings below.
const BUFFERS: u64 = 0x2_8000;
/// Operations before the state is taken, and after it.
const BEFORE: u64 = 300;
const AFTER: u64 = 1000;
/// Queues that the driver uses; rings of more would not fit.
const QUEUES_MAX: u16 = 8;

fn rings(queue: u16) -> Option<[u64; 3]> {
    let base = 0x1000 + 0x4000 * u64::from(queue);
    (queue < QUEUES_MAX).then_some([base, base + 0x2000, base + 0x3000])
}

/// A driver that goes by the book, and its device.
struct Driver {
    bench: Bench,
    /// How many buffers were offered in each queue.
    offered: [u64; QUEUES_MAX as usize],
}

impl Driver {
    fn new(device: Box<dyn VirtioDevice>) -> Driver {
        let mut bench = Bench::new(device, MEMORY_BYTES as u64);
        bench.function.write_config(MSIX_CONTROL, 2, 1 << 15);
        bench.set_up(0, rings);
        Driver {
            bench,
            offered: [0; QUEUES_MAX as usize],
        }
    }

    /// Does what `word` says and tells what came of it.
    fn act(&mut self, word: u64) -> u64 {
        let mut random = Random(word | 1);
        let queue = random.below(u64::from(self.bench.queue_count.min(QUEUES_MAX))) as u16;
        match random.below(20) {
            0..=7 => self.offer(queue, &mut random),
            8..=10 => self.bench.serve(true),
            11 => self.bench.write(QUEUE_SELECT, 2, u64::from(queue)),
            12 => self.bench.write(QUEUE_VECTOR, 2, random.below(3)),
            13 => self.bench.write(CONFIG_VECTOR, 2, random.below(3)),
            14 => {
                let at = TABLE + 16 * random.below(3);
                self.bench
                    .write(at, 8, 0xfee0_0000 + random.below(4) * 0x1000);
                self.bench
                    .write(at + 8, 8, random.below(256) | random.below(2) << 32);
            }
            15 => self
                .bench
                .write(CONFIG + 4 * random.below(9), 4, random.below(1 << 20)),
            16 => self
                .bench
                .write(CONFIG + random.below(40), 1, random.below(2)),
            17 => {
                let control = (random.below(4) << 14) as u32;
                self.bench.function.write_config(MSIX_CONTROL, 2, control);
            }
            18 => return self.bench.read(INTERRUPT_STATUS, 1),
            _ => return self.bench.read(8 * random.below(7), 8),
        }
        self.bench.read(STATUS, 2)
    }

    /// Offers one buffer that the device reads, and one more that it fills, and notifies.
    fn offer(&mut self, queue: u16, random: &mut Random) {
        let [table, available, used] = rings(queue).unwrap();
        let n = self.offered[usize::from(queue)];
        let size = 64;
        let done = self.bench.memory.read_value(Gpa(used + 2), 2).unwrap();
        // A driver never offers what the device still has.
        if n - (done & 0xffff) >= size / 2 {
            return self.bench.serve(true);
        }
        let slot = n % (size / 2);
        let at = BUFFERS + 0x800 * random.below(40);
        let head = 2 * slot;
        for word in 0..4 {
            // What all devices take for a request: small numbers.
            self.bench.put(at + 4 * word, 4, random.below(5));
        }
        let len = 16 * (1 + random.below(6));
        self.bench.put(table + 16 * head, 8, at);
        self.bench
            .put(table + 16 * head + 8, 8, len | 1 << 32 | (head + 1) << 48);
        self.bench.put(table + 16 * (head + 1), 8, at + 0x400);
        self.bench
            .put(table + 16 * (head + 1) + 8, 8, 513 | 2 << 32);
        let ring = u64::from(ring_size(&mut self.bench, queue));
        self.bench.put(available + 4 + 2 * (n % ring), 2, head);
        self.bench.put(available + 2, 2, n + 1);
        self.offered[usize::from(queue)] = n + 1;
        self.bench
            .write(NOTIFY + 4 * u64::from(queue), 2, u64::from(queue));
        self.bench.serve(false);
    }

    fn memory(&self) -> Vec<u8> {
        let mut bytes = vec![0; MEMORY_BYTES];
        self.bench.memory.read(Gpa(0), &mut bytes).unwrap();
        bytes
    }
}

fn ring_size(bench: &mut Bench, queue: u16) -> u16 {
    let selected = bench.read(QUEUE_SELECT, 2);
    bench.write(QUEUE_SELECT, 2, u64::from(queue));
    let size = bench.read(QUEUE_SIZE, 2);
    bench.write(QUEUE_SELECT, 2, selected);
    size as u16
}

/// Uses a device of `make`, takes its state to another of the same, and goes on with both. What a device makes up
/// itself (random bytes) is left out where `are_buffers_compared` is not set.
fn check(name: &str, make: impl Fn() -> Box<dyn VirtioDevice>, are_buffers_compared: bool) {
    for seed in 1..=16 {
        let mut random = Random(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let mut old = Driver::new(make());
        for _ in 0..BEFORE {
            old.act(random.next());
        }
        let state = old.bench.function.save();
        let text = serde_json::to_string(&state).unwrap();
        let state_read: FunctionState = serde_json::from_str(&text).unwrap();
        let mut new = Driver {
            bench: Bench::new(make(), MEMORY_BYTES as u64),
            offered: old.offered,
        };
        new.bench.memory.write(Gpa(0), &old.memory()).unwrap();
        new.bench.function.restore(state_read).unwrap();
        assert_eq!(
            new.bench.function.save(),
            state,
            "{name} {seed}: what comes back"
        );
        old.bench.heard.messages.lock().unwrap().clear();
        for step in 0..AFTER {
            let word = random.next();
            let expected = old.act(word);
            let found = new.act(word);
            assert_eq!(found, expected, "{name} {seed}: step {step}, {word:#x}");
        }
        let heard = |driver: &Driver| driver.bench.heard.messages.lock().unwrap().clone();
        assert_eq!(heard(&new), heard(&old), "{name} {seed}: interrupts");
        let compared = if are_buffers_compared {
            MEMORY_BYTES
        } else {
            BUFFERS as usize
        };
        let expected = old.memory();
        let found = new.memory();
        let differs = (0..compared).find(|&at| expected[at] != found[at]);
        assert_eq!(differs, None, "{name} {seed}: memory");
        let end = new.bench.function.save();
        assert_eq!(end, old.bench.function.save(), "{name} {seed}: at the end");
    }
}

#[test]
fn a_balloon_goes_on_in_another_machine() {
    let make = || Box::new(Balloon::new(BalloonControl::default(), Arc::default())) as Box<_>;
    check("balloon", make, true);
}

#[test]
fn a_random_number_generator_goes_on_in_another_machine() {
    check("rng", || Box::new(Entropy::new(Arc::default())), false);
}

#[test]
fn a_disk_goes_on_in_another_machine() {
    let make = || {
        let file = host::MemFd::new(c"disk", 1 << 16).unwrap();
        let file = file.file().try_clone().unwrap();
        let image = Image::open(file, ImageFormat::Raw, None, true).unwrap();
        let options = DiskOptions {
            name: "disk0".to_owned(),
            serial: "mother-0".to_owned(),
            is_read_only: false,
            is_guessed_raw: false,
        };
        Box::new(VirtioBlock::new(Arc::new(Disk::new(image, options)), 2)) as Box<_>
    };
    // The disk's own content is carried by its file, not by its state.
    check("disk", make, false);
}

#[test]
fn a_network_card_goes_on_in_another_machine() {
    let make = || {
        let mac = MacAddress::of_vm("guest");
        Box::new(Net::new("net0", mac, NetPort::unplugged(), Arc::default())) as Box<_>
    };
    check("network card", make, true);
}

/// Takes at most seven bytes at a time, and always has three for the guest.
struct Narrow(OwnedFd);

impl PortEnd for Narrow {
    fn write(&mut self, bytes: &[u8]) -> usize {
        bytes.len().min(7)
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        bytes[..3].copy_from_slice(b"abc");
        3
    }

    fn arrival(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn quiet(&mut self) {}
}

#[test]
fn a_console_goes_on_in_another_machine() {
    let make = || {
        let port = |n: usize| Port {
            name: format!("port{n}"),
            end: share(Narrow(eventfd(0, EventfdFlags::CLOEXEC).unwrap())),
        };
        let ports = (0..2).map(port).collect();
        Box::new(Console::new(ports, Window::new().unwrap(), Arc::default())) as Box<_>
    };
    check("console", make, true);
}

#[test]
fn a_socket_device_goes_on_in_another_machine() {
    let folder = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    let make = || {
        number.set(number.get() + 1);
        let path = folder.path().join(number.get().to_string());
        let listener = UnixListener::bind(&path).unwrap();
        let dial = Arc::new(SocketsBeside(path));
        Box::new(
            Vsock::new(
                "vsock",
                3,
                dial,
                Some(listener),
                Connector::new().unwrap(),
                Arc::default(),
            )
            .unwrap(),
        ) as Box<_>
    };
    check("socket device", make, true);
}

#[test]
fn a_state_that_no_driver_could_make_is_refused() {
    let make = || Bench::new(Box::new(Entropy::new(Arc::default())), MEMORY_BYTES as u64);
    let mut bench = make();
    bench.set_up(0, rings);
    let text = serde_json::to_string(&bench.function.save()).unwrap();
    let check = |from: &str, to: &str, expected: &str| {
        assert!(text.contains(from), "{from} in {text}");
        let damaged = text.replacen(from, to, 1);
        let refusal = match serde_json::from_str::<FunctionState>(&damaged) {
            Ok(state) => make().function.restore(state).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(refusal.contains(expected), "{to}: {refusal}");
    };
    check("\"size\":64", "\"size\":63", "a size that it cannot have");
    check("\"size\":64", "\"size\":128", "a size that it cannot have");
    check(
        "\"descriptors\":4096",
        "\"descriptors\":4294967296",
        "rings outside of memory",
    );
    check("\"index\":0", "\"index\":1", "a queue that is not enabled");
    check(
        "\"queues\":[65535]",
        "\"queues\":[65535,0]",
        "another number of interrupts",
    );
    check(
        "\"front\":\"Plain\"",
        "\"front\":{\"Net\":{\"mac\":[1,2,3,4,5,6]}}",
        "another kind",
    );
    check(
        "\"back\":\"Plain\"",
        "\"back\":{\"Balloon\":{\"held\":null}}",
        "another device",
    );
    check("\"transport\"", "\"other\"", "another kind of function");
}
