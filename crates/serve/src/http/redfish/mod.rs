//! Redfish (DSP0266): VMs as computer systems, for tools that manage machines by their BMC.
//!
//! ```text
//! request ── OData version ── who calls (Doors) ── Place::of(path) ── may they, can it be done
//!    | read                                              | change
//!    v                                                   v
//!  Reading::read(place) -> JSON ── Options::cut        reset, media, sessions, accounts, events, tasks
//!    |                                                   |
//!    +──> ETag, Link, Allow, OData-Version, Cache-Control <──+
//! ```
//!
//! There is one table of places ([`place`]) and one function that reads them, so that options such as `$expand` work
//! everywhere. **A property is there only if it is known, and an action only if it does something now.**

mod accounts;
mod boot;
mod dates;
mod errors;
mod events;
mod filter;
mod happening;
mod kinds;
mod log;
mod managers;
mod media;
mod names;
mod place;
mod push;
mod query;
mod registries;
mod reset;
mod root;
mod sessions;
mod stream;
mod systems;
mod tags;
mod tasks;
mod telemetry;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::{Map, Value};
use tokio::task::spawn_blocking;

use self::errors::Wrong;
pub(super) use self::events::begin;
use self::place::Place;
use self::query::Options;
use self::tags::{describe, described_by, etag, is_among};
use crate::doors::{From, Who};
use crate::http::answer::Refusal;
use crate::http::app::App;
use crate::http::vms::broken;

/// The version of OData that is spoken.
const ODATA_VERSION: &str = "4.0";

/// Everything below `/redfish`.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/redfish", any(serve))
        .route("/redfish/", any(serve))
        .route("/redfish/{*rest}", any(serve))
}

/// What is refused before it comes here, in Redfish's form.
pub(super) fn refused(refusal: Refusal) -> Response {
    finished(Wrong::from(refusal).into_response(), None, false)
}

async fn serve(State(app): State<App>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // It has been read as a whole, as long as it may be.
    let bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let place = Place::of(parts.uri.path());
    let mut who = None;
    let answered = answer(&app, (&parts, &bytes), place.as_ref(), &mut who).await;
    let response = answered.unwrap_or_else(IntoResponse::into_response);
    let is_read = matches!(parts.method, Method::GET | Method::HEAD);
    let mut response = finished(response, place.as_ref(), is_read);
    if let Some(who) = who {
        response.extensions_mut().insert(who);
    }
    response
}

/// The headers that every answer has.
fn finished(mut response: Response, place: Option<&Place>, is_read: bool) -> Response {
    let headers = response.headers_mut();
    headers.insert("odata-version", HeaderValue::from_static(ODATA_VERSION));
    let fresh = HeaderValue::from_static("no-cache");
    headers.entry(header::CACHE_CONTROL).or_insert(fresh);
    if let Some(place) = place.filter(|_| is_read) {
        headers.insert(header::ALLOW, HeaderValue::from_static(place.allow()));
    }
    response
}

/// Lets in who may, and does or reads what is asked for.
async fn answer(
    app: &App,
    (parts, bytes): (&Parts, &Bytes),
    place: Option<&Place>,
    who: &mut Option<Who>,
) -> Result<Response, Wrong> {
    if parts
        .headers
        .get("odata-version")
        .is_some_and(|version| version != ODATA_VERSION)
    {
        return Err(Wrong::new(
            StatusCode::PRECONDITION_FAILED,
            "HeaderInvalid",
            &["OData-Version"],
        ));
    }
    let method = parts.method.as_str();
    let is_read = matches!(method, "GET" | "HEAD");
    let enter = || {
        let from = parts.extensions.get::<From>().copied();
        let from = from.ok_or_else(|| Wrong::internal("a call comes from nowhere"))?;
        let entered = app.doors.enter(from, &parts.headers, is_read);
        entered.map_err(|closed| Wrong::from(&closed))
    };
    let is_open = match place {
        Some(Place::Sessions) => method == "POST",
        place => is_read && place.is_some_and(Place::is_open),
    };
    if !is_open {
        *who = Some(enter()?);
    }
    let place = place.ok_or_else(|| Wrong::missing(parts.uri.path()))?;
    if !place.allows(method) {
        let mut wrong = Wrong::new(StatusCode::METHOD_NOT_ALLOWED, "OperationNotAllowed", &[]);
        wrong.allow = Some(place.allow());
        return Err(wrong);
    }
    if who
        .as_ref()
        .is_some_and(|who| who.role < place.least(method))
    {
        return Err(Wrong::forbidden());
    }
    if !is_read {
        return change(app, parts, bytes, (place, who.as_ref())).await;
    }
    let options = Options::of(parts.uri.query().unwrap_or_default())?;
    // Who has not come in sees nothing of what an open answer leads to.
    if options.expand.is_some() && who.is_none() {
        *who = Some(enter()?);
    }
    read(app, place, (options, &parts.headers), who.as_ref()).await
}

