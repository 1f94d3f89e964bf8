//! The device as a driver sees it: rings in guest memory on one side, a socket on the other, workers run in place.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mem::GuestMemory;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use virtio_queue::{Queue, QueueT};
use x86::Gpa;

use super::*;
use crate::virtio::{Broken, Interrupt, Setup, VirtioDevice, Virtqueue, Wake, Worker};

const QUEUE_SIZE: u16 = 64;
const MERGE: u64 = 1 << 15;
const WRITABLE: u16 = 2;
const NEXT: u16 = 1;

/// The driver's side of one queue: descriptors, rings, and where its buffers lie.
struct Ring {
    base: u64,
    avail: u16,
    seen: u16,
    free: VecDeque<u16>,
}

impl Ring {
    fn new(base: u64) -> Ring {
        Ring {
            base,
            avail: 0,
            seen: 0,
            free: (0..QUEUE_SIZE).collect(),
        }
    }

    fn queue(&self, memory: &GuestMemory) -> Queue {
        let mut queue = Queue::new(QUEUE_SIZE).unwrap();
        queue.set_desc_table_address(Some(self.base as u32), Some(0));
        queue.set_avail_ring_address(Some(self.base as u32 + 0x1000), Some(0));
        queue.set_used_ring_address(Some(self.base as u32 + 0x2000), Some(0));
        queue.set_event_idx(true);
        queue.set_ready(true);
        assert!(queue.is_valid(memory.vm_memory()));
        queue
    }

    /// Makes a chain of buffers available.
    fn add(&mut self, memory: &GuestMemory, buffers: &[(u64, u32, u16)]) {
        let at: Vec<u16> = buffers
            .iter()
            .map(|_| self.free.pop_front().expect("a free descriptor"))
            .collect();
        for (n, (address, len, flags)) in buffers.iter().enumerate() {
            let (next, flags) = at
                .get(n + 1)
                .map_or((0, *flags), |next| (*next, *flags | NEXT));
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(len.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend(next.to_le_bytes());
            memory
                .write(Gpa(self.base + 16 * u64::from(at[n])), &bytes)
                .unwrap();
        }
        let slot = self.base + 0x1004 + 2 * u64::from(self.avail % QUEUE_SIZE);
        memory.write(Gpa(slot), &at[0].to_le_bytes()).unwrap();
        self.avail = self.avail.wrapping_add(1);
        memory
            .write(Gpa(self.base + 0x1002), &self.avail.to_le_bytes())
            .unwrap();
    }

    /// Whether the device wants to hear of the next chain (2.7.10).
    fn is_watched(&self, memory: &GuestMemory) -> bool {
        let event = self.base + 0x2004 + 8 * u64::from(QUEUE_SIZE);
        memory.read_value(Gpa(event), 2).unwrap() == u64::from(self.avail)
    }

    /// Chains that the device gave back: head and length.
    fn used(&mut self, memory: &GuestMemory) -> Vec<(u32, u32)> {
        let index = memory.read_value(Gpa(self.base + 0x2002), 2).unwrap() as u16;
        let mut all = Vec::new();
        while self.seen != index {
            let at = self.base + 0x2004 + 8 * u64::from(self.seen % QUEUE_SIZE);
            let value = |at| memory.read_value(Gpa(at), 4).unwrap() as u32;
            all.push((value(at), value(at + 4)));
            self.seen = self.seen.wrapping_add(1);
        }
        all
    }
}

/// A guest with a device whose backend is `wire`.
struct Guest {
    memory: Arc<GuestMemory>,
    device: Net,
    receive: Ring,
    transmit: Ring,
    control: Ring,
    workers: Vec<Box<dyn Worker>>,
    interrupts: Arc<AtomicU32>,
}

impl Guest {
    fn on(port: NetPort, features: u64) -> Guest {
        let device = Net::new("net0", MacAddress::of_vm("guest"), port, Arc::default());
        let memory = Arc::new(GuestMemory::flat(8 << 20).unwrap());
        let [receive, transmit, control] = [0x1_0000, 0x2_0000, 0x3_0000].map(Ring::new);
        let interrupts = Arc::default();
        let workers = Vec::new();
        let mut guest = Guest {
            memory,
            device,
            receive,
            transmit,
            control,
            workers,
            interrupts,
        };
        guest.activate(features);
        guest
    }

    fn with_wire(features: u64) -> (Guest, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Guest::on(NetPort::stream(ours).unwrap(), features), theirs)
    }

