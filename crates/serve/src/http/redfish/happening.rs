//! An event as Redfish tells it.

use serde_json::{Value, json};

use super::dates::date_time;
use super::kinds::{link, odata_type};
use super::names::place as place_of_system;
use super::registries::message_id;
use crate::subscribers::Wish;
use crate::words::{Event, Severity};

/// How much it matters.
pub(super) fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "OK",
        Severity::Warning => "Warning",
        Severity::Critical => "Critical",
    }
}

/// What happened, as its message has it.
pub(super) fn text(event: &Event) -> String {
    format!(
        "VM {}: {}",
        event.vm.as_deref().unwrap_or_default(),
        event.text
    )
}

/// What it is about.
pub(super) fn about_system(event: &Event) -> Option<Value> {
    event.vm.as_deref().map(|vm| link(&place_of_system(vm)))
}

/// Whether somebody wants to hear of it.
pub(super) fn is_wanted(wish: &Wish, event: &Event) -> bool {
    let id = message_id(&event.kind);
    let ids: Vec<String> = wish
        .message_ids
        .iter()
        .map(|id| without_version(id))
        .collect();
    let system = event.vm.as_deref().map(place_of_system);
    let is_any = |all: &[String], one: Option<&str>| {
        all.is_empty() || one.is_some_and(|one| all.iter().any(|wanted| wanted == one))
    };
    is_any(&ids, Some(&without_version(&id))) && is_any(&wish.origins, system.as_deref())
}

/// A message's registry and name: who subscribed when the registry had fewer messages still hears of those.
fn without_version(id: &str) -> String {
    let parts: Vec<&str> = id.split('.').collect();
    match parts.as_slice() {
        [registry, _, _, name] => format!("{registry}.{name}"),
        _ => id.to_owned(),
    }
}

/// An event as it is sent.
pub(super) fn of(event: &Event, context: &str) -> Value {
    let vm = event.vm.as_deref().unwrap_or_default();
    let mut one = json!({
        "MemberId": "0",
        "EventId": event.id.to_string(),
        "EventType": "Other",
        "EventTimestamp": date_time(event.at),
        "MessageId": message_id(&event.kind),
        "Message": text(event),
        "MessageArgs": [vm, event.text],
        "MessageSeverity": severity(event.severity),
        "Severity": severity(event.severity),
    });
    if let Some(system) = about_system(event) {
        one["OriginOfCondition"] = system;
    }
    json!({
        "@odata.type": odata_type("Event"),
        "Id": event.id.to_string(),
        "Name": "Event",
        "Context": context,
        "Events": [one],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wanted_is_sent() {
        let event = crate::events::event("web", "started", Severity::Info, "it runs".to_owned());
        let check = |ids: &[&str], origins: &[&str], expected: bool| {
            let all = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            let wish = Wish {
                message_ids: all(ids),
                origins: all(origins),
                ..Wish::default()
            };
            assert_eq!(is_wanted(&wish, &event), expected);
        };
        check(&[], &[], true);
        check(&["Mother.1.1.Started"], &[], true);
        check(&["Mother.1.0.Started"], &[], true);
        check(&["Mother.1.1.Ended"], &[], false);
        check(&[], &["/redfish/v1/Systems/web"], true);
        check(&[], &["/redfish/v1/Systems/db"], false);
        assert_eq!(of(&event, "c")["Events"][0]["Message"], "VM web: it runs");
    }
}
