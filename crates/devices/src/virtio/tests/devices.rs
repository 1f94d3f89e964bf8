//! Balloon and console as a driver that goes by the book uses them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use x86::Gpa;

use super::bench::*;
use crate::virtio::balloon::{Balloon, BalloonControl};
use crate::virtio::console::{Console, Port, PortEnd, Window, share};

const MEMORY_BYTES: u64 = 0x10_0000;

/// Rings of a queue.
fn rings(queue: u16) -> Option<[u64; 3]> {
    let base = 0x1000 + 0x3000 * u64::from(queue);
    Some([base, base + 0x1000, base + 0x2000])
}

/// A buffer that the driver offers: where, how long, and whether the device fills it.
struct Buffer(u64, u64, bool);

/// Offers a single buffer as the `n`th of a queue and notifies.
fn offer(bench: &mut Bench, queue: u16, n: u64, Buffer(address, len, is_filled): Buffer) {
    let [table, available, _] = rings(queue).unwrap();
    bench.put(table + 16 * n, 8, address);
    bench.put(table + 16 * n + 8, 8, len | u64::from(is_filled) << 33);
    bench.put(available + 4 + 2 * n, 2, n);
    bench.put(available + 2, 2, n + 1);
    bench.write(NOTIFY + 4 * u64::from(queue), 2, u64::from(queue));
    bench.serve(false);
}

/// How many buffers came back, and the length of the last.
fn used(bench: &Bench, queue: u16) -> (u64, u64) {
    let [_, _, used] = rings(queue).unwrap();
    let count = bench.memory.read_value(Gpa(used + 2), 2).unwrap();
    let len = if count == 0 {
        0
    } else {
        bench.memory.read_value(Gpa(used + 8 * count), 4).unwrap()
    };
    (count, len)
}

fn balloon() -> (Bench, BalloonControl) {
    let control = BalloonControl::default();
    let device = Balloon::new(control.clone(), Arc::default());
    let mut bench = Bench::new(Box::new(device), MEMORY_BYTES);
    bench.set_up(0, rings);
    (bench, control)
}

#[test]
fn pages_in_the_balloon_go_back_to_the_host() {
    let (mut bench, control) = balloon();
    bench.memory.write(Gpa(0x8_0000), &[7; 0x4000]).unwrap();
    // Three pages, not in order, one of them twice, and one that is no memory.
    for (n, page) in [0x82_u64, 0x80, 0x83, 0x80, 0xffff_ffff]
        .into_iter()
        .enumerate()
    {
        bench.put(0x4_0000 + 4 * n as u64, 4, page);
    }
    offer(&mut bench, 0, 0, Buffer(0x4_0000, 20, false));
    assert_eq!(used(&bench, 0), (1, 0));
    assert_eq!(control.read().inflated_bytes, 0x3000);
    let value = |at| bench.memory.read_value(Gpa(at), 1).unwrap();
    assert_eq!(
        (
            value(0x8_0000),
            value(0x8_1000),
            value(0x8_2000),
            value(0x8_3000)
        ),
        (0, 7, 0, 0)
    );
}

#[test]
fn reported_pages_go_back_on_either_number_of_the_queue() {
    for queue in [3, 4] {
        let (mut bench, control) = balloon();
        bench.memory.write(Gpa(0x8_0000), &[7; 0x4000]).unwrap();
        offer(&mut bench, queue, 0, Buffer(0x8_0000, 0x4000, true));
        assert_eq!(
            (used(&bench, queue).0, control.read().reported_bytes),
            (1, 0x4000),
            "queue {queue}"
        );
        assert_eq!(
            bench.memory.read_value(Gpa(0x8_0000), 8).unwrap(),
            0,
            "queue {queue}"
        );
    }
}

#[test]
fn a_target_is_told_and_what_the_guest_says_is_kept_as_its_claim() {
    let (mut bench, control) = balloon();
    bench.write(CONFIG_VECTOR, 2, 0);
    control.set_target(0x5_1234);
    assert_eq!(bench.read(INTERRUPT_STATUS, 1) & 2, 2, "the driver is told");
    assert_eq!(bench.read(CONFIG, 4), 0x51);
    bench.write(CONFIG + 4, 4, 0x50);
    assert_eq!(
        (control.read().target_bytes, control.read().actual_bytes),
        (0x5_1000, 0x5_0000)
    );
    // Free (tag 4) and total (tag 5), and one that nobody knows.
    for (n, (tag, value)) in [(4_u64, 1234_u64), (5, 99_999), (777, 1)]
        .into_iter()
        .enumerate()
    {
        bench.put(0x4_0000 + 10 * n as u64, 2, tag);
        bench.put(0x4_0002 + 10 * n as u64, 8, value);
    }
    offer(&mut bench, 2, 0, Buffer(0x4_0000, 30, false));
    assert_eq!(
        control.read().statistics,
        [("free", 1234), ("total", 99_999)]
    );
    assert_eq!(used(&bench, 2).0, 0, "kept until the next ones are wanted");
}

