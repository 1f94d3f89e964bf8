//! The registers of the common configuration structure (4.1.4.3): where they are and what they hold.

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};

/// Offsets (4.1.4.3).
pub(super) const DEVICE_FEATURE_SELECT: u64 = 0x00;
pub(super) const DEVICE_FEATURE: u64 = 0x04;
pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
pub(super) const DRIVER_FEATURE: u64 = 0x0c;
pub(super) const CONFIG_VECTOR: u64 = 0x10;
pub(super) const QUEUE_COUNT: u64 = 0x12;
pub(super) const STATUS: u64 = 0x14;
pub(super) const GENERATION: u64 = 0x15;
pub(super) const QUEUE_SELECT: u64 = 0x16;
pub(super) const QUEUE_SIZE: u64 = 0x18;
pub(super) const QUEUE_VECTOR: u64 = 0x1a;
pub(super) const QUEUE_ENABLE: u64 = 0x1c;
pub(super) const QUEUE_NOTIFY_OFFSET: u64 = 0x1e;
pub(super) const QUEUE_DESCRIPTORS: u64 = 0x20;
pub(super) const QUEUE_AVAILABLE: u64 = 0x28;
pub(super) const QUEUE_USED: u64 = 0x30;
/// Length of the structure: up to where `queue_notify_data` and `queue_reset` would be.
pub(super) const LEN: usize = 0x38;

/// Bits of the status (2.1).
pub(super) const ACKNOWLEDGE: u8 = 1;
pub(super) const DRIVER: u8 = 2;
pub(super) const DRIVER_OK: u8 = 4;
pub(super) const FEATURES_OK: u8 = 8;
pub(super) const NEEDS_RESET: u8 = 64;
pub(super) const FAILED: u8 = 128;

/// One queue as the driver set it up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct QueueRegisters {
    pub(super) size_max: u16,
    pub(super) size: u16,
    pub(super) is_enabled: bool,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

impl QueueRegisters {
    pub(super) fn new(size_max: u16) -> QueueRegisters {
        QueueRegisters {
            size_max,
            size: size_max,
            is_enabled: false,
            descriptors: 0,
            available: 0,
            used: 0,
        }
    }

    /// The rings, if they are aligned and lie in guest memory.
    pub(super) fn queue(&self, memory: &mem::VmMemory, event_idx: bool) -> Option<Queue> {
        // Checked first: the library keeps what was there before and says so in a log only.
        let is_aligned = self.descriptors.is_multiple_of(16)
            && self.available.is_multiple_of(2)
            && self.used.is_multiple_of(4);
        if !is_aligned || self.available == 0 {
            return None;
        }
        let mut queue = Queue::new(self.size_max).ok()?;
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let (low, high) = halves(self.descriptors);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(self.available);
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(self.used);
        queue.set_used_ring_address(low, high);
        queue.set_size(self.size);
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        queue.is_valid(memory).then_some(queue)
    }

    /// The address register at `offset` of the structure, and whether it is the upper half.
    pub(super) fn address(&mut self, offset: u64) -> Option<&mut u64> {
        match offset & !7 {
            QUEUE_DESCRIPTORS => Some(&mut self.descriptors),
            QUEUE_AVAILABLE => Some(&mut self.available),
            QUEUE_USED => Some(&mut self.used),
            _ => None,
        }
    }
}

/// What the driver has written.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Registers {
    pub(super) device_feature_select: u32,
    pub(super) driver_feature_select: u32,
    pub(super) driver_features: u64,
    pub(super) status: u8,
    pub(super) queue_select: u16,
    pub(super) queues: Vec<QueueRegisters>,
}

impl Registers {
    pub(super) fn new(sizes: &[u16]) -> Registers {
        Registers {
            queues: sizes
                .iter()
                .map(|&size| QueueRegisters::new(size))
                .collect(),
            ..Registers::default()
        }
    }

    /// The queue that is selected, if it is there.
    pub(super) fn selected(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::from(self.queue_select))
    }

    pub(super) fn selected_mut(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(usize::from(self.queue_select))
    }

    /// Whether the driver may set up queues now: features are settled, the device does not run (3.1.1).
    pub(super) fn may_set_up(&self) -> bool {
        self.status & (FEATURES_OK | DRIVER_OK) == FEATURES_OK
    }
}

/// Half `select` of 64 feature bits; what lies beyond is zero.
pub(super) fn feature_half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}
