//! A command of Mother's, run here for somebody at another host: `mother --host URL COMMAND` prints what it prints here.
//!
//! The answer is lines of JSON as they come: `{"out": "..."}` and `{"err": "..."}` with text of standard output and error
//! (what is no UTF-8 is replaced), and at last `{"status": 0}`. When the client goes, the command is ended.

use std::process::Stdio;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::mpsc;

use super::answer::{Refusal, body};
use super::app::App;
use crate::doors::Who;
use crate::orders::problem;
use crate::words::Role;

/// Pieces that wait for a slow client; then the command waits.
const PIECES_MAX: usize = 64;
/// How much is read at once.
const PIECE_BYTES: usize = 16 * 1024;
/// So that a client that is gone is noticed.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// What is asked.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    /// What would be typed behind `mother`.
    words: Vec<String>,
}

/// Commands that only look.
const LOOKING: &[&str] = &[
    "ps",
    "truth",
    "inspect",
    "dmesg",
    "hooks",
    "trace",
    "logs",
    "wait",
    "doctor",
    "images",
    "snapshots",
    "networks",
    "events",
];
/// Commands that change VMs, images or snapshots.
const CHANGING: &[&str] = &[
    "run",
    "stop",
    "kill",
    "start",
    "restart",
    "rename",
    "update",
    "pause",
    "resume",
    "nmi",
    "switch",
    "balloon",
    "limit",
    "link",
    "rm",
    "remove",
    "images",
    "snapshots",
    "snapshot",
    "suspend",
    "restore",
    "fork",
    "create",
    "delete",
];

/// The least that may have this done; none if it is not for other hosts.
fn role(words: &[String]) -> Option<Role> {
    let command = words.first()?.as_str();
    let has = |word: &str| words.iter().any(|other| other == word);
    let reads_file = words.iter().any(|word| word.starts_with("--memory"));
    match command {
        // More than a list changes something, or reads what a path leads to.
        "images" | "snapshots" if words.iter().skip(1).any(|word| !word.starts_with('-')) => {
            Some(Role::Operator)
        }
        // It would wait for standard input.
        "exec" if has("-n") || has("--no-input") => Some(Role::Operator),
        // Looking into a file of the host's is looking at more than VMs.
        command if LOOKING.contains(&command) && reads_file => Some(Role::Operator),
        "run" if !(has("-d") || has("--detach")) || has("--report") => None,
        command if LOOKING.contains(&command) => Some(Role::ReadOnly),
        command if CHANGING.contains(&command) => Some(Role::Operator),
        _ => None,
    }
}

pub(crate) async fn run(
    State(_): State<App>,
    Extension(who): Extension<Who>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Refusal> {
    let asked: Asked = body(&headers, &bytes)?;
    let Some(needed) = role(&asked.words) else {
        let command = asked.words.first().map_or("", String::as_str);
        let message = format!("\"{}\" is not run for other hosts", command.escape_debug());
        let mut refusal = Refusal::bad("words", message);
        let help = "what needs a terminal, files or standard input runs on the host itself; `run` goes with -d";
        refusal.problem.help = Some(help.to_owned());
        return Err(refusal);
    };
    if who.role < needed {
        return Err(Refusal::forbidden(&who, needed));
    }
    if asked.words.iter().any(|word| word.contains('\0')) {
        return Err(Refusal::bad("words", "a word has a NUL in it"));
    }
    let child = Command::new("/proc/self/exe")
        .args(&asked.words)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| {
        let what = problem("internal", format!("cannot start the command: {error}"));
        Refusal::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, what)
    })?;
    let (to, from) = mpsc::channel::<Value>(PIECES_MAX);
    let out = copy(child.stdout.take(), "out", to.clone());
    let err = copy(child.stderr.take(), "err", to.clone());
    tokio::spawn(async move {
        let both = async {
            tokio::join!(out, err);
            child.wait().await
        };
        let gone = async {
            // Empty lines are nothing to the client, and fail when it is gone.
            while to.send(Value::Null).await.is_ok() {
                tokio::time::sleep(ALIVE_EVERY).await;
            }
        };
        let status = tokio::select! {
            status = both => status.ok().and_then(|status| status.code()),
            () = gone => None,
        };
        let _ = to.send(json!({ "status": status })).await;
    });
    let lines = stream::unfold(from, |mut from| async move {
        let value = from.recv().await?;
        let line = match value {
            Value::Null => "\n".to_owned(),
            value => format!("{value}\n"),
        };
        Some((Ok::<_, std::convert::Infallible>(line), from))
    });
    let mut response = Body::from_stream(lines).into_response();
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Text as it comes; a character that is cut waits for its end.
async fn copy(from: Option<impl AsyncRead + Unpin>, key: &'static str, to: mpsc::Sender<Value>) {
    let Some(mut from) = from else { return };
    let mut bytes = vec![0; PIECE_BYTES];
    let mut held: Vec<u8> = Vec::new();
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        held.extend_from_slice(&bytes[..count]);
        let whole = match std::str::from_utf8(&held) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => held.len(),
        };
        let text = String::from_utf8_lossy(&held[..whole]).into_owned();
        held.drain(..whole);
        if !text.is_empty() && to.send(json!({ key: text })).await.is_err() {
            return;
        }
    }
    if !held.is_empty() {
        let _ = to
            .send(json!({ key: String::from_utf8_lossy(&held) }))
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_run_for_others_is_a_list() {
        let check = |line: &str, expected| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(role(&words), expected, "{line}");
        };
        check("ps -a", Some(Role::ReadOnly));
        check("images --json", Some(Role::ReadOnly));
        check("images rm debian", Some(Role::Operator));
        check("snapshots --json", Some(Role::ReadOnly));
        check("snapshots verify ./base", Some(Role::Operator));
        check("stop web", Some(Role::Operator));
        check("run -d --name web", Some(Role::Operator));
        check("run", None);
        check("inspect --memory vmcore", Some(Role::Operator));
        check("ps --memory=vmcore", Some(Role::Operator));
        check("ps qemu:web", Some(Role::ReadOnly));
        check("exec -n web true", Some(Role::Operator));
        check("exec web true", None);
        check("run -d --report /etc/x", None);
        check("serve", None);
        check("dump web -o x", None);
        check("console web", None);
        check("", None);
    }
}
