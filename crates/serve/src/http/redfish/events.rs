//! The event service: who wants to hear of events has them pushed to a listener of their own, or reads a stream.
//!
//! Subscriptions to push are kept with the service's UUID in one small file, so that they are there after the daemon was
//! started again. A stream is a subscription for as long as it is read; to delete it ends the stream.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use host::lock::Lock;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::dates::date_time;
use super::errors::{Wrong, message};
use super::kinds::{collection, link, odata_type, resource};
use super::push;
use super::registries::message_id;
use super::systems::place as place_of_system;
use super::super::doors::random;
use super::super::routes::App;
use crate::words::{Event, Severity};

/// Subscriptions at the same time, streams included.
const SUBSCRIPTIONS_MAX: usize = 64;
const PLACE: &str = "/redfish/v1/EventService";
const SUBSCRIPTIONS: &str = "/redfish/v1/EventService/Subscriptions";
/// Prefix of the registry that events are of, and what they are about.
const PREFIX: &str = "Mother";
const ABOUT: &str = "ComputerSystem";

/// What Redfish alone needs to know.
#[derive(Debug)]
pub(crate) struct Redfish {
    /// Of the service, for as long as its state is there.
    pub(super) uuid: String,
    path: PathBuf,
    subscriptions: Lock<BTreeMap<String, Subscription>>,
}

/// What is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    uuid: String,
    subscriptions: BTreeMap<String, Wish>,
}

/// Somebody who hears of events.
#[derive(Clone, Debug)]
struct Subscription {
    wish: Wish,
    /// Whether the last event did not arrive.
    is_failing: Arc<AtomicBool>,
    /// Ends what serves it.
    end: watch::Sender<bool>,
}

/// What somebody wants to hear, and where.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Wish {
    /// None for a stream.
    pub(super) destination: Option<String>,
    pub(super) context: String,
    pub(super) verify: bool,
    /// Sent along; they may be secrets, and nobody gets to see them.
    pub(super) headers: BTreeMap<String, String>,
    /// Only these messages; all if there are none.
    pub(super) message_ids: Vec<String>,
    /// Only what is about these; everything if there are none.
    pub(super) origins: Vec<String>,
}

impl Redfish {
    /// What is kept in this folder; the first time, a new UUID.
    pub(crate) fn new(folder: &Path) -> io::Result<Redfish> {
        let path = folder.join("redfish.json");
        let kept = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept {
                uuid: uuid()?,
                subscriptions: BTreeMap::new(),
            },
            Err(error) => return Err(error),
        };
        let subscriptions = kept.subscriptions.into_iter();
        let redfish = Redfish {
            uuid: kept.uuid,
            path,
            subscriptions: Lock::new(subscriptions.map(|(id, wish)| (id, Subscription::new(wish))).collect()),
        };
        redfish.keep(&redfish.subscriptions.lock())?;
        Ok(redfish)
    }

    /// Writes what has to last, whole or not at all.
    fn keep(&self, all: &BTreeMap<String, Subscription>) -> io::Result<()> {
        let lasting = all.iter().filter(|(_, one)| one.wish.destination.is_some());
        let kept = Kept {
            uuid: self.uuid.clone(),
            subscriptions: lasting.map(|(id, one)| (id.clone(), one.wish.clone())).collect(),
        };
        let new = self.path.with_extension("new");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(&kept)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }

    /// Adds a subscription; its number, and how its end is heard of. None if there are too many.
    fn add(&self, wish: Wish) -> io::Result<Option<(String, Subscription)>> {
        let id = random()?[..16].to_owned();
        let lasts = wish.destination.is_some();
        let subscription = Subscription::new(wish);
        let mut all = self.subscriptions.lock();
        if all.len() >= SUBSCRIPTIONS_MAX {
            return Ok(None);
        }
        all.insert(id.clone(), subscription.clone());
        if lasts && let Err(error) = self.keep(&all) {
            all.remove(&id);
            return Err(error);
        }
        Ok(Some((id, subscription)))
    }

    /// Ends a subscription; whether there was one.
    fn remove(&self, id: &str) -> io::Result<bool> {
        let mut all = self.subscriptions.lock();
        let Some(gone) = all.remove(id) else {
            return Ok(false);
        };
        gone.end.send_replace(true);
        if gone.wish.destination.is_some() {
            self.keep(&all)?;
        }
        Ok(true)
    }
}

