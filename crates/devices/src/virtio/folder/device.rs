//! The front of a folder on the board.

use std::sync::Arc;

use super::link::FolderPort;
use super::worker::FolderWorker;
use crate::virtio::device::read_part;
use crate::virtio::{DeviceMetrics, Setup, VirtioDevice, VirtioKind, Worker};

/// Bytes of the tag in configuration space (5.11.4).
const TAG_BYTES: usize = 36;
/// And of all of it: the tag, and how many queues there are for requests.
const CONFIG_BYTES: usize = TAG_BYTES + 4;
/// A request of the most data has 256 pages and a few buffers more, which is what a driver without indirect tables has to fit in.
const QUEUE_SIZE: u16 = 1024;
/// One for what must not wait behind others (`FORGET`), and one for everything else.
const QUEUES: usize = 2;

/// The front of a folder, for one life of the guest.
#[derive(Debug)]
pub struct Folder {
    name: String,
    port: FolderPort,
    metrics: Arc<DeviceMetrics>,
}

impl Folder {
    /// A folder that the guest mounts by `name`, which is its tag and what it is called in messages: of up to 36 bytes.
    pub fn new(name: &str, port: FolderPort, metrics: Arc<DeviceMetrics>) -> Folder {
        Folder {
            name: name.to_owned(),
            port,
            metrics,
        }
    }

    fn config(&self) -> [u8; CONFIG_BYTES] {
        let mut config = [0; CONFIG_BYTES];
        let (tag, count) = config.split_at_mut(TAG_BYTES);
        for (to, from) in tag.iter_mut().zip(self.name.bytes()) {
            *to = from;
        }
        count.copy_from_slice(&(QUEUES as u32 - 1).to_le_bytes());
        config
    }
}

impl VirtioDevice for Folder {
    fn kind(&self) -> VirtioKind {
        VirtioKind::FileSystem
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; QUEUES]
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        read_part(&self.config(), offset, bytes);
    }

    fn write_config(&mut self, _offset: u64, _bytes: &[u8]) {}

    fn activate(&mut self, setup: Setup) -> Vec<Box<dyn Worker>> {
        let metrics = Arc::clone(&self.metrics);
        let worker = FolderWorker::new(&self.name, self.port.clone(), setup, metrics);
        vec![Box::new(worker)]
    }

    fn reset(&mut self) {}

    fn metrics(&self) -> Arc<DeviceMetrics> {
        Arc::clone(&self.metrics)
    }
}
