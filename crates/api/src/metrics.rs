//! The list of numbers: every number that Mother counts or measures of a VM, once, with its name, unit and meaning.
//!
//! Each part of a VM that counts (board, buses, interrupt controllers, serial port, virtio devices, pager, engine,
//! vCPU threads) adds its numbers to one list of [`Metric`]s, and whatever shows numbers reads that list. Names keep to
//! Prometheus' conventions: the prefix `mother_`, base units (bytes, seconds) as a suffix, `_total` behind what only
//! grows, and what a number is about (which device, which bus) in labels.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a number behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetricKind {
    /// It only grows while the VM lives, over all lives of its guest.
    Counter,
    /// It is what it is now.
    Gauge,
}

/// What one number is a number of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetricUnit {
    /// Events or things.
    Count,
    /// An amount of memory or data.
    Bytes,
    /// A time.
    Seconds,
}

/// A number, or the same number of several things.
#[derive(Clone, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct Metric {
    /// Its name, such as `mother_device_requests_total`.
    pub name: String,
    /// How it behaves.
    pub kind: MetricKind,
    /// What it is a number of.
    pub unit: MetricUnit,
    /// What it means, as a sentence.
    pub help: String,
    /// The number, or one for each thing that has it.
    pub samples: Vec<Sample>,
}

/// One number of a [`Metric`].
#[derive(Clone, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct Sample {
    /// Which thing it is of, such as `device: disk0`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The number, exact up to 2^53.
    pub value: f64,
}

/// A list of metrics in the making.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Metrics(Vec<Metric>);

impl Metrics {
    /// Adds a number under `mother_NAME`; the same name always comes with the same kind, unit and meaning.
    pub fn add(
        &mut self,
        name: &str,
        (kind, unit): (MetricKind, MetricUnit),
        help: &str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let sample = Sample {
            labels: labels.collect(),
            value,
        };
        let name = format!("mother_{name}");
        match self.0.iter_mut().find(|metric| metric.name == name) {
            Some(metric) => metric.samples.push(sample),
            None => self.0.push(Metric {
                name,
                kind,
                unit,
                help: help.to_owned(),
                samples: vec![sample],
            }),
        }
    }

    /// Adds how many of something there were.
    pub fn count(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        let kind = (MetricKind::Counter, MetricUnit::Count);
        self.add(name, kind, help, labels, value as f64);
    }

    /// Adds how many bytes of something there were.
    pub fn count_bytes(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        let kind = (MetricKind::Counter, MetricUnit::Bytes);
        self.add(name, kind, help, labels, value as f64);
    }

    /// Adds how many seconds something took so far.
    pub fn count_seconds(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let kind = (MetricKind::Counter, MetricUnit::Seconds);
        self.add(name, kind, help, labels, value);
    }

    /// Adds how many bytes of something there are.
    pub fn bytes(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        let kind = (MetricKind::Gauge, MetricUnit::Bytes);
        self.add(name, kind, help, labels, value as f64);
    }

    /// Adds the numbers of another part, or of a life that followed: counters of the same thing add up, of other
    /// numbers the later one counts.
    pub fn merge(&mut self, more: Metrics) {
        for metric in more.0 {
            let Some(known) = self.0.iter_mut().find(|known| known.name == metric.name) else {
                self.0.push(metric);
                continue;
            };
            for sample in metric.samples {
                let same = |known: &&mut Sample| known.labels == sample.labels;
                match (known.samples.iter_mut().find(same), metric.kind) {
                    (Some(known), MetricKind::Counter) => known.value += sample.value,
                    (Some(known), MetricKind::Gauge) => *known = sample,
                    (None, _) => known.samples.push(sample),
                }
            }
        }
    }

    /// The list.
    pub fn into_vec(self) -> Vec<Metric> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(counted: u64, now: u64, device: &str) -> Metrics {
        let mut metrics = Metrics::default();
        metrics.count("things_total", "Things.", &[("device", device)], counted);
        metrics.bytes("held_bytes", "Held.", &[], now);
        metrics
    }

    #[test]
    fn lives_add_up_and_what_is_now_is_the_last() {
        let mut metrics = list(3, 10, "disk0");
        metrics.merge(list(4, 20, "disk0"));
        metrics.merge(list(5, 30, "disk1"));
        let shown: Vec<(String, Vec<f64>)> = metrics
            .into_vec()
            .into_iter()
            .map(|metric| {
                let values = metric.samples.iter().map(|sample| sample.value);
                (metric.name, values.collect())
            })
            .collect();
        let expected = [
            ("mother_things_total".to_owned(), vec![7.0, 5.0]),
            ("mother_held_bytes".to_owned(), vec![30.0]),
        ];
        assert_eq!(shown, expected);
    }
}
