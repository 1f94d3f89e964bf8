//! The host: what it has, what all guests believe to have, and what more fits.

use api::{Metric, VmName};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use fleet::Client;
use serde::Deserialize;
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::answer::{Refusal, Words as Asked};
use super::app::App;
use super::vms::broken;
use crate::host_view::{HostView, look};
use crate::metrics::{self, Form};
use crate::orders::Words;
use crate::words::{StateView, VmView};

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
    let text = spawn_blocking(move || {
        let vms = app.sight.all();
        let own = numbers(&app, &vms);
        let host = look(&app.options.version, &vms);
        metrics::text(form, &vms, &own, &host, has_libvirt)
    });
    let mut response = text.await.map_err(broken)?.into_response();
    let kind = HeaderValue::from_static(form.media_type());
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// What each VM that runs counts itself.
fn numbers(app: &App, vms: &[VmView]) -> Vec<(String, Vec<Metric>)> {
    let running = vms.iter().filter(|vm| {
        matches!(
            vm.state,
            StateView::Running | StateView::Paused | StateView::Stopping
        )
    });
    let names = running.filter_map(|vm| VmName::new(&vm.name).ok());
    std::thread::scope(|scope| {
        let ask = |name: VmName| {
            scope.spawn(move || {
                let client = Client::connect(&app.inventory.record(&name));
                let metrics = client.and_then(|mut client| client.metrics());
                // One that ends meanwhile has none.
                metrics.ok().map(|metrics| (name.to_string(), metrics))
            })
        };
        let asked: Vec<_> = names.map(ask).collect();
        let answers = asked.into_iter().filter_map(|thread| thread.join().ok());
        answers.flatten().collect()
    })
}