    /// The driver resets the device and sets it up in new memory.
    fn begin_again(&mut self, features: u64) {
        self.workers.clear();
        self.device.reset();
        self.memory = Arc::new(GuestMemory::flat(8 << 20).unwrap());
        self.receive = Ring::new(0x1_0000);
        self.transmit = Ring::new(0x2_0000);
        self.activate(features);
    }

    fn activate(&mut self, features: u64) {
        let interrupts = Arc::clone(&self.interrupts);
        let interrupt = Interrupt::new(move || {
            interrupts.fetch_add(1, Ordering::Relaxed);
        });
        let rings = [&self.receive, &self.transmit, &self.control];
        let queue = |(index, ring): (u16, &&Ring)| Virtqueue {
            index,
            queue: ring.queue(&self.memory),
            interrupt: interrupt.clone(),
        };
        let setup = Setup {
            memory: Arc::clone(&self.memory),
            features,
            queues: (0..).zip(&rings).map(queue).collect(),
            config_changed: interrupt.clone(),
        };
        self.workers = self.device.activate(setup);
        self.serve(Wake::Start).unwrap();
    }

    /// Wakes whoever is concerned.
    fn serve(&mut self, wake: Wake) -> Result<(), Broken> {
        for worker in &mut self.workers {
            let concerns = match wake {
                Wake::Notified(queue) => worker.queues().contains(&queue),
                Wake::Readable(_) => !worker.sources().is_empty(),
                Wake::Writable(_) => !worker.sinks().is_empty(),
                Wake::Start | Wake::Deadline => true,
            };
            if concerns {
                worker.serve(wake)?;
            }
        }
        Ok(())
    }

    /// Whether anything that a worker waits for is there.
    fn is_called(&self) -> bool {
        let sources = self.workers.iter().flat_map(|worker| worker.sources());
        let mut sources: Vec<PollFd<'_>> = sources
            .map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN))
            .collect();
        poll(&mut sources, Some(&Timespec::default())).unwrap() > 0
    }

    /// Sends a frame with this header.
    fn send(&mut self, header: [u8; 12], frame: &[u8]) -> Result<(), Broken> {
        self.queue_frame(header, frame);
        self.serve(Wake::Notified(1))
    }

    fn queue_frame(&mut self, header: [u8; 12], frame: &[u8]) {
        let at = 0x10_0000 + u64::from(self.transmit.avail % QUEUE_SIZE) * 0x1_1000;
        self.memory.write(Gpa(at), &header).unwrap();
        self.memory.write(Gpa(at + 12), frame).unwrap();
        // Header and frame in buffers of their own, cut where it is least handy.
        let len = frame.len() as u32;
        self.transmit.add(
            &self.memory,
            &[
                (at, 5, 0),
                (at + 5, 7 + len / 3, 0),
                (at + 12 + u64::from(len / 3), len - len / 3, 0),
            ],
        );
    }

    /// Gives the device `count` receive buffers of `len` bytes.
    fn offer(&mut self, count: u64, len: u32) {
        for n in 0..count {
            self.receive
                .add(&self.memory, &[(0x60_0000 + n * 0x1000, len, WRITABLE)]);
        }
        self.serve(Wake::Notified(0)).unwrap();
    }

    fn reading(&self) -> crate::virtio::MetricsReading {
        self.device.metrics().read()
    }
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

fn received(wire: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut part = [0; 65_536];
    while let Ok(count) = wire.read(&mut part) {
        if count == 0 {
            break;
        }
        all.extend(&part[..count]);
    }
    all
}

#[test]
fn a_frame_of_the_guest_arrives_on_the_wire() {
    let (mut guest, mut wire) = Guest::with_wire(MERGE);
    let frame: Vec<u8> = (0..1514).map(|n| n as u8 | 1).collect();
    guest.send([0; 12], &frame).unwrap();
    assert_eq!(received(&mut wire), framed(&frame));
    assert!(guest.transmit.is_watched(&guest.memory));
    assert_eq!(guest.transmit.used(&guest.memory), [(0, 0)]);
    assert_eq!(
        (guest.reading().requests, guest.reading().bytes_from_guest),
        (1, 1514)
    );
}

