//! The local APICs in the host's kernel: messages to them, and their state.

use std::sync::Arc;

use host::lock::Lock;
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_lapic_state, kvm_msi,
};
use kvm_ioctls::VmFd;
use vcpu::{LOCAL_APIC_REGISTERS, LocalApicState, LocalApics};

/// APIC_BASE: x2APIC mode.
const BASE_X2APIC: u64 = 1 << 10;
/// Number of the id register.
const ID: usize = 2;

/// What the machine says to them.
pub(crate) struct KernelApics {
    vm: Arc<VmFd>,
    /// What each pin of the IOAPIC sends, as KVM was told.
    pins: Lock<Vec<Option<(u64, u32)>>>,
}

impl KernelApics {
    pub(crate) fn new(vm: Arc<VmFd>) -> KernelApics {
        KernelApics {
            vm,
            pins: Lock::default(),
        }
    }
}

impl LocalApics for KernelApics {
    fn send(&self, address: u64, data: u32) {
        let msi = kvm_msi {
            address_lo: address as u32,
            address_hi: (address >> 32) as u32,
            data,
            ..kvm_msi::default()
        };
        // A message that nobody takes is an error here and nothing on the wire.
        let _ = self.vm.signal_msi(msi);
    }

    fn set_pins(&self, messages: &[Option<(u64, u32)>]) {
        let mut pins = self.pins.lock();
        if *pins == messages {
            return;
        }
        messages.clone_into(&mut pins);
        let entry = |(pin, message): (usize, &Option<(u64, u32)>)| {
            let (address, data) = (*message)?;
            let mut entry = kvm_irq_routing_entry {
                gsi: pin as u32,
                ..kvm_irq_routing_entry::default()
            };
            entry.type_ = KVM_IRQ_ROUTING_MSI;
            entry.u.msi.address_lo = address as u32;
            entry.u.msi.address_hi = (address >> 32) as u32;
            entry.u.msi.data = data;
            Some(entry)
        };
        let entries: Vec<kvm_irq_routing_entry> =
            messages.iter().enumerate().filter_map(entry).collect();
        let done = KvmIrqRouting::from_entries(&entries)
            .ok()
            .map(|table| self.vm.set_gsi_routing(&table));
        // Without it, the end of a level-triggered interrupt would not be told: the line would stay quiet for ever.
        assert!(
            matches!(done, Some(Ok(()))),
            "KVM takes a route for each of 24 pins: {done:?}"
        );
    }
}

/// KVM's page to plain registers; `base` says in which form the id is.
pub(crate) fn of_kvm(page: &kvm_lapic_state, base: u64, tsc_deadline: u64) -> LocalApicState {
    let mut registers = [0; LOCAL_APIC_REGISTERS];
    for (register, bytes) in registers.iter_mut().zip(page.regs.chunks_exact(16)) {
        *register = u32::from_le_bytes([
            bytes[0] as u8,
            bytes[1] as u8,
            bytes[2] as u8,
            bytes[3] as u8,
        ]);
    }
    // KVM shows the id in xAPIC form in both modes unless asked otherwise.
    if base & BASE_X2APIC != 0 {
        registers[ID] >>= 24;
    }
    LocalApicState {
        base,
        registers,
        tsc_deadline,
    }
}

/// The way back.
pub(crate) fn to_kvm(state: &LocalApicState) -> kvm_lapic_state {
    let mut page = kvm_lapic_state::default();
    let mut registers = state.registers;
    if state.base & BASE_X2APIC != 0 {
        registers[ID] <<= 24;
    }
    for (register, bytes) in registers.iter().zip(page.regs.chunks_exact_mut(16)) {
        for (byte, value) in bytes.iter_mut().zip(register.to_le_bytes()) {
            *byte = value as _;
        }
    }
    page
}
