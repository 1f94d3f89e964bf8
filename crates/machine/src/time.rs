//! The time of one life of a guest: guest TSC and board time start at zero when it starts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use devices::{GuestClock, Nanos};

/// Converts between the host's time and the guest's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuestTime {
    clock: GuestClock,
    /// Guest TSC minus host TSC.
    tsc_offset: u64,
}

impl GuestTime {
    /// Time that starts now.
    pub(crate) fn start() -> GuestTime {
        let tsc_khz = host::tsc::frequency_khz();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let clock = GuestClock { tsc_khz, tsc_at_start: 0, wall_at_start_ns: wall.as_nanos() as u64 };
        GuestTime { clock, tsc_offset: 0_u64.wrapping_sub(host::tsc::read()) }
    }

    /// How the board sees it.
    pub(crate) fn clock(&self) -> GuestClock {
        self.clock
    }

    /// What the vCPU adds to the host's TSC.
    pub(crate) fn tsc_offset(&self) -> u64 {
        self.tsc_offset
    }

    /// Board time.
    pub(crate) fn now(&self) -> Nanos {
        self.clock.now(host::tsc::read().wrapping_add(self.tsc_offset))
    }

    /// How long it is until `at`.
    pub(crate) fn until(&self, at: Nanos) -> Duration {
        Duration::from_nanos(at.since(self.now()))
    }
}