#[test]
fn a_frame_from_the_wire_arrives_in_as_many_buffers_as_it_needs() {
    let check = |frame_bytes: usize, features, expected: &[u32]| {
        let (mut guest, mut wire) = Guest::with_wire(features);
        guest.offer(20, 4096);
        let frame: Vec<u8> = (0..frame_bytes).map(|n| n as u8).collect();
        wire.write_all(&framed(&frame)).unwrap();
        guest.serve(Wake::Readable(0)).unwrap();
        let used: Vec<u32> = guest
            .receive
            .used(&guest.memory)
            .iter()
            .map(|(_, len)| *len)
            .collect();
        assert_eq!(used, expected, "{frame_bytes} bytes");
        let mut got = vec![0; used.iter().sum::<u32>() as usize];
        let memory = &guest.memory;
        got.chunks_mut(4096)
            .zip(0..)
            .for_each(|(chunk, n)| memory.read(Gpa(0x60_0000 + n * 0x1000), chunk).unwrap());
        if !expected.is_empty() {
            assert_eq!(
                u16::from_le_bytes([got[10], got[11]]),
                expected.len() as u16
            );
            assert_eq!(got[12..], frame);
        }
    };
    check(60, MERGE, &[72]);
    check(4084, MERGE, &[4096]);
    check(4085, MERGE, &[4096, 1]);
    check(65_534, MERGE, &[[4096; 16].as_slice(), &[10]].concat());
    check(1514, 0, &[1526]);
    check(9000, 0, &[]);
}

#[test]
fn a_guest_without_buffers_loses_nothing() {
    let (mut guest, mut wire) = Guest::with_wire(MERGE);
    guest.offer(2, 4096);
    let frames: Vec<Vec<u8>> = (0..4_u8).map(|n| vec![n; 6000]).collect();
    wire.write_all(
        &frames
            .iter()
            .flat_map(|frame| framed(frame))
            .collect::<Vec<u8>>(),
    )
    .unwrap();
    guest.serve(Wake::Readable(0)).unwrap();
    assert_eq!(guest.reading().requests, 1);
    let has_sources = |guest: &Guest| {
        guest
            .workers
            .iter()
            .any(|worker| !worker.sources().is_empty())
    };
    assert!(!has_sources(&guest), "a starved worker reads no more");
    assert!(guest.receive.is_watched(&guest.memory));
    guest.offer(1, 4096);
    assert!(guest.receive.is_watched(&guest.memory));
    assert_eq!(
        guest.reading().requests,
        1,
        "half a frame's buffers stay where they are"
    );
    guest.offer(5, 4096);
    assert_eq!(guest.reading().requests, 4);
    assert_eq!(guest.receive.used(&guest.memory).len(), 8);
    assert!(has_sources(&guest));
    assert_eq!(guest.reading().errors, 0);
}

#[test]
fn a_slow_backend_makes_the_guest_wait_and_loses_nothing() {
    let (mut guest, mut wire) = Guest::with_wire(MERGE);
    let frame = vec![9; 60_000];
    for _ in 0..QUEUE_SIZE / 3 {
        guest.queue_frame([0; 12], &frame);
    }
    guest.serve(Wake::Notified(1)).unwrap();
    let first = guest.transmit.used(&guest.memory).len();
    assert!(
        first < usize::from(QUEUE_SIZE / 3),
        "the socket takes only so much"
    );
    let mut got = 0;
    for _ in 0..1000 {
        got += received(&mut wire).len();
        guest.serve(Wake::Writable(0)).unwrap();
    }
    assert_eq!(got, usize::from(QUEUE_SIZE / 3) * 60_004);
    assert_eq!(guest.reading().errors, 0);
}

#[test]
fn what_the_guest_leaves_to_the_device_is_done() {
    let (mut guest, mut wire) = Guest::with_wire(MERGE);
    let mut frame = vec![0; 14 + 20 + 8 + 100];
    frame[12] = 8;
    frame[30] = 10;
    let mut header = [0; 12];
    header[0] = 1;
    header[6] = 34;
    header[8] = 6;
    guest.send(header, &frame).unwrap();
    assert_eq!(received(&mut wire)[4 + 40..4 + 42], [0xff, 0xff]);
    header[6] = 200;
    guest.send(header, &frame).unwrap();
    assert_eq!(
        received(&mut wire),
        [0_u8; 0],
        "a checksum outside the frame"
    );
    assert_eq!(guest.reading().errors, 1);
}

