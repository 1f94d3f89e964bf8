//! Facts about the whole guest: names, clocks, load, command line.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x86::Gva;

use crate::blind::Blind;
use crate::look::Look;
use crate::observed::Observed;

/// Longest kernel command line.
const MAX_COMMAND_LINE: usize = 4096;
/// What the lock's count that guards `struct timekeeper` is called, and how long it is where the kernel does not say: one word.
/// With PREEMPT_RT there is a pointer to the lock behind it (include/linux/seqlock_types.h).
const GUARD: &str = "seqcount_raw_spinlock";
const GUARD_BYTES: u64 = 4;
/// Most that a clock source's numbers are shifted by (kernel/time/clocksource.c).
const MAX_SHIFT: u64 = 32;
/// Nanoseconds of a second, and most that a clock may be ahead of the second it says.
const SECOND: u64 = 1_000_000_000;
const SLACK: u64 = 4 * SECOND;
/// Fraction bits of the load averages.
const LOAD_BITS: u32 = 11;

/// The guest's clocks as its kernel last brought them up to date: at a tick, which an idle guest does without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Clocks {
    /// Since the kernel started.
    pub uptime_ns: u64,
    /// Since 1970-01-01 UTC, as the guest believes.
    pub wall_ns: u64,
    /// When the kernel started, since 1970-01-01 UTC, as the guest believes.
    pub boot_ns: u64,
}

/// What can be said about the guest as a whole.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize, Deserialize)]
pub struct System {
    /// The kernel's banner.
    pub banner: String,
    /// The kernel's release.
    pub release: String,
    /// The name the guest gave itself.
    pub hostname: Observed<String>,
    /// What the boot loader told the kernel.
    pub command_line: Observed<String>,
    /// What the kernel's clocks show.
    pub clocks: Observed<Clocks>,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: Observed<[f64; 3]>,
    /// How many CPUs the kernel uses.
    pub cpus_online: Observed<u32>,
}

/// What is read of `struct timekeeper` (include/linux/timekeeper_internal.h).
#[derive(Clone, Copy, Debug)]
struct Keeper {
    /// The clock source, a pointer.
    clock: u64,
    shift: u64,
    /// Nanoseconds of the second that has begun, shifted.
    part: u64,
    /// The monotonic clock at the beginning of that second.
    base: u64,
    /// The second, since 1970-01-01.
    second: u64,
    /// From the monotonic clock to the others.
    to_real: u64,
    to_boot: u64,
}

impl Keeper {
    /// The clocks; `None` if what was read is no timekeeper. The kernel keeps the time of day twice, as a second and as a
    /// distance from the monotonic clock: in other memory they do not agree.
    fn clocks(&self) -> Option<Clocks> {
        let part = self.part.checked_shr(self.shift as u32)?;
        let wall = self.base.wrapping_add(self.to_real);
        let second = self.second.checked_mul(SECOND)?;
        let is_plausible = self.clock >> 63 != 0
            && self.shift <= MAX_SHIFT
            && part <= SLACK
            && wall.abs_diff(second) <= SLACK;
        let monotonic = self.base.wrapping_add(part);
        is_plausible.then(|| Clocks {
            uptime_ns: monotonic.wrapping_add(self.to_boot),
            wall_ns: monotonic.wrapping_add(self.to_real),
            boot_ns: self.to_real.wrapping_sub(self.to_boot),
        })
    }
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

    /// Where `struct timekeeper` begins in `tk_core`.
    pub(crate) fn timekeeper_offset(&self) -> u64 {
        self.offset("tk_data", "timekeeper").unwrap_or_else(|_| {
            let guard = self.layouts().and_then(|layouts| layouts.size(GUARD));
            guard
                .map_or(GUARD_BYTES, |size| size as u64)
                .next_multiple_of(8)
        })
    }

    fn clocks(&self) -> Result<Clocks, Blind> {
        // Since 6.17 the first of several.
        let core = self
            .symbol("tk_core")
            .or_else(|_| self.symbol("timekeeper_data"))?;
        let offset = self.timekeeper_offset();
        let mut implausible = false;
        for _ in 0..4 {
            let before = self.space().u32(core)?;
            let keeper = self.object("timekeeper", Gva(core.0.wrapping_add(offset)))?;
            if before % 2 != 0 || self.space().u32(core)? != before {
                self.space().torn();
                continue;
            }
            let found = Keeper {
                clock: keeper.number("tkr_mono.clock")?,
                shift: keeper.number("tkr_mono.shift")?,
                part: keeper.number("tkr_mono.xtime_nsec")?,
                base: keeper.number("tkr_mono.base")?,
                second: keeper.number("xtime_sec")?,
                to_real: keeper.number("offs_real")?,
                to_boot: keeper.number("offs_boot")?,
            };
            match found.clocks() {
                Some(clocks) => return Ok(clocks),
                None => implausible = true,
            }
        }
        Err(Blind::nonsense(if implausible {
            "clock is none: its own numbers do not fit together"
        } else {
            "clock is never at rest"
        }))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest that is up 100.5 s, at 10^9 s since 1970.
    const GOOD: Keeper = Keeper {
        clock: 0xffff_ffff_8280_1000,
        shift: 24,
        part: (SECOND / 2) << 24,
        base: 100 * SECOND,
        second: 1_000_000_000,
        to_real: (1_000_000_000 - 100) * SECOND,
        to_boot: 0,
    };

    #[test]
    fn a_clock_is_one_whose_own_numbers_fit_together() {
        let clocks = GOOD.clocks().unwrap();
        assert_eq!(
            (clocks.uptime_ns, clocks.wall_ns % SECOND),
            (100_500_000_000, SECOND / 2)
        );
        let check = |name: &str, keeper: Keeper, expected: bool| {
            assert_eq!(keeper.clocks().is_some(), expected, "{name}");
        };
        check(
            "it slept a day",
            Keeper {
                to_boot: 86_400 * SECOND,
                ..GOOD
            },
            true,
        );
        check("no clock source", Keeper { clock: 0, ..GOOD }, false);
        check(
            "a shift that no clock source has",
            Keeper { shift: 40, ..GOOD },
            false,
        );
        check(
            "a shift that no number has",
            Keeper {
                shift: 4096,
                ..GOOD
            },
            false,
        );
        check(
            "minutes in a second",
            Keeper {
                part: (600 * SECOND) << 24,
                ..GOOD
            },
            false,
        );
        // As 16 bytes too early: each member is the one before it.
        check(
            "what lies beside it",
            Keeper {
                second: GOOD.part,
                base: 1_000_000_000,
                ..GOOD
            },
            false,
        );
        check(
            "zeros",
            Keeper {
                clock: 0,
                shift: 0,
                part: 0,
                base: 0,
                second: 0,
                to_real: 0,
                to_boot: 0,
            },
            false,
        );
    }
}