impl Subscription {
    fn new(wish: Wish) -> Subscription {
        Subscription {
            wish,
            is_failing: Arc::default(),
            end: watch::channel(false).0,
        }
    }
}

/// A random UUID (RFC 9562, version 4).
fn uuid() -> io::Result<String> {
    let bits = random()?;
    let (a, b, c, d) = (&bits[..8], &bits[8..12], &bits[13..16], &bits[17..20]);
    Ok(format!("{a}-{b}-4{c}-8{d}-{}", &bits[20..32]))
}

/// Serves the subscriptions that were kept.
pub(crate) fn begin(app: &App) {
    for subscription in app.redfish.subscriptions.lock().values() {
        serve(app, subscription);
    }
}

fn serve(app: &App, subscription: &Subscription) {
    let wish = subscription.wish.clone();
    let (end, is_failing) = (subscription.end.subscribe(), Arc::clone(&subscription.is_failing));
    tokio::spawn(push::deliver(app.events.listen(), wish, end, is_failing));
}

/// The service.
pub(super) fn service() -> Value {
    let more = json!({
        "ServiceEnabled": true,
        "DeliveryRetryAttempts": push::RETRIES,
        "DeliveryRetryIntervalSeconds": push::RETRY_EVERY.as_secs(),
        "EventFormatTypes": ["Event"],
        "RegistryPrefixes": [PREFIX],
        "ResourceTypes": [ABOUT],
        "IncludeOriginOfConditionSupported": false,
        "SubordinateResourcesSupported": false,
        "ServerSentEventUri": format!("{PLACE}/SSE"),
        "SSEFilterPropertiesSupported": {
            "EventFormatType": false,
            "MessageId": false,
            "MetricReportDefinition": false,
            "OriginResource": false,
            "RegistryPrefix": false,
            "ResourceType": false,
            "SubordinateResources": false,
        },
        "Status": { "State": "Enabled", "Health": "OK" },
        "Subscriptions": link(SUBSCRIPTIONS),
    });
    resource("EventService", PLACE, ("EventService", "Events"), more)
}

fn place(id: &str) -> String {
    format!("{SUBSCRIPTIONS}/{id}")
}

/// All subscriptions.
pub(super) fn subscriptions(app: &App) -> Value {
    let all = app.redfish.subscriptions.lock();
    let places: Vec<String> = all.keys().map(|id| place(id)).collect();
    collection("EventDestinationCollection", SUBSCRIPTIONS, "Subscriptions", &places)
}

/// One subscription.
pub(super) fn subscription(app: &App, id: &str) -> Result<Value, Wrong> {
    let all = app.redfish.subscriptions.lock();
    let found = all.get(id).ok_or_else(|| Wrong::missing(&place(id)))?;
    Ok(view(id, &found.wish, found.is_failing.load(Ordering::Relaxed)))
}

fn view(id: &str, wish: &Wish, is_failing: bool) -> Value {
    let (kind, pushed) = match &wish.destination {
        Some(_) => ("RedfishEvent", Some(())),
        None => ("SSE", None),
    };
    let health = if is_failing { "Warning" } else { "OK" };
    let list = |all: &Vec<String>| (!all.is_empty()).then(|| json!(all));
    let origins: Vec<Value> = wish.origins.iter().map(|origin| link(origin)).collect();
    let more = json!({
        "Destination": wish.destination,
        "Context": wish.context,
        "Protocol": "Redfish",
        "SubscriptionType": kind,
        "EventFormatType": "Event",
        "DeliveryRetryPolicy": pushed.map(|()| "RetryForever"),
        "VerifyCertificate": pushed.map(|()| wish.verify),
        "RegistryPrefixes": [PREFIX],
        "ResourceTypes": [ABOUT],
        "MessageIds": list(&wish.message_ids),
        "OriginResources": (!origins.is_empty()).then_some(origins),
        "Status": { "State": "Enabled", "Health": health },
    });
    resource("EventDestination", &place(id), (id, "Subscription"), more)
}

