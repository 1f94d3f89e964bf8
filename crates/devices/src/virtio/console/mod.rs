//! virtio-console (5.3): a console with a window size, and named ports that carry bytes between guest and host.
//!
//! Port 0 is the console (`hvc0` in Linux), the others are generic ports (`/dev/virtio-ports/NAME`). What is behind a
//! port on the host's side is a [`PortEnd`].

mod message;
mod port;
mod stream;
mod worker;

use std::sync::Arc;

pub use port::{PortEnd, SharedEnd, Window, share};

use crate::virtio::device::{Setup, VirtioDevice, VirtioKind, read_part};
use crate::virtio::metrics::DeviceMetrics;
use crate::virtio::worker::Worker;
use worker::ConsoleWorker;

/// Feature bits (5.3.3).
const SIZE: u64 = 1 << 0;
const MULTIPORT: u64 = 1 << 1;
const QUEUE_SIZE: u16 = 128;
/// Most ports: what the guest keeps for each is its own affair, queues are ours.
const PORTS_MAX: usize = 16;

/// One port: what it is called and what is behind it.
#[derive(Clone)]
pub struct Port {
    /// The name in the guest. The console, port 0, needs none.
    pub name: String,
    /// The host's side.
    pub end: SharedEnd,
}

/// The front.
pub struct Console {
    ports: Vec<Port>,
    window: Window,
    metrics: Arc<DeviceMetrics>,
}

impl Console {
    /// What the device is called in messages and metrics.
    pub const NAME: &str = "virtio-console";

    /// A device with these ports, the console first.
    ///
    /// # Panics
    /// Without a port, or with more than a device has here: the plan says which there are.
    pub fn new(ports: Vec<Port>, window: Window, metrics: Arc<DeviceMetrics>) -> Console {
        assert!(
            (1..=PORTS_MAX).contains(&ports.len()),
            "a console has 1 to {PORTS_MAX} ports"
        );
        Console {
            ports,
            window,
            metrics,
        }
    }

    /// The configuration space (5.3.4).
    fn config(&self) -> [u8; 12] {
        let (rows, columns) = self.window.size();
        let mut config = [0; 12];
        config[0..2].copy_from_slice(&columns.to_le_bytes());
        config[2..4].copy_from_slice(&rows.to_le_bytes());
        config[4..8].copy_from_slice(&(self.ports.len() as u32).to_le_bytes());
        config
    }
}

impl VirtioDevice for Console {
    fn kind(&self) -> VirtioKind {
        VirtioKind::Console
    }

    fn name(&self) -> &str {
        Console::NAME
    }

    fn features(&self) -> u64 {
        SIZE | MULTIPORT
    }

    fn queue_sizes(&self) -> Vec<u16> {
        // Two for each port, two for control (5.3.2).
        vec![QUEUE_SIZE; 2 * (self.ports.len() + 1)]
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        read_part(&self.config(), offset, bytes);
    }

    fn write_config(&mut self, _offset: u64, _bytes: &[u8]) {}

    fn activate(&mut self, setup: Setup) -> Vec<Box<dyn Worker>> {
        let is_multiport = setup.features & MULTIPORT != 0;
        let metrics = Arc::clone(&self.metrics);
        let worker = ConsoleWorker::new(
            setup,
            &self.ports,
            self.window.clone(),
            is_multiport,
            metrics,
        );
        vec![Box::new(worker)]
    }

    fn reset(&mut self) {}

    fn metrics(&self) -> Arc<DeviceMetrics> {
        Arc::clone(&self.metrics)
    }
}
