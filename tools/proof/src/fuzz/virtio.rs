//! Each virtio device, with its own code and its workers, against a driver that somebody has changed: registers, rings, buffers
//! and configuration, and what comes from the device's other side.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use devices::virtio::VirtioDevice;
use devices::virtio::balloon::{Balloon, BalloonControl};
use devices::virtio::blk::{Disk, DiskOptions, Image, ImageFormat, VirtioBlock};
use devices::virtio::console::{Console, Port, PortEnd, Window, share};
use devices::virtio::entropy::Entropy;
use devices::virtio::net::{MacAddress, Net, NetPort};
use devices::virtio::vsock::{Connector, Dial, Vsock};
use host::MemFd;
use host::lock::Lock;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use super::Target;
use super::script::{Step, target};
use super::stage::{Outside, Stage, kind, play, rings};

/// Where what requests consist of begins.
const BUFFERS: u32 = 0x2_0000;

/// A part of a request.
enum Part<'a> {
    /// For the device to read.
    Given(&'a [u8]),
    /// For the device to fill.
    Room(u32),
}

/// A good driver's steps.
#[derive(Default)]
struct Driver {
    steps: Vec<Step>,
    /// By queue: descriptors that are used up, and requests that were made.
    used: [(u16, u16); 16],
    next: u32,
}

impl Driver {
    /// One that has set its device up, with interrupts by messages or by the pin.
    fn new(msix: u16) -> Driver {
        let mut driver = Driver::default();
        driver.step(kind::SET_UP, 0, msix, 0, 0);
        driver
    }

    fn step(&mut self, kind: u8, size: u8, small: u16, place: u32, value: u64) {
        self.steps.push(Step {
            kind,
            size,
            small,
            place,
            value,
        });
    }

    fn put(&mut self, place: u32, bytes: &[u8]) {
        for (at, piece) in (place..).step_by(8).zip(bytes.chunks(8)) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.step(kind::PUT, 3, 0, at, u64::from_le_bytes(word));
        }
    }

    /// Makes a request and says so.
    fn request(&mut self, queue: u16, parts: &[Part<'_>]) {
        let [table, available, _] = rings(queue.into()).map(|at| at as u32);
        let (first, count) = self.used[usize::from(queue)];
        for (n, part) in (first..).zip(parts) {
            let place = BUFFERS + self.next;
            let (len, fills) = match part {
                Part::Given(bytes) => {
                    self.put(place, bytes);
                    (bytes.len() as u32, 0_u64)
                }
                Part::Room(len) => (*len, 2),
            };
            self.next += len.next_multiple_of(16);
            let is_last = usize::from(n - first) + 1 == parts.len();
            let follows = u64::from(!is_last);
            let word = u64::from(len) | (fills | follows) << 32 | u64::from(n + 1) << 48;
            let at = table + 16 * u32::from(n);
            self.put(at, &u64::from(place).to_le_bytes());
            self.put(at + 8, &word.to_le_bytes());
        }
        let entry = available + 4 + 2 * u32::from(count);
        self.step(kind::PUT, 1, 0, entry, first.into());
        self.step(kind::PUT, 1, 0, available + 2, u64::from(count) + 1);
        self.used[usize::from(queue)] = (first + parts.len() as u16, count + 1);
        self.step(kind::NOTIFY, 0, queue, 0, 0);
    }

    fn tick(&mut self) {
        self.step(kind::TICK, 0, 0, 0, 0);
    }

    fn outside(&mut self, small: u16, value: u64) {
        self.step(kind::OUTSIDE, 0, small, 0, value);
        self.tick();
    }

    /// Reads what can be read of the device's configuration, and writes it.
    fn configure(&mut self) {
        for at in 0..8 {
            self.step(kind::READ, 2, 0, 0x2000 + 4 * at, 0);
            self.step(kind::WRITE, 2, 0, 0x2000 + 4 * at, 1);
            self.step(kind::READ_CONFIG, 0, at as u16, 0, 0);
        }
    }
}

/// Two drivers that do the same with interrupts of both kinds.
fn both(work: impl Fn(&mut Driver)) -> Vec<Vec<Step>> {
    [0, 0x8000]
        .map(|msix| {
            let mut driver = Driver::new(msix);
            work(&mut driver);
            driver.configure();
            driver.steps
        })
        .into()
}

