//! The front of a disk on the board.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::config::{Config, F_CONFIG_WCE, F_FLUSH, QUEUE_SIZE, WRITEBACK_OFFSET};
use super::disk::Disk;
use super::worker::{BlockWorker, Caching};
use crate::saved::{Unfit, ensure};
use crate::virtio::device::read_part;
use crate::virtio::{DeviceMetrics, FrontState, Setup, VirtioDevice, VirtioKind, Worker};

/// The front of a disk, for one life of the guest.
#[derive(Debug)]
pub struct VirtioBlock {
    disk: Arc<Disk>,
    queue_count: u16,
    is_write_back: Arc<AtomicBool>,
}

impl VirtioBlock {
    /// A front for `disk` with `queue_count` queues, one for each vCPU.
    pub fn new(disk: Arc<Disk>, queue_count: u16) -> VirtioBlock {
        VirtioBlock {
            disk,
            queue_count: queue_count.max(1),
            is_write_back: Arc::new(AtomicBool::new(true)),
        }
    }

    fn config(&self) -> Config {
        Config {
            capacity_sectors: self.disk.capacity_sectors(),
            is_read_only: self.disk.options.is_read_only,
            queue_count: self.queue_count,
            is_write_back: self.is_write_back.load(Ordering::Relaxed),
        }
    }
}

impl VirtioDevice for VirtioBlock {
    fn kind(&self) -> VirtioKind {
        VirtioKind::Block
    }

    fn name(&self) -> &str {
        self.disk.name()
    }

    fn features(&self) -> u64 {
        self.config().features()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.queue_count)]
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        read_part(&self.config().bytes(), offset, bytes);
    }

    fn write_config(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset.saturating_add(bytes.len() as u64);
        if self.disk.options.is_read_only || !(offset..end).contains(&WRITEBACK_OFFSET) {
            return;
        }
        let value = bytes[(WRITEBACK_OFFSET - offset) as usize];
        self.is_write_back.store(value & 1 != 0, Ordering::Relaxed);
    }

    fn activate(&mut self, setup: Setup) -> Vec<Box<dyn Worker>> {
        let caching = match setup.features {
            features if features & F_CONFIG_WCE != 0 => {
                Caching::Chosen(Arc::clone(&self.is_write_back))
            }
            features if features & F_FLUSH != 0 => Caching::WriteBack,
            _ => Caching::WriteThrough,
        };
        let worker = |queue| {
            let worker = BlockWorker::new(
                Arc::clone(&self.disk),
                Arc::clone(&setup.memory),
                setup.features,
                queue,
                caching.clone(),
            );
            Box::new(worker) as Box<dyn Worker>
        };
        setup.queues.into_iter().map(worker).collect()
    }

    fn reset(&mut self) {
        self.is_write_back.store(true, Ordering::Relaxed);
    }

    fn save(&self) -> FrontState {
        FrontState::Block {
            is_write_back: self.is_write_back.load(Ordering::Relaxed),
        }
    }

    fn restore(&mut self, state: FrontState) -> Result<(), Unfit> {
        let FrontState::Block { is_write_back } = state else {
            return ensure(false, "disk", "it is another device's");
        };
        self.is_write_back.store(is_write_back, Ordering::Relaxed);
        Ok(())
    }

    fn metrics(&self) -> Arc<DeviceMetrics> {
        Arc::clone(&self.disk.metrics)
    }
}
