//! Which schemas answers are of, and the documents that name them: `$metadata` and the OData service document.
//!
//! One table of schemas and versions; `@odata.type`, the `Link` to a schema and `$metadata` are made of it, so that they
//! cannot differ.

use std::fmt::Write;

use serde_json::{Map, Value, json};

/// Where schemas are published.
const SCHEMAS: &str = "http://redfish.dmtf.org/schemas/v1";
/// Version of the schema of the service root, which `$metadata` extends.
const ROOT_VERSION: &str = "v1_21_0";

/// Every schema that an answer is of; collections have no version.
const KINDS: &[(&str, Option<&str>)] = &[
    ("AccountService", Some("v1_18_1")),
    ("Chassis", Some("v1_28_0")),
    ("ChassisCollection", None),
    ("ComputerSystem", Some("v1_28_0")),
    ("ComputerSystemCollection", None),
    ("Event", Some("v1_13_0")),
    ("EventDestination", Some("v1_17_0")),
    ("EventDestinationCollection", None),
    ("EventService", Some("v1_12_0")),
    ("LogEntry", Some("v1_21_0")),
    ("LogEntryCollection", None),
    ("LogService", Some("v1_9_0")),
    ("LogServiceCollection", None),
    ("Manager", Some("v1_25_0")),
    ("ManagerAccount", Some("v1_14_1")),
    ("ManagerAccountCollection", None),
    ("ManagerCollection", None),
    ("ManagerNetworkProtocol", Some("v1_13_0")),
    ("Message", Some("v1_3_0")),
    ("MessageRegistry", Some("v1_8_0")),
    ("MessageRegistryFile", Some("v1_1_5")),
    ("MessageRegistryFileCollection", None),
    ("MetricDefinition", Some("v1_3_6")),
    ("MetricDefinitionCollection", None),
    ("MetricReport", Some("v1_5_2")),
    ("MetricReportCollection", None),
    ("OperatingSystem", Some("v1_0_2")),
    ("Role", Some("v1_3_3")),
    ("RoleCollection", None),
    ("ServiceRoot", Some(ROOT_VERSION)),
    ("Session", Some("v1_8_0")),
    ("SessionCollection", None),
    ("SessionService", Some("v1_2_0")),
    ("Task", Some("v1_7_4")),
    ("TaskCollection", None),
    ("TaskService", Some("v1_3_0")),
    ("TelemetryService", Some("v1_4_1")),
    ("VirtualMedia", Some("v1_6_5")),
    ("VirtualMediaCollection", None),
];

/// The `@odata.type` of a schema in the table.
pub(super) fn odata_type(name: &str) -> String {
    let version = KINDS.iter().find(|(known, _)| *known == name);
    match version.and_then(|(_, version)| *version) {
        Some(version) => format!("#{name}.{version}.{name}"),
        None => format!("#{name}.{name}"),
    }
}

/// Where the JSON schema of an answer with this `@odata.type` is published.
pub(super) fn schema_of(odata_type: &str) -> Option<String> {
    let (file, _) = odata_type.strip_prefix('#')?.rsplit_once('.')?;
    Some(format!("{SCHEMAS}/{file}.json"))
}

/// A resource: what it is, where it is, what it is called, and what `more` says.
pub(super) fn resource(kind: &str, uri: &str, (id, name): (&str, &str), more: Value) -> Value {
    let mut all = Map::new();
    all.insert("@odata.type".to_owned(), odata_type(kind).into());
    all.insert("@odata.id".to_owned(), uri.into());
    all.insert("Id".to_owned(), id.into());
    all.insert("Name".to_owned(), name.into());
    if let Value::Object(more) = more {
        // What is not known is not said.
        all.extend(more.into_iter().filter(|(_, value)| *value != Value::Null));
    }
    Value::Object(all)
}

/// A collection of what is at these places.
pub(super) fn collection(kind: &str, uri: &str, name: &str, members: &[String]) -> Value {
    json!({
        "@odata.type": odata_type(kind),
        "@odata.id": uri,
        "Name": name,
        "Members": members.iter().map(|uri| link(uri)).collect::<Vec<_>>(),
        "Members@odata.count": members.len(),
    })
}

/// A reference.
pub(super) fn link(uri: &str) -> Value {
    json!({ "@odata.id": uri })
}

/// The OData metadata document.
pub(super) fn metadata() -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <edmx:Edmx xmlns:edmx=\"http://docs.oasis-open.org/odata/ns/edmx\" Version=\"4.0\">\n",
    );
    for (name, version) in KINDS {
        let _ = writeln!(text, "  <edmx:Reference Uri=\"{SCHEMAS}/{name}_v1.xml\">");
        let _ = writeln!(text, "    <edmx:Include Namespace=\"{name}\"/>");
        if let Some(version) = version {
            let _ = writeln!(text, "    <edmx:Include Namespace=\"{name}.{version}\"/>");
        }
        text.push_str("  </edmx:Reference>\n");
    }
    let _ = write!(
        text,
        "  <edmx:Reference Uri=\"{SCHEMAS}/RedfishExtensions_v1.xml\">\n\
         \x20   <edmx:Include Namespace=\"RedfishExtensions.v1_0_0\" Alias=\"Redfish\"/>\n\
         \x20 </edmx:Reference>\n\
         \x20 <edmx:DataServices>\n\
         \x20   <Schema xmlns=\"http://docs.oasis-open.org/odata/ns/edm\" Namespace=\"Service\">\n\
         \x20     <EntityContainer Name=\"Service\" Extends=\"ServiceRoot.{ROOT_VERSION}.ServiceContainer\"/>\n\
         \x20   </Schema>\n\
         \x20 </edmx:DataServices>\n\
         </edmx:Edmx>\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_and_the_place_of_its_schema_agree() {
        let check = |name: &str, kind: &str, schema: &str| {
            assert_eq!(odata_type(name), kind);
            let found = schema_of(kind).unwrap();
            assert_eq!(found, format!("{SCHEMAS}/{schema}"));
        };
        check("Role", "#Role.v1_3_3.Role", "Role.v1_3_3.json");
        check(
            "RoleCollection",
            "#RoleCollection.RoleCollection",
            "RoleCollection.json",
        );
        assert_eq!(schema_of("Role"), None);
        let text = metadata();
        assert!(text.contains("Namespace=\"ServiceRoot.v1_21_0\""));
        assert_eq!(text.matches("<edmx:Reference").count(), KINDS.len() + 1);
    }
}
