//! VMs as computer systems, and what is known of what runs in them.
//!
//! `ComputerSystem` says what the hypervisor knows; `OperatingSystem` says what was seen of the guest from outside, and is
//! there only when something was.

use axum::http::HeaderMap;
use serde_json::{Map, Value, json};

use super::boot;
use super::errors::Wrong;
use super::kinds::{collection, link, resource};
use super::media;
use super::names::{found, place, places};
use super::place::{CHASSIS, MANAGER};
use super::reset::{allowed, target};
use super::tags::{check_match, etag};
use crate::http::app::App;
use crate::words::{StateView, VmView};

/// All VMs.
pub(super) fn systems(app: &App) -> Value {
    collection(
        "ComputerSystemCollection",
        "/redfish/v1/Systems",
        "Virtual machines",
        &places(app),
    )
}

/// One VM.
pub(super) fn system(app: &App, name: &str) -> Result<Value, Wrong> {
    found(app, name).map(|vm| of_vm(&vm))
}

/// `PowerState` of a VM.
pub(super) fn power(state: StateView) -> &'static str {
    match state {
        StateView::Starting => "PoweringOn",
        StateView::Running | StateView::Unresponsive => "On",
        StateView::Paused | StateView::Waiting => "Paused",
        StateView::Stopping => "PoweringOff",
        StateView::Ended | StateView::Died | StateView::Declared => "Off",
    }
}

pub(super) fn of_vm(vm: &VmView) -> Value {
    let uri = place(&vm.name);
    let more = json!({
        "SystemType": "Virtual",
        "PowerState": power(vm.state),
        "Status": { "State": status(vm.state), "Health": health(vm) },
        "ProcessorSummary": vcpus(vm).map(|count| json!({ "Count": count, "LogicalProcessorCount": count })),
        "MemorySummary": memory_bytes(vm).map(|bytes| {
            json!({ "TotalSystemMemoryGiB": bytes as f64 / f64::from(1 << 30) })
        }),
        "Boot": boot::of(vm),
        "VirtualMedia": vm.declared.as_ref().map(|_| link(&media::place_of_system(&vm.name))),
        "OperatingSystem": has_operating_system(vm).then(|| link(&(uri.clone() + "/OperatingSystem"))),
        "Links": {
            "Chassis": [link(&format!("/redfish/v1/Chassis/{CHASSIS}"))],
            "ManagedBy": [link(&format!("/redfish/v1/Managers/{MANAGER}"))],
        },
        "Actions": { "#ComputerSystem.Reset": {
            "target": target(&vm.name),
            "ResetType@Redfish.AllowableValues": allowed(vm.state).map(|reset| reset.word()).collect::<Vec<_>>(),
        } },
    });
    resource("ComputerSystem", &uri, (&vm.name, &vm.name), more)
}

/// Changes from where a VM starts; what its system is then.
pub(super) fn change(
    app: &App,
    name: &str,
    (headers, body): (&HeaderMap, &Map<String, Value>),
) -> Result<Value, Wrong> {
    check_match(headers, &etag(&of_vm(&found(app, name)?)))?;
    let change = boot::Change::read(body)?;
    if app.override_boot(name, |now| change.of(now))?.is_none() {
        return Err(Wrong::conflict(
            &format!("VM \"{name}\" is not declared, and starts as whoever started it says"),
            Some("declare it with `mother create`"),
        ));
    }
    found(app, name).map(|vm| of_vm(&vm))
}

fn status(state: StateView) -> &'static str {
    match state {
        StateView::Starting => "Starting",
        StateView::Running | StateView::Stopping | StateView::Unresponsive => "Enabled",
        StateView::Paused | StateView::Waiting => "Quiesced",
        StateView::Ended | StateView::Died | StateView::Declared => "Disabled",
    }
}

