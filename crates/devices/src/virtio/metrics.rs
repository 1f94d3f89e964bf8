//! What a virtio device counts, the host's own books about a guest's I/O, and what bounds it.
//!
//! Counters are shared by front, workers and whoever reads them; each is exact by itself, a reading of several is not
//! one moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::rate::RateLimiter;

/// Bounds of the histogram: bucket `n` counts what took less than 2^n microseconds and not less than half of that;
/// the last one takes the rest (over eight seconds).
const BUCKETS: usize = 24;

/// How long requests took, in powers of two of a microsecond.
#[derive(Debug, Default)]
pub struct LatencyHistogram {
    buckets: [AtomicU64; BUCKETS],
    total_ns: AtomicU64,
}

impl LatencyHistogram {
    /// Counts one request.
    pub fn add(&self, took: Duration) {
        let micros = took.as_micros() as u64;
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.total_ns
            .fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Each bucket that counted something: requests that took less than this many microseconds (and not less than
    /// half of it), and how many.
    pub fn read(&self) -> Vec<(u64, u64)> {
        let counts = self
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed));
        counts
            .enumerate()
            .filter(|(_, count)| *count > 0)
            .map(|(n, count)| (1 << n, count))
            .collect()
    }

    /// Time of all requests together.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.total_ns.load(Ordering::Relaxed))
    }
}

/// Counters of one device.
#[derive(Debug, Default)]
pub struct DeviceMetrics {
    /// Requests finished, well or badly; for a network, packets.
    pub requests: AtomicU64,
    /// Bytes that the device gave to the guest.
    pub bytes_to_guest: AtomicU64,
    /// Bytes that the guest gave to the device.
    pub bytes_from_guest: AtomicU64,
    /// Requests that failed on the host's side, or that the device refused.
    pub errors: AtomicU64,
    /// Of a network: packets that are not on the guest's list of places, refused on their way.
    pub refused: AtomicU64,
    /// What the driver did against the specification.
    pub violations: AtomicU64,
    /// How often the driver notified.
    pub notifications: AtomicU64,
    /// Interrupts raised.
    pub interrupts: AtomicU64,
    /// From taking a request to giving it back.
    pub latency: LatencyHistogram,
    /// How much it may do, set before the guest runs.
    rates: OnceLock<DeviceRates>,
}

/// How much a device may do each way; for a disk both are the same.
#[derive(Clone, Debug)]
pub struct DeviceRates {
    /// What the guest gives to the device.
    pub from_guest: Arc<RateLimiter>,
    /// What the device gives to the guest.
    pub to_guest: Arc<RateLimiter>,
}

/// A reading of [`DeviceMetrics`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "named after what is read")]
pub struct MetricsReading {
    pub requests: u64,
    pub bytes_to_guest: u64,
    pub bytes_from_guest: u64,
    pub errors: u64,
    pub refused: u64,
    pub violations: u64,
    pub notifications: u64,
    pub interrupts: u64,
    /// See [`LatencyHistogram::read`].
    pub latency: Vec<(u64, u64)>,
    /// Time of all requests together.
    pub latency_sum: Duration,
}

impl DeviceMetrics {
    /// It may do no more than this; the first word counts.
    pub fn bound_by(&self, rates: DeviceRates) {
        let _ = self.rates.set(rates);
    }

    /// Until when what the guest gives has to wait, if it has to.
    pub(crate) fn held_from_guest(&self) -> Option<Instant> {
        self.rates.get()?.from_guest.held()
    }

    /// Until when what the guest gets has to wait, if it has to.
    pub(crate) fn held_to_guest(&self) -> Option<Instant> {
        self.rates.get()?.to_guest.held()
    }

    /// The guest gave something of so many bytes.
    pub(crate) fn pay_from_guest(&self, bytes: u64) {
        if let Some(rates) = self.rates.get() {
            rates.from_guest.pay(bytes);
        }
    }

    /// The guest got something of so many bytes.
    pub(crate) fn pay_to_guest(&self, bytes: u64) {
        if let Some(rates) = self.rates.get() {
            rates.to_guest.pay(bytes);
        }
    }

    /// So many more packets were refused on their way.
    pub fn count_refused(&self, packets: u64) {
        DeviceMetrics::add(&self.refused, packets);
    }

    /// Reads all of them.
    pub fn read(&self) -> MetricsReading {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Taken apart without `..`, so that a counter that nothing reads does not compile.
        let DeviceMetrics {
            requests,
            bytes_to_guest,
            bytes_from_guest,
            errors,
            refused,
            violations,
            notifications,
            interrupts,
            latency,
            rates: _,
        } = self;
        MetricsReading {
            requests: of(requests),
            bytes_to_guest: of(bytes_to_guest),
            bytes_from_guest: of(bytes_from_guest),
            errors: of(errors),
            refused: of(refused),
            violations: of(violations),
            notifications: of(notifications),
            interrupts: of(interrupts),
            latency: latency.read(),
            latency_sum: latency.total(),
        }
    }

    /// Adds to a counter of this device.
    pub fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_by_how_long_it_took() {
        let check = |micros, expected: u64| {
            let histogram = LatencyHistogram::default();
            histogram.add(Duration::from_micros(micros));
            assert_eq!(histogram.read(), [(expected, 1)], "{micros}");
        };
        check(0, 1);
        check(1, 2);
        check(3, 4);
        check(4, 8);
        check(1000, 1024);
        check(3_600_000_000, 1 << 23);
    }
}