/// Subscribes a listener.
pub(super) fn subscribe(app: &App, body: &Map<String, Value>) -> Result<Response, Wrong> {
    let wish = wish(body)?;
    let Some((id, subscription)) = app.redfish.add(wish).map_err(Wrong::internal)? else {
        return Err(Wrong::bad("CreateLimitReachedForResource", &[]));
    };
    serve(app, &subscription);
    let mut response = super::json_answer(StatusCode::CREATED, &view(&id, &subscription.wish, false));
    let location = HeaderValue::from_str(&place(&id)).map_err(Wrong::internal)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// What a request wants to hear; everything that is wrong with it at once.
fn wish(body: &Map<String, Value>) -> Result<Wish, Wrong> {
    let mut wish = Wish {
        verify: true,
        ..Wish::default()
    };
    let mut wrong = Vec::new();
    for (key, value) in body.iter().filter(|(key, _)| !key.starts_with('@')) {
        if let Err(message) = take(&mut wish, key, value) {
            wrong.push(message);
        }
    }
    for key in ["Destination", "Protocol"] {
        if !body.contains_key(key) {
            wrong.push(message("PropertyMissing", &[key]));
        }
    }
    if wrong.is_empty() {
        return Ok(wish);
    }
    Err(Wrong {
        status: StatusCode::BAD_REQUEST,
        messages: wrong,
        allow: None,
    })
}

/// One property of it.
fn take(wish: &mut Wish, key: &str, value: &Value) -> Result<(), Value> {
    let shown = value.to_string();
    let shown = shown.trim_matches('"');
    let bad = |name: &str| Err(message(name, &[shown, key]));
    // What can be said in one way only.
    let only = |is_so: bool| if is_so { Ok(()) } else { bad("PropertyValueNotInList") };
    match key {
        "Destination" => match value.as_str().filter(|text| push::is_destination(text)) {
            Some(text) => wish.destination = Some(text.to_owned()),
            None => return bad("PropertyValueFormatError"),
        },
        "Context" => match value.as_str() {
            Some(text) if text.len() <= 1000 => wish.context = text.to_owned(),
            _ => return bad("PropertyValueTypeError"),
        },
        "VerifyCertificate" => match value.as_bool() {
            Some(verify) => wish.verify = verify,
            None => return bad("PropertyValueTypeError"),
        },
        "HttpHeaders" => match headers(value) {
            Some(headers) => wish.headers = headers,
            None => return Err(message("PropertyValueError", &[key])),
        },
        "MessageIds" => match texts(value) {
            Some(all) => wish.message_ids = all,
            None => return bad("PropertyValueTypeError"),
        },
        "OriginResources" => match origins(value) {
            Some(all) => wish.origins = all,
            None => return bad("PropertyValueTypeError"),
        },
        "Protocol" => return only(value == "Redfish"),
        "SubscriptionType" => return only(value == "RedfishEvent"),
        "EventFormatType" => return only(value == "Event"),
        "DeliveryRetryPolicy" => return only(value == "RetryForever"),
        "RegistryPrefixes" => return only(is_or_empty(value, PREFIX)),
        "ResourceTypes" => return only(is_or_empty(value, ABOUT)),
        // What old clients say: every event is one of these.
        "EventTypes" if texts(value).is_some() => {}
        _ => return Err(message("PropertyUnknown", &[key])),
    }
    Ok(())
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let all = value.as_array()?.iter();
    all.map(|one| one.as_str().map(str::to_owned)).collect()
}

fn is_or_empty(value: &Value, only: &str) -> bool {
    texts(value).is_some_and(|all| all.iter().all(|one| one == only))
}

fn origins(value: &Value) -> Option<Vec<String>> {
    let all = value.as_array()?.iter();
    all.map(|one| one["@odata.id"].as_str().map(str::to_owned)).collect()
}

/// Headers to send along: an array of objects.
fn headers(value: &Value) -> Option<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for one in value.as_array()? {
        for (name, value) in one.as_object()? {
            header::HeaderName::from_bytes(name.as_bytes()).ok()?;
            HeaderValue::from_str(value.as_str()?).ok()?;
            all.insert(name.clone(), value.as_str()?.to_owned());
        }
    }
    Some(all)
}

