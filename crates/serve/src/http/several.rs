//! What is about more than one VM: applying declarations, operations, images.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::answer::{Part, Refusal, Words as Asked, body};
use super::app::App;
use super::vms::{answer_operation, broken, ended};
use crate::daemon::Daemon;
use crate::orders::Words;
use crate::store::StoreError;
use crate::words::{Declaration, Operation};

/// Declarations that belong together.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Application {
    /// VMs as they shall be.
    #[serde(deserialize_with = "api::object::several")]
    vms: Vec<Declaration>,
}

/// How an application is meant.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct How {
    dry_run: Option<bool>,
    prune: Option<bool>,
}

/// What differs between what is declared and what was written.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Differences {
    /// Each VM that was written, and with `prune` each that was not.
    differences: Vec<Difference>,
    /// Whether it was done.
    applied: bool,
}

/// What differs of one VM.
#[derive(Clone, Serialize, JsonSchema)]
pub(crate) struct Difference {
    /// The VM.
    name: String,
    /// `create`, `change`, `delete`, or `none`.
    change: &'static str,
    /// What has another value.
    fields: Vec<Field>,
}

/// A value that differs.
#[derive(Clone, PartialEq, Debug, Serialize, JsonSchema)]
pub(crate) struct Field {
    /// Where it stands.
    key: String,
    /// As it is.
    from: Value,
    /// As it is written.
    to: Value,
}

/// A list of operations.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Operations {
    /// Newest first.
    operations: Vec<Operation>,
}

/// Whether the end is waited for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wait {
    #[serde(default, deserialize_with = "super::vms::wait")]
    wait: Option<u64>,
}

/// Keys and values of a declaration, those of its spec too.
fn flat(what: &Declaration) -> Vec<(String, Value)> {
    let mut all = vec![
        ("desired".to_owned(), json!(what.desired)),
        ("restart".to_owned(), json!(what.restart)),
        ("boot".to_owned(), json!(what.boot)),
        ("order".to_owned(), json!(what.order)),
        (
            "folder".to_owned(),
            json!(what.folder.display().to_string()),
        ),
    ];
    let said = what.spec.said().into_iter();
    all.extend(said.map(|(key, value)| (format!("spec.{key}"), value)));
    all
}

fn differences(old: &Declaration, new: &Declaration) -> Vec<Field> {
    let old = flat(old);
    let new = flat(new);
    let value = |all: &[(String, Value)], key: &str| {
        let found = all.iter().find(|(other, _)| other == key);
        found.map_or(Value::Null, |(_, value)| value.clone())
    };
    let mut keys: Vec<&String> = old.iter().chain(&new).map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    let fields = keys.into_iter().map(|key| Field {
        key: key.clone(),
        from: value(&old, key),
        to: value(&new, key),
    });
    fields.filter(|field| field.from != field.to).collect()
}

