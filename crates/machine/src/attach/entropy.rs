//! The random number generator, which every VM has.

use std::sync::Arc;

use devices::virtio::entropy::Entropy;
use devices::virtio::{DeviceMetrics, VirtioDevice, VirtioKind};

use super::{AttachError, Attachment, slot};
use crate::attach::counters::DeviceCounters;

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
        Ok(Box::new(Entropy::new(Arc::clone(&self.metrics))))
    }

    fn counters(&self) -> DeviceCounters {
        DeviceCounters {
            name: Entropy::NAME.to_owned(),
            kind: VirtioKind::Entropy,
            metrics: Arc::clone(&self.metrics),
            balloon: None,
        }
    }
}
