//! What virtio devices counted, as named numbers for reports and for the control socket.

use std::sync::Arc;

use api::{Counter, DeviceStatus};
use devices::virtio::DeviceMetrics;
use devices::virtio::balloon::BalloonReading;

/// One device's counters, which last over all lives.
#[derive(Clone)]
pub(crate) struct DeviceCounters {
    /// What the device is called.
    pub(crate) name: String,
    /// What it counts.
    pub(crate) metrics: Arc<DeviceMetrics>,
}

fn counter(name: &str, value: u64) -> Counter {
    Counter {
        name: name.to_owned(),
        value,
    }
}

/// A reading of every device; the balloon's has what is known of the balloon.
pub(crate) fn read(devices: &[DeviceCounters], balloon: &BalloonReading) -> Vec<DeviceStatus> {
    let status = |device: &DeviceCounters| {
        let mut counters = counters(&device.metrics);
        if device.name == "balloon" {
            counters.extend(balloon_counters(balloon));
        }
        DeviceStatus {
            name: device.name.clone(),
            counters,
        }
    };
    devices.iter().map(status).collect()
}

fn counters(metrics: &DeviceMetrics) -> Vec<Counter> {
    let reading = metrics.read();
    let mut counters = vec![
        counter("requests", reading.requests),
        counter("bytes_to_guest", reading.bytes_to_guest),
        counter("bytes_from_guest", reading.bytes_from_guest),
        counter("errors", reading.errors),
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
