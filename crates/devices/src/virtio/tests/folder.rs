//! A folder's device between a driver and who serves the folder, either of which may mean harm.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use folder::{ANSWER_BYTES_MAX, HEADER_BYTES, REQUEST_BYTES_MAX};
use x86::Gpa;

use super::bench::*;
use crate::virtio::VirtioDevice;
use crate::virtio::folder::{Folder, FolderPort};

const MEMORY_BYTES: u64 = 0x40_0000;
/// Where messages and answers lie, each with so much room.
const MESSAGES: u64 = 0x2_0000;
const ANSWERS: u64 = 0x20_0000;

const READ: u32 = 15;
const FORGET: u32 = 2;
const EIO: i32 = -5;
const EINVAL: i32 = -22;

fn rings(queue: u16) -> Option<[u64; 3]> {
    let base = 0x1000 + 0x8000 * u64::from(queue);
    Some([base, base + 0x4000, base + 0x5000])
}

/// A message of this kind, of which the guest says that it is this number.
fn message(opcode: u32, unique: u64, len_bytes: usize) -> Vec<u8> {
    let mut message = (len_bytes as u32).to_le_bytes().to_vec();
    message.extend(opcode.to_le_bytes());
    message.extend(unique.to_le_bytes());
    message.resize(len_bytes, 7);
    message
}

/// A driver, its device, and the server's end of the socket.
struct Shared {
    bench: Bench,
    server: UnixStream,
    offered: [u64; 2],
}

impl Shared {
    fn new() -> Shared {
        let (ours, server) = UnixStream::pair().unwrap();
        let device = Folder::new("folder0", FolderPort::new(ours), Arc::default());
        let mut bench = Bench::new(Box::new(device), MEMORY_BYTES);
        bench.set_up(0, rings);
        Shared {
            bench,
            server,
            offered: [0; 2],
        }
    }

    /// Offers a message, and room for its answer.
    fn offer(&mut self, queue: u16, message: &[u8], room_bytes: u64) {
        let [table, available, _] = rings(queue).unwrap();
        let n = self.offered[usize::from(queue)];
        let at = MESSAGES + 0x1000 * n;
        self.bench.memory.write(Gpa(at), message).unwrap();
        let head = 2 * n;
        let has_room = u64::from(room_bytes > 0);
        self.bench.put(table + 16 * head, 8, at);
        let word = message.len() as u64 | has_room << 32 | (head + 1) << 48;
        self.bench.put(table + 16 * head + 8, 8, word);
        self.bench.put(table + 16 * (head + 1), 8, answer_at(n));
        self.bench
            .put(table + 16 * (head + 1) + 8, 8, room_bytes | 2 << 32);
        self.bench.put(available + 4 + 2 * n, 2, head);
        self.bench.put(available + 2, 2, n + 1);
        self.offered[usize::from(queue)] += 1;
        self.bench
            .write(NOTIFY + 4 * u64::from(queue), 2, u64::from(queue));
        self.bench.serve(false);
    }

    /// What came back: the offer's number and how many bytes were written, in that order.
    fn used(&self, queue: u16) -> Vec<(u64, u64)> {
        let [_, _, used] = rings(queue).unwrap();
        let read = |at, size| self.bench.memory.read_value(Gpa(at), size).unwrap();
        let entry = |n| (read(used + 4 + 8 * n, 4) / 2, read(used + 8 + 8 * n, 4));
        (0..read(used + 2, 2)).map(entry).collect()
    }

    /// Error and number of the answer to an offer.
    fn answer(&self, n: u64) -> (i32, u64) {
        let read = |at, size| self.bench.memory.read_value(Gpa(at), size).unwrap();
        let at = answer_at(n);
        (read(at + 4, 4) as u32 as i32, read(at + 8, 8))
    }

    /// What the server was sent next.
    fn sent(&mut self, len_bytes: usize) -> Vec<u8> {
        let mut message = vec![0; len_bytes];
        self.server.read_exact(&mut message).unwrap();
        message
    }

