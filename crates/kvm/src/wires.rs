//! Notifications that KVM takes itself: ioeventfds.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::Arc;

use host::lock::Lock;
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vcpu::{Wire, Wires};
use vmm_sys_util::eventfd::EventFd;

/// What KVM was told of one VM.
pub(crate) struct KernelWires {
    vm: Arc<VmFd>,
    /// Those that it took.
    laid: Lock<Vec<Wire>>,
}

impl KernelWires {
    pub(crate) fn new(vm: Arc<VmFd>) -> KernelWires {
        KernelWires {
            vm,
            laid: Lock::default(),
        }
    }

    fn change(&self, wire: &Wire, is_wanted: bool) -> io::Result<()> {
        let fd = wire.event.try_clone()?.into_raw_fd();
        // SAFETY: the descriptor was just made, and nobody else owns it.
        let event = unsafe { EventFd::from_raw_fd(fd) };
        let place = IoEventAddress::Mmio(wire.gpa.0);
        // Without a value to match, the width does not matter either.
        let done = if is_wanted {
            self.vm.register_ioevent(&event, &place, NoDatamatch)
        } else {
            self.vm.unregister_ioevent(&event, &place, NoDatamatch)
        };
        done.map_err(io::Error::from)
    }
}

impl Wires for KernelWires {
    fn set_wires(&self, wires: &[Wire]) {
        let mut laid = self.laid.lock();
        // One that cannot be taken away is one that KVM does not have.
        laid.extract_if(.., |wire| !wires.contains(wire))
            .for_each(|wire| drop(self.change(&wire, false)));
        for wire in wires {
            // A place that is taken, or one too many, stays an exit.
            if !laid.contains(wire) && self.change(wire, true).is_ok() {
                laid.push(wire.clone());
            }
        }
    }
}
