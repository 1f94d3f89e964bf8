//! Serves the balloon's queues.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mem::GuestMemory;
use x86::Gpa;

use super::control::{BalloonControl, PAGE_BYTES};
use crate::saved::{Unfit, ensure};
use crate::virtio::device::Setup;
use crate::virtio::metrics::DeviceMetrics;
use crate::virtio::segments::{Half, Segments};
use crate::virtio::state::{Back, WorkerState};
use crate::virtio::virtqueue::{Chain, Virtqueue};
use crate::virtio::worker::{Broken, Wake, Worker};

/// Numbers of the queues (5.5.2).
const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATISTICS: u16 = 2;
/// Chains from one queue in one call, so that a worker that is to stop hears of it.
const CHAINS_MAX: u32 = 256;
/// Page numbers taken from one chain; Linux sends 256.
const PAGES_MAX: usize = 64 * 1024;
/// Statistics taken from one buffer.
const STATISTICS_MAX: usize = 64;
/// Bytes of a statistic: tag and value, packed (5.5.6.3).
const STATISTIC_BYTES: usize = 10;
/// How often the guest is asked for statistics. It costs a sleeping guest a wake-up.
const INTERVAL: Duration = Duration::from_secs(5);

/// The back of the balloon.
pub(super) struct BalloonWorker {
    memory: Arc<GuestMemory>,
    control: BalloonControl,
    metrics: Arc<DeviceMetrics>,
    queues: Vec<Virtqueue>,
    /// The driver's buffer for statistics, held until the next ones are wanted.
    held: Option<u16>,
    next_statistics: Option<Instant>,
    /// Chains were left for the next call.
    has_more: bool,
}

impl BalloonWorker {
    pub(super) fn new(
        setup: Setup,
        control: BalloonControl,
        metrics: Arc<DeviceMetrics>,
    ) -> BalloonWorker {
        let Setup { memory, queues, .. } = setup;
        BalloonWorker {
            memory,
            control,
            metrics,
            queues,
            held: None,
            next_statistics: None,
            has_more: false,
        }
    }

    /// Takes everything from the queue at this position of the list.
    fn serve_queue(&mut self, at: usize) -> Result<(), Broken> {
        let memory = Arc::clone(&self.memory);
        let mut count = 0;
        while count < CHAINS_MAX
            && let Some(chain) = self.queues[at].pop(&memory)?
        {
            let head = chain.head_index();
            let start = Instant::now();
            DeviceMetrics::add(&self.metrics.requests, 1);
            // A statistics buffer is kept. One more before it went back is one too many: the old one returns.
            let done = match self.queues[at].index {
                STATISTICS => self.keep_statistics(chain),
                INFLATE => self.inflate(chain, head),
                DEFLATE => Some(head),
                _ => self.take_report(chain, head),
            };
            if let Some(head) = done {
                self.queues[at].push(&memory, head, 0)?;
            }
            self.metrics.latency.add(start.elapsed());
            count += 1;
        }
        if count > 0 {
            self.queues[at].signal(&memory)?;
        }
        self.has_more |= self.queues[at].enable_notification(&memory)?;
        Ok(())
    }

