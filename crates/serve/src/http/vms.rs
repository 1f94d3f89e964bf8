//! VMs, one by one and as a list.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::answer::{
    Part, Refusal, Words as Asked, body, changed, tag, wanted_version, with_version,
};
use super::app::App;
use crate::daemon::{Changed, GRACE_SECONDS};
use crate::orders::{Words, problem};
use crate::words::{Declaration, Desired, Operation, Problem, VmView, WorkState};

/// Longest wait for an operation.
const WAIT_MAX: u64 = 300;
/// Between two looks at an operation that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A list of VMs.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Vms {
    /// By name.
    vms: Vec<VmView>,
}

/// Which VMs are wanted.
#[derive(Debug, Deserialize)]
pub(crate) struct Choice {
    label: Option<String>,
    state: Option<String>,
}

/// What an action wants to know; most want nothing.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ActionBody {
    /// `stop`, `restart`: how long the guest may take, in seconds.
    grace_seconds: Option<u64>,
    /// `limit`: how much of its memory the host may hold: a size, a share or none.
    resident: Option<String>,
    /// `limit`: CPU time as a share of one core, or none.
    cpu_limit: Option<String>,
    /// `limit`: CPU time against others.
    cpu_weight: Option<u32>,
    /// `limit`: bytes per second of its disks, or none.
    disk_rate: Option<String>,
    /// `limit`: bytes per second of its network card, or none.
    net_rate: Option<String>,
    /// `limit`: memory that compressed pages may take.
    page_memory: Option<String>,
    /// `limit`: what the software CPU may hold beside the guest's pages: a size or none.
    engine_memory: Option<String>,
    /// `limit`: what the VM may cost the host in all: a size or none.
    host_limit: Option<String>,
    /// `limit`: requests per second of its disks, or none.
    disk_ops: Option<String>,
    /// `limit`: packets per second of its network card, or none.
    net_packets: Option<String>,
    /// `limit`: bytes per second of its consoles, or none.
    console_rate: Option<String>,
    /// `balloon`: what the balloon shall hold.
    size: Option<String>,
    /// `link`: whether the cable is in.
    up: Option<bool>,
    /// `switch`: `kvm` or `soft`.
    engine: Option<String>,
}

/// Whether the end of an operation is waited for, and how a VM is removed.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Patience {
    #[serde(default, deserialize_with = "wait")]
    wait: Option<u64>,
    kill: Option<bool>,
}

/// Seconds to wait, of which there is a highest number.
pub(super) fn wait<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let seconds = u64::deserialize(deserializer)?;
    if seconds > WAIT_MAX {
        let what = format!("wait: nothing is waited for longer than {WAIT_MAX} seconds");
        return Err(D::Error::custom(what));
    }
    Ok(Some(seconds))
}

pub(crate) async fn list(
    State(app): State<App>,
    Asked(choice): Asked<Choice>,
) -> Result<Json<Vms>, Refusal> {
    let mut vms = app.sight.all();
    if let Some(label) = &choice.label {
        let (key, value) = label
            .split_once('=')
            .ok_or_else(|| Refusal::bad("label", "write KEY=VALUE"))?;
        vms.retain(|vm| vm.labels.get(key).is_some_and(|found| found == value));
    }
    if let Some(state) = &choice.state {
        vms.retain(|vm| vm.state.word() == state);
    }
    Ok(Json(Vms { vms }))
}

pub(crate) async fn one(
    State(app): State<App>,
    Part(name): Part<String>,
) -> Result<Response, Refusal> {
    let vm = app.sight.one(&name).ok_or_else(|| Refusal::no_vm(&name))?;
    let version = vm.declared.as_ref().map(|declared| declared.version);
    Ok(with_version(version, &vm))
}

pub(crate) async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Refusal> {
    let what: Declaration = body(&headers, &bytes)?;
    let name = what.name.to_string();
    match declare(&app, what, Some(0)).await? {
        Changed::To(declared) => {
            let mut response = view(&app, &name, StatusCode::CREATED)?;
            tag(&mut response, declared.version);
            let place = HeaderValue::from_str(&format!("/v1/vms/{name}"));
            if let Ok(place) = place {
                response.headers_mut().insert(header::LOCATION, place);
            }
            Ok(response)
        }
        Changed::Not(_) => Err(Refusal::conflict(
            "declared-already",
            format!("VM \"{name}\" is declared already"),
            "`PUT` changes its declaration",
        )),
    }
}

