//! The host: what it has, what all guests believe to have, and what more fits.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::answer::{Refusal, Words as Asked};
use super::app::App;
use super::vms::broken;
use crate::host_view::{HostView, look};
use crate::metrics::{Form, gather};
use crate::orders::Words;

/// What is said beside numbers.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wanted {
    libvirt: Option<bool>,
}

pub(crate) async fn host(State(app): State<App>) -> Result<Json<HostView>, Refusal> {
    let looked = spawn_blocking(move || look(&app.options.version, &app.sight.all())).await;
    looked.map(Json).map_err(broken)
}

pub(crate) async fn doctor(State(app): State<App>) -> Result<Json<Value>, Refusal> {
    let answer = app.orders.ask(Words::new(["doctor", "--json"])).await;
    answer.map(Json).map_err(Refusal::of_command)
}

pub(crate) async fn metrics(
    State(app): State<App>,
    Asked(wanted): Asked<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let accept = headers.get(header::ACCEPT).and_then(|it| it.to_str().ok());
    let form = Form::of(accept.unwrap_or_default());
    let has_libvirt = wanted.libvirt == Some(true);
    let text = spawn_blocking(move || gather(&app, has_libvirt).write(form));
    let mut response = text.await.map_err(broken)?.into_response();
    let kind = HeaderValue::from_static(form.media_type());
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