    /// Pages that the driver put into the balloon, as page numbers.
    fn inflate(&self, chain: Chain<'_>, head: u16) -> Option<u16> {
        let mut segments = Segments::default();
        segments.add(chain, Half::Readable, PAGES_MAX * 4);
        let mut numbers = vec![0; segments.len_bytes().min(PAGES_MAX * 4) / 4 * 4];
        if segments
            .read(self.memory.vm_memory(), 0, &mut numbers)
            .is_none()
        {
            DeviceMetrics::add(&self.metrics.errors, 1);
            return Some(head);
        }
        DeviceMetrics::add(&self.metrics.bytes_from_guest, numbers.len() as u64);
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("chunks of four"));
        let mut pages: Vec<u32> = numbers.chunks_exact(4).map(number).collect();
        pages.sort_unstable();
        pages.dedup();
        let runs = pages.chunk_by(|page, next| page + 1 == *next);
        let given = runs.map(|run| {
            self.discard(
                u64::from(run[0]) * PAGE_BYTES,
                run.len() as u64 * PAGE_BYTES,
            )
        });
        self.control.count_inflated(given.sum());
        Some(head)
    }

    /// Free pages, as buffers (5.5.6.8). They may be used again only after their buffers went back.
    fn take_report(&self, chain: Chain<'_>, head: u16) -> Option<u16> {
        let given = chain
            .writable()
            .map(|range| self.discard(range.addr().0, u64::from(range.len())));
        self.control.count_reported(given.sum());
        Some(head)
    }

    fn discard(&self, start: u64, len_bytes: u64) -> u64 {
        self.memory
            .discard(Gpa(start), len_bytes)
            .unwrap_or_else(|error| {
                tracing::debug!("balloon: {error}");
                DeviceMetrics::add(&self.metrics.errors, 1);
                0
            })
    }

    /// Takes statistics and keeps their buffer; the one that was kept before.
    fn keep_statistics(&mut self, chain: Chain<'_>) -> Option<u16> {
        let head = chain.head_index();
        self.take_statistics(chain);
        self.next_statistics = Some(Instant::now() + INTERVAL);
        self.held.replace(head)
    }

    fn take_statistics(&self, chain: Chain<'_>) {
        let mut segments = Segments::default();
        segments.add(chain, Half::Readable, STATISTICS_MAX * STATISTIC_BYTES);
        let mut bytes = vec![0; segments.len_bytes().min(STATISTICS_MAX * STATISTIC_BYTES)];
        if segments
            .read(self.memory.vm_memory(), 0, &mut bytes)
            .is_none()
        {
            return DeviceMetrics::add(&self.metrics.errors, 1);
        }
        DeviceMetrics::add(&self.metrics.bytes_from_guest, bytes.len() as u64);
        for statistic in bytes.chunks_exact(STATISTIC_BYTES) {
            let (tag, value) = statistic.split_at(2);
            let tag = u16::from_le_bytes(tag.try_into().expect("two bytes"));
            self.control.set_statistic(
                tag,
                u64::from_le_bytes(value.try_into().expect("eight bytes")),
            );
        }
    }

    /// Gives the statistics' buffer back, which asks the driver to fill it anew.
    fn ask_for_statistics(&mut self) -> Result<(), Broken> {
        if self.next_statistics.is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        self.next_statistics = None;
        let queue = self
            .queues
            .iter_mut()
            .find(|queue| queue.index == STATISTICS);
        let (Some(head), Some(queue)) = (self.held.take(), queue) else {
            return Ok(());
        };
        queue.push(&self.memory, head, 0)?;
        queue.signal(&self.memory)
    }
}

impl Worker for BalloonWorker {
    fn save(&self) -> WorkerState {
        WorkerState {
            back: Back::Balloon { held: self.held },
            ..WorkerState::plain(self.queues.iter().map(Virtqueue::position))
        }
    }

    fn restore(&mut self, back: Back) -> Result<(), Unfit> {
        let Back::Balloon { held } = back else {
            return ensure(false, "balloon", "it held something of another device");
        };
        self.held = held;
        self.next_statistics = held.map(|_| Instant::now() + INTERVAL);
        Ok(())
    }

    fn queues(&self) -> Vec<u16> {
        self.queues.iter().map(|queue| queue.index).collect()
    }

    fn serve(&mut self, wake: Wake) -> Result<(), Broken> {
        match wake {
            Wake::Notified(index) => {
                match self.queues.iter().position(|queue| queue.index == index) {
                    Some(at) => self.serve_queue(at),
                    None => Ok(()),
                }
            }
            _ => {
                self.has_more = false;
                self.ask_for_statistics()?;
                (0..self.queues.len()).try_for_each(|at| self.serve_queue(at))
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.has_more {
            Some(Instant::now())
        } else {
            self.next_statistics
        }
    }
}
