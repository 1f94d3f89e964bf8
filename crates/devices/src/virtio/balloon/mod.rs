//! virtio-balloon (5.5): memory that the guest gives back, and what it says about its memory.
//!
//! Pages in the balloon, and free pages that the guest reports, go back to the host
//! ([`mem::GuestMemory::discard`]); they come again, as zeros, when somebody touches them. So a guest that lies about its
//! balloon hurts only itself.

mod control;
mod worker;

use std::sync::Arc;

pub use control::{BalloonControl, BalloonReading};

use crate::saved::{Unfit, ensure};
use crate::virtio::device::{Setup, VirtioDevice, VirtioKind, read_part};
use crate::virtio::metrics::DeviceMetrics;
use crate::virtio::state::FrontState;
use crate::virtio::worker::Worker;
use worker::BalloonWorker;

/// Feature bits (5.5.3).
const STATS_VQ: u64 = 1 << 1;
const DEFLATE_ON_OOM: u64 = 1 << 2;
const PAGE_REPORTING: u64 = 1 << 5;

/// Inflate, deflate, statistics, and twice reporting: without free page hints the reporting queue is the fourth to
/// drivers that count queues, as Linux did for long, and the fifth to those that go by number (5.5.2).
const QUEUES: usize = 5;
const QUEUE_SIZE: u16 = 128;

/// The front.
#[derive(Debug)]
pub struct Balloon {
    control: BalloonControl,
    metrics: Arc<DeviceMetrics>,
}

impl Balloon {
    /// What the device is called in messages and metrics.
    pub const NAME: &str = "balloon";

    /// A device that `control` acts on.
    pub fn new(control: BalloonControl, metrics: Arc<DeviceMetrics>) -> Balloon {
        Balloon { control, metrics }
    }
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> VirtioKind {
        VirtioKind::Balloon
    }

    fn name(&self) -> &str {
        Balloon::NAME
    }

    fn features(&self) -> u64 {
        STATS_VQ | DEFLATE_ON_OOM | PAGE_REPORTING
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; QUEUES]
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        read_part(&self.control.config(), offset, bytes);
    }

    fn write_config(&mut self, offset: u64, bytes: &[u8]) {
        // `actual` is the only field of the driver's, and a word (5.5.4).
        if let (4, Ok(actual)) = (offset, <[u8; 4]>::try_from(bytes)) {
            self.control.set_actual(u32::from_le_bytes(actual));
        }
    }

    fn activate(&mut self, setup: Setup) -> Vec<Box<dyn Worker>> {
        self.control.set_active(Some(setup.config_changed.clone()));
        vec![Box::new(BalloonWorker::new(
            setup,
            self.control.clone(),
            Arc::clone(&self.metrics),
        ))]
    }

    fn reset(&mut self) {
        self.control.set_active(None);
    }

    fn save(&self) -> FrontState {
        let (target_pages, actual_pages) = self.control.pages();
        FrontState::Balloon {
            target_pages,
            actual_pages,
        }
    }

    fn restore(&mut self, state: FrontState) -> Result<(), Unfit> {
        let FrontState::Balloon {
            target_pages,
            actual_pages,
        } = state
        else {
            return ensure(false, "balloon", "it is another device's");
        };
        self.control.set_pages(target_pages, actual_pages);
        Ok(())
    }

    fn metrics(&self) -> Arc<DeviceMetrics> {
        Arc::clone(&self.metrics)
    }
}
