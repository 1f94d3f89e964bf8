//! How much a device may do per second: a token bucket that may be overdrawn.
//!
//! A worker asks before it takes the next request, and pays for it afterwards, when it knows what it cost. So nothing has to be
//! known beforehand, a request of any size is served, and what is too much is waited for before the next one: over any longer
//! time the rate is exact. What was not used is kept for a twentieth of a second, so a device that was idle starts at once and
//! does not catch up. One bucket may stand for several devices, each with workers of its own.
//!
//! Whoever waits looks again every tenth of a second: the rate may be another by then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use host::lock::Lock;

/// For how long what was not used is kept.
const KEPT: Duration = Duration::from_millis(50);
/// Longest time until somebody who waits looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

const NANOS: i128 = 1_000_000_000;

/// One kind of amount: bytes, or requests.
#[derive(Debug)]
struct Bucket {
    per_second: u64,
    /// In billionths; negative if it is overdrawn.
    balance: i128,
}

impl Bucket {
    fn fill(&mut self, since: Duration) {
        let most = i128::from(self.per_second) * KEPT.as_nanos() as i128;
        let more = i128::from(self.per_second) * since.as_nanos() as i128;
        self.balance = (self.balance + more).min(most);
    }

    /// How long until nothing is owed.
    fn wait(&self) -> Duration {
        let owed = (-self.balance).max(0).unsigned_abs();
        let nanos = owed.div_ceil(u128::from(self.per_second));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[derive(Debug)]
struct Buckets {
    bytes: Option<Bucket>,
    requests: Option<Bucket>,
    filled_at: Instant,
}

impl Buckets {
    fn each(&mut self) -> impl Iterator<Item = &mut Bucket> {
        self.bytes.iter_mut().chain(&mut self.requests)
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.filled_at);
        self.filled_at = now;
        self.each().for_each(|bucket| bucket.fill(since));
    }
}

/// See the module.
#[derive(Debug)]
pub struct RateLimiter {
    is_limited: AtomicBool,
    buckets: Lock<Buckets>,
}

impl Default for RateLimiter {
    fn default() -> RateLimiter {
        RateLimiter {
            is_limited: AtomicBool::new(false),
            buckets: Lock::new(Buckets {
                bytes: None,
                requests: None,
                filled_at: Instant::now(),
            }),
        }
    }
}

/// A change of one rate: it stays, or is this from now on, or is none.
pub type NewRate = Option<Option<u64>>;

impl RateLimiter {
    /// Other rates from now on, at least 1; what is owed at a rate that changes is forgotten.
    pub fn set(&self, bytes: NewRate, requests: NewRate) {
        let mut buckets = self.buckets.lock();
        buckets.fill(Instant::now());
        let bucket = |per_second: u64| Bucket {
            per_second: per_second.max(1),
            balance: 0,
        };
        if let Some(bytes) = bytes {
            buckets.bytes = bytes.map(bucket);
        }
        if let Some(requests) = requests {
            buckets.requests = requests.map(bucket);
        }
        let is_limited = buckets.each().next().is_some();
        self.is_limited.store(is_limited, Ordering::Release);
    }

    /// Whether anything is limited.
    pub fn is_limited(&self) -> bool {
        self.is_limited.load(Ordering::Acquire)
    }

    /// When to ask again, if the next request has to wait at `now`.
    pub fn held_until(&self, now: Instant) -> Option<Instant> {
        if !self.is_limited() {
            return None;
        }
        let mut buckets = self.buckets.lock();
        buckets.fill(now);
        let wait = buckets.each().map(|bucket| bucket.wait()).max()?;
        (!wait.is_zero()).then(|| now + wait.min(LOOK_AGAIN))
    }

    /// The same now; reads no clock if nothing is limited.
    pub fn held(&self) -> Option<Instant> {
        if self.is_limited() {
            self.held_until(Instant::now())
        } else {
            None
        }
    }

    /// A request was served that moved so many bytes.
    pub fn pay(&self, bytes: u64) {
        if !self.is_limited() {
            return;
        }
        let mut buckets = self.buckets.lock();
        if let Some(bucket) = &mut buckets.bytes {
            bucket.balance -= i128::from(bytes) * NANOS;
        }
        if let Some(bucket) = &mut buckets.requests {
            bucket.balance -= NANOS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests of so many bytes each, as fast as they are let through; how many within ten seconds.
    fn served(bytes: NewRate, requests: NewRate, size: u64) -> u64 {
        let limiter = RateLimiter::default();
        limiter.set(bytes, requests);
        let start = Instant::now();
        let mut now = start;
        let mut count = 0;
        while now < start + Duration::from_secs(10) {
            match limiter.held_until(now) {
                Some(until) => now = until,
                None => {
                    limiter.pay(size);
                    count += 1;
                    now += Duration::from_micros(10);
                }
            }
        }
        count
    }

    #[test]
    fn a_rate_is_kept_whatever_the_size_of_requests() {
        let check = |bytes, requests, size, expected: u64| {
            let count = served(bytes, requests, size);
            let near = expected / 100 + 1;
            assert!(count.abs_diff(expected) <= near, "{count}, not {expected}");
        };
        // What was saved up before is a twentieth of a second's.
        check(Some(Some(1 << 20)), None, 4096, 2560);
        check(Some(Some(1 << 20)), None, 512, 20_480);
        check(Some(Some(1000)), None, 5000, 2);
        check(None, Some(Some(100)), 1 << 20, 1000);
        check(Some(Some(1 << 20)), Some(Some(10)), 512, 100);
        // As fast as they are made.
        check(Some(None), Some(None), 512, 1_000_000);
    }

    #[test]
    fn what_is_owed_is_forgotten_when_the_rate_changes() {
        let limiter = RateLimiter::default();
        limiter.set(Some(Some(1)), None);
        limiter.pay(1_000_000);
        let now = Instant::now();
        let until = limiter.held_until(now).unwrap();
        assert!(until <= now + LOOK_AGAIN, "whoever waits looks again");
        limiter.set(Some(None), None);
        assert_eq!(limiter.held(), None);
        limiter.set(Some(Some(1000)), None);
        assert_eq!(limiter.held(), None);
    }
}
