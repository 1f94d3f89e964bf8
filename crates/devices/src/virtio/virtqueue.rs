//! A virtqueue as a worker uses it: chains out, used buffers back, and the driver told when it wants to hear.
//!
//! [`virtio_queue`] keeps the rings; what it says too quietly for us is said here: a driver that breaks a ring or
//! makes a chain that does not end is [`Broken`], and the flag that turns interrupts off is honoured
//! (2.7.6.1, 2.7.7.1).

use std::sync::atomic::Ordering;

use mem::{GuestMemory, VmMemory};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::virtio::interrupt::Interrupt;
use crate::virtio::state::QueuePosition;
use crate::virtio::worker::Broken;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (2.7.6).
const NO_INTERRUPT: u16 = 1;

/// A chain of descriptors that a driver has made available.
pub type Chain<'a> = DescriptorChain<&'a VmMemory>;

/// A virtqueue that the driver has set up and enabled, with the interrupt that belongs to it.
#[derive(Debug)]
pub struct Virtqueue {
    /// Its number within the device.
    pub index: u16,
    /// The rings. Valid (size, alignment, inside guest memory) when it is handed over.
    pub queue: Queue,
    /// Tells the driver about used buffers.
    pub interrupt: Interrupt,
}

impl Virtqueue {
    /// Where the device stands in its rings.
    pub(super) fn position(&self) -> QueuePosition {
        QueuePosition {
            index: self.index,
            next_available: self.queue.next_avail(),
            next_used: self.queue.next_used(),
        }
    }

    /// Takes the rings up where another device stood.
    pub(super) fn take_up(&mut self, position: &QueuePosition) {
        self.queue.set_next_avail(position.next_available);
        self.queue.set_next_used(position.next_used);
    }

    /// Takes the next chain; `None` when there is none now.
    ///
    /// # Errors
    /// [`Broken`] where the ring's index jumped, or the chain does not end, points outside its table, or has more
    /// than 4 GiB.
    pub fn pop<'a>(&mut self, memory: &'a GuestMemory) -> Result<Option<Chain<'a>>, Broken> {
        let index = self.index;
        let broken = |what: String| Broken { queue: index, what };
        let mut chains = self
            .queue
            .iter(memory.vm_memory())
            .map_err(|error| broken(error.to_string()))?;
        let Some(chain) = chains.next() else {
            return Ok(None);
        };
        match chain.clone().last() {
            Some(last) if is_end(&last) => Ok(Some(chain)),
            _ => Err(broken(format!(
                "the chain at descriptor {} has no end",
                chain.head_index()
            ))),
        }
    }

    /// Gives a chain back, with `written` bytes in its writable part.
    ///
    /// # Errors
    /// [`Broken`] if the chain's head is not a descriptor of the queue.
    pub fn push(&mut self, memory: &GuestMemory, head: u16, written: u32) -> Result<(), Broken> {
        self.queue
            .add_used(memory.vm_memory(), head, written)
            .map_err(|error| self.broken(&error))
    }

    /// Interrupts the driver if it wants to hear of what was pushed since the last call. Once for a batch.
    ///
    /// # Errors
    /// [`Broken`] if the rings cannot be read.
    pub fn signal(&mut self, memory: &GuestMemory) -> Result<(), Broken> {
        let wanted = if self.queue.event_idx_enabled() {
            self.queue
                .needs_notification(memory.vm_memory())
                .map_err(|error| self.broken(&error))?
        } else {
            // The store of the used index comes before the look at the flag (2.7.13.4).
            std::sync::atomic::fence(Ordering::SeqCst);
            let flags = GuestAddress(self.queue.avail_ring());
            let flags: u16 = memory
                .vm_memory()
                .load(flags, Ordering::Relaxed)
                .unwrap_or(0);
            flags & NO_INTERRUPT == 0
        };
        if wanted {
            self.interrupt.raise();
        }
        Ok(())
    }

    /// As [`Virtqueue::signal`], unless nothing was pushed since the next used index was `before`.
    ///
    /// # Errors
    /// As [`Virtqueue::signal`].
    pub fn signal_since(&mut self, before: u16, memory: &GuestMemory) -> Result<(), Broken> {
        if self.queue.next_used() == before {
            Ok(())
        } else {
            self.signal(memory)
        }
    }

    /// Asks the driver to notify of new chains. Whether some came before it could know: look again then.
    ///
    /// # Errors
    /// [`Broken`] if the rings cannot be reached.
    pub fn enable_notification(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        self.queue
            .enable_notification(memory.vm_memory())
            .map_err(|error| self.broken(&error))
    }

    /// Spares the driver notifications while a worker is busy anyway.
    ///
    /// # Errors
    /// [`Broken`] if the rings cannot be reached.
    pub fn disable_notification(&mut self, memory: &GuestMemory) -> Result<(), Broken> {
        self.queue
            .disable_notification(memory.vm_memory())
            .map_err(|error| self.broken(&error))
    }

    /// That the driver broke this queue, in the words of `what`.
    pub fn broken(&self, what: &dyn std::fmt::Display) -> Broken {
        Broken {
            queue: self.index,
            what: what.to_string(),
        }
    }
}

/// Whether a descriptor is the last of its chain.
fn is_end(descriptor: &Descriptor) -> bool {
    !descriptor.has_next()
}
