//! The event service: who wants to hear of events has them pushed to a listener of their own, or reads a stream, which
//! is a subscription for as long as it is read; to delete it ends the stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::errors::{Wrong, message};
use super::kinds::{collection, link, resource};
use super::push;
use super::tags::json_answer;
use crate::http::app::App;
use crate::subscribers::{Subscription, Wish};

const PLACE: &str = "/redfish/v1/EventService";
const SUBSCRIPTIONS: &str = "/redfish/v1/EventService/Subscriptions";
/// Prefix of the registry that events are of, and what they are about.
const PREFIX: &str = "Mother";
const ABOUT: &str = "ComputerSystem";

/// Serves the subscriptions that were kept.
pub(in crate::http) fn begin(app: &App) {
    for subscription in app.subscribers.all().values() {
        serve(app, subscription);
    }
}

fn serve(app: &App, subscription: &Subscription) {
    let wish = subscription.wish.clone();
    let end = subscription.end.subscribe();
    let is_failing = Arc::clone(&subscription.is_failing);
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
    let all = app.subscribers.all();
    let places: Vec<String> = all.keys().map(|id| place(id)).collect();
    collection(
        "EventDestinationCollection",
        SUBSCRIPTIONS,
        "Subscriptions",
        &places,
    )
}

/// One subscription.
pub(super) fn subscription(app: &App, id: &str) -> Result<Value, Wrong> {
    let all = app.subscribers.all();
    let found = all.get(id).ok_or_else(|| Wrong::missing(&place(id)))?;
    Ok(view(
        id,
        &found.wish,
        found.is_failing.load(Ordering::Relaxed),
    ))
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
    let Some((id, subscription)) = app.subscribers.add(wish).map_err(Wrong::internal)? else {
        return Err(Wrong::bad("CreateLimitReachedForResource", &[]));
    };
    serve(app, &subscription);
    let mut response = json_answer(StatusCode::CREATED, &view(&id, &subscription.wish, false));
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
    let only = |is_so: bool| {
        if is_so {
            Ok(())
        } else {
            bad("PropertyValueNotInList")
        }
    };
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
    all.map(|one| one["@odata.id"].as_str().map(str::to_owned))
        .collect()
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
    let was = app.subscribers.remove(id).map_err(Wrong::internal)?;
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
        let Some((id, subscription)) = app
            .subscribers
            .add(Wish::default())
            .map_err(Wrong::internal)?
        else {
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
        let _ = self.app.subscribers.remove(&self.id);
    }
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
        check(
            json!({ "Context": "c", "EventTypes": ["Alert"], "VerifyCertificate": false }),
            &[],
        );
        check(json!({ "HttpHeaders": [{ "Authorization": "x" }] }), &[]);
        check(
            json!({ "HttpHeaders": [{ "a b": "x" }] }),
            &["PropertyValueError"],
        );
        check(json!({ "Protocol": "FTP" }), &["PropertyValueNotInList"]);
        check(
            json!({ "Destination": "http://192.0.2.1/" }),
            &["PropertyValueFormatError"],
        );
        check(json!({ "Destination": null }), &["PropertyMissing"]);
        check(
            json!({ "RegistryPrefixes": ["Base"] }),
            &["PropertyValueNotInList"],
        );
        check(
            json!({ "SubscriptionType": "SSE" }),
            &["PropertyValueNotInList"],
        );
        check(json!({ "Foo": 1 }), &["PropertyUnknown"]);
    }
}
