//! virtio-rng (5.4): random bytes of the host for the guest.

use std::sync::Arc;
use std::time::Instant;

use mem::GuestMemory;
use rustix::rand::{GetRandomFlags, getrandom};
use vm_memory::Bytes;

use crate::virtio::device::{Setup, VirtioDevice, VirtioKind};
use crate::virtio::metrics::DeviceMetrics;
use crate::virtio::state::WorkerState;
use crate::virtio::virtqueue::{Chain, Virtqueue};
use crate::virtio::worker::{Broken, Wake, Worker};

/// Requests that may wait.
const QUEUE_SIZE: u16 = 64;
/// Most bytes for one request; who wants more asks again.
const REQUEST_BYTES_MAX: u32 = 64 * 1024;
/// Chains in one call, so that a worker that is to stop hears of it.
const CHAINS_MAX: u32 = 256;
/// Bytes from the host at once: up to this, its answer is whole and not interrupted by signals (getrandom(2)).
const PIECE_BYTES: usize = 256;

/// The front.
#[derive(Debug, Default)]
pub struct Entropy {
    metrics: Arc<DeviceMetrics>,
}

impl Entropy {
    /// What the device is called in messages and metrics.
    pub const NAME: &str = "rng";

    /// A device that counts in `metrics`.
    pub fn new(metrics: Arc<DeviceMetrics>) -> Entropy {
        Entropy { metrics }
    }
}

impl VirtioDevice for Entropy {
    fn kind(&self) -> VirtioKind {
        VirtioKind::Entropy
    }

    fn name(&self) -> &str {
        Entropy::NAME
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, _offset: u64, bytes: &mut [u8]) {
        bytes.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _bytes: &[u8]) {}

    fn activate(&mut self, setup: Setup) -> Vec<Box<dyn Worker>> {
        let memory = setup.memory;
        let metrics = Arc::clone(&self.metrics);
        let worker = |queue| EntropyWorker {
            memory: Arc::clone(&memory),
            metrics: Arc::clone(&metrics),
            queue,
            has_more: false,
        };
        setup
            .queues
            .into_iter()
            .map(|queue| Box::new(worker(queue)) as Box<dyn Worker>)
            .collect()
    }

    fn reset(&mut self) {}

    fn metrics(&self) -> Arc<DeviceMetrics> {
        Arc::clone(&self.metrics)
    }
}

/// Fills what the driver asks for.
struct EntropyWorker {
    memory: Arc<GuestMemory>,
    metrics: Arc<DeviceMetrics>,
    queue: Virtqueue,
    /// Chains were left for the next call.
    has_more: bool,
}

impl Worker for EntropyWorker {
    fn save(&self) -> WorkerState {
        WorkerState::plain([self.queue.position()])
    }

    fn queues(&self) -> Vec<u16> {
        vec![self.queue.index]
    }

    fn serve(&mut self, _wake: Wake) -> Result<(), Broken> {
        let memory = Arc::clone(&self.memory);
        let mut count = 0;
        while count < CHAINS_MAX
            && let Some(chain) = self.queue.pop(&memory)?
        {
            let head = chain.head_index();
            let start = Instant::now();
            let written = self.fill(chain);
            self.queue.push(&memory, head, written)?;
            self.metrics.latency.add(start.elapsed());
            count += 1;
        }
        if count > 0 {
            self.queue.signal(&memory)?;
        }
        self.has_more = self.queue.enable_notification(&memory)?;
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.has_more.then(Instant::now)
    }
}

impl EntropyWorker {
    /// Fills the writable part of a chain; how many bytes.
    fn fill(&self, chain: Chain<'_>) -> u32 {
        let mut written = 0;
        for descriptor in chain.writable() {
            let len_bytes = descriptor.len().min(REQUEST_BYTES_MAX - written);
            match self.fill_buffer(descriptor.addr(), len_bytes) {
                Some(()) => written += len_bytes,
                None => {
                    DeviceMetrics::add(&self.metrics.errors, 1);
                    break;
                }
            }
        }
        DeviceMetrics::add(&self.metrics.requests, 1);
        DeviceMetrics::add(&self.metrics.bytes_to_guest, u64::from(written));
        written
    }

    fn fill_buffer(&self, start: vm_memory::GuestAddress, len_bytes: u32) -> Option<()> {
        let mut piece = [0; PIECE_BYTES];
        let mut done = 0;
        while done < u64::from(len_bytes) {
            let len = PIECE_BYTES.min((u64::from(len_bytes) - done) as usize);
            getrandom(&mut piece[..len], GetRandomFlags::empty())
                .ok()
                .filter(|got| *got == len)?;
            let at = vm_memory::GuestAddress(start.0.checked_add(done)?);
            self.memory
                .vm_memory()
                .write_slice(&piece[..len], at)
                .ok()?;
            done += len as u64;
        }
        Some(())
    }
}