/// A host's side in memory.
#[derive(Clone)]
struct Tape {
    written: Arc<Mutex<Vec<u8>>>,
    typed: Arc<Mutex<Vec<u8>>>,
    event: Arc<OwnedFd>,
}

impl Tape {
    fn new() -> Tape {
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        Tape {
            written: Arc::default(),
            typed: Arc::default(),
            event: Arc::new(event),
        }
    }
}

impl PortEnd for Tape {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.written.lock().unwrap().extend(bytes);
        bytes.len()
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut typed = self.typed.lock().unwrap();
        let len = typed.len().min(bytes.len());
        bytes[..len].copy_from_slice(&typed[..len]);
        typed.drain(..len);
        len
    }

    fn arrival(&self) -> Option<BorrowedFd<'_>> {
        Some(self.event.as_fd())
    }

    fn quiet(&mut self) {}
}

fn console() -> (Bench, Tape, Window) {
    let tape = Tape::new();
    let window = Window::new().unwrap();
    window.resize(33, 101);
    let port = |name: &str| Port {
        name: name.to_owned(),
        end: share(tape.clone()),
    };
    let device = Console::new(
        vec![port(""), port("org.test")],
        window.clone(),
        Arc::default(),
    );
    (Bench::new(Box::new(device), MEMORY_BYTES), tape, window)
}

#[test]
fn a_plain_console_carries_bytes_both_ways() {
    let (mut bench, tape, _) = console();
    // Without several ports.
    bench.set_up(2, rings);
    bench.memory.write(Gpa(0x4_0000), b"hello").unwrap();
    offer(&mut bench, 1, 0, Buffer(0x4_0000, 5, false));
    assert_eq!(*tape.written.lock().unwrap(), b"hello");
    assert_eq!(used(&bench, 1), (1, 0));
    tape.typed.lock().unwrap().extend(b"typed");
    offer(&mut bench, 0, 0, Buffer(0x5_0000, 64, true));
    let mut bytes = [0; 6];
    bench.memory.read(Gpa(0x5_0000), &mut bytes).unwrap();
    assert_eq!((&bytes, used(&bench, 0)), (b"typed\0", (1, 5)));
    assert_eq!(bench.read(CONFIG, 4), 33 << 16 | 101, "columns, rows");
}

/// Sends a control message and returns what the device answers, message by message.
fn tell(bench: &mut Bench, n: u64, port: u64, event: u64, answers: u64) -> Vec<Vec<u8>> {
    let (before, _) = used(bench, 2);
    for answer in before..before + answers {
        offer(bench, 2, answer, Buffer(0x8_0000 + 64 * answer, 64, true));
    }
    bench.put(0x4_0000, 8, port | event << 32 | 1 << 48);
    offer(bench, 3, n, Buffer(0x4_0000, 8, false));
    let (after, _) = used(bench, 2);
    let [_, _, ring] = rings(2).unwrap();
    let message = |answer| {
        let len = bench
            .memory
            .read_value(Gpa(ring + 8 + 8 * answer), 4)
            .unwrap();
        let mut bytes = vec![0; len as usize];
        bench
            .memory
            .read(Gpa(0x8_0000 + 64 * answer), &mut bytes)
            .unwrap();
        bytes
    };
    (before..after).map(message).collect()
}

#[test]
fn ports_introduce_themselves_and_the_window_has_a_size() {
    let (mut bench, _, window) = console();
    bench.set_up(0, rings);
    // DEVICE_READY: both ports are added. PORT_READY: console, size, open; the other has a name.
    assert_eq!(
        tell(&mut bench, 0, 0, 0, 2),
        [vec![0, 0, 0, 0, 1, 0, 1, 0], vec![1, 0, 0, 0, 1, 0, 1, 0]]
    );
    let expected = [
        vec![0, 0, 0, 0, 4, 0, 1, 0],
        vec![0, 0, 0, 0, 5, 0, 0, 0, 101, 0, 33, 0],
        vec![0, 0, 0, 0, 6, 0, 1, 0],
    ];
    assert_eq!(tell(&mut bench, 1, 0, 3, 3), expected);
    let name = [&[1, 0, 0, 0, 7, 0, 1, 0], b"org.test".as_slice()].concat();
    assert_eq!(
        tell(&mut bench, 2, 1, 3, 2),
        [name, vec![1, 0, 0, 0, 6, 0, 1, 0]]
    );
    assert_eq!(
        tell(&mut bench, 3, 99, 3, 0),
        Vec::<Vec<u8>>::new(),
        "there is no such port"
    );
    window.resize(50, 120);
    offer(&mut bench, 2, 7, Buffer(0x9_0000, 64, true));
    bench.serve(true);
    assert_eq!(used(&bench, 2), (8, 12));
    assert_eq!(
        bench.memory.read_value(Gpa(0x9_0008), 4).unwrap(),
        50 << 16 | 120
    );
}
