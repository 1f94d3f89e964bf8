//! When a guest counts as waiting for room.
//!
//! A full store does not stop a guest at once: each page that comes back leaves a place in the store, and another page
//! can go there. A guest that needs more than that gets on page by page, thousands of times slower than it should, and
//! nobody who looks at a single fault sees it wait for long. So what counts is how much of the time somebody waits while
//! pages do not leave. Whoever is found to wait is stopped by that, and stays so until there is room.

use std::time::{Duration, Instant};

/// How long one fault may wait before that is told.
const PATIENCE: Duration = Duration::from_millis(300);
/// Over how long waits are added up.
const WINDOW: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Stall {
    window_start: Instant,
    last_look: Instant,
    /// How much of the window somebody waited.
    waited: Duration,
    is_stalled: bool,
}

impl Stall {
    pub(crate) fn new(now: Instant) -> Stall {
        Stall {
            window_start: now,
            last_look: now,
            waited: Duration::ZERO,
            is_stalled: false,
        }
    }

    /// A look: how long the one has waited who waits longest now, and whether pages do not leave that should. Returns
    /// whether the guest waits for room.
    pub(crate) fn look(&mut self, now: Instant, waits: Option<Duration>, in_trouble: bool) -> bool {
        let since_look = now.saturating_duration_since(self.last_look);
        self.last_look = now;
        if waits.is_some() {
            self.waited += since_look;
        }
        let window = now.saturating_duration_since(self.window_start);
        if !in_trouble {
            self.is_stalled &= waits.is_some();
        } else if waits.is_some_and(|time| time > PATIENCE) {
            self.is_stalled = true;
        } else if window >= WINDOW {
            self.is_stalled |= self.waited * 10 > window * 9;
        }
        if window >= WINDOW {
            self.window_start = now;
            self.waited = Duration::ZERO;
        }
        self.is_stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks every 10 ms; what each look sees is `see` of its number.
    fn check(name: &str, looks: u32, see: fn(u32) -> (Option<u64>, bool), expected: bool) {
        let start = Instant::now();
        let mut stall = Stall::new(start);
        let mut is_stalled = false;
        for number in 0..looks {
            let (waits_ms, in_trouble) = see(number);
            let now = start + Duration::from_millis(10) * number;
            is_stalled = stall.look(now, waits_ms.map(Duration::from_millis), in_trouble);
        }
        assert_eq!(is_stalled, expected, "{name}");
    }

    #[test]
    fn a_guest_that_waits_most_of_the_time_waits() {
        check("nobody waits", 500, |_| (None, true), false);
        check(
            "one waits, but pages leave",
            500,
            |_| (Some(400), false),
            false,
        );
        check("one waits for long", 2, |_| (Some(400), true), true);
        check(
            "many wait shortly, one after another",
            150,
            |_| (Some(8), true),
            true,
        );
        check("not yet", 50, |_| (Some(8), true), false);
        check(
            "one in four looks sees one wait",
            500,
            |n| (n.is_multiple_of(4).then_some(8), true),
            false,
        );
        check(
            "there is room again",
            151,
            |n| (Some(8).filter(|_| n < 150), n < 150),
            false,
        );
        check(
            "it is still waited for what has left",
            151,
            |n| (Some(8), n < 150),
            true,
        );
        check(
            "who was stopped waits for room",
            400,
            |n| (Some(8).filter(|_| n < 150), true),
            true,
        );
    }
}
