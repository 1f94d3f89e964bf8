//! What a device's registers and its workers share: how an interrupt goes to the driver.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

use host::lock::Lock;
use mem::GuestMemory;

use crate::saved::{Unfit, ensure};
use crate::virtio::interrupt::{Interrupt, SendMsi};
use crate::virtio::metrics::DeviceMetrics;
use crate::virtio::msix::{Message, Msix, NO_VECTOR, Vectors};
use crate::virtio::worker::StartWorkers;

/// What a device is connected to in its machine.
#[derive(Clone)]
pub struct Links {
    /// Guest memory.
    pub memory: Arc<GuestMemory>,
    /// Takes interrupts.
    pub interrupts: Arc<dyn SendMsi>,
    /// Puts workers on threads.
    pub threads: Arc<dyn StartWorkers>,
}

/// Bits of the interrupt status register (4.1.4.5).
pub(super) const QUEUE: u8 = 1;
pub(super) const CONFIG: u8 = 2;

/// What an interrupt is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause {
    Queue(u16),
    Config,
}

/// Shared by the transport, under the board's lock, and its workers' interrupts, on any thread.
pub(super) struct Shared {
    /// Interrupt status, for interrupts by pin.
    status: AtomicU8,
    /// A worker found a queue broken.
    broken: AtomicBool,
    /// Changes with the configuration space (2.5.1).
    generation: AtomicU8,
    vectors: Lock<Vectors>,
    sink: Arc<dyn SendMsi>,
    metrics: Arc<DeviceMetrics>,
}

impl Shared {
    pub(super) fn new(
        metrics: Arc<DeviceMetrics>,
        queue_count: u16,
        sink: Arc<dyn SendMsi>,
    ) -> Arc<Shared> {
        let queues = vec![NO_VECTOR; usize::from(queue_count)];
        let vectors = Vectors {
            msix: Msix::new(queue_count + 1),
            config: NO_VECTOR,
            queues,
        };
        Arc::new(Shared {
            status: AtomicU8::new(0),
            broken: AtomicBool::new(false),
            generation: AtomicU8::new(0),
            vectors: Lock::new(vectors),
            sink,
            metrics,
        })
    }

    /// The vectors. Held for moments only; nothing else is locked under it.
    pub(super) fn vectors(&self) -> MutexGuard<'_, Vectors> {
        self.vectors.lock()
    }

    /// An interrupt that says `cause`.
    pub(super) fn interrupt(self: &Arc<Shared>, cause: Cause) -> Interrupt {
        let shared = Arc::clone(self);
        Interrupt::new(move || shared.raise(cause))
    }

    /// Tells the driver, by message or by pin.
    pub(super) fn raise(&self, cause: Cause) {
        count(&self.metrics.interrupts);
        if matches!(cause, Cause::Config) {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        let message = {
            let mut vectors = self.vectors();
            let vector = match cause {
                Cause::Config => vectors.config,
                Cause::Queue(index) => vectors
                    .queues
                    .get(usize::from(index))
                    .copied()
                    .unwrap_or(NO_VECTOR),
            };
            vectors.msix.is_enabled().then(|| vectors.msix.fire(vector))
        };
        match message {
            Some(message) => self.send(message),
            None => {
                let bit = if matches!(cause, Cause::Config) {
                    CONFIG
                } else {
                    QUEUE
                };
                self.status.fetch_or(bit, Ordering::AcqRel);
                self.sink.pin_changed();
            }
        }
    }

    /// Sends messages that were set free.
    pub(super) fn send(&self, messages: impl IntoIterator<Item = Message>) {
        messages
            .into_iter()
            .for_each(|(address, data)| self.sink.send_msi(address, data));
    }

    /// A queue is broken: the driver is told that the device needs a reset (2.1.2).
    pub(super) fn set_broken(&self) {
        count(&self.metrics.violations);
        self.broken.store(true, Ordering::Release);
        self.raise(Cause::Config);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub(super) fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    /// Reads the interrupt status, which clears it (4.1.4.5.1).
    pub(super) fn take_status(&self) -> u8 {
        self.status.swap(0, Ordering::AcqRel)
    }

    /// Whether the pin would be asserted if the function let it.
    pub(super) fn has_status(&self) -> bool {
        self.status.load(Ordering::Acquire) != 0
    }

    /// As after a reset. The table of messages belongs to PCI and stays.
    pub(super) fn reset(&self) {
        self.status.store(0, Ordering::Release);
        self.broken.store(false, Ordering::Release);
        let mut vectors = self.vectors();
        vectors.config = NO_VECTOR;
        vectors.queues.fill(NO_VECTOR);
    }

    /// Interrupt status, generation and vectors as they are.
    pub(super) fn words(&self) -> (u8, u8, Vectors) {
        let status = self.status.load(Ordering::Acquire);
        (status, self.generation(), self.vectors().clone())
    }

    /// Puts them back, without an interrupt.
    ///
    /// # Errors
    /// [`Unfit`] for vectors of another device.
    pub(super) fn set_words(
        &self,
        (status, generation, vectors): (u8, u8, Vectors),
        is_broken: bool,
    ) -> Result<(), Unfit> {
        let mut now = self.vectors();
        let count = now.queues.len();
        let is_fit = vectors.queues.len() == count && vectors.msix.fits(count + 1);
        ensure(is_fit, "virtio device", "another number of interrupts")?;
        *now = vectors;
        self.status.store(status, Ordering::Release);
        self.generation.store(generation, Ordering::Release);
        self.broken.store(is_broken, Ordering::Release);
        Ok(())
    }

    /// Counts what a driver may not do.
    pub(super) fn violation(&self, what: &str) {
        count(&self.metrics.violations);
        tracing::debug!("driver of a virtio device: {what}");
    }
}

pub(super) fn count(counter: &AtomicU64) {
    DeviceMetrics::add(counter, 1);
}
