//! What the host wants of a balloon, and what it knows of it. Shared by front, worker and whoever asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use host::lock::Lock;

use crate::virtio::interrupt::Interrupt;

/// Bytes of a page as the balloon counts (5.5.6).
pub(super) const PAGE_BYTES: u64 = 4096;
/// Names of the statistics, by tag (5.5.6.3).
const STATISTICS: [&str; 10] = [
    "swapped in",
    "swapped out",
    "major faults",
    "minor faults",
    "free",
    "total",
    "available",
    "disk caches",
    "huge pages allocated",
    "huge page allocations failed",
];

/// A handle to act on a balloon and to read it. Cheap to clone; outlives resets.
#[derive(Clone, Debug, Default)]
pub struct BalloonControl(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    target_pages: AtomicU32,
    actual_pages: AtomicU32,
    /// Bytes given back to the host so far, by inflating and by reporting.
    inflated_bytes: AtomicU64,
    reported_bytes: AtomicU64,
    /// The guest's own account, by tag; `None` for what it did not say.
    statistics: Lock<Statistics>,
    /// Tells the driver of a new target, while there is one.
    changed: Lock<Option<Interrupt>>,
}

#[derive(Debug, Default)]
struct Statistics {
    values: [Option<u64>; STATISTICS.len()],
    /// When the guest said something last.
    at: Option<Instant>,
}

/// What is known of a balloon.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BalloonReading {
    /// What the host wants in the balloon.
    pub target_bytes: u64,
    /// What the guest says is in it.
    pub actual_bytes: u64,
    /// What inflating gave back to the host so far, counted again each time.
    pub inflated_bytes: u64,
    /// What reports of free pages gave back so far, likewise.
    pub reported_bytes: u64,
    /// What the guest says about its memory: names of the specification's, and values. Claims, not measurements.
    pub statistics: Vec<(&'static str, u64)>,
    /// How long ago it said so.
    pub statistics_age: Option<Duration>,
}

impl BalloonControl {
    /// Asks the guest for so much of its memory, rounded down to pages. False, and nothing is asked, if no driver is
    /// there to hear it.
    pub fn set_target(&self, bytes: u64) -> bool {
        let changed = self.0.changed.lock();
        let Some(changed) = &*changed else {
            return false;
        };
        let pages = u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX);
        self.0.target_pages.store(pages, Ordering::Release);
        changed.raise();
        true
    }

    /// What is known.
    pub fn read(&self) -> BalloonReading {
        let statistics = self.0.statistics.lock();
        let named = STATISTICS.iter().zip(&statistics.values);
        BalloonReading {
            target_bytes: u64::from(self.0.target_pages.load(Ordering::Acquire)) * PAGE_BYTES,
            actual_bytes: u64::from(self.0.actual_pages.load(Ordering::Acquire)) * PAGE_BYTES,
            inflated_bytes: self.0.inflated_bytes.load(Ordering::Relaxed),
            reported_bytes: self.0.reported_bytes.load(Ordering::Relaxed),
            statistics: named
                .filter_map(|(name, value)| Some((*name, (*value)?)))
                .collect(),
            statistics_age: statistics.at.map(|at| at.elapsed()),
        }
    }

    /// The configuration space (5.5.4).
    pub(super) fn config(&self) -> [u8; 8] {
        let target = self.0.target_pages.load(Ordering::Acquire);
        let actual = self.0.actual_pages.load(Ordering::Acquire);
        (u64::from(actual) << 32 | u64::from(target)).to_le_bytes()
    }

    /// What the host wants and what the driver says that it gave.
    pub(super) fn pages(&self) -> (u32, u32) {
        let target = self.0.target_pages.load(Ordering::Acquire);
        (target, self.0.actual_pages.load(Ordering::Acquire))
    }

    /// Puts both back, without telling the driver.
    pub(super) fn set_pages(&self, target: u32, actual: u32) {
        self.0.target_pages.store(target, Ordering::Release);
        self.set_actual(actual);
    }

    pub(super) fn set_actual(&self, pages: u32) {
        self.0.actual_pages.store(pages, Ordering::Release);
    }

    /// A driver is there, and hears of changes this way; or none is any more, and the balloon is empty.
    pub(super) fn set_active(&self, changed: Option<Interrupt>) {
        if changed.is_none() {
            self.set_actual(0);
            *self.0.statistics.lock() = Default::default();
        }
        *self.0.changed.lock() = changed;
    }

    pub(super) fn set_statistic(&self, tag: u16, value: u64) {
        let mut statistics = self.0.statistics.lock();
        if let Some(place) = statistics.values.get_mut(usize::from(tag)) {
            *place = Some(value);
            statistics.at = Some(Instant::now());
        }
    }

    pub(super) fn count_inflated(&self, bytes: u64) {
        self.0.inflated_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_reported(&self, bytes: u64) {
        self.0.reported_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
