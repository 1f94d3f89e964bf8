//! MSRs that neither the engine nor the board has: what a kernel may read and write without harm.
//!
//! Stock kernels touch registers of a real processor that change nothing here: memory types, machine checks,
//! errata switches. Those listed below read as fixed values or keep what was written; everything else is #GP, as a
//! processor without the register does it. Sources: APM vol. 2 appendix A, SDM vol. 4, AMD's PPR for family 19h.

use std::time::{Duration, Instant};

use devices::{Saved, Unfit};
use serde::{Deserialize, Serialize};
use x86::msr;

/// MTRR_CAP: eight variable ranges, fixed ranges, write combining (SDM vol. 3, 12.11.1).
const MTRR_CAP: u64 = 0x508;
/// Eight fixed ranges of type write-back.
const ALL_WRITE_BACK: u64 = 0x0606_0606_0606_0606;
/// HWCR.TscFreqSel: the TSC counts at the frequency of P0. Read-only one; kernels call anything else a firmware bug.
const HWCR_TSC_FREQ_SEL: u64 = 1 << 24;
/// DE_CFG bit 1: LFENCE is dispatch serialising.
const DE_CFG_LFENCE: u64 = 1 << 1;
/// SYSCFG.MtrrFixDramEn and MtrrVarDramEn: the ranges are in force.
const SYSCFG_MTRR: u64 = 1 << 18 | 1 << 20;
/// IA32_PLATFORM_ID.
const PLATFORM_ID: u32 = 0x17;
/// Last branch records, all empty.
const LAST_BRANCH: std::ops::RangeInclusive<u32> = 0x1db..=0x1de;
/// North bridge configuration.
const NB_CFG: u32 = 0xc001_001f;
/// Load-store, instruction cache, data cache, bus unit configuration, and their kin: errata switches.
const CORE_CONFIGURATION: std::ops::RangeInclusive<u32> = 0xc001_1020..=0xc001_102f;
/// The four performance counters of the K7 and their controls: there without a CPUID bit, and here they count nothing
/// (reading zeros and refusing all else is how kernels learn that).
const PERFORMANCE: std::ops::RangeInclusive<u32> = 0xc001_0000..=0xc001_0007;
/// At most one line in this time about unknown MSRs.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Memory types and switches that a guest wrote; they are kept and do nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MsrState {
    mtrr_variable: [u64; 16],
    mtrr_fixed: [u64; 11],
    hwcr: u64,
    syscfg: u64,
    de_cfg: u64,
    core_configuration: [u64; 16],
    debugctl: u64,
}

/// The registers of one vCPU, and what was counted.
#[derive(Debug)]
pub(crate) struct MachineMsrs {
    state: MsrState,
    unknown_count: u64,
    logged: Option<Instant>,
}

impl Default for MachineMsrs {
    /// As firmware leaves them: all memory is write-back.
    fn default() -> MachineMsrs {
        let state = MsrState {
            mtrr_variable: [0; 16],
            mtrr_fixed: [ALL_WRITE_BACK; 11],
            hwcr: 0,
            syscfg: SYSCFG_MTRR,
            de_cfg: DE_CFG_LFENCE,
            core_configuration: [0; 16],
            debugctl: 0,
        };
        MachineMsrs {
            state,
            unknown_count: 0,
            logged: None,
        }
    }
}

impl Saved for MachineMsrs {
    type State = MsrState;

    fn save(&self) -> MsrState {
        self.state.clone()
    }

    fn restore(&mut self, state: MsrState) -> Result<(), Unfit> {
        self.state = state;
        Ok(())
    }
}

impl MachineMsrs {
    /// RDMSR; `None` is #GP.
    pub(crate) fn read(&mut self, number: u32) -> Option<u64> {
        let value = self.stored(number).map(|stored| *stored);
        let value = value.or(match number {
            msr::AMD_HWCR => Some(self.state.hwcr | HWCR_TSC_FREQ_SEL),
            msr::MTRR_CAP => Some(MTRR_CAP),
            // No microcode, no machine-check banks, no memory controller, nothing pending.
            msr::BIOS_SIGN_ID | msr::MCG_CAP | msr::MCG_STATUS | PLATFORM_ID | NB_CFG => Some(0),
            msr::AMD_TOP_MEM | msr::AMD_TOP_MEM2 | msr::AMD_INT_PENDING => Some(0),
            number if LAST_BRANCH.contains(&number) || PERFORMANCE.contains(&number) => Some(0),
            _ => None,
        });
        if value.is_none() {
            self.unknown("read of", number);
        }
        value
    }

