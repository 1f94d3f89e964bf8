//! Metric reports: of each guest, what it claims, what its kernel has in its books, and what is true.
//!
//! Numbers have definitions. Beside them stand the rows of `mother truth` as they are told to people: their rule, and
//! what each of the three says.

use serde_json::{Value, json};

use super::dates::date_time;
use super::errors::Wrong;
use super::kinds::{collection, link, resource};
use super::names::found;
use crate::http::app::App;
use crate::words::{Insight, VmView};

/// A number of a guest: its name, its unit (UCUM), and what it is.
type Definition = (&'static str, &'static str, &'static str);

const DEFINITIONS: &[Definition] = &[
    (
        "ClaimedMemoryUsed",
        "By",
        "Memory in use, as the guest's balloon driver claims.",
    ),
    (
        "KernelMemoryUsed",
        "By",
        "Memory in use, as the guest's kernel has it in its own books.",
    ),
    (
        "TrueMemoryResident",
        "By",
        "The guest's memory that the host holds.",
    ),
    (
        "TrueMemoryConfigured",
        "By",
        "The guest's memory as it was configured.",
    ),
    (
        "TrueWorkingSet",
        "By",
        "An estimate of the memory that the guest works on.",
    ),
    (
        "TrueCpuTime",
        "s",
        "CPU time of the whole process of the VM.",
    ),
];

fn definition_place(id: &str) -> String {
    format!("/redfish/v1/TelemetryService/MetricDefinitions/{id}")
}

fn report_place(id: &str) -> String {
    format!("/redfish/v1/TelemetryService/MetricReports/{id}")
}

/// The service.
pub(super) fn service() -> Value {
    let more = json!({
        "ServiceEnabled": true,
        "Status": { "State": "Enabled", "Health": "OK" },
        "MetricDefinitions": link("/redfish/v1/TelemetryService/MetricDefinitions"),
        "MetricReports": link("/redfish/v1/TelemetryService/MetricReports"),
    });
    let place = "/redfish/v1/TelemetryService";
    resource(
        "TelemetryService",
        place,
        ("TelemetryService", "Claims and truth"),
        more,
    )
}

/// All definitions.
pub(super) fn definitions() -> Value {
    let places: Vec<String> = DEFINITIONS
        .iter()
        .map(|(id, ..)| definition_place(id))
        .collect();
    let place = "/redfish/v1/TelemetryService/MetricDefinitions";
    collection(
        "MetricDefinitionCollection",
        place,
        "Numbers of guests",
        &places,
    )
}

/// One definition.
pub(super) fn definition(id: &str) -> Result<Value, Wrong> {
    let place = definition_place(id);
    let known = DEFINITIONS.iter().find(|(known, ..)| *known == id);
    let (_, unit, about) = known.ok_or_else(|| Wrong::missing(&place))?;
    let kind = if *unit == "s" { "Counter" } else { "Gauge" };
    let more = json!({
        "Description": about,
        "MetricDataType": "Decimal",
        "MetricType": kind,
        "Units": unit,
        "IsLinear": true,
    });
    Ok(resource("MetricDefinition", &place, (id, id), more))
}

/// All reports: of each guest that was seen.
pub(super) fn reports(app: &App) -> Value {
    let all = app.sight.all();
    let seen = all.iter().filter(|vm| vm.insight.is_some());
    let places: Vec<String> = seen.map(|vm| report_place(&vm.name)).collect();
    let place = "/redfish/v1/TelemetryService/MetricReports";
    collection("MetricReportCollection", place, "Guests", &places)
}

/// One report.
pub(super) fn report(app: &App, name: &str) -> Result<Value, Wrong> {
    let vm = found(app, name).map_err(|_| Wrong::missing(&report_place(name)))?;
    of_vm(&vm).ok_or_else(|| Wrong::missing(&report_place(name)))
}

fn of_vm(vm: &VmView) -> Option<Value> {
    let insight = vm.insight.as_ref()?;
    let at = date_time(insight.at);
    let mut values: Vec<Value> = numbers(vm, insight)
        .filter_map(|(id, value)| {
            Some(json!({
                "MetricId": id,
                "MetricValue": value?.to_string(),
                "Timestamp": at,
            }))
        })
        .collect();
    let rows = insight
        .rows
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    for row in rows {
        let rule = row["rule"]
            .as_str()
            .or(row["subject"].as_str())
            .unwrap_or_default();
        for who in ["claim", "kernel", "truth", "verdict"] {
            if let Some(text) = row[who].as_str() {
                values.push(json!({
                    "MetricId": format!("{rule}.{who}"),
                    "MetricValue": text,
                    "Timestamp": at,
                }));
            }
        }
    }
    let more = json!({ "Timestamp": at, "MetricValues": values });
    let title = format!("What {} claims, and what is true", vm.name);
    Some(resource(
        "MetricReport",
        &report_place(&vm.name),
        (&vm.name, &title),
        more,
    ))
}

/// The values of the definitions, in their order.
fn numbers(vm: &VmView, insight: &Insight) -> impl Iterator<Item = (&'static str, Option<f64>)> {
    let bytes = |value: Option<u64>| value.map(|value| value as f64);
    let values = [
        bytes(insight.claimed_used_bytes),
        bytes(insight.kernel_used_bytes),
        insight.memory["resident_bytes"].as_f64(),
        insight.memory["configured_bytes"].as_f64(),
        insight.working_set["value"].as_f64(),
        vm.cpu_seconds,
    ];
    DEFINITIONS.iter().map(|(id, ..)| *id).zip(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::StateView;
    use crate::words::tests::vm;

    #[test]
    fn a_report_has_what_was_seen_and_nothing_else() {
        let mut vm = vm(StateView::Running);
        assert_eq!(of_vm(&vm), None);
        vm.insight = Some(Insight {
            standing: None,
            worst: None,
            at: 0.0,
            why_not: None,
            rows: json!([{ "subject": "uptime", "rule": "uptime-drift", "claim": null,
                "kernel": "11.7s", "truth": "12.3s", "verdict": "agrees" }]),
            kernel: Value::Null,
            memory: json!({ "resident_bytes": 4096 }),
            working_set: Value::Null,
            claimed_used_bytes: None,
            kernel_used_bytes: Some(1024),
        });
        let report = of_vm(&vm).unwrap();
        let values = report["MetricValues"].as_array().unwrap();
        let found: Vec<_> = values
            .iter()
            .map(|value| {
                (
                    value["MetricId"].as_str().unwrap(),
                    value["MetricValue"].as_str().unwrap(),
                )
            })
            .collect();
        let expected = [
            ("KernelMemoryUsed", "1024"),
            ("TrueMemoryResident", "4096"),
            ("uptime-drift.kernel", "11.7s"),
            ("uptime-drift.truth", "12.3s"),
            ("uptime-drift.verdict", "agrees"),
        ];
        assert_eq!(found, expected);
        for (id, ..) in DEFINITIONS {
            assert_eq!(definition(id).unwrap()["Id"], *id);
        }
    }
}
