//! Operations as tasks. A task's monitor answers 202 while it runs, and then what the call would have answered.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::dates::date_time;
use super::errors::{Wrong, message, of_problem, said};
use super::kinds::{collection, link, resource};
use crate::http::app::App;
use crate::orders::problem;
use crate::words::{Operation, WorkState, now};

fn place(id: u64) -> String {
    format!("/redfish/v1/TaskService/Tasks/{id}")
}

/// Where the end of a task is waited for.
pub(super) fn monitor(id: u64) -> String {
    format!("/redfish/v1/TaskService/TaskMonitors/{id}")
}

/// The service.
pub(super) fn service() -> Value {
    let more = json!({
        "ServiceEnabled": true,
        "DateTime": date_time(now()),
        "CompletedTaskOverWritePolicy": "Oldest",
        "LifeCycleEventOnTaskStateChange": false,
        "Status": { "State": "Enabled", "Health": "OK" },
        "Tasks": link("/redfish/v1/TaskService/Tasks"),
    });
    resource(
        "TaskService",
        "/redfish/v1/TaskService",
        ("TaskService", "Operations"),
        more,
    )
}

/// All that are remembered.
pub(super) fn tasks(app: &App) -> Value {
    let all = app.orders.operations();
    let places: Vec<String> = all.iter().map(|operation| place(operation.id)).collect();
    collection(
        "TaskCollection",
        "/redfish/v1/TaskService/Tasks",
        "Operations",
        &places,
    )
}

/// One task.
pub(super) fn task(app: &App, id: u64) -> Result<Value, Wrong> {
    found(app, id).map(|operation| of(&operation))
}

fn found(app: &App, id: u64) -> Result<Operation, Wrong> {
    app.orders
        .operation(id)
        .ok_or_else(|| Wrong::missing(&place(id)))
}

/// An operation as a task.
pub(super) fn of(operation: &Operation) -> Value {
    let (state, status) = match operation.state {
        WorkState::Running => ("Running", "OK"),
        WorkState::Done => ("Completed", "OK"),
        WorkState::Failed => ("Exception", "Critical"),
        WorkState::Cancelled => ("Cancelled", "Warning"),
    };
    let messages = match (&operation.error, &operation.progress, operation.state) {
        (Some(problem), ..) => vec![of_problem(problem)],
        (None, _, WorkState::Done) => vec![message("Success", &[])],
        (None, Some(progress), _) => {
            let mut progress = said(progress, None);
            progress["MessageSeverity"] = "OK".into();
            vec![progress]
        }
        _ => Vec::new(),
    };
    let is_running = operation.state == WorkState::Running;
    let name = match &operation.vm {
        Some(vm) => format!("{} {vm}", operation.what),
        None => operation.what.clone(),
    };
    let more = json!({
        "TaskState": state,
        "TaskStatus": status,
        "StartTime": date_time(operation.begun_at),
        "EndTime": operation.ended_at.map(date_time),
        "TaskMonitor": is_running.then(|| monitor(operation.id)),
        "Messages": messages,
    });
    resource(
        "Task",
        &place(operation.id),
        (&operation.id.to_string(), &name),
        more,
    )
}

/// What the monitor of a task answers.
pub(super) fn look(app: &App, id: u64) -> Result<Response, Wrong> {
    let operation = found(app, id).map_err(|_| Wrong::missing(&monitor(id)))?;
    if operation.state == WorkState::Running {
        return Ok((StatusCode::ACCEPTED, axum::Json(of(&operation))).into_response());
    }
    end_of(&operation)
}

/// What is answered to who asked for an operation that has ended.
pub(super) fn end_of(operation: &Operation) -> Result<Response, Wrong> {
    match operation.state {
        WorkState::Failed => {
            let failed = problem("failed", "it failed");
            let error = operation.error.clone().unwrap_or(failed);
            Err(crate::http::answer::Refusal::of_command(error).into())
        }
        WorkState::Cancelled => Err(Wrong::conflict("it was cancelled", None)),
        _ => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

/// Has a task end early.
pub(super) fn cancel(app: &App, id: u64) -> Result<Response, Wrong> {
    match app.orders.cancel(id) {
        None => Err(Wrong::missing(&place(id))),
        Some(true) => Ok((StatusCode::ACCEPTED, axum::Json(task(app, id)?)).into_response()),
        Some(false) => Err(Wrong::new(
            StatusCode::CONFLICT,
            "ResourceCannotBeDeleted",
            &[],
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_ends_as_its_operation_did() {
        let check = |state, error: Option<&str>, expected: (&str, &str), status: u16| {
            let operation = Operation {
                id: 7,
                what: "stop".to_owned(),
                vm: Some("web".to_owned()),
                state,
                progress: None,
                error: error.map(|text| problem("refused", text)),
                begun_at: 0.0,
                ended_at: None,
            };
            let task = of(&operation);
            assert_eq!(
                (task["TaskState"].as_str(), task["TaskStatus"].as_str()),
                (Some(expected.0), Some(expected.1))
            );
            assert_eq!(task["TaskMonitor"].is_string(), state == WorkState::Running);
            let text = task["Messages"][0]["Message"].as_str().unwrap_or_default();
            assert!(error.is_none_or(|error| text == error), "{text}");
            let end =
                end_of(&operation).map_or_else(|wrong| wrong.status, |response| response.status());
            assert_eq!(end.as_u16(), status);
        };
        check(WorkState::Running, None, ("Running", "OK"), 204);
        check(WorkState::Done, None, ("Completed", "OK"), 204);
        check(
            WorkState::Failed,
            Some("it is paused"),
            ("Exception", "Critical"),
            409,
        );
        check(WorkState::Cancelled, None, ("Cancelled", "Warning"), 409);
    }
}
