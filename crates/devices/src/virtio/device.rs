//! The front of a virtio device: what the transport asks, under the board's lock.

use std::sync::Arc;

use mem::GuestMemory;

use crate::saved::{Unfit, ensure};
use crate::virtio::interrupt::Interrupt;
use crate::virtio::metrics::DeviceMetrics;
use crate::virtio::state::FrontState;
use crate::virtio::virtqueue::Virtqueue;
use crate::virtio::worker::Worker;

/// What kind of device it is (5, "Device Types").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the specification's own names")]
#[repr(u16)]
pub enum VirtioKind {
    Net = 1,
    Block = 2,
    Console = 3,
    Entropy = 4,
    Balloon = 5,
    Vsock = 19,
    FileSystem = 26,
}

impl VirtioKind {
    /// Base class, subclass and interface of its PCI function.
    pub(crate) fn class(self) -> [u8; 3] {
        match self {
            VirtioKind::Net => [0x02, 0x00, 0x00],
            VirtioKind::Block | VirtioKind::FileSystem => [0x01, 0x80, 0x00],
            VirtioKind::Console => [0x07, 0x80, 0x00],
            VirtioKind::Entropy | VirtioKind::Balloon => [0x00, 0xff, 0x00],
            VirtioKind::Vsock => [0x02, 0x80, 0x00],
        }
    }

    /// What it is called in labels of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            VirtioKind::Net => "net",
            VirtioKind::Block => "block",
            VirtioKind::Console => "console",
            VirtioKind::Entropy => "entropy",
            VirtioKind::Balloon => "balloon",
            VirtioKind::Vsock => "vsock",
            VirtioKind::FileSystem => "folder",
        }
    }
}

/// What a driver has set up when it says `DRIVER_OK`.
#[derive(Debug)]
pub struct Setup {
    /// Guest memory: the rings and buffers lie in it.
    pub memory: Arc<GuestMemory>,
    /// Features that both sides have.
    pub features: u64,
    /// The enabled queues, by number; a driver may leave out queues that it does not use.
    pub queues: Vec<Virtqueue>,
    /// Tells the driver that the configuration space has changed.
    pub config_changed: Interrupt,
}

/// The front of a device. Never blocks: it is asked under the board's lock.
pub trait VirtioDevice: Send {
    /// What it is.
    fn kind(&self) -> VirtioKind;

    /// What it is called in messages and metrics, such as `disk0`.
    fn name(&self) -> &str;

    /// The device's own feature bits. The transport adds those of the rings and of itself
    /// (`VERSION_1`, `RING_INDIRECT_DESC`, `RING_EVENT_IDX`).
    fn features(&self) -> u64;

    /// The largest size of each queue; as many queues as the device has. Powers of two up to 32768.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Copies out device-specific configuration from `offset`; bytes behind its end read as zero.
    fn read_config(&self, offset: u64, bytes: &mut [u8]);

    /// Writes device-specific configuration; what is read-only or not there is ignored.
    fn write_config(&mut self, offset: u64, bytes: &[u8]);

    /// The driver said `DRIVER_OK`: what serves the queues from now on. Every queue in `setup` belongs to one worker.
    fn activate(&mut self, setup: Setup) -> Vec<Box<dyn Worker>>;

    /// The driver reset the device; all workers have ended and been dropped. The device is as new.
    fn reset(&mut self);

    /// What it counts; the same over all its lives.
    fn metrics(&self) -> Arc<DeviceMetrics>;

    /// What the driver has made of the front, beside registers and queues.
    fn save(&self) -> FrontState {
        FrontState::Plain
    }

    /// Becomes that, before it is activated anew.
    ///
    /// # Errors
    /// [`Unfit`] for the state of another device.
    fn restore(&mut self, state: FrontState) -> Result<(), Unfit> {
        ensure(
            state == FrontState::Plain,
            "virtio device",
            "it is another kind",
        )
    }
}

/// Copies a part of device-specific configuration out, as [`VirtioDevice::read_config`] does.
pub(super) fn read_part(config: &[u8], offset: u64, bytes: &mut [u8]) {
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let rest = config.get(from..).unwrap_or_default();
    let there = rest.len().min(bytes.len());
    bytes[..there].copy_from_slice(&rest[..there]);
    bytes[there..].fill(0);
}
