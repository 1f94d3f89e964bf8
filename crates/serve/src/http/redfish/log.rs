//! The log of events, as a log service of the manager.

use serde_json::{Value, json};

use super::dates::date_time;
use super::errors::Wrong;
use super::happening::{about_system, severity, text};
use super::kinds::{collection, link, resource};
use super::registries::message_id;
use crate::http::app::App;
use crate::words::{Event, now};

/// Entries that are offered, the newest.
const ENTRIES_MAX: usize = 500;
const SERVICES: &str = "/redfish/v1/Managers/mother/LogServices";
const PLACE: &str = "/redfish/v1/Managers/mother/LogServices/Events";
const ENTRIES: &str = "/redfish/v1/Managers/mother/LogServices/Events/Entries";

/// All logs.
pub(super) fn services() -> Value {
    collection(
        "LogServiceCollection",
        SERVICES,
        "Logs",
        &[PLACE.to_owned()],
    )
}

/// The log of events.
pub(super) fn service() -> Value {
    let more = json!({
        "ServiceEnabled": true,
        "DateTime": date_time(now()),
        "DateTimeLocalOffset": "+00:00",
        "LogEntryType": "Event",
        "MaxNumberOfRecords": ENTRIES_MAX,
        "OverWritePolicy": "WrapsWhenFull",
        "Status": { "State": "Enabled", "Health": "OK" },
        "Entries": link(ENTRIES),
    });
    resource(
        "LogService",
        PLACE,
        ("Events", "What happened to VMs"),
        more,
    )
}

/// The newest entries, as they are: who reads a log does not want to ask for each.
pub(super) fn entries(app: &App) -> Result<Value, Wrong> {
    let events = app.store.events(None, ENTRIES_MAX)?;
    let mut all = collection("LogEntryCollection", ENTRIES, "What happened to VMs", &[]);
    all["Members@odata.count"] = events.len().into();
    all["Members"] = events
        .iter()
        .map(|event| view(event, system(app, event)))
        .collect();
    Ok(all)
}

/// What an event is about, if that is still there.
fn system(app: &App, event: &Event) -> Option<Value> {
    let is_there = |vm: &String| app.sight.one(vm).is_some();
    about_system(event).filter(|_| event.vm.as_ref().is_some_and(is_there))
}

fn entry_place(id: u64) -> String {
    format!("{ENTRIES}/{id}")
}

/// One entry.
pub(super) fn entry(app: &App, id: u64) -> Result<Value, Wrong> {
    let events = match id.checked_sub(1) {
        Some(before) => app.store.events(Some(before), 1)?,
        None => Vec::new(),
    };
    let event = events.first().filter(|event| event.id == id);
    let event = event.ok_or_else(|| Wrong::missing(&entry_place(id)))?;
    Ok(view(event, system(app, event)))
}

fn view(event: &Event, system: Option<Value>) -> Value {
    let vm = event.vm.as_deref().unwrap_or_default();
    let more = json!({
        "EntryType": "Event",
        "Created": date_time(event.at),
        "EventTimestamp": date_time(event.at),
        "EventId": event.id.to_string(),
        "Severity": severity(event.severity),
        "Message": text(event),
        "MessageId": message_id(&event.kind),
        "MessageArgs": [vm, event.text],
        "Links": system.map(|system| json!({ "OriginOfCondition": system })),
    });
    let id = event.id.to_string();
    resource(
        "LogEntry",
        &entry_place(event.id),
        (&id, &format!("Event {id}")),
        more,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Severity;

    #[test]
    fn an_entry_says_what_the_event_says() {
        let event = Event {
            id: 17,
            at: 0.0,
            vm: Some("web".to_owned()),
            kind: "died".to_owned(),
            severity: Severity::Critical,
            text: "its process vanished".to_owned(),
        };
        let entry = view(&event, None);
        let check = |key: &str, expected: &str| assert_eq!(entry[key], expected, "{key}");
        check("Id", "17");
        check("Severity", "Critical");
        check("Message", "VM web: its process vanished");
        check("MessageId", "Mother.1.1.Died");
        assert_eq!(entry["Links"], Value::Null);
    }
}