    /// Whether nothing more was sent.
    fn is_quiet(&mut self) -> bool {
        self.server.set_nonblocking(true).unwrap();
        let is_quiet = self.server.read(&mut [0]).is_err();
        self.server.set_nonblocking(false).unwrap();
        is_quiet
    }

    /// The server answers the message with this number.
    fn say(&mut self, ticket: &[u8], len_bytes: usize) {
        let mut answer = (len_bytes as u32).to_le_bytes().to_vec();
        answer.extend(0_u32.to_le_bytes());
        answer.extend(ticket);
        answer.resize(len_bytes.clamp(16, 1 << 16), 9);
        self.server.write_all(&answer).unwrap();
        self.bench.serve(true);
    }
}

fn answer_at(n: u64) -> u64 {
    ANSWERS + 0x1000 * n
}

#[test]
fn a_folder_has_its_tag_and_one_queue_for_requests() {
    let mut shared = Shared::new();
    let mut config: Vec<u8> = (0..10)
        .flat_map(|word| (shared.bench.read(CONFIG + 4 * word, 4) as u32).to_le_bytes())
        .collect();
    assert_eq!(config.split_off(36), [1, 0, 0, 0]);
    assert_eq!(config, [&b"folder0"[..], &[0; 29]].concat());
}

#[test]
fn answers_go_where_their_messages_came_from_in_any_order_and_whatever_the_guest_calls_them() {
    let mut shared = Shared::new();
    // Three times the same number.
    for _ in 0..3 {
        shared.offer(1, &message(READ, 77, 48), 64);
    }
    let sent: Vec<Vec<u8>> = (0..3).map(|_| shared.sent(48)).collect();
    assert_eq!(sent[0][..8], message(READ, 77, 48)[..8]);
    assert_ne!(sent[0][8..16], sent[1][8..16]);
    shared.say(&sent[2][8..16], 40);
    shared.say(&sent[0][8..16], 16);
    assert_eq!(shared.used(1), [(2, 40), (0, 16)]);
    assert_eq!((shared.answer(2), shared.answer(0)), ((0, 77), (0, 77)));
    shared.say(&sent[2][8..16], 16);
    assert_eq!(shared.used(1).len(), 2, "it was answered already");
    shared.say(&sent[1][8..16], 64);
    assert_eq!(shared.used(1)[2], (1, 64));
}

#[test]
fn what_is_forgotten_gets_no_answer_and_waits_for_none() {
    let mut shared = Shared::new();
    shared.offer(0, &message(FORGET, 1, 48), 0);
    assert_eq!(shared.used(0), [(0, 0)]);
    assert_eq!(shared.sent(48)[4..8], FORGET.to_le_bytes());
}

#[test]
fn a_message_of_another_length_than_it_says_never_leaves_the_machine() {
    let check = |said: usize, len_bytes: usize| {
        let mut shared = Shared::new();
        let mut lying = message(READ, 5, len_bytes);
        lying[..4].copy_from_slice(&(said as u32).to_le_bytes());
        shared.offer(1, &lying, 64);
        assert_eq!(shared.used(1), [(0, 16)], "{said} of {len_bytes}");
        assert_eq!(shared.answer(0).0, EINVAL, "{said} of {len_bytes}");
        assert!(shared.is_quiet(), "{said} of {len_bytes}");
    };
    check(HEADER_BYTES - 1, HEADER_BYTES - 1);
    check(HEADER_BYTES + 1, HEADER_BYTES);
    check(HEADER_BYTES, HEADER_BYTES + 1);
    check(REQUEST_BYTES_MAX + 1, REQUEST_BYTES_MAX + 1);
    check(u32::MAX as usize, 64);
    check(0, 64);
}

#[test]
fn the_longest_message_is_sent_as_the_socket_takes_it() {
    let mut shared = Shared::new();
    let long = message(READ, 5, REQUEST_BYTES_MAX);
    shared.offer(1, &long, 64);
    let mut came = Vec::new();
    let mut part = vec![0; 0x8000];
    while came.len() < long.len() {
        let count = shared.server.read(&mut part).unwrap();
        came.extend(&part[..count]);
        shared.bench.serve(true);
    }
    assert!(came[16..] == long[16..]);
    shared.say(&came[8..16], 16);
    assert_eq!(shared.used(1), [(0, 16)]);
}

