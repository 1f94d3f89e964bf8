//! What KVM is told of a guest's memory.

use std::io;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use mem::GuestMemory;

/// Tells KVM of every memslot.
pub(crate) fn set_slots(vm: &VmFd, memory: &GuestMemory) -> io::Result<()> {
    for (index, slot) in (0..).zip(memory.slots().as_slice()) {
        let (hva, _) = memory.hva(slot.gpa).expect("a slot's first byte is memory");
        let region = kvm_userspace_memory_region {
            slot: index,
            flags: 0,
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