/// Reads what is asked for.
async fn read(
    app: &App,
    place: &Place,
    (options, headers): (Options, &HeaderMap),
    who: Option<&Who>,
) -> Result<Response, Wrong> {
    match place {
        Place::Metadata => {
            let kind = [(header::CONTENT_TYPE, "application/xml;charset=utf-8")];
            let schema = "<http://docs.oasis-open.org/odata/ns/edmx>; rel=describedby";
            Ok((kind, [(header::LINK, schema)], kinds::metadata()).into_response())
        }
        Place::Stream => stream::open(app, headers).await,
        Place::TaskMonitor(id) => tasks::look(app, *id),
        place => {
            let reading = Reading {
                app: app.clone(),
                who: who.cloned(),
            };
            let place = place.clone();
            let headers = headers.clone();
            let answered = spawn_blocking(move || reading.answer(&place, &options, &headers)).await;
            answered.map_err(broken)?
        }
    }
}

/// Somebody who reads.
struct Reading {
    app: App,
    /// None for who has not come in.
    who: Option<Who>,
}

impl Reading {
    fn answer(
        &self,
        place: &Place,
        options: &Options,
        headers: &HeaderMap,
    ) -> Result<Response, Wrong> {
        let whole = self.read(place)?;
        let tag = etag(&whole);
        let known = headers
            .get(header::IF_NONE_MATCH)
            .and_then(|known| known.to_str().ok());
        if known.is_some_and(|known| is_among(known, &tag)) {
            let tag = HeaderValue::from_str(&tag).map_err(Wrong::internal)?;
            return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
        }
        let link = described_by(&whole);
        let read = |uri: &str| self.read(&Place::of(uri)?).ok();
        let cut = options.cut(whole, &read)?;
        let mut response = axum::Json(cut).into_response();
        describe(&mut response, &tag, link);
        Ok(response)
    }

    /// What is at a place, whole.
    fn read(&self, place: &Place) -> Result<Value, Wrong> {
        let app = &self.app;
        Ok(match place {
            Place::Versions => root::versions(),
            Place::Root => root::root(&app.subscribers.uuid),
            Place::ServiceDocument => root::service_document(),
            place => {
                return self.read_inside(place, self.who.as_ref().ok_or_else(Wrong::forbidden)?);
            }
        })
    }

    /// The same for what is not open to everybody.
    fn read_inside(&self, place: &Place, who: &Who) -> Result<Value, Wrong> {
        let app = &self.app;
        Ok(match place {
            Place::Systems => systems::systems(app),
            Place::System(name) => systems::system(app, name)?,
            Place::Drives(name) => media::of_system(app, name)?,
            Place::ManagersDrives => media::of_manager(app),
            Place::Drive(drive) => media::drive(app, drive)?,
            Place::OperatingSystem(name) => systems::operating_system(app, name)?,
            Place::Managers => managers::managers(),
            Place::Manager => managers::manager(app),
            Place::NetworkProtocol => {
                managers::network_protocol(app).ok_or_else(|| Wrong::missing("NetworkProtocol"))?
            }
            Place::LogServices => log::services(),
            Place::Log => log::service(),
            Place::LogEntries => log::entries(app)?,
            Place::LogEntry(id) => log::entry(app, *id)?,
            Place::AllChassis => managers::all_chassis(),
            Place::Chassis => managers::chassis(app),
            Place::AccountService => accounts::service(),
            Place::Accounts => accounts::accounts(app, who),
            Place::Account(name) => accounts::account(app, who, name)?,
            Place::Roles => accounts::roles(),
            Place::RoleOf(name) => accounts::role(name)?,
            Place::SessionService => sessions::service(),
            Place::Sessions => sessions::sessions(app, who),
            Place::Session(id) => sessions::session(app, who, id)?,
            Place::TaskService => tasks::service(),
            Place::Tasks => tasks::tasks(app),
            Place::Task(id) => tasks::task(app, *id)?,
            Place::EventService => events::service(),
            Place::Subscriptions => events::subscriptions(app),
            Place::Subscription(id) => events::subscription(app, id)?,
            Place::TelemetryService => telemetry::service(),
            Place::Definitions => telemetry::definitions(),
            Place::Definition(id) => telemetry::definition(id)?,
            Place::Reports => telemetry::reports(app),
            Place::Report(name) => telemetry::report(app, name)?,
            Place::Registries => registries::registries(),
            Place::Registry(name) => registries::registry(name)?,
            Place::OwnRegistry => registries::own(),
            // What is no JSON is answered elsewhere, and is nothing that a reference leads to.
            Place::Versions
            | Place::Root
            | Place::ServiceDocument
            | Place::Metadata
            | Place::Stream
            | Place::TaskMonitor(_)
            | Place::Insert(_)
            | Place::Eject(_)
            | Place::Reset(_) => return Err(Wrong::missing("")),
        })
    }
}