#[test]
fn the_hosts_loopback_is_out_of_reach() {
    let (mut guest, mut wire) = Guest::with_wire(MERGE);
    let mut frame = vec![0; 60];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[30..34].copy_from_slice(&[127, 0, 0, 1]);
    guest.send([0; 12], &frame).unwrap();
    assert_eq!(received(&mut wire), [0_u8; 0]);
    assert_eq!(guest.reading().errors, 1);
    assert_eq!(
        guest.transmit.used(&guest.memory).len(),
        1,
        "the buffer comes back all the same"
    );
}

#[test]
fn what_is_no_packet_is_counted() {
    let check = |buffers: &[(u64, u32, u16)]| {
        let (mut guest, mut wire) = Guest::with_wire(MERGE);
        guest.transmit.add(&guest.memory, buffers);
        guest.serve(Wake::Notified(1)).unwrap();
        assert_eq!(guest.reading().violations, 1, "{buffers:?}");
        assert_eq!(received(&mut wire), [0_u8; 0]);
        assert_eq!(guest.transmit.used(&guest.memory).len(), 1);
    };
    check(&[(0x10_0000, 12, 0)]);
    check(&[(0x10_0000, 25, 0)]);
    check(&[(0x10_0000, 100, WRITABLE)]);
    check(&[(0x10_0000, 0x2_0000, 0)]);
    check(&[(0x10_0000, u32::MAX, 0)]);
}

#[test]
fn buffers_outside_guest_memory_break_the_queue() {
    let (mut guest, _wire) = Guest::with_wire(MERGE);
    guest.transmit.add(&guest.memory, &[(1 << 40, 100, 0)]);
    assert_eq!(guest.serve(Wake::Notified(1)).unwrap_err().queue, 1);
    let (mut guest, mut wire) = Guest::with_wire(MERGE);
    guest
        .receive
        .add(&guest.memory, &[(u64::MAX - 10, 4096, WRITABLE)]);
    wire.write_all(&framed(&[1; 60])).unwrap();
    assert_eq!(guest.serve(Wake::Readable(0)).unwrap_err().queue, 0);
    let (mut guest, mut wire) = Guest::with_wire(MERGE);
    guest
        .receive
        .add(&guest.memory, &[(0x60_0000, 0, WRITABLE)]);
    wire.write_all(&framed(&[1; 60])).unwrap();
    assert_eq!(guest.serve(Wake::Readable(0)).unwrap_err().queue, 0);
    let (mut guest, _wire) = Guest::with_wire(MERGE);
    guest
        .memory
        .write(Gpa(0x2_1002), &1000_u16.to_le_bytes())
        .unwrap();
    assert_eq!(guest.serve(Wake::Notified(1)).unwrap_err().queue, 1);
}

#[test]
fn the_link_goes_down_with_the_backend_and_by_hand() {
    let (ours, wire) = UnixStream::pair().unwrap();
    let port = NetPort::stream(ours).unwrap();
    let mut guest = Guest::on(port.clone(), MERGE);
    let status = |guest: &Guest| {
        let mut bytes = [0; 2];
        guest.device.read_config(6, &mut bytes);
        bytes
    };
    assert_eq!(status(&guest), [1, 0]);
    port.set_link(false);
    assert_eq!(
        (status(&guest), guest.interrupts.load(Ordering::Relaxed)),
        ([0, 0], 1)
    );
    guest.send([0; 12], &[1; 60]).unwrap();
    assert_eq!(guest.reading().errors, 1);
    let before = guest.interrupts.load(Ordering::Relaxed);
    assert!(port.set_link(true));
    assert_eq!(
        (status(&guest), guest.interrupts.load(Ordering::Relaxed)),
        ([1, 0], before + 1)
    );
    drop(wire);
    guest.serve(Wake::Readable(0)).unwrap();
    assert_eq!(status(&guest), [0, 0]);
    // Nobody is there, in or out.
    port.set_link(false);
    port.set_link(true);
    assert_eq!(status(&guest), [0, 0]);
    assert!(!NetPort::unplugged().set_link(true));
    assert!(!guest.is_called(), "a dead socket wakes nobody");
    guest.send([0; 12], &[1; 60]).unwrap();
}

#[test]
fn a_cable_that_was_pulled_stays_out_whatever_is_at_its_other_end() {
    let (ours, _wire) = UnixStream::pair().unwrap();
    let port = NetPort::stream(ours).unwrap();
    assert!(port.set_link(false) && !port.is_up());
    let (ours, _other) = UnixStream::pair().unwrap();
    port.plug(ours).unwrap();
    assert!(!port.is_up());
    assert!(port.set_link(true) && port.is_up());
}

