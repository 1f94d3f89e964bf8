//! A VM's console as a WebSocket (RFC 6455): bytes of the console in binary messages, both ways; a text message
//! `{"resize": {"rows": 24, "columns": 80}}` tells the size of the window.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use api::{Command, VmName};
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, State};
use axum::response::Response;
use fleet::{Client, ClientError, Record};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::answer::{Part, Refusal, Words as Asked};
use super::app::App;
use super::vms::broken;
use crate::doors::Who;
use crate::words::Role;

/// How much of what was printed comes first.
const REPLAY_BYTES: u64 = 64 * 1024;
/// Longest message from a client.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Pieces of the console that wait for a slow client; then the console waits.
const PIECES_MAX: usize = 64;

/// Whether one types.
#[derive(Debug, Deserialize)]
pub(crate) struct How {
    types: Option<bool>,
}

/// What a client says beside its keys.
#[derive(Deserialize)]
struct Said {
    resize: Size,
}

#[derive(Clone, Copy, Deserialize)]
struct Size {
    rows: u16,
    columns: u16,
}

pub(crate) async fn attach(
    State(app): State<App>,
    Part(name): Part<String>,
    Asked(how): Asked<How>,
    Extension(who): Extension<Who>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let types = how.types != Some(false);
    if types && who.role < Role::Operator {
        return Err(Refusal::forbidden(&who, Role::Operator));
    }
    let vm = app.sight.one(&name).ok_or_else(|| Refusal::no_vm(&name))?;
    let upgrade = upgrade.map_err(|error| Refusal::bad("upgrade", error.body_text()))?;
    if !vm.state.is_alive() {
        return Err(Refusal::conflict(
            "wrong-state",
            format!("VM \"{name}\" is {}", vm.state.word()),
            "`/logs` has what it printed",
        ));
    }
    let vm = VmName::new(&name).map_err(|_| Refusal::no_vm(&name))?;
    let record = app.inventory.record(&vm);
    let of = record.clone();
    let connected = spawn_blocking(move || connect(&of, types)).await;
    let (first, stream) = connected.map_err(broken)?.map_err(|error| {
        Refusal::conflict(
            "console",
            error.to_string(),
            "`GET /v1/vms` says what it is doing",
        )
    })?;
    let upgrade = upgrade
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| serve(socket, record, first, stream)))
}

fn connect(record: &Record, types: bool) -> Result<(Vec<u8>, UnixStream), ClientError> {
    let mut client = Client::connect(record)?;
    client.order(Command::Console {
        replay_bytes: REPLAY_BYTES,
        types,
    })?;
    client.into_console()
}

async fn serve(socket: WebSocket, record: Record, first: Vec<u8>, stream: UnixStream) {
    let (mut to_client, mut from_client) = socket.split();
    let (printed, mut pieces) = mpsc::channel::<Vec<u8>>(PIECES_MAX);
    let Ok(reader) = stream.try_clone() else {
        return;
    };
    let copied = thread::Builder::new()
        .name("console".to_owned())
        .spawn(move || copy(reader, first, &printed));
    if copied.is_err() {
        return;
    }
    let console = async {
        while let Some(piece) = pieces.recv().await {
            if to_client.send(Message::Binary(piece.into())).await.is_err() {
                return;
            }
        }
        let why = CloseFrame {
            code: axum::extract::ws::close_code::NORMAL,
            reason: "the VM has ended".into(),
        };
        let _ = to_client.send(Message::Close(Some(why))).await;
    };
    let keys = async {
        while let Some(Ok(message)) = from_client.next().await {
            let is_over = match message {
                Message::Binary(keys) => type_keys(&stream, keys.to_vec()).await.is_err(),
                Message::Text(text) => {
                    if let Ok(said) = serde_json::from_str::<Said>(&text) {
                        let record = record.clone();
                        let _ = spawn_blocking(move || tell_size(&record, said.resize)).await;
                    }
                    false
                }
                Message::Close(_) => true,
                Message::Ping(_) | Message::Pong(_) => false,
            };
            if is_over {
                return;
            }
        }
    };
    tokio::select! {
        () = console => {}
        () = keys => {}
    }
    // The thread that reads ends with it.
    let _ = stream.shutdown(Shutdown::Both);
}

/// What the guest prints, to whoever takes it.
fn copy(mut from: UnixStream, first: Vec<u8>, to: &mpsc::Sender<Vec<u8>>) {
    if !first.is_empty() && to.blocking_send(first).is_err() {
        return;
    }
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if to.blocking_send(bytes[..count].to_vec()).is_err() {
            return;
        }
    }
}

/// A guest that does not read its keys holds up this client alone.
async fn type_keys(stream: &UnixStream, keys: Vec<u8>) -> std::io::Result<()> {
    let mut stream = stream.try_clone()?;
    spawn_blocking(move || stream.write_all(&keys))
        .await
        .map_err(std::io::Error::other)?
}

fn tell_size(record: &Record, size: Size) -> Result<(), ClientError> {
    Client::connect(record)?.order(Command::Resize {
        rows: size.rows,
        columns: size.columns,
    })
}
