//! The way of an interrupt from a worker to the driver.
//!
//! The transport makes one [`Interrupt`] for each queue and one for configuration changes. Whether the message is
//! masked, and to which vector it goes, is the transport's state and may change at any time; the worker only says
//! that there is something.

use std::fmt;
use std::sync::Arc;

/// Takes message-signalled interrupts from any thread. Never blocks on the board's lock: whoever holds that lock may
/// be waiting for the caller.
pub trait SendMsi: Send + Sync {
    /// Sends a message.
    fn send_msi(&self, address: u64, data: u32);

    /// The interrupt pin of a function may have changed: the board has to look
    /// ([`crate::Board::look_at_pci_lines`]).
    fn pin_changed(&self);
}

/// Tells the driver something: buffers were used, or the configuration changed. Cheap to clone; any thread may.
#[derive(Clone)]
pub struct Interrupt(Arc<dyn Fn() + Send + Sync>);

impl Interrupt {
    /// An interrupt that ends in `raise`, which must not block.
    pub fn new(raise: impl Fn() + Send + Sync + 'static) -> Interrupt {
        Interrupt(Arc::new(raise))
    }

    /// Tells the driver. Whether it wants to hear ([`virtio_queue::QueueT::needs_notification`]) is asked before.
    pub fn raise(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupt").finish_non_exhaustive()
    }
}
