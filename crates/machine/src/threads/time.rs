//! The time of one life of a guest: guest TSC and board time start at zero when it starts.
//!
//! A pause takes a piece out of it: while paused the guest's time stands still, and afterwards it goes on from there,
//! because everything the guest can read derives from its TSC and that is moved back by the length of the pause. Its
//! wall clock is behind by that much then, as after a sleep that it did not notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use devices::{GuestClock, Nanos, Saved, Unfit};
use serde::{Deserialize, Serialize};

/// Time goes on.
const NOT_FROZEN: u64 = u64::MAX;

/// Frequencies are the same that differ by less than one in so many.
const SAME_FREQUENCY: u64 = 1000;

/// Converts between the host's time and the guest's.
#[derive(Clone, Debug)]
pub(crate) struct GuestTime {
    clock: GuestClock,
    /// Guest TSC minus host TSC, pauses apart.
    first_offset: u64,
    shared: Arc<Pauses>,
}

#[derive(Debug)]
struct Pauses {
    /// The host's TSC at which time stopped, while it stands still.
    frozen_at: AtomicU64,
    /// Host ticks of all pauses that are over.
    lost_ticks: AtomicU64,
}

/// A guest's time at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct TimeState {
    /// The clock as the board has it: guest TSC and wall time at time zero.
    clock: GuestClock,
    /// Board time.
    now: Nanos,
}

impl TimeState {
    /// Board time.
    pub(crate) fn now(&self) -> Nanos {
        self.now
    }

    /// So much later.
    pub(crate) fn go_ahead(&mut self, nanos: u64) {
        self.now = self.now.after(nanos);
    }
}

impl Saved for GuestTime {
    type State = TimeState;

    fn save(&self) -> TimeState {
        TimeState {
            clock: self.clock,
            now: self.now(),
        }
    }

    /// From now on time goes on from there. To be done before others are given this time, and before a pause.
    fn restore(&mut self, state: TimeState) -> Result<(), Unfit> {
        // A TSC of another frequency would have to be scaled, which neither engine does. That of this host has been measured,
        // now and then, and comes out a little different each time.
        let apart = state.clock.tsc_khz.abs_diff(self.clock.tsc_khz);
        if apart > self.clock.tsc_khz / SAME_FREQUENCY {
            return Err(Unfit {
                device: "clock",
                what: "this host's time stamp counter has another frequency",
            });
        }
        self.clock = state.clock;
        self.first_offset = state.clock.tsc(state.now).wrapping_sub(host::tsc::read());
        Ok(())
    }
}

impl GuestTime {
    /// Time that starts now.
    pub(crate) fn start() -> GuestTime {
        let tsc_khz = host::tsc::frequency_khz();
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let clock = GuestClock {
            tsc_khz,
            tsc_at_start: 0,
            wall_at_start_ns: wall.as_nanos() as u64,
        };
        let pauses = Pauses {
            frozen_at: AtomicU64::new(NOT_FROZEN),
            lost_ticks: AtomicU64::new(0),
        };
        GuestTime {
            clock,
            first_offset: 0_u64.wrapping_sub(host::tsc::read()),
            shared: Arc::new(pauses),
        }
    }

    /// How the board sees it.
    pub(crate) fn clock(&self) -> GuestClock {
        self.clock
    }

    /// What the vCPU adds to the host's TSC.
    pub(crate) fn tsc_offset(&self) -> u64 {
        self.first_offset.wrapping_sub(self.lost_ticks())
    }

    /// How many ticks of the host's TSC the guest has not seen because of pauses that are over.
    pub(crate) fn lost_ticks(&self) -> u64 {
        self.shared.lost_ticks.load(Ordering::Acquire)
    }

    /// How much of the host's time pauses took, the present one included.
    pub(crate) fn paused(&self) -> Duration {
        let present = match self.shared.frozen_at.load(Ordering::Acquire) {
            NOT_FROZEN => 0,
            frozen_at => host::tsc::read().saturating_sub(frozen_at),
        };
        let ticks = u128::from(self.lost_ticks().saturating_add(present));
        Duration::from_micros((ticks * 1000 / u128::from(self.clock.tsc_khz.max(1))) as u64)
    }

    /// Board time.
    pub(crate) fn now(&self) -> Nanos {
        let host = match self.shared.frozen_at.load(Ordering::Acquire) {
            NOT_FROZEN => host::tsc::read(),
            frozen_at => frozen_at,
        };
        self.clock.now(host.wrapping_add(self.tsc_offset()))
    }

    /// How long it is until `at`, while time goes on.
    pub(crate) fn until(&self, at: Nanos) -> Duration {
        Duration::from_nanos(at.since(self.now()))
    }

    /// Stops. Nobody runs guest code.
    pub(crate) fn freeze(&self) {
        self.shared
            .frozen_at
            .store(host::tsc::read(), Ordering::Release);
    }

    /// Goes on from where it stopped. Nobody runs guest code yet, and nobody asks what time it is.
    pub(crate) fn thaw(&self) {
        let frozen_at = self.shared.frozen_at.swap(NOT_FROZEN, Ordering::AcqRel);
        if frozen_at != NOT_FROZEN {
            let lost = host::tsc::read().saturating_sub(frozen_at);
            self.shared.lost_ticks.fetch_add(lost, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_no_time_at_all() {
        let time = GuestTime::start();
        std::thread::sleep(Duration::from_millis(5));
        time.freeze();
        let stopped = time.now();
        let offset = time.tsc_offset();
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(time.now(), stopped);
        time.thaw();
        let after = time.now();
        assert!(
            after >= stopped && after.since(stopped) < 100_000_000,
            "{stopped:?} {after:?}"
        );
        assert_eq!(offset.wrapping_sub(time.tsc_offset()), time.lost_ticks());
        time.thaw();
        assert_eq!(
            offset.wrapping_sub(time.tsc_offset()),
            time.lost_ticks(),
            "once"
        );
    }

    #[test]
    fn time_goes_on_in_another_machine_from_where_it_was() {
        let old = GuestTime::start();
        std::thread::sleep(Duration::from_millis(5));
        old.freeze();
        let state = old.save();
        assert_eq!(state.now, old.now());
        let text = serde_json::to_string(&state).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let mut new = GuestTime::start();
        new.restore(serde_json::from_str(&text).unwrap()).unwrap();
        let after = new.now();
        let passed = after.since(state.now);
        assert!(
            after >= Nanos(state.now.0 - 1) && passed < 100_000_000,
            "{passed}"
        );
        assert_eq!(new.clock(), old.clock());
        let other = TimeState {
            clock: GuestClock {
                tsc_khz: state.clock.tsc_khz + state.clock.tsc_khz / 100,
                ..state.clock
            },
            ..state
        };
        assert!(new.restore(other).is_err());
    }
}
