//! Which pages guest code wrote, by KVM's own log.
//!
//! Off until somebody asks, because it costs the guest a fault per page. What devices write is not in it: those writes
//! go through `mem`.

use std::io;
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use mem::GuestMemory;
use x86::{Gfn, PAGE_SIZE};

/// The log of one VM. Any thread may ask.
pub struct DirtyLog {
    vm: Arc<VmFd>,
    memory: Arc<GuestMemory>,
}

/// Tells KVM of every memslot; with or without a log.
pub(crate) fn set_slots(vm: &VmFd, memory: &GuestMemory, log: bool) -> io::Result<()> {
    for (index, slot) in (0..).zip(memory.slots().as_slice()) {
        let (hva, _) = memory.hva(slot.gpa).expect("a slot's first byte is memory");
        let region = kvm_userspace_memory_region {
            slot: index,
            flags: if log { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: slot.gpa.0,
            memory_size: slot.len_bytes,
            userspace_addr: hva.0,
        };
        // SAFETY: the range is a slot of `memory`, mapped shared and writable; the VM's vCPUs keep `memory`, and
        // nothing in Rust ever holds a reference into it.
        unsafe { vm.set_user_memory_region(region) }.map_err(io::Error::from)?;
    }
    Ok(())
}

impl DirtyLog {
    pub(crate) fn new(vm: Arc<VmFd>, memory: Arc<GuestMemory>) -> DirtyLog {
        DirtyLog { vm, memory }
    }

    /// Starts or ends the log.
    ///
    /// # Errors
    /// What KVM says.
    pub fn set_on(&self, on: bool) -> io::Result<()> {
        set_slots(&self.vm, &self.memory, on)
    }

    /// Calls `note` for every page written since the last call, or since the log was started.
    ///
    /// # Errors
    /// What KVM says, also if the log is off.
    pub fn take(&self, mut note: impl FnMut(Gfn)) -> io::Result<()> {
        for (index, slot) in (0..).zip(self.memory.slots().as_slice()) {
            let words = self
                .vm
                .get_dirty_log(index, slot.len_bytes as usize)
                .map_err(io::Error::from)?;
            let first = slot.gpa.0 / PAGE_SIZE;
            for (at, mut word) in (0_u64..).zip(words) {
                while word != 0 {
                    note(Gfn(first + at * 64 + u64::from(word.trailing_zeros())));
                    word &= word - 1;
                }
            }
        }
        Ok(())
    }
}
