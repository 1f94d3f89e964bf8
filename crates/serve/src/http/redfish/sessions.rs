//! Sessions: who has said once that they have a token goes on with `X-Auth-Token`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::errors::Wrong;
use super::kinds::{collection, link, resource};
use crate::doors::{Closed, From, SESSION_IDLE, Session, Who};
use crate::http::app::App;
use crate::words::Role;

fn place(id: &str) -> String {
    format!("/redfish/v1/SessionService/Sessions/{id}")
}

/// The service.
pub(super) fn service() -> Value {
    let more = json!({
        "ServiceEnabled": true,
        "SessionTimeout": SESSION_IDLE.as_secs(),
        "Status": { "State": "Enabled", "Health": "OK" },
        "Sessions": link("/redfish/v1/SessionService/Sessions"),
    });
    resource(
        "SessionService",
        "/redfish/v1/SessionService",
        ("SessionService", "Sessions"),
        more,
    )
}

/// Sessions that somebody may see: an Administrator all, others their own.
fn seen(app: &App, who: &Who) -> Vec<Session> {
    let mut all = app.doors.sessions();
    all.retain(|session| who.role == Role::Administrator || session.who == who.name);
    all
}

/// All of them.
pub(super) fn sessions(app: &App, who: &Who) -> Value {
    let places: Vec<String> = seen(app, who)
        .iter()
        .map(|session| place(&session.id))
        .collect();
    collection(
        "SessionCollection",
        "/redfish/v1/SessionService/Sessions",
        "Sessions",
        &places,
    )
}

/// One of them.
pub(super) fn session(app: &App, who: &Who, id: &str) -> Result<Value, Wrong> {
    let all = seen(app, who);
    let found = all.iter().find(|session| session.id == id);
    found
        .map(|session| view(id, &session.who))
        .ok_or_else(|| Wrong::missing(&place(id)))
}

fn view(id: &str, name: &str) -> Value {
    resource(
        "Session",
        &place(id),
        (id, "Session"),
        json!({ "UserName": name }),
    )
}

/// Opens a session. This is asked without having come in.
pub(super) fn open(app: &App, from: From, body: &Map<String, Value>) -> Result<Response, Wrong> {
    let text = |key: &str| match body.get(key) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => Err(Wrong::bad(
            "PropertyValueTypeError",
            &[&other.to_string(), key],
        )),
        None => Err(Wrong::bad("PropertyMissing", &[key])),
    };
    let name = text("UserName")?;
    let token = text("Password")?;
    let who = match app.doors.by_token_from(from, Some(name), token) {
        Ok(who) => who,
        Err(Closed::Unknown) => {
            let args = [
                "/redfish/v1/SessionService/Sessions",
                "the name or the password is wrong",
            ];
            let status = StatusCode::UNAUTHORIZED;
            return Err(Wrong::new(status, "ResourceAtUriUnauthorized", &args));
        }
        Err(closed) => return Err((&closed).into()),
    };
    let opened = app.doors.open_session(&who).map_err(Wrong::internal)?;
    let Some((secret, id)) = opened else {
        return Err(Wrong::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "SessionLimitExceeded",
            &[],
        ));
    };
    let mut response = (StatusCode::CREATED, axum::Json(view(&id, &who.name))).into_response();
    for (name, text) in [
        ("x-auth-token", secret),
        (header::LOCATION.as_str(), place(&id)),
    ] {
        let value = HeaderValue::from_str(&text).map_err(Wrong::internal)?;
        response
            .headers_mut()
            .insert(header::HeaderName::from_static(name), value);
    }
    response.extensions_mut().insert(who);
    Ok(response)
}

/// Ends a session.
pub(super) fn close(app: &App, who: &Who, id: &str) -> Result<Response, Wrong> {
    session(app, who, id)?;
    app.doors.end_session(|_, session| session.id == id);
    Ok(StatusCode::NO_CONTENT.into_response())
}
