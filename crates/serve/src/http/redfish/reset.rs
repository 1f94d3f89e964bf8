//! `ComputerSystem.Reset`: what can be asked of a VM in which state, and what follows.
//!
//! What is offered is what works in the state that a VM is in; nothing is offered that would do nothing. A guest that was
//! asked to power off and did not is ended when its time is over, as `mother stop` does, and the task says that it was.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::errors::Wrong;
use super::names::{found, place};
use super::tasks;
use crate::daemon::GRACE_SECONDS;
use crate::http::app::App;
use crate::http::vms::broken;
use crate::orders::Words;
use crate::words::{Desired, Operation, StateView, VmView, WorkState};

/// The action's name, as messages have it.
const ACTION: &str = "ComputerSystem.Reset";
/// What is done within this time is answered when it is done; what takes longer is a task.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at an operation.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Values of `ResetType`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reset {
    On,
    ForceOn,
    ForceOff,
    GracefulShutdown,
    GracefulRestart,
    ForceRestart,
    PowerCycle,
    PushPowerButton,
    Pause,
    Resume,
    Nmi,
}

const ALL: &[Reset] = &[
    Reset::On,
    Reset::ForceOn,
    Reset::ForceOff,
    Reset::GracefulShutdown,
    Reset::GracefulRestart,
    Reset::ForceRestart,
    Reset::PowerCycle,
    Reset::PushPowerButton,
    Reset::Pause,
    Reset::Resume,
    Reset::Nmi,
];

impl Reset {
    /// As Redfish calls it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Reset::On => "On",
            Reset::ForceOn => "ForceOn",
            Reset::ForceOff => "ForceOff",
            Reset::GracefulShutdown => "GracefulShutdown",
            Reset::GracefulRestart => "GracefulRestart",
            Reset::ForceRestart => "ForceRestart",
            Reset::PowerCycle => "PowerCycle",
            Reset::PushPowerButton => "PushPowerButton",
            Reset::Pause => "Pause",
            Reset::Resume => "Resume",
            Reset::Nmi => "Nmi",
        }
    }

    /// Whether it works in this state.
    fn works(self, state: StateView) -> bool {
        let is_on = matches!(
            state,
            StateView::Running | StateView::Paused | StateView::Waiting
        );
        match self {
            Reset::On | Reset::ForceOn => !state.is_alive(),
            // A process that does not answer can still be ended.
            Reset::ForceOff | Reset::ForceRestart | Reset::PowerCycle => state.is_alive(),
            Reset::GracefulShutdown | Reset::GracefulRestart => is_on,
            Reset::PushPowerButton => is_on || !state.is_alive(),
            Reset::Pause | Reset::Nmi => state == StateView::Running,
            Reset::Resume => state == StateView::Paused,
        }
    }
}

/// What works in a state.
pub(super) fn allowed(state: StateView) -> impl Iterator<Item = Reset> {
    ALL.iter().copied().filter(move |reset| reset.works(state))
}

/// What a request asks for.
fn asked(body: &Map<String, Value>) -> Result<Reset, Wrong> {
    if let Some(other) = body
        .keys()
        .find(|key| *key != "ResetType" && !key.contains('@'))
    {
        return Err(Wrong::bad("ActionParameterUnknown", &[ACTION, other]));
    }
    let Some(given) = body.get("ResetType") else {
        return Err(Wrong::bad("ActionParameterMissing", &[ACTION, "ResetType"]));
    };
    let text = given.as_str().unwrap_or_default();
    let known = ALL.iter().copied().find(|reset| reset.word() == text);
    known.ok_or_else(|| {
        let given = given.to_string();
        let args = [given.trim_matches('"'), "ResetType", ACTION];
        Wrong::bad("ActionParameterValueNotInList", &args)
    })
}

/// Commands, by what they are called as an operation and what a declared VM is wanted to be from then on.
fn commands(vm: &VmView, reset: Reset) -> (&'static str, Option<Desired>, Vec<&'static str>) {
    let is_off = !vm.state.is_alive();
    let on = Some(Desired::Running);
    let off = Some(Desired::Stopped);
    match reset {
        Reset::On | Reset::ForceOn => ("start", on, vec!["start"]),
        Reset::PushPowerButton if is_off => ("start", on, vec!["start"]),
        Reset::GracefulShutdown | Reset::PushPowerButton => ("stop", off, vec!["stop"]),
        Reset::ForceOff => ("kill", off, vec!["kill"]),
        Reset::GracefulRestart => ("restart", on, vec!["stop", "start"]),
        Reset::ForceRestart | Reset::PowerCycle => ("restart", on, vec!["kill", "start"]),
        Reset::Pause => ("pause", None, vec!["pause"]),
        Reset::Resume => ("resume", None, vec!["resume"]),
        Reset::Nmi => ("nmi", None, vec!["nmi"]),
    }
}

/// Does what a request asks for.
pub(super) async fn act(
    app: &App,
    name: &str,
    body: &Map<String, Value>,
) -> Result<Response, Wrong> {
    let vm = found(app, name)?;
    let reset = asked(body)?;
    if !reset.works(vm.state) {
        let text = format!(
            "{} does nothing to VM \"{name}\", which is {}",
            reset.word(),
            vm.state.word()
        );
        let now: Vec<&str> = allowed(vm.state).map(Reset::word).collect();
        return Err(Wrong::conflict(
            &text,
            Some(&format!("now there are {}", now.join(", "))),
        ));
    }
    // What ends a VM does not wait for what goes on.
    let is_end = matches!(reset, Reset::ForceOff | Reset::GracefulShutdown);
    if app.orders.is_busy(name) && !is_end {
        let text = format!("something else is being done to VM \"{name}\"");
        return Err(Wrong::conflict(
            &text,
            Some("wait for the task, or cancel it"),
        ));
    }
    let operation = begin(app, &vm, reset).await?;
    answer(app, operation).await
}

