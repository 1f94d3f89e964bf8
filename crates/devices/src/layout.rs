//! Where everything is: the guest physical memory map, the I/O ports and the interrupt lines of the board.
//!
//! One place, because the memory map a guest is told (E820), the ACPI tables and the buses must agree.
//!
//! ```text
//! 0            conventional RAM
//! 0x9_fc00     reserved: where firmware keeps its extended data
//! 0xa_0000     reserved: video and option ROMs on a PC, nothing here
//! 0xe_0000     reserved: ACPI tables
//! 0xf_0000     reserved: SMBIOS tables
//! 0xf_e000     reserved: VMClock, a page of its own
//! 0xf_f000     reserved: the generation of the machine, a page of its own
//! 0x10_0000    RAM, up to 3 GiB at most
//! 0xc000_0000  PCI memory window
//! 0xe000_0000  PCI configuration space (ECAM) of bus 0
//! 0xfec0_0000  IOAPIC
//! 0xfee0_0000  local APIC
//! 4 GiB        the rest of the RAM
//! ```

use x86::Gpa;

/// Start of what a PC's firmware keeps at the end of conventional memory.
pub const EBDA_START: Gpa = Gpa(0x9_fc00);
/// Where ACPI tables lie. The RSDP is searched for from here (ACPI 6.5, 5.2.5.1).
pub const ACPI_START: Gpa = Gpa(0xe_0000);
/// Where SMBIOS tables lie. Their entry point is searched for from here (DSP0134 3.2, 5.2).
pub const SMBIOS_START: Gpa = Gpa(0xf_0000);
/// Where [VMClock](crate::vmclock)'s page lies.
pub const VMCLOCK: Gpa = Gpa(0xf_e000);
/// Length of [`VMCLOCK`].
pub const VMCLOCK_BYTES: u64 = 0x1000;
/// Where the [generation](crate::generation) lies, in a page of its own.
pub const GENERATION: Gpa = Gpa(0xf_f000);
/// The same as two words, the lower one first.
pub const GENERATION_WORDS: [u32; 2] = [GENERATION.0 as u32, (GENERATION.0 >> 32) as u32];
/// End of the ACPI tables and start of extended memory.
pub const EXTENDED_START: Gpa = Gpa(0x10_0000);
/// RAM below 4 GiB ends here at the latest.
pub const LOW_RAM_LIMIT: Gpa = Gpa(0xc000_0000);
/// Where PCI functions get their memory BARs.
pub const PCI_WINDOW: Gpa = LOW_RAM_LIMIT;
/// Length of [`PCI_WINDOW`].
pub const PCI_WINDOW_BYTES: u64 = 0x2000_0000;
/// Memory-mapped PCI configuration space of bus 0.
pub const ECAM: Gpa = Gpa(0xe000_0000);
/// Length of [`ECAM`]: 32 devices of 8 functions of 4 KiB.
pub const ECAM_BYTES: u64 = 0x10_0000;
/// IOAPIC registers.
pub const IOAPIC: Gpa = Gpa(0xfec0_0000);
/// Local APIC registers, the same address for every vCPU.
pub const LOCAL_APIC: Gpa = Gpa(0xfee0_0000);
/// RAM that does not fit below [`LOW_RAM_LIMIT`] goes on here.
pub const HIGH_RAM_START: Gpa = Gpa(0x1_0000_0000);

/// A stretch of guest physical memory that a guest must not use as RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserved {
    /// First address.
    pub start: Gpa,
    /// How long it is.
    pub len_bytes: u64,
}

/// What the memory map given to a guest lists as reserved, lowest first. RAM is everything else that memslots back.
pub const RESERVED: [Reserved; 2] = [
    Reserved {
        start: EBDA_START,
        len_bytes: EXTENDED_START.0 - EBDA_START.0,
    },
    Reserved {
        start: ECAM,
        len_bytes: ECAM_BYTES,
    },
];

/// Id of the IOAPIC: one that no vCPU has, as long as four bits allow (82093AA, 3.2.1).
pub fn ioapic_id(vcpu_count: u32) -> u8 {
    vcpu_count.min(15) as u8
}

/// I/O ports, by the names that PC documentation gives them.
pub mod port {
    #![allow(missing_docs, reason = "each constant is the device's own name")]
    pub const PIC_PRIMARY: u16 = 0x20;
    pub const PIC_SECONDARY: u16 = 0xa0;
    pub const PIC_ELCR: u16 = 0x4d0;
    pub const PIT: u16 = 0x40;
    pub const I8042_DATA: u16 = 0x60;
    pub const SYSTEM_CONTROL_B: u16 = 0x61;
    pub const I8042_COMMAND: u16 = 0x64;
    pub const RTC: u16 = 0x70;
    pub const POST: u16 = 0x80;
    pub const SYSTEM_CONTROL_A: u16 = 0x92;
    pub const COPROCESSOR: u16 = 0xf0;
    pub const DEBUG_EXIT: u16 = 0xf4;
    pub const COM1: u16 = 0x3f8;
    pub const PM1_EVENT: u16 = 0x600;
    pub const PM1_CONTROL: u16 = 0x604;
    pub const PM_TIMER: u16 = 0x608;
    pub const GPE0: u16 = 0x620;
    pub const PCI_ADDRESS: u16 = 0xcf8;
    pub const RESET_CONTROL: u16 = 0xcf9;
    pub const PCI_LAST: u16 = 0xcff;
}

/// Interrupt lines: 0 to 15 are the PC's IRQs, 16 to 23 go to the IOAPIC only.
pub mod irq {
    #![allow(missing_docs, reason = "each constant is the device's own name")]
    pub const PIT: u8 = 0;
    pub const KEYBOARD: u8 = 1;
    pub const COM1: u8 = 4;
    pub const RTC: u8 = 8;
    pub const SCI: u8 = 9;
    pub const MOUSE: u8 = 12;
    /// First of four lines for the INTx pins of PCI functions.
    pub const PCI_FIRST: u8 = 16;
}
