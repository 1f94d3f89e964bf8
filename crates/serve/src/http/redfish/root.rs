//! The service root and what is beside it.

use serde_json::{Value, json};

use super::kinds::{link, resource};
use super::query::LEVELS_MAX;

/// Version of the specification (DSP0266).
const SPECIFICATION: &str = "1.20.0";

/// What versions there are.
pub(super) fn versions() -> Value {
    json!({ "v1": "/redfish/v1/" })
}

/// The services that the root leads to, by the names of its properties.
const SERVICES: &[(&str, &str)] = &[
    ("Systems", "/redfish/v1/Systems"),
    ("Managers", "/redfish/v1/Managers"),
    ("Chassis", "/redfish/v1/Chassis"),
    ("AccountService", "/redfish/v1/AccountService"),
    ("SessionService", "/redfish/v1/SessionService"),
    ("Tasks", "/redfish/v1/TaskService"),
    ("EventService", "/redfish/v1/EventService"),
    ("TelemetryService", "/redfish/v1/TelemetryService"),
    ("Registries", "/redfish/v1/Registries"),
];

/// The service root.
pub(super) fn root(uuid: &str) -> Value {
    let more = json!({
        "RedfishVersion": SPECIFICATION,
        "UUID": uuid,
        "Product": "Mother",
        "ProtocolFeaturesSupported": {
            "ExpandQuery": {
                "ExpandAll": true,
                "Levels": true,
                "Links": true,
                "MaxLevels": LEVELS_MAX,
                "NoLinks": true,
            },
            "ExcerptQuery": false,
            "FilterQuery": true,
            "FilterQueryComparisonOperations": true,
            "FilterQueryCompoundOperations": true,
            "OnlyMemberQuery": true,
            "SelectQuery": true,
            "TopSkipQuery": true,
            "DeepOperations": { "DeepPATCH": false, "DeepPOST": false },
        },
        "Links": { "Sessions": link("/redfish/v1/SessionService/Sessions") },
    });
    let mut root = resource(
        "ServiceRoot",
        "/redfish/v1/",
        ("RootService", "Mother"),
        more,
    );
    for (name, uri) in SERVICES {
        root[*name] = link(uri);
    }
    root
}

/// The OData service document.
pub(super) fn service_document() -> Value {
    let services = SERVICES
        .iter()
        .map(|(name, uri)| json!({ "name": name, "kind": "Singleton", "url": uri }));
    let root = json!({ "name": "Service", "kind": "Singleton", "url": "/redfish/v1/" });
    let sessions = json!({ "name": "Sessions", "kind": "Singleton", "url": "/redfish/v1/SessionService/Sessions" });
    let all: Vec<Value> = [root]
        .into_iter()
        .chain(services)
        .chain([sessions])
        .collect();
    json!({ "@odata.context": "/redfish/v1/$metadata", "value": all })
}

#[cfg(test)]
mod tests {
    use super::super::place::Place;
    use super::*;

    #[test]
    fn everything_that_the_root_leads_to_is_there() {
        let check = |value: &Value| {
            let uri = value.as_str().unwrap();
            assert!(Place::of(uri).is_some(), "{uri}");
        };
        let root = root("u");
        for (name, _) in SERVICES {
            check(&root[*name]["@odata.id"]);
        }
        for one in service_document()["value"].as_array().unwrap() {
            check(&one["url"]);
        }
    }
}
