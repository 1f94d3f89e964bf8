//! The FADT: where the power management registers are (ACPI 6.5, 5.2.9).

use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{OEM, OEM_REVISION, OEM_TABLE, bytes_of};
use crate::layout::{irq, port};
use crate::pm::GPE0_BYTES;
use crate::rtc;

/// Boot architecture flags (ACPI 6.5, 5.2.9.3): devices on the ISA bus, a keyboard controller, no VGA.
const LEGACY_DEVICES: u16 = 1 << 0;
const KEYBOARD_CONTROLLER: u16 = 1 << 1;
const NO_VGA: u16 = 1 << 2;
/// Latencies that say: there is no such processor state (ACPI 6.5, table 5.9).
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;
/// What resets when written to the reset register.
const RESET_VALUE: u8 = 0x06;

/// The table, pointing at the FACS and the DSDT.
pub(super) fn build(facs: u32, dsdt: u32) -> Vec<u8> {
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .firmware_ctrl_32(facs)
        .dsdt_64(u64::from(dsdt))
        .gpe_info(u32::from(port::GPE0), 0, GPE0_BYTES, 0, 0)
        // The power button is a fixed register, so its flag (which means "not") stays clear.
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    table.dsdt = dsdt.into();
    table.sci_int = u16::from(irq::SCI).into();
    table.pm1a_evt_blk = u32::from(port::PM1_EVENT).into();
    table.pm1_evt_len = 4;
    table.pm1a_cnt_blk = u32::from(port::PM1_CONTROL).into();
    table.pm1_cnt_len = 2;
    table.pm_tmr_blk = u32::from(port::PM_TIMER).into();
    table.pm_tmr_len = 4;
    table.p_lvl2_lat = NO_C2.into();
    table.p_lvl3_lat = NO_C3.into();
    table.century = rtc::CENTURY;
    table.iapc_boot_arch = (LEGACY_DEVICES | KEYBOARD_CONTROLLER | NO_VGA).into();
    let reset_port = u64::from(port::RESET_CONTROL);
    table.reset_reg = GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        reset_port,
    );
    table.reset_value = RESET_VALUE;
    bytes_of(&table.finalize())
}
