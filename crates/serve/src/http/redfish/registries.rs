//! Registries of messages: the one of DMTF that errors are of, and our own, which events are of.

use serde_json::{Map, Value, json};

use super::errors::Wrong;
use super::kinds::{collection, odata_type, resource};

/// Our own, with its version, as messages name it.
pub(super) const OWN: &str = "Mother.1.1";

/// What happens to VMs: the kind of an event, the name of its message, how much it matters, and what it is about.
type Kind = (&'static str, &'static str, &'static str, &'static str);

const KINDS: &[Kind] = &[
    ("declared", "Declared", "OK", "A VM was declared."),
    (
        "changed",
        "Changed",
        "OK",
        "The declaration of a VM was changed.",
    ),
    ("deleted", "Deleted", "OK", "A VM is declared no more."),
    ("started", "Started", "OK", "A guest runs."),
    ("ended", "Ended", "OK", "A VM has ended, and said how."),
    ("died", "Died", "Critical", "The process of a VM vanished."),
    (
        "paused",
        "Paused",
        "OK",
        "A guest and its time stand still.",
    ),
    ("resumed", "Resumed", "OK", "A guest goes on."),
    (
        "unresponsive",
        "Unresponsive",
        "Warning",
        "The process of a VM lives and does not answer.",
    ),
    (
        "contradicts",
        "Contradicts",
        "Critical",
        "What a guest claims and what is true contradict each other.",
    ),
    (
        "blind",
        "Blind",
        "Warning",
        "Something in a guest can no longer be compared.",
    ),
    (
        "fine",
        "Fine",
        "OK",
        "Everything in a guest can be compared again, and nothing contradicts.",
    ),
    (
        "inserted",
        "Inserted",
        "OK",
        "A medium lies in the drive of a VM, which has it from its next start on.",
    ),
    (
        "ejected",
        "Ejected",
        "OK",
        "The medium was taken out of the drive of a VM.",
    ),
    (
        "trouble",
        "Trouble",
        "Warning",
        "A declared VM is not as it is wanted to be.",
    ),
    (
        "policy",
        "Policy",
        "Warning",
        "A policy has decided something about a guest.",
    ),
];
/// What has no message of its own.
const OTHER: &str = "Happened";

const PLACE: &str = "/redfish/v1/Registries";

/// The message of a kind of event.
pub(super) fn message_id(kind: &str) -> String {
    let known = KINDS.iter().find(|(known, ..)| *known == kind);
    format!("{OWN}.{}", known.map_or(OTHER, |(_, name, ..)| name))
}

/// All registries.
pub(super) fn registries() -> Value {
    let places = ["Base", "Mother"].map(|name| format!("{PLACE}/{name}"));
    collection(
        "MessageRegistryFileCollection",
        PLACE,
        "Registries of messages",
        &places,
    )
}

/// Where a registry is.
pub(super) fn registry(name: &str) -> Result<Value, Wrong> {
    let place = format!("{PLACE}/{name}");
    let (registry, key, uri) = match name {
        "Base" => (
            super::errors::BASE,
            "PublicationUri",
            "https://redfish.dmtf.org/registries/Base.1.18.1.json",
        ),
        "Mother" => (OWN, "Uri", "/redfish/v1/Registries/Mother/Mother.json"),
        _ => return Err(Wrong::missing(&place)),
    };
    let mut location = Map::new();
    location.insert("Language".to_owned(), "en".into());
    location.insert(key.to_owned(), uri.into());
    let more = json!({
        "Registry": registry,
        "Languages": ["en"],
        "Location": [location],
    });
    Ok(resource("MessageRegistryFile", &place, (name, name), more))
}

/// Our own.
pub(super) fn own() -> Value {
    let other = ("", OTHER, "OK", "Something happened to a VM.");
    let messages: Map<String, Value> = KINDS
        .iter()
        .chain([&other])
        .map(|(_, name, severity, about)| {
            let message = json!({
                "Description": about,
                "Message": "VM %1: %2",
                "MessageSeverity": severity,
                "NumberOfArgs": 2,
                "ParamTypes": ["string", "string"],
                "ArgDescriptions": ["The name of the VM.", "What happened, in a sentence."],
                "Resolution": "None.",
            });
            ((*name).to_owned(), message)
        })
        .collect();
    json!({
        "@odata.type": odata_type("MessageRegistry"),
        "Id": "Mother.1.1.0",
        "Name": "What happens to VMs",
        "Description": "Messages of the events of Mother.",
        "Language": "en",
        "OwningEntity": "Mother",
        "RegistryPrefix": "Mother",
        "RegistryVersion": "1.1.0",
        "Messages": messages,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_a_message() {
        let check = |kind: &str, expected: &str| {
            let id = message_id(kind);
            assert_eq!(id, format!("{OWN}.{expected}"));
            assert!(own()["Messages"][expected].is_object());
        };
        check("started", "Started");
        check("contradicts", "Contradicts");
        check("something new", "Happened");
        assert!(registry("Base").is_ok() && registry("Mother").is_ok() && registry("x").is_err());
    }
}
