//! The disk against a mock driver: rings in guest memory, workers run in place.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mem::GuestMemory;
use virtio_queue::{Queue, QueueT};
use x86::Gpa;

use super::*;
use crate::virtio::{Broken, Interrupt, Setup, VirtioDevice, Virtqueue, Wake, Worker};

mod hostile;
mod images;
mod requests;

/// Where the mock driver has its rings, and from where its buffers lie.
const DESCRIPTORS: u64 = 0x1000;
const AVAIL: u64 = 0x3000;
const USED: u64 = 0x4000;
/// Requests lie here.
const BUFFERS: u64 = 0x1_0000;
const MEMORY_BYTES: u64 = 0x40_0000;

/// `VIRTQ_DESC_F_NEXT` and `VIRTQ_DESC_F_WRITE` (2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A file without a name.
pub(super) fn memory_file(bytes: &[u8]) -> File {
    let mut file = host::MemFd::new(c"disk", 0)
        .unwrap()
        .file()
        .try_clone()
        .unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Everything in a file.
fn contents(file: &File) -> Vec<u8> {
    let mut file = file.try_clone().unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn options() -> DiskOptions {
    DiskOptions {
        name: "disk0".to_owned(),
        serial: "mother-0".to_owned(),
        is_read_only: false,
        is_guessed_raw: false,
    }
}

fn raw(file: &File) -> Image {
    Image::open(file.try_clone().unwrap(), ImageFormat::Raw, None, true).unwrap()
}

/// The driver's side of one queue, and the device behind it.
struct Driver {
    memory: Arc<GuestMemory>,
    device: VirtioBlock,
    worker: Box<dyn Worker>,
    interrupts: Arc<AtomicU64>,
    available: u16,
    next_descriptor: u16,
}

impl Driver {
    fn new(image: Image, options: DiskOptions) -> Driver {
        let device = VirtioBlock::new(Arc::new(Disk::new(image, options)), 1);
        let features = device.features();
        Driver::with_features(device, features)
    }

    fn with_features(mut device: VirtioBlock, features: u64) -> Driver {
        let memory = Arc::new(GuestMemory::flat(MEMORY_BYTES).unwrap());
        let mut queue = Queue::new(256).unwrap();
        queue.set_desc_table_address(Some(DESCRIPTORS as u32), None);
        queue.set_avail_ring_address(Some(AVAIL as u32), None);
        queue.set_used_ring_address(Some(USED as u32), None);
        queue.set_ready(true);
        assert!(queue.is_valid(memory.vm_memory()));
        let interrupts = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&interrupts);
        let interrupt = Interrupt::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let queues = vec![Virtqueue {
            index: 0,
            queue,
            interrupt: interrupt.clone(),
        }];
        let setup = Setup {
            memory: Arc::clone(&memory),
            features,
            queues,
            config_changed: interrupt,
        };
        let worker = device.activate(setup).pop().unwrap();
        Driver {
            memory,
            device,
            worker,
            interrupts,
            available: 0,
            next_descriptor: 0,
        }
    }

    /// Makes a chain of buffers available: address, length, writable.
    fn offer(&mut self, chain: &[(u64, u32, bool)]) {
        let first = self.next_descriptor;
        for (n, &(gpa, len, is_writable)) in chain.iter().enumerate() {
            let at = Gpa(DESCRIPTORS + 16 * u64::from(self.next_descriptor));
            self.next_descriptor = (self.next_descriptor + 1) % 256;
            let more = if n + 1 < chain.len() { NEXT } else { 0 };
            let flags = more | if is_writable { WRITE } else { 0 };
            let mut bytes = gpa.to_le_bytes().to_vec();
            bytes.extend(len.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend(self.next_descriptor.to_le_bytes());
            self.memory.write(at, &bytes).unwrap();
        }
        let slot = Gpa(AVAIL + 4 + 2 * u64::from(self.available % 256));
        self.memory.write(slot, &first.to_le_bytes()).unwrap();
        self.available = self.available.wrapping_add(1);
        self.memory
            .write(Gpa(AVAIL + 2), &self.available.to_le_bytes())
            .unwrap();
    }

    fn notify(&mut self) -> Result<(), Broken> {
        self.worker.serve(Wake::Notified(0))
    }

    fn header(&self, at: u64, kind: u32, sector: u64) {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(sector.to_le_bytes());
        self.memory.write(Gpa(at), &bytes).unwrap();
    }

    fn byte(&self, at: u64) -> u8 {
        self.memory.read_value(Gpa(at), 1).unwrap() as u8
    }

    /// How many chains came back, and the length said for the last.
    fn used(&self) -> (u16, u32) {
        let index = self.memory.read_value(Gpa(USED + 2), 2).unwrap() as u16;
        let last = u64::from(index.wrapping_sub(1) % 256);
        (
            index,
            self.memory
                .read_value(Gpa(USED + 4 + 8 * last + 4), 4)
                .unwrap() as u32,
        )
    }

    /// A request in the usual three buffers; its status. `data` is given or filled.
    fn request(&mut self, kind: u32, sector: u64, data: &mut [u8], is_filled: bool) -> u8 {
        let header = BUFFERS;
        let status = BUFFERS + 16;
        let at = BUFFERS + 0x1000;
        self.header(header, kind, sector);
        self.memory.write(Gpa(status), &[0xaa]).unwrap();
        self.memory.write(Gpa(at), data).unwrap();
        let mut chain = vec![(header, 16, false)];
        if !data.is_empty() {
            chain.push((at, data.len() as u32, is_filled));
        }
        chain.push((status, 1, true));
        self.offer(&chain);
        self.notify().unwrap();
        self.memory.read(Gpa(at), data).unwrap();
        self.byte(status)
    }

    fn read(&mut self, sector: u64, len: usize) -> (u8, Vec<u8>) {
        let mut data = vec![0xcc; len];
        let status = self.request(0, sector, &mut data, true);
        (status, data)
    }

    fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        self.request(1, sector, &mut data.to_vec(), false)
    }

    fn flush(&mut self) -> u8 {
        self.request(4, 0, &mut [], false)
    }

    /// Discard (11) or write zeroes (13) with these ranges: sector, sectors, flags.
    fn ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
        let mut data = Vec::new();
        for (sector, sectors, flags) in ranges {
            data.extend(sector.to_le_bytes());
            data.extend(sectors.to_le_bytes());
            data.extend(flags.to_le_bytes());
        }
        self.request(kind, 0, &mut data, false)
    }
}
