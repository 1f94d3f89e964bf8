//! What is known of a vCPU's registers. Facts: no guest can forge them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A vCPU at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Registers {
    /// Which vCPU.
    pub vcpu_id: u32,
    /// Protection, paging, write protection.
    pub cr0: u64,
    /// The address of the last page fault.
    pub cr2: u64,
    /// Where the page tables begin, and the PCID.
    pub cr3: u64,
    /// Extensions: PAE, SMEP, SMAP, five levels.
    pub cr4: u64,
    /// Long mode, SYSCALL, no-execute.
    pub efer: u64,
    /// Linear address of the interrupt descriptor table.
    pub idt_base: u64,
    /// Last byte of the interrupt descriptor table.
    pub idt_limit: u16,
    /// Linear address of the global descriptor table.
    pub gdt_base: u64,
    /// Last byte of the global descriptor table.
    pub gdt_limit: u16,
    /// Where FS begins; a kernel leaves it to programs.
    pub fs_base: u64,
    /// Where GS begins; in the kernel, the CPU's own data.
    pub gs_base: u64,
    /// What SWAPGS would load.
    pub kernel_gs_base: u64,
    /// Where SYSCALL goes.
    pub lstar: u64,
    /// Where SYSCALL goes from 32-bit code.
    pub cstar: u64,
    /// Selectors of SYSCALL.
    pub star: u64,
    /// Where SYSENTER goes.
    pub sysenter_eip: u64,
    /// DR0 to DR3: where breakpoints are.
    #[serde(default)]
    pub breakpoints: [u64; 4],
    /// Which of them are on.
    #[serde(default)]
    pub dr7: u64,
    /// The next instruction.
    pub rip: u64,
    /// The top of the stack.
    pub rsp: u64,
    /// Flags.
    pub rflags: u64,
    /// Privilege level.
    pub cpl: u8,
    /// Asleep in HLT.
    pub is_halted: bool,
    /// How long ago this was true.
    pub age_ms: u64,
}

impl Registers {
    /// Whether 4- or 5-level paging is on: only then can the tables be walked.
    pub fn is_long_mode(&self) -> bool {
        const PG: u64 = 1 << 31;
        const LMA: u64 = 1 << 10;
        self.cr0 & PG != 0 && self.efer & LMA != 0
    }

    /// Whether it sleeps with interrupts off: nothing that it could run will run, until it is started anew. So a kernel leaves
    /// the other CPUs when it starts another kernel, and CPUs that were taken offline.
    pub fn is_parked(&self) -> bool {
        const IF: u64 = 1 << 9;
        self.is_halted && self.rflags & IF == 0
    }

    /// Addresses at which the CPU stops before it executes what is there, with the number of each breakpoint (SDM vol. 3,
    /// 18.2.4).
    pub fn stops_at(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let is_on = |number: &usize| self.dr7 >> (2 * number) & 3 != 0;
        let is_of_execution = |number: &usize| self.dr7 >> (16 + 4 * number) & 3 == 0;
        (0..4)
            .filter(is_on)
            .filter(is_of_execution)
            .map(|number| (number, self.breakpoints[number]))
    }

    /// Levels of page tables that CR4.LA57 selects.
    pub fn levels(&self) -> u32 {
        const LA57: u64 = 1 << 12;
        if self.cr4 & LA57 != 0 { 5 } else { 4 }
    }

    /// Where SYSENTER would lead. AMD's processors know it in 32-bit mode only and keep no more of the register than that
    /// needs (APM vol. 2, 6.1.1), so on them, and on KVM there, the upper half of what Linux writes is lost; its code
    /// lies in the topmost 2 GiB.
    pub fn sysenter_target(&self) -> u64 {
        let has_upper_half = self.sysenter_eip >> 31 != 1;
        if has_upper_half {
            self.sysenter_eip
        } else {
            self.sysenter_eip | 0xffff_ffff_0000_0000
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_parked_that_no_interrupt_can_wake() {
        let check = |is_halted, rflags, expected| {
            let registers = Registers {
                is_halted,
                rflags,
                ..Registers::default()
            };
            assert_eq!(registers.is_parked(), expected, "{is_halted} {rflags:#x}");
        };
        check(true, 0x46, true);
        check(true, 0x246, false);
        check(false, 0x46, false);
    }

    #[test]
    fn a_breakpoint_of_execution_is_on_and_of_no_other_kind() {
        let check = |dr7, expected: &[(usize, u64)]| {
            let registers = Registers {
                breakpoints: [10, 11, 12, 13],
                dr7,
                ..Registers::default()
            };
            assert_eq!(
                registers.stops_at().collect::<Vec<_>>(),
                expected,
                "{dr7:#x}"
            );
        };
        check(0x400, &[]);
        check(0x401, &[(0, 10)]);
        check(0x402, &[(0, 10)]);
        check(0x40_0484, &[(1, 11), (3, 13)]);
        // The second waits for writes.
        check(0x10_0484, &[(3, 13)]);
    }

    #[test]
    fn half_of_a_sysenter_register_is_the_kernels_address() {
        let check = |sysenter_eip, expected| {
            let registers = Registers {
                sysenter_eip,
                ..Registers::default()
            };
            assert_eq!(registers.sysenter_target(), expected, "{sysenter_eip:#x}");
        };
        check(0xffff_ffff_b480_17b0, 0xffff_ffff_b480_17b0);
        check(0xb480_17b0, 0xffff_ffff_b480_17b0);
        check(0, 0);
        // No half of an address in the kernel's code.
        check(0x1234_5678, 0x1234_5678);
        check(0x7fff_b480_17b0, 0x7fff_b480_17b0);
    }
}
