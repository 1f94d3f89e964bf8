//! How much CPU time a VM may use.
//!
//! On both engines, and without cgroups, which an ordinary user often has none of: the attendant looks every few milliseconds at
//! what the process has used, by the kernel's own clock: vCPUs, and whatever threads of devices a guest keeps busy. When that is
//! more than it may, it calls the vCPUs out of the guest, and they wait here until time has paid for it. What is used too much
//! until they are out is paid for too, so over any longer time the share is exact. What was not used is kept for [`KEPT`] only: a
//! guest that was idle does not catch up.
//!
//! For the guest it is as if the host were busy: its clocks go on, its interrupts wait.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use host::lock::{Condition, Lock};

/// How often the attendant looks.
const LOOK: Duration = Duration::from_millis(5);
/// For how long what was not used is kept.
const KEPT: Duration = Duration::from_millis(20);
/// How often a vCPU that waits looks whether that still makes sense.
const PATIENCE: Duration = Duration::from_millis(20);

/// What was used and what may be.
#[derive(Debug)]
struct Account {
    /// When it was last looked at, and what had been used by then.
    at: Instant,
    used: Duration,
    /// Nanoseconds that may be used; negative while time has to pay.
    balance_ns: i128,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    /// Hundredths of a core; 0 is no limit.
    percent: AtomicU32,
    account: Lock<Option<Account>>,
    is_held: AtomicBool,
    waiting: Lock<()>,
    changed: Condition,
}

impl Quota {
    /// So many hundredths of a core from now on.
    pub(crate) fn set(&self, percent: Option<u32>) {
        let mut account = self.account.lock();
        self.percent.store(percent.unwrap_or(0), Ordering::Release);
        *account = None;
        self.release();
    }

    /// When the attendant has to look, if there is a limit.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        let is_limited = self.percent.load(Ordering::Acquire) > 0;
        is_limited.then(|| Instant::now() + LOOK)
    }

    /// Looks at what has been used so far, which `used` says, and has the vCPUs wait or go on; `call` calls them out of the
    /// guest.
    pub(crate) fn look(&self, used: impl FnOnce() -> Duration, call: impl FnOnce()) {
        if self.percent.load(Ordering::Acquire) == 0 {
            return;
        }
        self.look_at(Instant::now(), used(), call);
    }

    fn look_at(&self, now: Instant, used: Duration, call: impl FnOnce()) {
        let mut account = self.account.lock();
        let percent = i128::from(self.percent.load(Ordering::Acquire));
        let Some(known) = &mut *account else {
            let balance_ns = 0;
            *account = Some(Account {
                at: now,
                used,
                balance_ns,
            });
            return;
        };
        let passed = now.saturating_duration_since(known.at);
        let spent = used.saturating_sub(known.used);
        let of = |time: Duration| time.as_nanos() as i128 * percent / 100;
        let most = of(KEPT);
        known.balance_ns = (known.balance_ns + of(passed)).min(most) - spent.as_nanos() as i128;
        known.at = now;
        known.used = used;
        // Under the lock: who takes the limit away meanwhile lets them go after this, not before.
        if known.balance_ns >= 0 {
            self.release();
        } else if !self.is_held.swap(true, Ordering::AcqRel) {
            call();
        }
    }

    fn release(&self) {
        if self.is_held.swap(false, Ordering::AcqRel) {
            // Orders this after a look that comes before a wait.
            drop(self.waiting.lock());
            self.changed.notify_all();
        }
    }

    /// Whether vCPUs have to wait.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Acquire)
    }

    /// Waits while they have to and `goes_on`.
    pub(crate) fn wait(&self, mut goes_on: impl FnMut() -> bool) {
        let mut waiting = self.waiting.lock();
        while self.is_held() && goes_on() {
            waiting = self.changed.wait_timeout(waiting, PATIENCE).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A guest of so many vCPUs that uses all it gets, each `lag` late; the share of a core that it got in ten seconds.
    fn share(percent: u32, vcpus: u32, lag: Duration) -> f64 {
        let quota = Quota::default();
        quota.set(Some(percent));
        let start = Instant::now();
        let mut now = start;
        let mut used = Duration::ZERO;
        quota.look_at(now, used, || ());
        while now < start + Duration::from_secs(10) {
            let was_held = quota.is_held();
            now += LOOK;
            if !was_held {
                used += LOOK * vcpus;
            }
            let called = Cell::new(false);
            quota.look_at(now, used, || called.set(true));
            if called.get() {
                used += lag * vcpus;
            }
        }
        used.as_secs_f64() / (now - start).as_secs_f64()
    }

    #[test]
    fn a_guest_gets_its_share_and_no_more() {
        let check = |percent: u32, vcpus, lag_us, expected: f64| {
            let got = share(percent, vcpus, Duration::from_micros(lag_us));
            assert!(
                (got / expected - 1.0).abs() < 0.02,
                "{percent} % of {vcpus}: {got}"
            );
        };
        check(50, 1, 0, 0.5);
        check(50, 1, 900, 0.5);
        check(10, 4, 900, 0.1);
        check(150, 2, 300, 1.5);
        check(1, 1, 100, 0.01);
        // More than it can use.
        check(300, 2, 0, 2.0);
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let quota = Quota::default();
        assert_eq!(quota.next_look(), None);
        quota.set(Some(1));
        let start = Instant::now();
        quota.look_at(start, Duration::ZERO, || ());
        quota.look_at(start + LOOK, LOOK, || ());
        assert!(quota.is_held());
        quota.set(None);
        assert!(!quota.is_held());
        quota.look(|| unreachable!("nothing is counted"), || ());
        quota.wait(|| unreachable!("nobody waits"));
    }
}
