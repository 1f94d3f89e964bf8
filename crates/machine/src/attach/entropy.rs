//! The random number generator, which every VM has.

use std::sync::Arc;

use devices::virtio::entropy::Entropy;
use devices::virtio::{DeviceMetrics, VirtioDevice};

use super::{AttachError, Attachment, slot};

/// Stands on the host's getrandom, which needs no opening.
#[derive(Default)]
pub(super) struct EntropyAttachment {
    metrics: Arc<DeviceMetrics>,
}

impl Attachment for EntropyAttachment {
    fn slot(&self) -> u8 {
        slot::ENTROPY
    }

    fn device(&mut self) -> Result<Box<dyn VirtioDevice>, AttachError> {
        Ok(Box::new(Entropy::new(self.metrics())))
    }

    fn metrics(&self) -> Arc<DeviceMetrics> {
        Arc::clone(&self.metrics)
    }
}
