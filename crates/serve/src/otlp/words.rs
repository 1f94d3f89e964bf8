//! The shapes of OTLP/JSON: the JSON mapping of `opentelemetry/proto/{metrics,logs}/v1` with the exceptions that the
//! protocol's specification makes (keys in lowerCamelCase, enumerations as numbers, 64-bit numbers as texts).
//!
//! Numbers keep the names that `/metrics` gives them, so a query for one works on what came through a collector, too.

use std::collections::BTreeMap;

use api::{MetricKind, MetricUnit, Sample};
use serde::Serialize;
use serde_json::Value;

use crate::metrics::Families;
use crate::options::Options;
use crate::words::{Event, Severity, VmView};

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`.
const CUMULATIVE: u8 = 2;
/// Severities of the data model of logs: INFO, WARN, ERROR.
const INFO: (u8, &str) = (9, "INFO");
const WARN: (u8, &str) = (13, "WARN");
const ERROR: (u8, &str) = (17, "ERROR");

/// Who speaks: this host.
#[derive(Clone, Serialize)]
pub(super) struct Resource {
    attributes: Vec<Attribute>,
}

#[derive(Clone, Serialize)]
struct Attribute {
    key: String,
    value: Text,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Text {
    string_value: String,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: String,
}

/// `ExportMetricsServiceRequest`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metrics {
    resource_metrics: [ResourceMetrics; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceMetrics {
    resource: Resource,
    scope_metrics: [ScopeMetrics; 1],
}

#[derive(Serialize)]
struct ScopeMetrics {
    scope: Scope,
    metrics: Vec<OneMetric>,
}

#[derive(Serialize)]
struct OneMetric {
    name: String,
    description: String,
    unit: &'static str,
    #[serde(flatten)]
    data: Data,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Data {
    #[serde(rename_all = "camelCase")]
    Sum {
        aggregation_temporality: u8,
        is_monotonic: bool,
        data_points: Vec<Point>,
    },
    #[serde(rename_all = "camelCase")]
    Gauge { data_points: Vec<Point> },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Point {
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time_unix_nano: Option<String>,
    time_unix_nano: String,
    as_double: f64,
    attributes: Vec<Attribute>,
}

/// `ExportLogsServiceRequest`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Logs {
    resource_logs: [ResourceLogs; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceLogs {
    resource: Resource,
    scope_logs: [ScopeLogs; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ScopeLogs {
    scope: Scope,
    log_records: Vec<Record>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    time_unix_nano: String,
    observed_time_unix_nano: String,
    severity_number: u8,
    severity_text: &'static str,
    event_name: String,
    body: Text,
    attributes: Vec<Attribute>,
}

impl Resource {
    /// This host and this program; what is said twice is as it was said last.
    pub(super) fn new(options: &Options, more: &[(String, String)]) -> Resource {
        let own = [
            ("service.name", "mother".to_owned()),
            ("service.version", options.version.clone()),
            ("host.name", crate::host_view::name()),
        ];
        let own = own.map(|(key, value)| (key.to_owned(), value));
        let all: BTreeMap<String, String> = own.into_iter().chain(more.iter().cloned()).collect();
        Resource {
            attributes: all.iter().map(|(key, value)| text(key, value)).collect(),
        }
    }
}

fn text(key: &str, value: &str) -> Attribute {
    Attribute {
        key: key.to_owned(),
        value: Text {
            string_value: value.to_owned(),
        },
    }
}

fn nanoseconds(seconds: f64) -> String {
    // A clock before 1970 is none.
    format!("{:.0}", seconds.max(0.0) * 1e9)
}

fn scope() -> Scope {
    Scope {
        name: "mother",
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// How far two readings of when a VM has begun may lie apart: its uptime is as old as the table that it stands in.
const SAME_SECONDS: f64 = 5.0;

/// When each VM that is there has begun, in seconds since 1970: from then on its counters count. What was said of a VM
/// before is said again for as long as it is true, since another beginning means that counters began anew.
pub(super) fn beginnings(
    said: &BTreeMap<String, f64>,
    vms: &[VmView],
    at: f64,
) -> BTreeMap<String, f64> {
    let alive = vms.iter().filter(|vm| vm.state.is_alive());
    let begun = alive.filter_map(|vm| {
        let begun = at - vm.uptime_seconds?;
        let before = said.get(&vm.name).copied();
        let same = before.filter(|before| (before - begun).abs() < SAME_SECONDS);
        Some((vm.name.clone(), same.unwrap_or(begun)))
    });
    begun.collect()
}

impl Metrics {
    /// All numbers at a time, in requests of at most `most` each.
    pub(super) fn requests(
        resource: &Resource,
        families: &Families,
        begun: &BTreeMap<String, f64>,
        at: f64,
        most: usize,
    ) -> Vec<Metrics> {
        let mut requests = Vec::new();
        let mut metrics = Vec::new();
        let mut held = 0;
        for (name, family) in &families.0 {
            for samples in family.samples.chunks(most) {
                if held + samples.len() > most {
                    requests.push(Metrics::request(resource, std::mem::take(&mut metrics)));
                    held = 0;
                }
                held += samples.len();
                let points = samples.iter().map(|sample| point(sample, begun, at));
                let data_points = points.collect();
                metrics.push(OneMetric {
                    name: name.clone(),
                    description: family.help.clone(),
                    // The Unified Code for Units of Measure's words.
                    unit: match family.unit {
                        MetricUnit::Bytes => "By",
                        MetricUnit::Seconds => "s",
                        MetricUnit::Count => "1",
                    },
                    data: match family.kind {
                        MetricKind::Counter => Data::Sum {
                            aggregation_temporality: CUMULATIVE,
                            is_monotonic: true,
                            data_points,
                        },
                        MetricKind::Gauge => Data::Gauge { data_points },
                    },
                });
            }
        }
        if !metrics.is_empty() {
            requests.push(Metrics::request(resource, metrics));
        }
        requests
    }

    fn request(resource: &Resource, metrics: Vec<OneMetric>) -> Metrics {
        Metrics {
            resource_metrics: [ResourceMetrics {
                resource: resource.clone(),
                scope_metrics: [ScopeMetrics {
                    scope: scope(),
                    metrics,
                }],
            }],
        }
    }
}

fn point(sample: &Sample, begun: &BTreeMap<String, f64>, at: f64) -> Point {
    let begun = sample.labels.get("vm").and_then(|vm| begun.get(vm));
    let labels = sample.labels.iter();
    Point {
        start_time_unix_nano: begun.map(|begun| nanoseconds(begun.min(at))),
        time_unix_nano: nanoseconds(at),
        as_double: sample.value,
        attributes: labels.map(|(key, value)| text(key, value)).collect(),
    }
}

impl Logs {
    /// These events.
    pub(super) fn request(resource: &Resource, events: &[Event]) -> Logs {
        Logs {
            resource_logs: [ResourceLogs {
                resource: resource.clone(),
                scope_logs: [ScopeLogs {
                    scope: scope(),
                    log_records: events.iter().map(record).collect(),
                }],
            }],
        }
    }
}

fn record(event: &Event) -> Record {
    let (severity_number, severity_text) = match event.severity {
        Severity::Info => INFO,
        Severity::Warning => WARN,
        Severity::Critical => ERROR,
    };
    let id = text("mother.event.id", &event.id.to_string());
    let vm = event.vm.as_ref().map(|vm| text("mother.vm", vm));
    Record {
        time_unix_nano: nanoseconds(event.at),
        observed_time_unix_nano: nanoseconds(event.at),
        severity_number,
        severity_text,
        event_name: format!("mother.{}", event.kind),
        body: Text {
            string_value: event.text.clone(),
        },
        attributes: [id].into_iter().chain(vm).collect(),
    }
}

/// What a collector did not take of what it took otherwise (`partialSuccess`).
pub(super) fn rejected(body: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let partial = answer.get("partialSuccess")?;
    let count = ["rejectedDataPoints", "rejectedLogRecords"]
        .iter()
        .find_map(|key| match partial.get(*key)? {
            Value::String(text) => text.parse::<u64>().ok(),
            other => other.as_u64(),
        });
    let why: String = partial["errorMessage"]
        .as_str()
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect();
    let count = count.unwrap_or(0);
    (count > 0 || !why.is_empty()).then(|| format!("{count} rejected: {}", why.escape_debug()))
}

#[cfg(test)]
mod tests {
    use api::Metric;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_counter_has_its_beginning_and_a_gauge_has_none() {
        let metric = |name: &str, kind| Metric {
            name: name.to_owned(),
            kind,
            unit: MetricUnit::Bytes,
            help: "Bytes.".to_owned(),
            samples: vec![Sample {
                labels: BTreeMap::new(),
                value: 1.5,
            }],
        };
        let mut families = Families::default();
        let counted = metric("a_bytes_total", MetricKind::Counter);
        families.take(
            &[counted, metric("b_bytes", MetricKind::Gauge)],
            &[("vm", "web")],
        );
        let resource = Resource {
            attributes: vec![text("service.name", "mother")],
        };
        let begun = [("web".to_owned(), 1.0)].into();
        let requests = Metrics::requests(&resource, &families, &begun, 2.0, 5000);
        assert_eq!(requests.len(), 1);
        let written = serde_json::to_value(&requests[0]).unwrap();
        let scope = &written["resourceMetrics"][0]["scopeMetrics"][0];
        let point = json!([{
            "startTimeUnixNano": "1000000000",
            "timeUnixNano": "2000000000",
            "asDouble": 1.5,
            "attributes": [{ "key": "vm", "value": { "stringValue": "web" } }],
        }]);
        let expected = json!([
            {
                "name": "a_bytes_total", "description": "Bytes.", "unit": "By",
                "sum": { "aggregationTemporality": 2, "isMonotonic": true, "dataPoints": point },
            },
            {
                "name": "b_bytes", "description": "Bytes.", "unit": "By",
                "gauge": { "dataPoints": point },
            },
        ]);
        assert_eq!(scope["metrics"], expected);
        // One number in each request.
        assert_eq!(
            Metrics::requests(&resource, &families, &begun, 2.0, 1).len(),
            2
        );
    }

    #[test]
    fn an_event_is_a_record_with_its_number() {
        let event = Event {
            id: 7,
            at: 1.5,
            vm: Some("web".to_owned()),
            kind: "started".to_owned(),
            severity: Severity::Warning,
            text: "it runs".to_owned(),
        };
        let resource = Resource { attributes: vec![] };
        let written = serde_json::to_value(Logs::request(&resource, &[event])).unwrap();
        let expected = json!([{
            "timeUnixNano": "1500000000",
            "observedTimeUnixNano": "1500000000",
            "severityNumber": 13,
            "severityText": "WARN",
            "eventName": "mother.started",
            "body": { "stringValue": "it runs" },
            "attributes": [
                { "key": "mother.event.id", "value": { "stringValue": "7" } },
                { "key": "mother.vm", "value": { "stringValue": "web" } },
            ],
        }]);
        let found = &written["resourceLogs"][0]["scopeLogs"][0]["logRecords"];
        assert_eq!(*found, expected);
    }

    #[test]
    fn what_a_collector_leaves_out_is_told() {
        let check = |body: &str, expected: Option<&str>| {
            assert_eq!(rejected(body.as_bytes()).as_deref(), expected, "{body}");
        };
        check("", None);
        check("{}", None);
        check(r#"{"partialSuccess":{}}"#, None);
        check(
            r#"{"partialSuccess":{"rejectedDataPoints":"3","errorMessage":"old"}}"#,
            Some("3 rejected: old"),
        );
        check(
            r#"{"partialSuccess":{"rejectedLogRecords":1}}"#,
            Some("1 rejected: "),
        );
    }
}
