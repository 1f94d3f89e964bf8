//! Facts about the whole guest: names, clocks, load, command line.

use serde::{Deserialize, Serialize};
use x86::Gva;

use crate::blind::Blind;
use crate::look::Look;
use crate::observed::Observed;

/// Longest kernel command line.
const MAX_COMMAND_LINE: usize = 4096;
/// `struct timekeeper` behind the lock that guards it, where the kernel does not say: the lock's count is one word.
const TIMEKEEPER: u64 = 8;
/// Fraction bits of the load averages.
const LOAD_BITS: u32 = 11;

/// The guest's clocks as its kernel last brought them up to date: at a tick, which an idle guest does without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// Since the kernel started.
    pub uptime_ns: u64,
    /// Since 1970-01-01 UTC, as the guest believes.
    pub wall_ns: u64,
    /// When the kernel started, since 1970-01-01 UTC, as the guest believes.
    pub boot_ns: u64,
}

/// What can be said about the guest as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct System {
    /// The kernel's banner.
    pub banner: String,
    /// The kernel's release.
    pub release: String,
    /// The name the guest gave itself.
    pub hostname: Observed<String>,
    /// What the boot loader told the kernel.
    pub command_line: Observed<String>,
    /// Clocks.
    pub clocks: Observed<Clocks>,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: Observed<[f64; 3]>,
    /// How many CPUs the kernel uses.
    pub cpus_online: Observed<u32>,
}

impl Look<'_> {
    /// The guest as a whole.
    pub fn system(&self) -> System {
        System {
            banner: self.kernel().banner().to_owned(),
            release: self.kernel().release().to_owned(),
            hostname: self.observed(self.hostname()),
            command_line: self.observed(self.kernel_command_line()),
            clocks: self.observed(self.clocks()),
            load: self.observed(self.load()),
            cpus_online: self.observed(self.cpus_online()),
        }
    }

    fn hostname(&self) -> Result<String, Blind> {
        self.object("uts_namespace", self.symbol("init_uts_ns")?)?
            .text("name.nodename")
    }

    fn kernel_command_line(&self) -> Result<String, Blind> {
        let pointer = self.space().u64(self.symbol("saved_command_line")?)?;
        self.space().text(Gva(pointer), MAX_COMMAND_LINE)
    }

    fn clocks(&self) -> Result<Clocks, Blind> {
        // Since 6.17 the first of several.
        let core = self
            .symbol("tk_core")
            .or_else(|_| self.symbol("timekeeper_data"))?;
        let offset = self.offset("tk_data", "timekeeper").unwrap_or(TIMEKEEPER);
        for _ in 0..4 {
            let before = self.space().u32(core)?;
            let keeper = self.object("timekeeper", Gva(core.0.wrapping_add(offset)))?;
            if before % 2 != 0 || self.space().u32(core)? != before {
                self.space().torn();
                continue;
            }
            let shift = keeper.number("tkr_mono.shift")? as u32;
            let part = keeper
                .number("tkr_mono.xtime_nsec")?
                .checked_shr(shift)
                .unwrap_or(0);
            let monotonic = keeper.number("tkr_mono.base")?.wrapping_add(part);
            let (real, boot) = (keeper.number("offs_real")?, keeper.number("offs_boot")?);
            return Ok(Clocks {
                uptime_ns: monotonic.wrapping_add(boot),
                wall_ns: monotonic.wrapping_add(real),
                boot_ns: real.wrapping_sub(boot),
            });
        }
        Err(Blind::nonsense("clock is never at rest"))
    }

    fn load(&self) -> Result<[f64; 3], Blind> {
        let array = self.symbol("avenrun")?;
        let mut load = [0.0; 3];
        for (number, index) in load.iter_mut().zip(0..) {
            *number = self.space().u64(Gva(array.0.wrapping_add(8 * index)))? as f64
                / f64::from(1 << LOAD_BITS);
        }
        Ok(load)
    }

    fn cpus_online(&self) -> Result<u32, Blind> {
        self.space().u32(self.symbol("__num_online_cpus")?)
    }
}