#[test]
fn an_answer_without_room_for_it_is_an_error_of_input_and_output() {
    let check = |answer_bytes: usize, room: u64, expected: (u64, i32)| {
        let mut shared = Shared::new();
        shared.offer(1, &message(READ, 5, 48), room);
        let sent = shared.sent(48);
        shared.say(&sent[8..16], answer_bytes);
        let (written, error) = expected;
        assert_eq!(shared.used(1), [(0, written)], "{answer_bytes} in {room}");
        assert_eq!(shared.answer(0).0, error, "{answer_bytes} in {room}");
    };
    check(64, 64, (64, 0));
    check(65, 64, (16, EIO));
    check(16, 15, (0, 0));
    check(16, 0, (0, 0));
}

#[test]
fn a_server_that_is_gone_is_an_error_for_everything_and_the_device_lives() {
    let check = |what: &str, end: &dyn Fn(&mut Shared)| {
        let mut shared = Shared::new();
        shared.offer(1, &message(READ, 5, 48), 64);
        shared.offer(1, &message(READ, 6, 48), 64);
        end(&mut shared);
        shared.bench.serve(true);
        assert_eq!(shared.used(1), [(0, 16), (1, 16)], "{what}");
        assert_eq!(
            (shared.answer(0), shared.answer(1)),
            ((EIO, 5), (EIO, 6)),
            "{what}"
        );
        shared.offer(1, &message(READ, 7, 48), 64);
        assert_eq!(shared.answer(2), (EIO, 7), "{what}");
        shared.offer(0, &message(FORGET, 8, 48), 0);
        assert_eq!(shared.used(0), [(0, 0)], "{what}");
        assert_eq!(shared.bench.read(STATUS, 1), 0xf, "{what}");
        // Another life finds it as it is.
        shared.bench.set_up(0, rings);
        assert_eq!(shared.bench.read(STATUS, 1), 0xf, "{what}");
    };
    check("it hangs up", &|shared| {
        let (_, other) = UnixStream::pair().unwrap();
        shared.server = other;
    });
    check("it says too much", &|shared| {
        shared.say(&[0; 8], ANSWER_BYTES_MAX + 1);
    });
    check("it says too little", &|shared| shared.say(&[0; 8], 15));
}

#[test]
fn what_a_driver_was_owed_before_its_reset_goes_to_nobody() {
    let mut shared = Shared::new();
    shared.offer(1, &message(READ, 5, 48), 64);
    let old = shared.sent(48);
    // Half of the answer is there when the driver resets the device.
    let answer = [&64_u32.to_le_bytes()[..], &[0; 4], &old[8..16], &[9; 48]].concat();
    shared.server.write_all(&answer[..30]).unwrap();
    shared.bench.serve(true);
    shared.bench.reset();
    for at in [rings(1).unwrap()[1], rings(1).unwrap()[2]] {
        shared.bench.put(at, 8, 0);
    }
    shared.offered = [0; 2];
    shared.bench.set_up(0, rings);
    shared.offer(1, &message(READ, 6, 48), 64);
    let new = shared.sent(48);
    shared.server.write_all(&answer[30..]).unwrap();
    shared.bench.serve(true);
    assert_eq!(shared.used(1), []);
    shared.say(&new[8..16], 20);
    assert_eq!((shared.used(1), shared.answer(0)), (vec![(0, 20)], (0, 6)));
}

#[test]
fn a_folder_is_not_taken_to_another_machine() {
    let mut shared = Shared::new();
    shared.offer(1, &message(READ, 5, 48), 64);
    let state = crate::pci::PciFunction::save(&shared.bench.function);
    let (ours, _server) = UnixStream::pair().unwrap();
    let device = Folder::new("folder0", FolderPort::new(ours), Arc::default());
    assert_eq!(device.name(), "folder0");
    let mut other = Bench::new(Box::new(device), MEMORY_BYTES);
    let refusal = crate::pci::PciFunction::restore(&mut other.function, state).unwrap_err();
    assert!(refusal.to_string().contains("another device"), "{refusal}");
}
