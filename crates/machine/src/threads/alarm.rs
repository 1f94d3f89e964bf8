//! When the attendant has to wake: at the board's next deadline, when the time is up, or when somebody calls.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use devices::Nanos;
use host::lock::{Condition, Lock};
use vcpu::Kick;

use crate::threads::time::GuestTime;

/// No deadline.
const NEVER: u64 = u64::MAX;
/// A board that wants to be visited in the past is visited again after this.
const SHORTEST: Duration = Duration::from_micros(20);

/// The attendant's alarm clock.
pub(crate) struct Alarm {
    /// Board time of the next visit. Changed under the board's lock only, so comparing before storing is exact.
    deadline: AtomicU64,
    /// Somebody called.
    called: Lock<bool>,
    changed: Condition,
}

impl Default for Alarm {
    fn default() -> Alarm {
        Alarm {
            deadline: AtomicU64::new(NEVER),
            called: Lock::new(false),
            changed: Condition::new(),
        }
    }
}

impl Alarm {
    /// Moves the deadline. An earlier one wakes the attendant; a later one lets it wake in vain once, which is
    /// cheaper than waking it each time a guest moves its timer away.
    pub(crate) fn set(&self, deadline: Option<Nanos>) {
        let new = deadline.map_or(NEVER, |at| at.0);
        let old = self.deadline.load(Ordering::Relaxed);
        if new == old {
            return;
        }
        self.deadline.store(new, Ordering::Release);
        if new < old {
            // Taking the lock orders this store before the attendant's look or after its wait has begun.
            drop(self.called.lock());
            self.changed.notify_one();
        }
    }

    /// Waits for `end` or for a call, whatever the board's deadline is: its time stands still.
    pub(crate) fn wait_for_call(&self, end: Option<Instant>) {
        let called = self.called.lock();
        let wait = |called: &mut bool| !*called;
        let mut called = match end {
            Some(end) => {
                let left = end.saturating_duration_since(Instant::now());
                self.changed.wait_timeout_while(called, left, wait)
            }
            None => self.changed.wait_while(called, wait),
        };
        *called = false;
    }

    /// Waits for the deadline, for `end`, or for a call.
    pub(crate) fn wait(&self, time: &GuestTime, end: Option<Instant>) {
        let mut called = self.called.lock();
        let mut patience = SHORTEST;
        while !*called {
            let deadline = self.deadline.load(Ordering::Acquire);
            let to_deadline =
                (deadline != NEVER).then(|| time.until(Nanos(deadline)).max(patience));
            let to_end = end.map(|end| end.saturating_duration_since(Instant::now()));
            if to_end.is_some_and(|left| left.is_zero()) {
                break;
            }
            let wait = to_deadline.into_iter().chain(to_end).min();
            let timed_out;
            (called, timed_out) = match wait {
                Some(wait) => self.changed.wait_timeout(called, wait),
                None => (self.changed.wait(called), false),
            };
            if timed_out {
                break;
            }
            patience = Duration::ZERO;
        }
        *called = false;
    }
}

impl Kick for Alarm {
    fn kick(&self) {
        *self.called.lock() = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_earlier_deadline_wakes_who_waits_for_a_later_one() {
        let alarm = Arc::new(Alarm::default());
        let time = GuestTime::start();
        let waiter = std::thread::spawn({
            let alarm = Arc::clone(&alarm);
            let time = time.clone();
            move || {
                alarm.wait(&time, Some(Instant::now() + Duration::from_secs(60)));
                time.now()
            }
        });
        std::thread::sleep(Duration::from_millis(20));
        let soon = time.now().after(5_000_000);
        alarm.set(Some(time.now().after(50_000_000_000)));
        alarm.set(Some(soon));
        let woke = waiter.join().unwrap();
        assert!(
            woke >= soon && woke.since(soon) < 10_000_000_000,
            "{woke:?} for {soon:?}"
        );
    }

    #[test]
    fn a_call_before_the_wait_is_not_lost() {
        let alarm = Alarm::default();
        let time = GuestTime::start();
        alarm.kick();
        alarm.wait(&time, None);
        alarm.wait(&time, Some(Instant::now() + Duration::from_millis(1)));
    }
}