async fn begin(app: &App, vm: &VmView, reset: Reset) -> Result<Operation, Wrong> {
    let name = vm.name.as_str();
    let (what, desired, commands) = commands(vm, reset);
    let wished = match desired.filter(|_| vm.declared.is_some()) {
        Some(desired) => {
            let daemon = app.clone();
            let of = name.to_owned();
            let wished = spawn_blocking(move || daemon.wish(&of, desired)).await;
            wished.map_err(broken)??
        }
        None => None,
    };
    let words = |command: &&str| match (*command, &wished) {
        ("start", Some(_)) => Words::start(name),
        ("stop", _) => Words {
            is_graceful: true,
            ..Words::new([
                "stop",
                "--json",
                "--grace",
                &format!("{GRACE_SECONDS}s"),
                name,
            ])
        },
        (command, _) => Words::new([command, "--json", name]),
    };
    let words: Vec<Words> = commands.iter().map(words).collect();
    Ok(match &wished {
        Some(declared) => app.begin(what, declared, words),
        None => app.work(what, Some(name), |_, _| {}, words),
    })
}

/// Nothing, if it is soon done; a task, if it takes its time.
async fn answer(app: &App, operation: Operation) -> Result<Response, Wrong> {
    answer_as_it_is(&ended(app, operation).await)
}

/// An operation when it has ended, or when that has been waited for long enough.
pub(super) async fn ended(app: &App, operation: Operation) -> Operation {
    let until = Instant::now() + PATIENCE;
    let id = operation.id;
    let mut now = operation;
    while now.state == WorkState::Running && Instant::now() < until {
        sleep(LOOK_EVERY).await;
        now = app.orders.operation(id).unwrap_or(now);
    }
    now
}

/// What is answered to who asked for an operation: what came of it, or that it goes on.
pub(super) fn answer_as_it_is(now: &Operation) -> Result<Response, Wrong> {
    if now.state != WorkState::Running {
        return tasks::end_of(now);
    }
    let mut response = (StatusCode::ACCEPTED, axum::Json(tasks::of(now))).into_response();
    if let Ok(monitor) = HeaderValue::from_str(&tasks::monitor(now.id)) {
        response.headers_mut().insert(header::LOCATION, monitor);
    }
    Ok(response)
}

/// Where the action of a VM is.
pub(super) fn target(name: &str) -> String {
    format!("{}/Actions/{ACTION}", place(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::words::tests::vm;

    #[test]
    fn what_is_offered_works_in_the_state() {
        let check = |state, expected: &str| {
            let found: Vec<&str> = allowed(state).map(Reset::word).collect();
            assert_eq!(found.join(" "), expected, "{state:?}");
        };
        for off in [StateView::Declared, StateView::Ended, StateView::Died] {
            check(off, "On ForceOn PushPowerButton");
        }
        check(
            StateView::Running,
            "ForceOff GracefulShutdown GracefulRestart ForceRestart PowerCycle PushPowerButton Pause Nmi",
        );
        check(
            StateView::Paused,
            "ForceOff GracefulShutdown GracefulRestart ForceRestart PowerCycle PushPowerButton Resume",
        );
        check(StateView::Unresponsive, "ForceOff ForceRestart PowerCycle");
        check(StateView::Starting, "ForceOff ForceRestart PowerCycle");
    }

    #[test]
    fn a_request_says_what_it_asks_for() {
        let check = |body: Value, expected: Result<Reset, &str>| {
            let found = asked(body.as_object().unwrap());
            let found =
                found.map_err(|wrong| wrong.messages[0]["MessageId"].as_str().unwrap().to_owned());
            let expected = expected.map_err(|id| format!("{}.{id}", super::super::errors::BASE));
            assert_eq!(found, expected, "{body}");
        };
        check(json!({ "ResetType": "ForceOff" }), Ok(Reset::ForceOff));
        check(json!({}), Err("ActionParameterMissing"));
        check(
            json!({ "ResetType": "Hibernate" }),
            Err("ActionParameterValueNotInList"),
        );
        check(
            json!({ "ResetType": 5 }),
            Err("ActionParameterValueNotInList"),
        );
        check(
            json!({ "ResetType": "On", "x": 1 }),
            Err("ActionParameterUnknown"),
        );
    }

    #[test]
    fn the_power_button_does_what_it_does_on_a_machine() {
        let check = |state, reset, expected: (&str, &[&str])| {
            let (what, _, found) = commands(&vm(state), reset);
            assert_eq!((what, found.as_slice()), expected);
        };
        check(
            StateView::Ended,
            Reset::PushPowerButton,
            ("start", &["start"]),
        );
        check(
            StateView::Running,
            Reset::PushPowerButton,
            ("stop", &["stop"]),
        );
        check(
            StateView::Running,
            Reset::PowerCycle,
            ("restart", &["kill", "start"]),
        );
        check(StateView::Paused, Reset::Resume, ("resume", &["resume"]));
    }
}