pub(crate) async fn apply(
    State(app): State<App>,
    Asked(how): Asked<How>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Json<Differences>, Refusal> {
    let written: Application = body(&headers, &bytes)?;
    for (index, one) in written.vms.iter().enumerate() {
        if written.vms[..index]
            .iter()
            .any(|other| other.name == one.name)
        {
            let place = format!("vms[{index}].name");
            return Err(Refusal::bad(
                &place,
                format!("\"{}\" stands there twice", one.name),
            ));
        }
    }
    let is_dry = how.dry_run == Some(true);
    let prunes = how.prune == Some(true);
    let daemon = app.clone();
    let done = spawn_blocking(move || perform(&daemon, written.vms, is_dry, prunes)).await;
    let differences = done.map_err(broken)??;
    if !is_dry {
        for gone in differences.iter().filter(|one| one.change == "delete") {
            remove_what_is_left(&app, &gone.name);
        }
    }
    Ok(Json(Differences {
        differences,
        applied: !is_dry,
    }))
}

fn perform(
    daemon: &Daemon,
    written: Vec<Declaration>,
    is_dry: bool,
    prunes: bool,
) -> Result<Vec<Difference>, StoreError> {
    let mut all = Vec::new();
    let names: Vec<String> = written.iter().map(|one| one.name.to_string()).collect();
    let mut changed = Vec::new();
    for new in written {
        let name = new.name.to_string();
        let (change, fields) = match daemon.sight.declared(&name) {
            None => ("create", Vec::new()),
            Some(old) => {
                let fields = differences(&old.what, &new);
                (if fields.is_empty() { "none" } else { "change" }, fields)
            }
        };
        if change != "none" {
            changed.push(new);
        }
        all.push(Difference {
            name,
            change,
            fields,
        });
    }
    let surplus = daemon.sight.all_declared().into_iter();
    let surplus = surplus.filter(|one| prunes && !names.contains(&one.what.name.to_string()));
    let surplus: Vec<String> = surplus.map(|one| one.what.name.to_string()).collect();
    all.extend(surplus.iter().map(|name| Difference {
        name: name.clone(),
        change: "delete",
        fields: Vec::new(),
    }));
    if !is_dry {
        daemon.declare_all(changed, &surplus)?;
    }
    Ok(all)
}

/// Stops a VM that is declared no more, and removes what it left.
fn remove_what_is_left(app: &App, name: &str) {
    let Some(vm) = app.sight.one(name) else {
        return;
    };
    let mut commands = Vec::new();
    if vm.state.is_alive() {
        commands.push(Words::new(["stop", "--json", name]));
    }
    commands.push(Words::new(["rm", "--json", name]));
    app.work("delete", Some(name), |_, _| {}, commands);
}

pub(crate) async fn operations(State(app): State<App>) -> Json<Operations> {
    Json(Operations {
        operations: app.orders.operations(),
    })
}

fn no_operation(id: u64) -> Refusal {
    Refusal::none(
        "no-such-operation",
        format!("there is no operation {id}"),
        "`GET /v1/operations` lists those that are remembered",
    )
}

pub(crate) async fn operation(
    State(app): State<App>,
    Part(id): Part<u64>,
    Asked(how): Asked<Wait>,
) -> Result<Response, Refusal> {
    let operation = app.orders.operation(id).ok_or_else(|| no_operation(id))?;
    // One that has failed is an answer here.
    Ok(Json(ended(&app, operation, how.wait).await).into_response())
}

pub(crate) async fn cancel(
    State(app): State<App>,
    Part(id): Part<u64>,
) -> Result<Response, Refusal> {
    match app.orders.cancel(id) {
        None => Err(no_operation(id)),
        Some(false) => Err(Refusal::conflict(
            "wrong-state",
            format!("operation {id} has ended"),
            "there is nothing to cancel",
        )),
        Some(true) => {
            let operation = app.orders.operation(id).ok_or_else(|| no_operation(id))?;
            answer_operation(&app, operation, None).await
        }
    }
}

pub(crate) async fn images(State(app): State<App>) -> Result<Json<Value>, Refusal> {
    command(&app, Words::new(["images", "--json"])).await
}

pub(crate) async fn networks(State(app): State<App>) -> Result<Json<Value>, Refusal> {
    command(&app, Words::new(["networks", "--json"])).await
}

pub(crate) async fn remove_image(
    State(app): State<App>,
    Part(name): Part<String>,
) -> Result<Json<Value>, Refusal> {
    let words = Words::new(["images", "rm", "--json", "--", &name]);
    let removed = app.orders.ask(words).await;
    removed
        .map(Json)
        .map_err(|problem| match problem.code.as_str() {
            // There is nothing else to be wrong about a name.
            "bad-input" => Refusal::none(
                "no-such-image",
                problem.message,
                "`GET /v1/images` lists what there is",
            ),
            _ => Refusal::of_command(problem),
        })
}

pub(crate) async fn prune_images(State(app): State<App>) -> Result<Json<Value>, Refusal> {
    command(&app, Words::new(["images", "prune", "--json"])).await
}

async fn command(app: &App, words: Words) -> Result<Json<Value>, Refusal> {
    let answer = app.orders.ask(words).await;
    answer.map(Json).map_err(Refusal::of_command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_by_key() {
        let declaration = |text: Value| serde_json::from_value::<Declaration>(text).unwrap();
        let old = declaration(json!({ "name": "web", "spec": { "memory": "64M", "cpus": 2 } }));
        let new = declaration(
            json!({ "name": "web", "restart": "always", "spec": { "memory": "128M" } }),
        );
        let found = differences(&old, &new);
        let found: Vec<_> = found
            .iter()
            .map(|field| format!("{}: {} -> {}", field.key, field.from, field.to))
            .collect();
        assert_eq!(
            found,
            [
                "restart: \"never\" -> \"always\"",
                "spec.cpus: 2 -> null",
                "spec.memory: \"64M\" -> \"128M\""
            ]
        );
        assert_eq!(differences(&new, &new), []);
    }
}