/// All devices.
pub(super) fn targets() -> Vec<Target> {
    vec![
        target("blk", both(use_disk), |input| {
            disk().is_ok_and(|device| play(device, Box::new(|_| ()), input))
        }),
        target("net", both(use_net), |input| {
            net().is_ok_and(|(device, outside)| play(device, outside, input))
        }),
        target("console", both(use_console), |input| {
            console().is_ok_and(|(device, outside)| play(device, outside, input))
        }),
        target("vsock", both(use_vsock), |input| {
            vsock().is_ok_and(|(device, outside)| play(device, outside, input))
        }),
        target("balloon", both(use_balloon), |input| {
            let control = BalloonControl::default();
            let device = Balloon::new(control.clone(), Arc::default());
            let outside = move |step: Step| {
                let _ = control.set_target(step.value);
            };
            play(Box::new(device), Box::new(outside), input)
        }),
        target("entropy", both(use_entropy), |input| {
            let device = Entropy::new(Arc::default());
            play(Box::new(device), Box::new(|_| ()), input)
        }),
        Target::plain("frames", frames(), from_wire),
    ]
}

fn disk() -> Result<Box<dyn VirtioDevice>> {
    let file = MemFd::new(c"disk", 1 << 20)?.file().try_clone()?;
    let image = Image::open(file, ImageFormat::Raw, None, true)?;
    let options = DiskOptions {
        name: "disk0".to_owned(),
        serial: "fuzz".to_owned(),
        is_read_only: false,
        is_guessed_raw: false,
    };
    let disk = Arc::new(Disk::new(image, options));
    Ok(Box::new(VirtioBlock::new(disk, 2)))
}

/// Requests by their types (5.2.6): read, write, flush, serial number, discard, zeros, and one that there is not.
fn use_disk(driver: &mut Driver) {
    for (kind, queue) in [(1, 0), (0, 0), (4, 1), (8, 1), (11, 0), (13, 1), (77, 0)] {
        let mut head = [0_u8; 16];
        head[0] = kind;
        head[8] = 3;
        let data = [0x5a; 32];
        let data = match kind {
            0 => vec![Part::Room(1024), Part::Room(512)],
            8 => vec![Part::Room(20)],
            4 => Vec::new(),
            11 | 13 => vec![Part::Given(&[
                3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
            ])],
            _ => vec![Part::Given(&data), Part::Given(&data)],
        };
        let parts = std::iter::once(Part::Given(&head)).chain(data);
        let parts: Vec<Part<'_>> = parts.chain([Part::Room(1)]).collect();
        driver.request(queue, &parts);
    }
    driver.tick();
}

type Made = (Box<dyn VirtioDevice>, Outside);