/// Critical is what somebody has to look at now, as it is for events.
fn health(vm: &VmView) -> &'static str {
    let standing = vm
        .insight
        .as_ref()
        .and_then(|insight| insight.standing.as_deref());
    if vm.state == StateView::Died || standing == Some("contradicts") {
        "Critical"
    } else if vm.state == StateView::Unresponsive
        || vm.trouble.is_some()
        || standing == Some("blind")
    {
        "Warning"
    } else {
        "OK"
    }
}

/// Of a VM that has run, what it had; of one that has not, what its description says.
fn vcpus(vm: &VmView) -> Option<u64> {
    vm.vcpus
        .map(u64::from)
        .or_else(|| described(vm, "cpus")?.as_u64())
}

fn memory_bytes(vm: &VmView) -> Option<u64> {
    let of_description = || {
        let size: api::MemorySize =
            serde_json::from_value(described(vm, "memory")?.clone()).ok()?;
        Some(size.bytes())
    };
    vm.memory_given_bytes.or_else(of_description)
}

fn described<'a>(vm: &'a VmView, key: &str) -> Option<&'a Value> {
    vm.declared.as_ref()?.spec.get(key)
}

fn release(vm: &VmView) -> Option<&str> {
    vm.insight.as_ref()?.kernel["release"].as_str()
}

fn has_operating_system(vm: &VmView) -> bool {
    vm.state.is_alive() && release(vm).is_some()
}

/// What was seen of a VM's operating system.
pub(super) fn operating_system(app: &App, name: &str) -> Result<Value, Wrong> {
    let vm = found(app, name)?;
    let uri = place(name) + "/OperatingSystem";
    let Some(release) = release(&vm).filter(|_| vm.state.is_alive()) else {
        return Err(Wrong::missing(&uri));
    };
    let more = json!({
        "Type": "Linux",
        "Kernel": { "Name": "Linux", "Release": release },
        "UptimeSeconds": uptime_seconds(&vm),
        "Status": { "State": "Enabled", "Health": health(&vm) },
    });
    Ok(resource(
        "OperatingSystem",
        &uri,
        ("OperatingSystem", "Operating system"),
        more,
    ))
}

/// How long the guest's kernel has run, by its own clock, which was read from outside.
fn uptime_seconds(vm: &VmView) -> Option<u64> {
    let rows = vm.insight.as_ref()?.rows.as_array()?;
    let row = rows.iter().find(|row| row["rule"] == "uptime-drift")?;
    let seconds: f64 = row["kernel"].as_str()?.strip_suffix('s')?.parse().ok()?;
    Some(seconds as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Insight;
    use crate::words::tests::vm;

    #[test]
    fn a_system_says_what_is_known_and_nothing_else() {
        let check = |vm: &VmView, pointer: &str, expected: Value| {
            let found = of_vm(vm).pointer(pointer).cloned().unwrap_or_default();
            assert_eq!(found, expected, "{pointer}");
        };
        let mut vm = vm(StateView::Declared);
        check(&vm, "/PowerState", "Off".into());
        check(&vm, "/ProcessorSummary", Value::Null);
        check(&vm, "/MemorySummary", Value::Null);
        check(&vm, "/OperatingSystem", Value::Null);
        vm.state = StateView::Running;
        vm.vcpus = Some(2);
        vm.memory_given_bytes = Some(512 << 20);
        check(&vm, "/ProcessorSummary/Count", 2.into());
        check(&vm, "/MemorySummary/TotalSystemMemoryGiB", 0.5.into());
        check(&vm, "/Status/Health", "OK".into());
        vm.insight = Some(Insight {
            standing: Some("contradicts".to_owned()),
            worst: None,
            at: 0.0,
            why_not: None,
            rows: Value::Null,
            kernel: json!({ "release": "6.1.0" }),
            memory: Value::Null,
            working_set: Value::Null,
            claimed_used_bytes: None,
            kernel_used_bytes: None,
        });
        check(&vm, "/Status/Health", "Critical".into());
        check(
            &vm,
            "/OperatingSystem/@odata.id",
            "/redfish/v1/Systems/web/OperatingSystem".into(),
        );
        vm.state = StateView::Ended;
        check(&vm, "/OperatingSystem", Value::Null);
    }
}
