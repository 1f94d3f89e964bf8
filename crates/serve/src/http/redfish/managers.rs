//! Who manages the VMs, which is this daemon, and what they are in, which is the host.

use serde_json::{Value, json};

use super::dates::date_time;
use super::kinds::{collection, link, resource};
use super::media;
use super::names;
use super::place::{CHASSIS, MANAGER};
use crate::host_view::look;
use crate::http::app::App;
use crate::words::now;

const MANAGER_PLACE: &str = "/redfish/v1/Managers/mother";
const CHASSIS_PLACE: &str = "/redfish/v1/Chassis/host";

/// All managers.
pub(super) fn managers() -> Value {
    let all = [MANAGER_PLACE.to_owned()];
    collection(
        "ManagerCollection",
        "/redfish/v1/Managers",
        "Managers",
        &all,
    )
}

/// The daemon.
pub(super) fn manager(app: &App) -> Value {
    let systems = names::places(app);
    let links: Vec<Value> = systems.iter().map(|place| link(place)).collect();
    let network = app
        .options
        .listen
        .map(|_| link(&format!("{MANAGER_PLACE}/NetworkProtocol")));
    let more = json!({
        "ManagerType": "Service",
        "FirmwareVersion": app.options.version,
        "UUID": app.subscribers.uuid,
        "ServiceEntryPointUUID": app.subscribers.uuid,
        "DateTime": date_time(now()),
        "DateTimeLocalOffset": "+00:00",
        "Status": { "State": "Enabled", "Health": "OK" },
        "NetworkProtocol": network,
        "VirtualMedia": link(&media::place_of_manager()),
        "LogServices": link(&format!("{MANAGER_PLACE}/LogServices")),
        "Links": {
            "ManagerForServers": links,
            "ManagerForServers@odata.count": systems.len(),
            "ManagerForChassis": [link(CHASSIS_PLACE)],
            "ManagerForChassis@odata.count": 1,
        },
    });
    resource("Manager", MANAGER_PLACE, (MANAGER, "Mother"), more)
}

/// How the daemon is reached; none where it listens for nobody.
pub(super) fn network_protocol(app: &App) -> Option<Value> {
    let address = app.options.listen?;
    let host = look(&app.options.version, &[]);
    // A port that the kernel has chosen is not known here.
    let port = Some(address.port()).filter(|port| *port != 0);
    let mut https = json!({ "ProtocolEnabled": true });
    if let Some(port) = port {
        https["Port"] = port.into();
    }
    let more = json!({
        "HostName": host.name,
        "HTTP": { "ProtocolEnabled": false },
        "HTTPS": https,
        "SSDP": { "ProtocolEnabled": false },
        "Status": { "State": "Enabled", "Health": "OK" },
    });
    let place = format!("{MANAGER_PLACE}/NetworkProtocol");
    Some(resource(
        "ManagerNetworkProtocol",
        &place,
        ("NetworkProtocol", "Network protocols"),
        more,
    ))
}

/// All chassis.
pub(super) fn all_chassis() -> Value {
    let all = [CHASSIS_PLACE.to_owned()];
    collection("ChassisCollection", "/redfish/v1/Chassis", "Hosts", &all)
}

/// The host.
pub(super) fn chassis(app: &App) -> Value {
    let systems = names::places(app);
    let links: Vec<Value> = systems.iter().map(|place| link(place)).collect();
    let host = look(&app.options.version, &[]);
    let name = if host.name.is_empty() {
        "Host"
    } else {
        &host.name
    };
    let more = json!({
        "ChassisType": "Other",
        "PowerState": "On",
        "Status": { "State": "Enabled", "Health": "OK" },
        "Links": {
            "ComputerSystems": links,
            "ComputerSystems@odata.count": systems.len(),
            "ManagedBy": [link(MANAGER_PLACE)],
            "ManagedBy@odata.count": 1,
        },
    });
    resource("Chassis", CHASSIS_PLACE, (CHASSIS, name), more)
}