/// A card, and at its wire's other end somebody who sends frames of all lengths, half ones too, and goes away and comes back.
fn net() -> Result<Made> {
    let (ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let port = NetPort::stream(ours)?;
    let device = Net::new(
        "net0",
        MacAddress::of_vm("guest"),
        port.clone(),
        Arc::default(),
    );
    let mut theirs = Some(theirs);
    let outside = move |step: Step| {
        if step.small % 16 == 15 {
            theirs = UnixStream::pair().ok().and_then(|(ours, theirs)| {
                theirs.set_nonblocking(true).ok()?;
                port.plug(ours).ok()?;
                Some(theirs)
            });
        }
        let Some(wire) = &mut theirs else { return };
        let mut sink = [0; 4096];
        while wire.read(&mut sink).is_ok_and(|count| count > 0) {}
        let frame = vec![step.value as u8; usize::from(step.small) % 2000];
        let mut sent = (frame.len() as u32 ^ step.place).to_be_bytes().to_vec();
        sent.extend(&frame);
        // A wire that is full or broken is one that can be.
        let _ = wire.write(&sent);
    };
    Ok((Box::new(device), Box::new(outside)))
}

/// A TCP packet whose checksum is left to the device, and the header that says so (5.1.6).
fn use_net(driver: &mut Driver) {
    for _ in 0..4 {
        driver.request(0, &[Part::Room(2048)]);
    }
    let mut frame = vec![
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0,
    ];
    frame.extend([64, 6, 0, 0, 10, 0, 2, 15, 192, 0, 2, 1]);
    frame.extend([
        0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 2, 16, 0, 0, 0, 0, 0,
    ]);
    for header in [
        [0; 12],
        [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0],
        [1, 1, 54, 0, 16, 0, 34, 0, 16, 0, 0, 0],
    ] {
        driver.request(1, &[Part::Given(&header), Part::Given(&frame)]);
    }
    driver.outside(60, 0x45);
    driver.outside(1514, 0x46);
    // Receive no more than these (5.1.6.5).
    driver.request(2, &[Part::Given(&[0, 0]), Part::Given(&[1]), Part::Room(1)]);
    driver.outside(15, 0);
}

/// Bytes as they come from a program on the wire, for a guest with buffers of two sizes.
fn from_wire(input: &[u8]) -> bool {
    let read = || -> Result<bool> {
        let (ours, mut theirs) = UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        let port = NetPort::stream(ours)?;
        let device = Net::new("net0", MacAddress::of_vm("guest"), port, Arc::default());
        let metrics = device.metrics();
        let mut stage = Stage::new(Box::new(device), Box::new(|_| ()))?;
        let mut driver = Driver::new(0);
        for n in 0..24 {
            driver.request(0, &[Part::Room(if n % 3 == 0 { 256 } else { 2048 })]);
        }
        for step in driver.steps {
            stage.act(step);
        }
        for piece in input.chunks(3000) {
            let _ = theirs.write(piece);
            stage.serve(true);
        }
        Ok(metrics.read().bytes_to_guest > 0)
    };
    read().unwrap_or(false)
}

/// Frames with their lengths before them: TCP over both versions of IP, ARP, UDP with a name server's answer, a large one.
fn frames() -> Vec<Vec<u8>> {
    let ethernet = |kind: [u8; 2], rest: &[u8]| {
        let head: [&[u8]; 3] = [&[2, 2, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &kind, rest];
        let mut frame = head.concat();
        frame.resize(frame.len().max(60), 0);
        frame
    };
    let tcp = [
        0, 80, 0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 16, 0, 0, 0, 0, 0,
    ];
    let ip = |protocol: u8, segment: &[u8]| {
        let total = (20 + segment.len() as u16).to_be_bytes();
        let head = [
            0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0,
        ];
        [&head[..], &[192, 0, 2, 1], &[10, 0, 2, 15], segment].concat()
    };
    let mut six = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
    six.extend([0x20; 32]);
    six.extend(tcp);
    let mut udp = vec![0, 53, 0x30, 0x39, 0, 20, 0, 0];
    udp.extend([0xab; 12]);
    let arp = [0, 1, 8, 0, 6, 4, 0, 2, 2, 2, 0, 0, 0, 1, 10, 0, 2, 2];
    let all = [
        ethernet([8, 0], &ip(6, &tcp)),
        ethernet([0x86, 0xdd], &six),
        ethernet([8, 6], &arp),
        ethernet([8, 0], &ip(17, &udp)),
        ethernet([8, 0], &ip(6, &[&tcp[..], &[7; 8000]].concat())),
    ];
    let wire = |frames: &[Vec<u8>]| -> Vec<u8> {
        let one = |frame: &Vec<u8>| [&(frame.len() as u32).to_be_bytes()[..], frame].concat();
        frames.iter().flat_map(one).collect()
    };
    vec![wire(&all), wire(&all[..4])]
}

/// A port's other end, which takes and gives as much as the last step outside said.
struct Moody {
    how_much: Arc<AtomicU64>,
    event: OwnedFd,
}

impl PortEnd for Moody {
    fn write(&mut self, bytes: &[u8]) -> usize {
        bytes
            .len()
            .min(self.how_much.load(Ordering::Relaxed) as usize)
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        let count = bytes.len() as u64;
        self.how_much.swap(0, Ordering::Relaxed).min(count) as usize
    }

    fn arrival(&self) -> Option<BorrowedFd<'_>> {
        Some(self.event.as_fd())
    }

    fn quiet(&mut self) {}
}

fn console() -> Result<Made> {
    let window = Window::new()?;
    let how_much = Arc::new(AtomicU64::new(1 << 20));
    let mut ports = Vec::new();
    for n in 0..3 {
        let end = Moody {
            how_much: Arc::clone(&how_much),
            event: eventfd(1, EventfdFlags::NONBLOCK)?,
        };
        ports.push(Port {
            name: format!("port{n}"),
            end: share(end),
        });
    }
    let device = Console::new(ports, window.clone(), Arc::default());
    let outside = move |step: Step| {
        window.resize(step.small, step.place as u16);
        how_much.store(step.value % (1 << 20), Ordering::Relaxed);
    };
    Ok((Box::new(device), Box::new(outside)))
}

/// Control messages (5.3.6.2): the device is ready, each port is ready and open; then bytes both ways.
fn use_console(driver: &mut Driver) {
    for _ in 0..8 {
        driver.request(2, &[Part::Room(64)]);
    }
    driver.request(3, &[Part::Given(&[0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0])]);
    for port in 0..3 {
        driver.request(3, &[Part::Given(&[port, 0, 0, 0, 3, 0, 1, 0])]);
        driver.request(3, &[Part::Given(&[port, 0, 0, 0, 6, 0, 1, 0])]);
    }
    for (receive, transmit) in [(0, 1), (4, 5), (6, 7)] {
        driver.request(receive, &[Part::Room(128), Part::Room(64)]);
        driver.request(
            transmit,
            &[Part::Given(b"what it says\n"), Part::Given(b"more")],
        );
    }
    driver.outside(80, 100);
    driver.outside(25, 1 << 19);
}

/// Everything that the guest connects to is a socket whose other end is kept for a while.
#[derive(Debug, Default)]
struct Dialled(Arc<Lock<Vec<UnixStream>>>);

impl Dial for Dialled {
    fn dial(&self, port: u32) -> std::io::Result<UnixStream> {
        if port == 13 {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        self.0.lock().push(theirs);
        Ok(ours)
    }
}

/// One that waits for nobody: a listener's queue may be full.
fn stream_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn vsock() -> Result<Made> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("mother-fuzz-{}-{number}", std::process::id());
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
    let listener = stream_socket()?;
    bind(&listener, &address).context("bind a socket")?;
    listen(&listener, 8).context("listen")?;
    let peers = Dialled::default();
    let theirs = Arc::clone(&peers.0);
    let connector = Connector::new()?;
    let device = Vsock::new(
        "vsock0",
        3,
        Arc::new(peers),
        Some(UnixListener::from(listener)),
        connector.clone(),
        Arc::default(),
    )?;
    let outside = move |step: Step| {
        let mut theirs = theirs.lock();
        match step.small % 5 {
            0 if step.value & 1 == 1 => {
                if let Ok((stream, brought)) = UnixStream::pair()
                    && stream.set_nonblocking(true).is_ok()
                    && connector.connect(brought, step.place).is_ok()
                {
                    theirs.push(stream);
                }
            }
            0 => {
                let connected = stream_socket();
                if let Ok(socket) = connected
                    && rustix::net::connect(&socket, &address).is_ok()
                {
                    let stream = UnixStream::from(socket);
                    let _ = (&stream).write(format!("CONNECT {}\n", step.place).as_bytes());
                    theirs.push(stream);
                }
            }
            1 => drop(theirs.pop()),
            2 => theirs.iter().for_each(|stream| {
                let mut sink = [0; 4096];
                let _ = (&*stream).read(&mut sink);
            }),
            _ => theirs.iter().for_each(|stream| {
                let bytes = vec![step.value as u8; step.place as usize % 70_000];
                let _ = (&*stream).write(&bytes);
            }),
        }
    };
    Ok((Box::new(device), Box::new(outside)))
}

/// Packets (5.10.6): a connection of the guest's that sends and is shut down, and one of the host's that is taken.
fn use_vsock(driver: &mut Driver) {
    for _ in 0..8 {
        driver.request(0, &[Part::Room(44), Part::Room(512)]);
    }
    let header = |from: u32, to: u32, len: u32, op: u16, flags: u32| {
        let mut bytes = Vec::new();
        bytes.extend(3_u64.to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend(from.to_le_bytes());
        bytes.extend(to.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(1_u16.to_le_bytes());
        bytes.extend(op.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(0x10000_u32.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes
    };
    driver.request(1, &[Part::Given(&header(1000, 7, 0, 1, 0))]);
    driver.request(
        1,
        &[
            Part::Given(&header(1000, 7, 40, 5, 0)),
            Part::Given(&[6; 40]),
        ],
    );
    driver.outside(3, 0x41);
    driver.request(1, &[Part::Given(&header(1000, 7, 0, 7, 0))]);
    driver.request(1, &[Part::Given(&header(1000, 7, 0, 6, 0))]);
    driver.request(1, &[Part::Given(&header(1001, 13, 0, 1, 0))]);
    driver.step(kind::OUTSIDE, 0, 0, 77, 0);
    driver.tick();
    driver.request(1, &[Part::Given(&header(77, 0x4000_0000, 0, 2, 0))]);
    driver.request(1, &[Part::Given(&header(1000, 7, 0, 4, 3))]);
    driver.outside(1, 0);
}

/// Numbers of pages into the balloon and out of it, statistics, free pages that are reported (5.5.6).
fn use_balloon(driver: &mut Driver) {
    driver.outside(0, 0x8000);
    driver.request(
        0,
        &[Part::Given(&[
            0x30, 0, 0, 0, 0x31, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
        ])],
    );
    driver.request(1, &[Part::Given(&[0x30, 0, 0, 0])]);
    driver.request(2, &[Part::Given(&[0, 0, 1, 0, 0, 0, 0, 0, 0, 0])]);
    driver.request(3, &[Part::Room(0x2000)]);
    driver.request(4, &[Part::Room(0x1000)]);
    driver.tick();
}

fn use_entropy(driver: &mut Driver) {
    driver.request(0, &[Part::Room(64)]);
    driver.request(0, &[Part::Room(1), Part::Room(4096)]);
    driver.tick();
}