/// Ends a subscription.
pub(super) fn unsubscribe(app: &App, id: &str) -> Result<Response, Wrong> {
    let was = app.redfish.remove(id).map_err(Wrong::internal)?;
    if !was {
        return Err(Wrong::missing(&place(id)));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A stream as a subscription, which is over when this is dropped.
pub(super) struct Stream {
    app: App,
    id: String,
    /// Somebody has deleted it.
    pub(super) ended: watch::Receiver<bool>,
}

impl Stream {
    pub(super) fn open(app: &App) -> Result<Stream, Wrong> {
        let Some((id, subscription)) = app.redfish.add(Wish::default()).map_err(Wrong::internal)? else {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Err(Wrong::new(status, "CreateLimitReachedForResource", &[]));
        };
        Ok(Stream {
            app: app.clone(),
            id,
            ended: subscription.end.subscribe(),
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // A stream is not kept, so nothing can fail.
        let _ = self.app.redfish.remove(&self.id);
    }
}

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
    format!("VM {}: {}", event.vm.as_deref().unwrap_or_default(), event.text)
}

/// What it is about.
pub(super) fn about_system(event: &Event) -> Option<Value> {
    event.vm.as_deref().map(|vm| link(&place_of_system(vm)))
}

/// Whether somebody wants to hear of it.
pub(super) fn is_wanted(wish: &Wish, event: &Event) -> bool {
    let id = message_id(&event.kind);
    let system = event.vm.as_deref().map(place_of_system);
    let is_any = |all: &[String], one: Option<&str>| {
        all.is_empty() || one.is_some_and(|one| all.iter().any(|wanted| wanted == one))
    };
    is_any(&wish.message_ids, Some(&id)) && is_any(&wish.origins, system.as_deref())
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
    fn a_subscription_says_what_is_wrong_with_it() {
        let check = |more: Value, expected: &[&str]| {
            let mut body = json!({ "Destination": "https://192.0.2.1/x", "Protocol": "Redfish" });
            let all = body.as_object_mut().unwrap();
            all.extend(more.as_object().unwrap().clone());
            all.retain(|_, value| !value.is_null());
            let found = wish(all).map_or_else(|wrong| wrong.messages, |_| Vec::new());
            let names: Vec<&str> = found
                .iter()
                .filter_map(|message| message["MessageId"].as_str()?.rsplit('.').next())
                .collect();
            assert_eq!(names, expected, "{body}");
        };
        check(json!({ "Context": "c", "EventTypes": ["Alert"], "VerifyCertificate": false }), &[]);
        check(json!({ "HttpHeaders": [{ "Authorization": "x" }] }), &[]);
        check(json!({ "HttpHeaders": [{ "a b": "x" }] }), &["PropertyValueError"]);
        check(json!({ "Protocol": "FTP" }), &["PropertyValueNotInList"]);
        check(json!({ "Destination": "http://192.0.2.1/" }), &["PropertyValueFormatError"]);
        check(json!({ "Destination": null }), &["PropertyMissing"]);
        check(json!({ "RegistryPrefixes": ["Base"] }), &["PropertyValueNotInList"]);
        check(json!({ "SubscriptionType": "SSE" }), &["PropertyValueNotInList"]);
        check(json!({ "Foo": 1 }), &["PropertyUnknown"]);
    }

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
        check(&["Mother.1.0.Started"], &[], true);
        check(&["Mother.1.0.Ended"], &[], false);
        check(&[], &["/redfish/v1/Systems/web"], true);
        check(&[], &["/redfish/v1/Systems/db"], false);
        assert_eq!(of(&event, "c")["Events"][0]["Message"], "VM web: it runs");
    }

    #[test]
    fn subscriptions_and_the_uuid_last_and_streams_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let redfish = Redfish::new(folder.path()).unwrap();
        let pushed = Wish {
            destination: Some("https://192.0.2.1/".to_owned()),
            ..Wish::default()
        };
        let (id, _) = redfish.add(pushed.clone()).unwrap().unwrap();
        redfish.add(Wish::default()).unwrap().unwrap();
        let again = Redfish::new(folder.path()).unwrap();
        assert_eq!(again.uuid, redfish.uuid);
        assert_eq!(again.uuid.len(), 36);
        let all = again.subscriptions.lock();
        let found: Vec<_> = all.iter().map(|(id, one)| (id.as_str(), &one.wish)).collect();
        assert_eq!(found, [(id.as_str(), &pushed)]);
        drop(all);
        assert!(again.remove(&id).unwrap() && !again.remove(&id).unwrap());
        assert!(Redfish::new(folder.path()).unwrap().subscriptions.lock().is_empty());
    }
}
