//! The back of a virtio device: what runs on a thread of the machine between `DRIVER_OK` and reset.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;

use crate::saved::{Unfit, ensure};
use crate::virtio::metrics::DeviceMetrics;
use crate::virtio::state::{Back, WorkerState};

/// Why a worker is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// The first call, before anything else: buffers may wait already.
    Start,
    /// The driver notified this queue. Several notifications may come as one.
    Notified(u16),
    /// The source at this position of [`Worker::sources`] has something to read, was hung up, or failed.
    Readable(usize),
    /// The sink at this position of [`Worker::sinks`] takes bytes again.
    Writable(usize),
    /// The time of [`Worker::deadline`] has come.
    Deadline,
}

/// The driver broke the protocol of a queue: the device needs a reset.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("the driver broke queue {queue}: {what}")]
pub struct Broken {
    /// Which queue.
    pub queue: u16,
    /// What was wrong with it.
    pub what: String,
}

/// The back of a device: owns its queues and its part of the backend. Dropped when the driver resets the device.
pub trait Worker: Send {
    /// The queues it serves: their notifications come here.
    fn queues(&self) -> Vec<u16>;

    /// Does what there is to do and returns; long waits belong into sources and sinks. A worker that is asked to
    /// stop or to pause finishes the call it is in. So a call is bounded, also against a driver whose buffers overlap
    /// its own rings: what is left waits for a [`Worker::deadline`] that has come already.
    ///
    /// # Errors
    /// [`Broken`] ends the worker and puts the device into `DEVICE_NEEDS_RESET`.
    fn serve(&mut self, wake: Wake) -> Result<(), Broken>;

    /// Files of the host that it reads from; asked again before every wait, so one that it cannot use now is left
    /// out by returning an empty list or fewer.
    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// Files of the host that it waits to write to; asked again before every wait.
    fn sinks(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// When it wants [`Wake::Deadline`], if nothing else happens.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Where it stands, between two calls of [`Worker::serve`].
    fn save(&self) -> WorkerState;

    /// Takes up what a worker like it held; its queues have been put in their positions already, and it has not
    /// served yet.
    ///
    /// # Errors
    /// [`Unfit`] for what it cannot hold.
    fn restore(&mut self, back: Back) -> Result<(), Unfit> {
        ensure(
            back == Back::Plain,
            "virtio device",
            "it held something of another device",
        )
    }
}

/// Rings for a worker: the driver's notification, without waiting.
pub trait Doorbell: Send {
    /// The driver notified `queue`.
    fn notify(&self, queue: u16);

    /// For each queue an eventfd: adding to it is a notification too, by whoever cannot call.
    fn events(&self) -> Vec<(u16, Arc<OwnedFd>)> {
        Vec::new()
    }
}

/// The running workers of one device.
pub trait RunningWorkers: Doorbell {
    /// Asks them to end. Returns at once.
    fn stop(&mut self);

    /// Whether all have ended and are gone. After [`RunningWorkers::stop`] this becomes true soon; until then the
    /// device's status does not read as zero, for which drivers wait (4.1.4.3.2).
    fn have_stopped(&self) -> bool;

    /// Why one ended by itself, once.
    fn take_broken(&mut self) -> Option<Broken>;

    /// Where each of them stands; one that has ended does not say. Only while the guest is paused: then they are
    /// between two calls and stay there.
    fn save(&self) -> Vec<WorkerState>;
}

/// Puts workers on threads; the machine does it for guests, tests run them in place.
pub trait StartWorkers: Send + Sync {
    /// Starts the workers of the device called `name`. `on_broken` is called, on any thread, when one ends with
    /// [`Broken`]. Notifications that come by [`Doorbell::events`] are counted in `metrics`.
    fn start(
        &self,
        name: &str,
        workers: Vec<Box<dyn Worker>>,
        metrics: &Arc<DeviceMetrics>,
        on_broken: Box<dyn Fn(&Broken) + Send + Sync>,
    ) -> Box<dyn RunningWorkers>;
}
