//! The memory balloon, which every VM has.

use std::sync::Arc;

use devices::virtio::balloon::{Balloon, BalloonControl};
use devices::virtio::{DeviceMetrics, VirtioDevice, VirtioKind};

use super::{AttachError, Attachment, slot};
use crate::attach::counters::DeviceCounters;

/// Stands on nothing but the guest's memory.
pub(super) struct BalloonAttachment {
    control: BalloonControl,
    metrics: Arc<DeviceMetrics>,
}

impl BalloonAttachment {
    pub(super) fn new(control: BalloonControl) -> BalloonAttachment {
        BalloonAttachment {
            control,
            metrics: Arc::default(),
        }
    }
}

impl Attachment for BalloonAttachment {
    fn slot(&self) -> u8 {
        slot::BALLOON
    }

    fn device(&mut self) -> Result<Box<dyn VirtioDevice>, AttachError> {
        Ok(Box::new(Balloon::new(
            self.control.clone(),
            Arc::clone(&self.metrics),
        )))
    }

    fn counters(&self) -> DeviceCounters {
        DeviceCounters {
            name: Balloon::NAME.to_owned(),
            kind: VirtioKind::Balloon,
            metrics: Arc::clone(&self.metrics),
            balloon: Some(self.control.clone()),
        }
    }
}
