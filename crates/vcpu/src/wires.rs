//! Stores that only ring a bell: an engine that can tells whoever waits, and the vCPU goes on in the guest.
//!
//! Most stores to devices want an answer or change something, and are exits. A driver's notification does neither: it
//! wakes a thread. KVM can do that by itself (ioeventfd), which saves the way to user space and back.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use x86::Gpa;

/// A place where a store of any width and value does nothing but wake somebody.
#[derive(Clone, Debug)]
pub struct Wire {
    /// The address that is stored to.
    pub gpa: Gpa,
    /// An eventfd (eventfd(2)); each store adds 1.
    pub event: Arc<OwnedFd>,
}

impl PartialEq for Wire {
    fn eq(&self, other: &Wire) -> bool {
        self.gpa == other.gpa && Arc::ptr_eq(&self.event, &other.event)
    }
}

impl Eq for Wire {}

/// An engine that can ring.
pub trait Wires: Send + Sync {
    /// From now on these and no others. A store to a place that the engine does not take is an exit as before, so
    /// nothing is lost by one.
    fn set_wires(&self, wires: &[Wire]);
}