/// Does what is asked for.
async fn change(
    app: &App,
    parts: &Parts,
    bytes: &Bytes,
    (place, who): (&Place, Option<&Who>),
) -> Result<Response, Wrong> {
    let is_delete = parts.method == Method::DELETE;
    let body = if is_delete {
        Map::new()
    } else {
        body(&parts.headers, bytes)?
    };
    if *place == Place::Sessions {
        let from = parts.extensions.get::<From>().copied();
        let from = from.ok_or_else(|| Wrong::internal("a call comes from nowhere"))?;
        return sessions::open(app, from, &body);
    }
    let who = who.ok_or_else(Wrong::forbidden)?.clone();
    match place {
        Place::Reset(name) => return reset::act(app, name, &body).await,
        Place::Insert(drive) => return media::act(app, (drive, true), &body).await,
        Place::Eject(drive) => return media::act(app, (drive, false), &body).await,
        Place::Drive(drive) => return media::change(app, drive, (&parts.headers, &body)).await,
        _ => {}
    }
    let app = app.clone();
    let place = place.clone();
    let headers = parts.headers.clone();
    let changed = spawn_blocking(move || match &place {
        Place::System(name) => {
            let system = systems::change(&app, name, (&headers, &body))?;
            let mut response = axum::Json(&system).into_response();
            describe(&mut response, &etag(&system), described_by(&system));
            Ok(response)
        }
        Place::Accounts => accounts::create(&app, &body),
        Place::Account(name) if is_delete => accounts::remove(&app, &who, name, &headers),
        Place::Account(name) => accounts::change(&app, &who, name, (&headers, &body)),
        Place::Session(id) => sessions::close(&app, &who, id),
        Place::Subscriptions => events::subscribe(&app, &body),
        Place::Subscription(id) => events::unsubscribe(&app, id),
        Place::Task(id) | Place::TaskMonitor(id) => tasks::cancel(&app, *id),
        _ => Err(Wrong::internal("a method has no meaning")),
    });
    changed.await.map_err(broken)?
}

/// The body of a request: an object, or nothing at all.
fn body(headers: &HeaderMap, bytes: &Bytes) -> Result<Map<String, Value>, Wrong> {
    if bytes.is_empty() {
        return Ok(Map::new());
    }
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Wrong::new(status, "HeaderInvalid", &["Content-Type"]));
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(all)) => Ok(all),
        Ok(_) => Err(Wrong::bad("UnrecognizedRequestBody", &[])),
        Err(_) => Err(Wrong::bad("MalformedJSON", &[])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_an_object_or_nothing() {
        let check = |kind: &'static str, text: &'static str, expected: Result<usize, u16>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            let found = body(&headers, &Bytes::from_static(text.as_bytes()));
            let found = found
                .map(|all| all.len())
                .map_err(|wrong| wrong.status.as_u16());
            assert_eq!(found, expected, "{kind} {text}");
        };
        check("application/json", "{\"a\":1}", Ok(1));
        check("application/json;charset=utf-8", "{}", Ok(0));
        check("text/plain", "", Ok(0));
        check("text/plain", "{}", Err(415));
        check("application/json", "[]", Err(400));
        check("application/json", "{", Err(400));
    }
}
