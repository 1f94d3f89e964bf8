//! What Mother knows about a run, as JSON. Times are in seconds, sizes in bytes, and what was not measured is null.

use std::fs;
use std::path::Path;
use std::time::Duration;

use machine::{Ending, Report, Sample, VmmMemory};
use serde_json::{Map, Value, json};
use vcpu::EngineStatistics;

use crate::failure::Failure;

/// Writes the report to `path`; `status` is that of the program that the guest was, if it was one that ended.
pub fn write(report: &Report, status: Option<u8>, path: &Path) -> Result<(), Failure> {
    let mut json = json_of(report);
    if let Some(status) = status {
        json["ending"] = json!({ "kind": "exited", "status": status });
    }
    let text = format!("{json:#}\n");
    fs::write(path, text).map_err(|source| Failure::Report {
        path: path.to_owned(),
        source,
    })
}

fn json_of(report: &Report) -> Value {
    let markers: Vec<Value> = report
        .markers
        .iter()
        .map(|marker| json!({ "text": marker.text, "seen": marker.seen.as_ref().map(sample) }))
        .collect();
    let exits = report
        .exits
        .by_kind()
        .into_iter()
        .map(|(kind, count)| (kind.to_owned(), count.into()));
    json!({
        "name": report.name,
        "ending": ending(&report.ending),
        "engine": { "kind": report.engine.kind.to_string(), "why": report.engine.why },
        "first_output": report.first_output.map(seconds),
        "markers": markers,
        "guest_memory": {
            "configured": report.memory.configured_bytes,
            "touched": report.memory.resident_bytes,
        },
        "vmm_memory": report.vmm_memory.as_ref().map(vmm_memory),
        "exits": exits.collect::<Map<_, _>>(),
        "vcpu_time": seconds(report.vcpu_time),
        "wall_time": seconds(report.wall_time),
        "engine_statistics": statistics(&report.statistics),
        "reboots": report.reboots,
        "unmapped": {
            "pio": report.unmapped.pio,
            "mmio": report.unmapped.mmio,
            "msr": report.unmapped.msr,
        },
        "devices": devices(report),
        "metrics": report.metrics,
    })
}

/// Devices by name, their counters by name.
fn devices(report: &Report) -> Value {
    let mut devices = Map::new();
    for device in &report.devices {
        let counters = device
            .counters
            .iter()
            .map(|counter| (counter.name.clone(), counter.value.into()));
        devices.insert(device.name.clone(), counters.collect::<Map<_, _>>().into());
    }
    devices.into()
}

fn ending(ending: &Ending) -> Value {
    match ending {
        Ending::PoweredOff => json!({ "kind": "powered off" }),
        Ending::DebugExit(status) => json!({ "kind": "debug exit", "status": status }),
        Ending::Crashed(crash) => json!({ "kind": "crashed", "crash": crash.to_string() }),
        Ending::TimedOut => json!({ "kind": "timed out" }),
        Ending::Stopped(_) => json!({ "kind": "stopped" }),
    }
}

fn sample(sample: &Sample) -> Value {
    json!({
        "at": seconds(sample.at),
        "guest_memory_touched": sample.resident_bytes,
        "vmm_memory": sample.vmm_memory.as_ref().map(vmm_memory),
        "vcpu_time": seconds(sample.vcpu_time),
        "engine_statistics": statistics(&sample.statistics),
    })
}

fn vmm_memory(memory: &VmmMemory) -> Value {
    json!({
        "total": memory.total_bytes,
        "guest": memory.guest_bytes,
        "code_cache": memory.code_cache_bytes,
        "heap": memory.heap_bytes,
        "program": memory.program_bytes,
    })
}

fn statistics(statistics: &EngineStatistics) -> Map<String, Value> {
    statistics
        .0
        .iter()
        .map(|&(name, _, value)| (name.to_owned(), value.into()))
        .collect()
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
