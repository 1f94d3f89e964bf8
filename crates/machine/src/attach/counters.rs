//! What virtio devices counted, as named numbers for reports and for the control socket.

use std::sync::Arc;

use api::{Counter, DeviceStatus, Metrics};
use devices::virtio::balloon::{BalloonControl, BalloonReading};
use devices::virtio::{DeviceMetrics, VirtioKind};

use crate::report::metrics;

/// One device's counters, which last over all lives.
#[derive(Clone)]
pub(crate) struct DeviceCounters {
    /// What the device is called.
    pub(crate) name: String,
    pub(crate) kind: VirtioKind,
    /// What every device counts.
    pub(crate) metrics: Arc<DeviceMetrics>,
    /// What is known of the balloon, if it is one.
    pub(crate) balloon: Option<BalloonControl>,
}

fn counter(name: &str, value: u64) -> Counter {
    Counter {
        name: name.to_owned(),
        value,
    }
}

impl DeviceCounters {
    /// A reading.
    pub(crate) fn read(&self) -> DeviceStatus {
        let mut counters = counters(&self.metrics);
        if let Some(balloon) = &self.balloon {
            counters.extend(balloon_counters(&balloon.read()));
        }
        DeviceStatus {
            name: self.name.clone(),
            counters,
        }
    }

    /// A reading for the list of numbers.
    pub(crate) fn add_to(&self, metrics: &mut Metrics) {
        let reading = self.metrics.read();
        metrics::device(metrics, &self.name, self.kind.as_str(), &reading);
        if let Some(balloon) = &self.balloon {
            metrics::balloon(metrics, &balloon.read());
        }
    }
}

fn counters(metrics: &DeviceMetrics) -> Vec<Counter> {
    let reading = metrics.read();
    let mut counters = vec![
        counter("requests", reading.requests),
        counter("bytes_to_guest", reading.bytes_to_guest),
        counter("bytes_from_guest", reading.bytes_from_guest),
        counter("errors", reading.errors),
        counter("refused", reading.refused),
        counter("violations", reading.violations),
        counter("notifications", reading.notifications),
        counter("interrupts", reading.interrupts),
    ];
    let latency = reading.latency.iter();
    counters.extend(
        latency.map(|(micros, count)| counter(&format!("requests_under_{micros}_us"), *count)),
    );
    counters
}

fn balloon_counters(balloon: &BalloonReading) -> Vec<Counter> {
    let mut counters = vec![
        counter("target_bytes", balloon.target_bytes),
        counter("balloon_bytes", balloon.actual_bytes),
        counter("inflated_bytes", balloon.inflated_bytes),
        counter("reported_bytes", balloon.reported_bytes),
    ];
    // What a guest says of itself is a claim, and is marked as one.
    let claims = balloon.statistics.iter();
    counters.extend(
        claims.map(|(name, value)| {
            counter(&format!("guest_says_{}", name.replace(' ', "_")), *value)
        }),
    );
    counters
}
