//! Guest time: nanoseconds since the board started, and how they relate to the guest's TSC and to wall time.
//!
//! No device reads a clock. The machine reads the TSC once per visit to the board, converts it here, and tells
//! the board; so all devices agree on what time it is, and tests say what time it is.
//!
//! Everything derives from the TSC, so that timers, the PM timer and the paravirtual clock never drift apart.

use serde::{Deserialize, Serialize};

/// Nanoseconds of guest time since the board started.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash, Serialize, Deserialize,
)]
pub struct Nanos(pub u64);

/// Nanoseconds in a second.
pub const NANOS_PER_SECOND: u64 = 1_000_000_000;

impl Nanos {
    /// This moment moved on; stays at the end of time rather than wrap.
    pub fn after(self, nanos: u64) -> Nanos {
        Nanos(self.0.saturating_add(nanos))
    }

    /// Nanoseconds from `earlier` to here; 0 if `earlier` is later.
    pub fn since(self, earlier: Nanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Ticks of a clock of `hz` that started at time zero.
    pub fn ticks(self, hz: u64) -> u64 {
        (u128::from(self.0) * u128::from(hz) / u128::from(NANOS_PER_SECOND)) as u64
    }

    /// The first moment at which [`Nanos::ticks`] is `ticks`.
    pub fn of_ticks(ticks: u64, hz: u64) -> Nanos {
        let nanos =
            (u128::from(ticks) * u128::from(NANOS_PER_SECOND)).div_ceil(u128::from(hz.max(1)));
        Nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The guest's TSC and wall clock in terms of guest time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GuestClock {
    /// Frequency of the TSC.
    pub tsc_khz: u64,
    /// What the guest's TSC was at time zero (host TSC then, plus the guest's offset).
    pub tsc_at_start: u64,
    /// Wall time at time zero: nanoseconds since 1970-01-01 UTC.
    pub wall_at_start_ns: u64,
}

impl GuestClock {
    /// The time at which the guest's TSC is `tsc`. A TSC before the start is time zero.
    pub fn now(&self, tsc: u64) -> Nanos {
        let ticks = tsc.wrapping_sub(self.tsc_at_start);
        if ticks as i64 <= 0 {
            return Nanos(0);
        }
        Nanos((u128::from(ticks) * 1_000_000 / u128::from(self.tsc_khz.max(1))) as u64)
    }

    /// The first moment from `now` on at which the guest's TSC is at least `tsc`.
    pub fn time_of_tsc(&self, now: Nanos, tsc: u64) -> Nanos {
        let left = tsc.saturating_sub(self.tsc(now));
        if left == 0 {
            return now;
        }
        let khz = u128::from(self.tsc_khz.max(1));
        let ticks = u128::from(now.0) * khz / 1_000_000 + u128::from(left);
        let nanos = (ticks * 1_000_000).div_ceil(khz);
        Nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The clock of a processor whose TSC the guest has moved by `ticks`.
    pub fn moved(self, ticks: u64) -> GuestClock {
        GuestClock {
            tsc_at_start: self.tsc_at_start.wrapping_add(ticks),
            ..self
        }
    }

    /// The guest's TSC at `now`, at most one tick behind.
    pub fn tsc(&self, now: Nanos) -> u64 {
        let ticks = u128::from(now.0) * u128::from(self.tsc_khz) / 1_000_000;
        self.tsc_at_start.wrapping_add(ticks as u64)
    }

    /// Wall time at `now`: nanoseconds since 1970-01-01 UTC.
    pub fn wall_ns(&self, now: Nanos) -> u64 {
        self.wall_at_start_ns.saturating_add(now.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_before_its_tsc() {
        for (khz, start) in [
            (2_000_000, 0),
            (2_399_990, 77),
            (1, 5),
            (3_000_001, u64::MAX / 2),
        ] {
            let clock = GuestClock {
                tsc_khz: khz,
                tsc_at_start: start,
                wall_at_start_ns: 0,
            };
            for ticks in [1, 2, 3, 999, 1_000_003, 1 << 40] {
                let tsc = start + ticks;
                for now in [Nanos(0), Nanos(clock.now(tsc).0 / 2)] {
                    let at = clock.time_of_tsc(now, tsc);
                    assert!(clock.tsc(at) >= tsc, "{khz} kHz, tick {ticks} from {now:?}");
                    assert!(
                        at <= clock.now(tsc).after(1),
                        "{khz} kHz, tick {ticks} from {now:?}: not late either"
                    );
                }
            }
        }
    }

    #[test]
    fn ticks_come_back_as_the_time_they_start_at() {
        for hz in [1_193_182, 3_579_545, 32_768, 1_000_000_000] {
            for ticks in [0, 1, 7, 11_932, 1 << 30] {
                let at = Nanos::of_ticks(ticks, hz);
                assert_eq!(at.ticks(hz), ticks);
                assert!(at.0 == 0 || Nanos(at.0 - 1).ticks(hz) < ticks.max(1));
            }
        }
    }

    #[test]
    fn the_end_of_time_is_reached_and_not_passed() {
        let clock = GuestClock {
            tsc_khz: 1,
            tsc_at_start: 1,
            wall_at_start_ns: u64::MAX,
        };
        assert_eq!(clock.time_of_tsc(Nanos(0), u64::MAX), Nanos(u64::MAX));
        assert_eq!(clock.wall_ns(Nanos(u64::MAX)), u64::MAX);
        assert_eq!(clock.now(0), Nanos(0));
        assert_eq!(Nanos(u64::MAX).after(1), Nanos(u64::MAX));
    }
}