/// Whichever direction finds out first that the backend is gone, and also if none has yet.
#[test]
fn another_backend_takes_the_place_of_one_that_is_gone() {
    let check = |notices: &dyn Fn(&mut Guest), had_link: bool| {
        let (ours, wire) = UnixStream::pair().unwrap();
        let port = NetPort::stream(ours).unwrap();
        let mut guest = Guest::on(port.clone(), MERGE);
        drop(wire);
        notices(&mut guest);
        assert_eq!(port.is_up(), had_link);
        let (ours, mut wire) = UnixStream::pair().unwrap();
        wire.set_nonblocking(true).unwrap();
        port.plug(ours).unwrap();
        assert!(port.is_up() && guest.is_called());
        guest.serve(Wake::Readable(0)).unwrap();
        guest.offer(1, 4096);
        wire.write_all(&framed(&[2; 60])).unwrap();
        assert!(guest.is_called(), "the new socket is waited for");
        guest.serve(Wake::Readable(0)).unwrap();
        assert_eq!(guest.receive.used(&guest.memory), [(0, 72)]);
        // What finds the old socket gone is lost, what comes after that is not.
        guest.send([0; 12], &[3; 60]).unwrap();
        guest.send([0; 12], &[4; 60]).unwrap();
        let expected = framed(&[4; 60]);
        assert!(received(&mut wire).ends_with(&expected));
        assert!(port.is_up());
    };
    check(&|guest| guest.serve(Wake::Readable(0)).unwrap(), false);
    check(&|guest| guest.send([0; 12], &[1; 60]).unwrap(), false);
    check(&|_| (), true);
    // A driver that starts anew meanwhile.
    check(
        &|guest| {
            guest.serve(Wake::Readable(0)).unwrap();
            guest.begin_again(MERGE);
        },
        false,
    );
    let refused = NetPort::unplugged().plug(UnixStream::pair().unwrap().0);
    assert_eq!(
        refused.unwrap_err().kind(),
        std::io::ErrorKind::InvalidInput
    );
}

#[test]
fn a_reset_keeps_the_backend_and_half_a_frame() {
    let (mut guest, mut wire) = Guest::with_wire(MERGE);
    let frame = vec![5; 3000];
    let bytes = framed(&frame);
    wire.write_all(&bytes[..1000]).unwrap();
    guest.serve(Wake::Readable(0)).unwrap();
    guest.begin_again(MERGE);
    guest.offer(1, 4096);
    wire.write_all(&bytes[1000..]).unwrap();
    guest.serve(Wake::Readable(0)).unwrap();
    assert_eq!(guest.receive.used(&guest.memory), [(0, 3012)]);
    guest.send([0; 12], &frame).unwrap();
    assert_eq!(received(&mut wire), bytes);
}

#[test]
fn a_driver_may_change_its_address_until_the_reset() {
    let (mut guest, _wire) = Guest::with_wire(MERGE);
    guest
        .memory
        .write(Gpa(0x50_0000), &[1, 1, 2, 9, 8, 7, 6, 5])
        .unwrap();
    guest.control.add(
        &guest.memory,
        &[
            (0x50_0000, 2, 0),
            (0x50_0002, 6, 0),
            (0x50_0100, 1, WRITABLE),
        ],
    );
    guest.memory.write(Gpa(0x50_0100), &[0xee]).unwrap();
    guest.serve(Wake::Notified(2)).unwrap();
    let mut mac = [0; 6];
    guest.device.read_config(0, &mut mac);
    assert_eq!(
        (mac, guest.memory.read_value(Gpa(0x50_0100), 1).unwrap()),
        ([2, 9, 8, 7, 6, 5], 0)
    );
    assert!(
        guest.control.is_watched(&guest.memory),
        "the next command is told too"
    );
    guest.device.reset();
    guest.device.read_config(0, &mut mac);
    assert_eq!(MacAddress(mac), MacAddress::of_vm("guest"));
}

#[test]
fn an_unplugged_device_is_there_and_silent() {
    let mut guest = Guest::on(NetPort::unplugged(), MERGE);
    guest.send([0; 12], &[1; 60]).unwrap();
    assert_eq!(guest.transmit.used(&guest.memory).len(), 1);
    let mut config = [0xff; 32];
    guest.device.read_config(4, &mut config);
    assert_eq!((config[2], &config[13..]), (0, [0; 19].as_slice()));
}