    /// WRMSR; false is #GP.
    pub(crate) fn write(&mut self, number: u32, value: u64) -> bool {
        if let Some(stored) = self.stored(number) {
            *stored = value;
            return true;
        }
        let taken = match number {
            msr::AMD_HWCR => {
                self.state.hwcr = value;
                true
            }
            // Microcode revision and machine-check status are cleared by kernels.
            msr::BIOS_SIGN_ID | msr::MCG_STATUS => true,
            msr::AMD_INT_PENDING | NB_CFG => true,
            number if PERFORMANCE.contains(&number) => value == 0,
            _ => false,
        };
        if !taken {
            self.unknown("write to", number);
        }
        taken
    }

    /// The register that keeps what is written.
    fn stored(&mut self, number: u32) -> Option<&mut u64> {
        let variable = msr::MTRR_PHYS_BASE0..msr::MTRR_PHYS_BASE0 + 16;
        let fixed_4k = msr::MTRR_FIX_4K_C0000..msr::MTRR_FIX_4K_C0000 + 8;
        match number {
            msr::MTRR_FIX_64K_00000 => Some(&mut self.state.mtrr_fixed[0]),
            msr::MTRR_FIX_16K_80000 => Some(&mut self.state.mtrr_fixed[1]),
            msr::MTRR_FIX_16K_A0000 => Some(&mut self.state.mtrr_fixed[2]),
            msr::AMD_SYSCFG => Some(&mut self.state.syscfg),
            msr::AMD_DE_CFG => Some(&mut self.state.de_cfg),
            msr::DEBUGCTL => Some(&mut self.state.debugctl),
            _ if variable.contains(&number) => {
                Some(&mut self.state.mtrr_variable[(number - variable.start) as usize])
            }
            _ if fixed_4k.contains(&number) => {
                Some(&mut self.state.mtrr_fixed[3 + (number - fixed_4k.start) as usize])
            }
            _ if CORE_CONFIGURATION.contains(&number) => Some(
                &mut self.state.core_configuration[(number - CORE_CONFIGURATION.start()) as usize],
            ),
            _ => None,
        }
    }

    fn unknown(&mut self, act: &str, number: u32) {
        self.unknown_count += 1;
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            self.logged = Some(Instant::now());
            tracing::debug!(
                "{act} unknown MSR {number:#x}: #GP ({} so far)",
                self.unknown_count
            );
        }
    }

    /// How many accesses got #GP.
    pub(crate) fn unknown_count(&self) -> u64 {
        self.unknown_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_registers_keep_or_ignore_and_others_fault() {
        let check = |number, written: Option<u64>, expected: Option<u64>| {
            let mut msrs = MachineMsrs::default();
            if let Some(value) = written {
                msrs.write(number, value);
            }
            assert_eq!(msrs.read(number), expected, "{number:#x}");
        };
        check(msr::MTRR_CAP, None, Some(0x508));
        check(msr::MTRR_PHYS_BASE0 + 15, Some(5), Some(5));
        check(msr::MTRR_PHYS_BASE0 + 16, Some(5), None);
        check(msr::MTRR_FIX_4K_C0000 + 7, None, Some(ALL_WRITE_BACK));
        check(msr::AMD_HWCR, Some(0), Some(1 << 24));
        check(msr::AMD_DE_CFG, None, Some(2));
        check(msr::AMD_LS_CFG, Some(1 << 10), Some(1 << 10));
        check(msr::BIOS_SIGN_ID, Some(7), Some(0));
        // Not offered by CPUID, so not there.
        check(msr::PRED_CMD, Some(1), None);
        check(0xc001_0004, Some(0x1234), Some(0));
        check(0x1234_5678, None, None);
    }

    #[test]
    fn unknown_accesses_are_counted() {
        let mut msrs = MachineMsrs::default();
        assert!(!msrs.write(msr::MTRR_CAP, 0));
        assert!(!msrs.write(0xc001_0000, 2));
        assert!(msrs.write(0xc001_0000, 0));
        assert!(msrs.read(0xffff_ffff).is_none());
        assert_eq!(msrs.unknown_count(), 3);
    }

    #[test]
    fn what_was_written_is_there_in_another_machine() {
        let mut old = MachineMsrs::default();
        let numbers = (0..0x300).chain(0xc001_0000..0xc001_1040);
        for number in numbers.clone() {
            old.write(number, u64::from(number) * 3);
        }
        let text = serde_json::to_string(&old.save()).unwrap();
        let mut new = MachineMsrs::default();
        new.restore(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(new.save(), old.save());
        for number in numbers {
            assert_eq!(new.read(number), old.read(number), "{number:#x}");
        }
    }
}