pub(crate) async fn replace(
    State(app): State<App>,
    Part(name): Part<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Refusal> {
    let what: Declaration = body(&headers, &bytes)?;
    if what.name.as_str() != name {
        let problem = Problem {
            r#where: Some("name".to_owned()),
            ..problem(
                "another-name",
                format!("the path says \"{}\"", name.escape_debug()),
            )
        };
        return Err(Refusal::new(StatusCode::CONFLICT, problem));
    }
    let expected = wanted_version(&headers)?;
    match declare(&app, what, expected).await? {
        Changed::To(declared) => {
            let mut response = view(&app, &name, StatusCode::OK)?;
            tag(&mut response, declared.version);
            Ok(response)
        }
        Changed::Not(version) => Err(changed(version)),
    }
}

async fn declare(app: &App, what: Declaration, expected: Option<u64>) -> Result<Changed, Refusal> {
    let app = app.clone();
    let declared = spawn_blocking(move || app.declare(what, expected)).await;
    Ok(declared.map_err(broken)??)
}

fn view(app: &App, name: &str, status: StatusCode) -> Result<Response, Refusal> {
    let vm = app.sight.one(name).ok_or_else(|| Refusal::no_vm(name))?;
    Ok((status, Json(vm)).into_response())
}

pub(crate) async fn remove(
    State(app): State<App>,
    Part(name): Part<String>,
    Asked(patience): Asked<Patience>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let vm = app.sight.one(&name).ok_or_else(|| Refusal::no_vm(&name))?;
    if vm.declared.is_some() {
        let expected = wanted_version(&headers)?;
        let daemon = app.clone();
        let forgotten = name.clone();
        let forgot = spawn_blocking(move || daemon.forget(&forgotten, expected)).await;
        if let Changed::Not(version) = forgot.map_err(broken)?? {
            return Err(changed(version));
        }
    }
    let mut commands = Vec::new();
    if vm.state.is_alive() {
        commands.push(if patience.kill == Some(true) {
            Words::new(["kill", "--json", &name])
        } else {
            stop_words(&name, GRACE_SECONDS)
        });
    }
    if vm.end.is_some() || vm.state.is_alive() {
        commands.push(Words::new(["rm", "--json", &name]));
    }
    let operation = app.work("delete", Some(&name), |_, _| {}, commands);
    answer_operation(&app, operation, patience.wait).await
}

fn stop_words(name: &str, grace_seconds: u64) -> Words {
    Words::new([
        "stop",
        "--json",
        "--grace",
        &format!("{grace_seconds}s"),
        name,
    ])
}

pub(crate) async fn act(
    State(app): State<App>,
    Part((name, action)): Part<(String, String)>,
    Asked(patience): Asked<Patience>,
    Extension(_who): Extension<crate::doors::Who>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Refusal> {
    let given: ActionBody = if bytes.is_empty() {
        ActionBody::default()
    } else {
        body(&headers, &bytes)?
    };
    let operation = perform(&app, &name, &action, &given).await?;
    answer_operation(&app, operation, patience.wait).await
}

/// Begins an action.
pub(crate) async fn perform(
    app: &App,
    name: &str,
    action: &str,
    given: &ActionBody,
) -> Result<Operation, Refusal> {
    let vm = app.sight.one(name).ok_or_else(|| Refusal::no_vm(name))?;
    let is_alive = vm.state.is_alive();
    if app.orders.is_busy(name) && !matches!(action, "kill" | "stop") {
        return Err(Refusal::conflict(
            "busy",
            format!("something else is being done to VM \"{name}\""),
            "`GET /v1/operations` says what; wait for it, or cancel it",
        ));
    }
    let grace = given.grace_seconds.unwrap_or(GRACE_SECONDS);
    match action {
        "start" if is_alive => Err(Refusal::conflict(
            "wrong-state",
            format!("VM \"{name}\" is {}", vm.state.word()),
            "it runs already",
        )),
        "start" | "restart" | "stop" if vm.declared.is_some() => {
            let desired = if action == "stop" {
                Desired::Stopped
            } else {
                Desired::Running
            };
            let daemon = app.clone();
            let of = name.to_owned();
            let wished = spawn_blocking(move || daemon.wish(&of, desired)).await;
            let Some(declared) = wished.map_err(broken)?? else {
                return Err(Refusal::no_vm(name));
            };
            let mut commands = Vec::new();
            if action != "start" && is_alive {
                commands.push(stop_words(name, grace));
            }
            if action != "stop" {
                commands.push(Words::start(name));
            }
            let what = match action {
                "start" => "start",
                "stop" => "stop",
                _ => "restart",
            };
            Ok(app.begin(what, &declared, commands))
        }
        _ => {
            let words = plain_words(name, action, given, grace)?;
            Ok(app.work(action, Some(name), |_, _| {}, vec![words]))
        }
    }
}

/// The command of an action that leaves declarations alone.
fn plain_words(name: &str, action: &str, given: &ActionBody, grace: u64) -> Result<Words, Refusal> {
    let missing = |part: &str| Refusal::bad(part, format!("`{action}` needs it"));
    let mut words = vec![action.to_owned(), "--json".to_owned()];
    match action {
        "start" | "kill" | "pause" | "resume" | "nmi" => words.push(name.to_owned()),
        "stop" | "restart" => {
            words.extend(["--grace".to_owned(), format!("{grace}s"), name.to_owned()]);
        }
        "limit" => {
            let weight = given.cpu_weight.map(|weight| weight.to_string());
            for (option, value) in [
                ("--resident", &given.resident),
                ("--cpu-limit", &given.cpu_limit),
                ("--cpu-weight", &weight),
                ("--disk-rate", &given.disk_rate),
                ("--net-rate", &given.net_rate),
                ("--page-memory", &given.page_memory),
                ("--engine-memory", &given.engine_memory),
                ("--host-limit", &given.host_limit),
                ("--disk-ops", &given.disk_ops),
                ("--net-packets", &given.net_packets),
                ("--console-rate", &given.console_rate),
            ] {
                if let Some(value) = value {
                    words.push(format!("{option}={value}"));
                }
            }
            if words.len() == 2 {
                return Err(missing("resident, or another limit"));
            }
            words.push(name.to_owned());
        }
        "balloon" => {
            let size = given.size.as_ref().ok_or_else(|| missing("size"))?;
            words.extend([name.to_owned(), format!("--target={size}")]);
        }
        "link" => {
            let up = given.up.ok_or_else(|| missing("up"))?;
            words.extend([if up { "up" } else { "down" }.to_owned(), name.to_owned()]);
        }
        "switch" => {
            let engine = given.engine.as_ref().ok_or_else(|| missing("engine"))?;
            words.extend([format!("--engine={engine}"), name.to_owned()]);
        }
        _ => {
            return Err(Refusal::none(
                "no-such-action",
                format!("nothing is called \"{}\"", action.escape_debug()),
                "there are start, stop, restart, kill, pause, resume, nmi, limit, balloon, link and switch",
            ));
        }
    }
    Ok(Words {
        words,
        ..Words::default()
    })
}

/// An operation when it has ended, or when that has been waited for so long.
pub(super) async fn ended(app: &App, operation: Operation, wait: Option<u64>) -> Operation {
    let until = Instant::now() + Duration::from_secs(wait.unwrap_or(0));
    let id = operation.id;
    let mut now = operation;
    while now.state == WorkState::Running && Instant::now() < until {
        sleep(LOOK_EVERY).await;
        now = app.orders.operation(id).unwrap_or(now);
    }
    now
}

/// An operation as an answer to who has asked for it: at once, or when it has ended.
pub(crate) async fn answer_operation(
    app: &App,
    operation: Operation,
    wait: Option<u64>,
) -> Result<Response, Refusal> {
    let id = operation.id;
    let now = ended(app, operation, wait).await;
    if now.state == WorkState::Failed && wait.is_some() {
        let error = now.error.unwrap_or_else(|| problem("failed", "it failed"));
        return Err(Refusal::of_command(error));
    }
    let status = if now.state == WorkState::Running {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    let mut response = (status, Json(&now)).into_response();
    if let Ok(place) = HeaderValue::from_str(&format!("/v1/operations/{id}")) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

/// What a command says of one VM.
pub(crate) async fn ask(
    State(app): State<App>,
    Part(name): Part<String>,
    command: &'static str,
) -> Result<Json<Value>, Refusal> {
    if app.sight.one(&name).is_none() {
        return Err(Refusal::no_vm(&name));
    }
    let word = if command == "processes" {
        "ps"
    } else {
        command
    };
    let answer = app.orders.ask(Words::new([word, "--json", &name])).await;
    answer.map(Json).map_err(Refusal::of_command)
}

pub(crate) fn broken(error: tokio::task::JoinError) -> Refusal {
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        problem("internal", error.to_string()),
    )
}
