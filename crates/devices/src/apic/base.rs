//! The APIC_BASE MSR: where the registers are and in which mode (SDM vol. 3, 11.4.4 and 11.12.5).

use super::local::{BASE_BSP, BASE_ENABLED, BASE_X2APIC, LocalApic};
use super::registers::RegisterFault;

/// Bits that exist: flags and a base of as many bits as the model has physical address bits.
const BASE_MASK: u64 = ((1 << x86::paging::PHYSICAL_BITS) - 1) & !x86::address::PAGE_MASK
    | BASE_BSP
    | BASE_X2APIC
    | BASE_ENABLED;

impl LocalApic {
    /// Reads the MSR.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Writes the MSR.
    ///
    /// # Errors
    /// For reserved bits and for changes of mode that do not exist (SDM vol. 3, figure 11-27): from off to
    /// x2APIC, from x2APIC to xAPIC, x2APIC without being enabled.
    pub fn set_base(&mut self, value: u64) -> Result<(), RegisterFault> {
        let mode = |base: u64| (base & BASE_ENABLED != 0, base & BASE_X2APIC != 0);
        if value & !BASE_MASK != 0 {
            return Err(RegisterFault);
        }
        match (mode(self.base), mode(value)) {
            (_, (false, true)) | ((false, _), (true, true)) | ((_, true), (true, false)) => {
                return Err(RegisterFault);
            }
            ((true, _), (false, false)) => {
                self.base = value;
                self.init();
            }
            ((true, false), (true, true)) => {
                self.base = value;
                self.update_x2apic_ids();
            }
            _ => self.base = value,
        }
        Ok(())
    }
}
