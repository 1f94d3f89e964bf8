//! The MADT: which interrupt controllers there are and how the PC's IRQs reach them (ACPI 6.5, 5.2.12).

use acpi_tables::sdt::Sdt;

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::controllers::PIT_PIN;
use crate::layout::{self, irq};

/// There is an 8259 pair as well.
const DUAL_8259: u32 = 1;
/// Structure types.
const LOCAL_APIC: u8 = 0;
const IOAPIC: u8 = 1;
const SOURCE_OVERRIDE: u8 = 2;
const LOCAL_NMI: u8 = 4;
/// Flags of an override: as the bus has it, or active high and level-triggered.
const AS_ISA: u16 = 0;
const HIGH_LEVEL: u16 = 0b1101;
/// Processor that stands for all.
const ALL_PROCESSORS: u8 = 0xff;

/// The table.
pub(super) fn build(vcpu_count: u32) -> Vec<u8> {
    let mut table = Sdt::new(*b"APIC", 36, 5, OEM, OEM_TABLE, OEM_REVISION);
    let address = layout::LOCAL_APIC.0 as u32;
    table.append_slice(&address.to_le_bytes());
    table.append_slice(&DUAL_8259.to_le_bytes());
    for id in 0..vcpu_count as u8 {
        // Enabled.
        table.append_slice(&[LOCAL_APIC, 8, id, id, 1, 0, 0, 0]);
    }
    table.append_slice(&[IOAPIC, 12, layout::ioapic_id(vcpu_count), 0]);
    table.append_slice(&(layout::IOAPIC.0 as u32).to_le_bytes());
    // First interrupt of the IOAPIC.
    table.append_slice(&0_u32.to_le_bytes());
    for (source, pin, flags) in [
        (irq::PIT, PIT_PIN, AS_ISA),
        (irq::SCI, irq::SCI, HIGH_LEVEL),
    ] {
        table.append_slice(&[SOURCE_OVERRIDE, 10, 0, source]);
        table.append_slice(&u32::from(pin).to_le_bytes());
        table.append_slice(&flags.to_le_bytes());
    }
    // NMI on LINT1.
    table.append_slice(&[LOCAL_NMI, 6, ALL_PROCESSORS, 0, 0, 1]);
    table.as_slice().to_vec()
}
