//! What changes and what happens, as server-sent events (HTML Living Standard, section 9.2).

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::spawn_blocking;

use super::answer::{Refusal, Words as Asked};
use super::app::App;
use super::vms::broken;
use crate::sight::Change;
use crate::words::{Event, VmView};

/// Events in one answer, if nobody says how many.
const LIMIT: usize = 1000;
/// So that whoever stands between does not think that nobody is there.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

/// Some events.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Events {
    /// Oldest first.
    events: Vec<Event>,
    /// The oldest that is kept; 0 if there is none.
    first: u64,
    /// The newest; 0 if there is none.
    last: u64,
}

/// Which events are wanted.
#[derive(Debug, Deserialize)]
pub(crate) struct Choice {
    after: Option<u64>,
    limit: Option<usize>,
    vm: Option<String>,
}

pub(crate) async fn events(
    State(app): State<App>,
    Asked(choice): Asked<Choice>,
) -> Result<Json<Events>, Refusal> {
    let read = spawn_blocking(move || {
        let limit = choice.limit.unwrap_or(LIMIT).min(LIMIT);
        // Those of one VM lie between others.
        let looked_at = if choice.vm.is_some() {
            usize::MAX
        } else {
            limit
        };
        let mut events = app.store.events(choice.after, looked_at)?;
        if let Some(vm) = &choice.vm {
            events.retain(|event| event.vm.as_ref() == Some(vm));
            if choice.after.is_some() {
                events.truncate(limit);
            } else {
                events.drain(..events.len().saturating_sub(limit));
            }
        }
        let (first, last) = app.store.span_of_events()?.unwrap_or_default();
        Ok(Events {
            events,
            first,
            last,
        })
    });
    read.await
        .map_err(broken)?
        .map(Json)
        .map_err(|error: crate::store::StoreError| error.into())
}

/// Somebody who reads events: first what is kept, then what comes.
pub(super) struct Reader {
    app: App,
    coming: broadcast::Receiver<Event>,
    waiting: std::collections::VecDeque<Event>,
    /// The newest that was told.
    last: Option<u64>,
    /// Some between were not kept.
    lost: Option<u64>,
}

pub(crate) async fn event_stream(
    State(app): State<App>,
    Asked(choice): Asked<Choice>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Message, Infallible>>>, Refusal> {
    let given = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok())
        .and_then(|id| id.trim().parse().ok());
    let reader = Reader::new(app, given.or(choice.after)).await?;
    let stream = stream::unfold(reader, |mut reader| async move {
        let message = reader.next().await?;
        Some((Ok(message), reader))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(ALIVE_EVERY)))
}

/// What a reader is told.
pub(super) enum Told {
    /// So many events between were not kept.
    Lost(u64),
    /// What happened.
    Event(Event),
}

impl Reader {
    /// Reads from behind `last`, or what comes.
    pub(super) async fn new(app: App, last: Option<u64>) -> Result<Reader, Refusal> {
        // Listens first: what comes between is told twice to this side, and once to the client.
        let coming = app.events.listen();
        let mut reader = Reader {
            app,
            coming,
            waiting: std::collections::VecDeque::new(),
            last,
            lost: None,
        };
        reader.catch_up().await?;
        Ok(reader)
    }

    /// Reads what is kept behind the last that was told.
    async fn catch_up(&mut self) -> Result<(), Refusal> {
        let Some(after) = self.last else {
            return Ok(());
        };
        let app = self.app.clone();
        let read = spawn_blocking(move || {
            let span = app.store.span_of_events()?;
            let events = app.store.events(Some(after), usize::MAX)?;
            Ok::<_, crate::store::StoreError>((span, events))
        });
        let (span, events) = read.await.map_err(broken)??;
        self.lost = span
            .map(|(first, _)| first.saturating_sub(after + 1))
            .filter(|lost| *lost > 0);
        self.waiting.extend(events);
        Ok(())
    }

    async fn next(&mut self) -> Option<Message> {
        Some(match self.told().await? {
            Told::Lost(count) => message("lost", &json!({ "count": count })),
            Told::Event(event) => message("event", &event).id(event.id.to_string()),
        })
    }

    /// The next that there is to tell; none if nothing comes any more.
    pub(super) async fn told(&mut self) -> Option<Told> {
        if let Some(lost) = self.lost.take() {
            return Some(Told::Lost(lost));
        }
        loop {
            let event = match self.waiting.pop_front() {
                Some(event) => event,
                None => match self.coming.recv().await {
                    Ok(event) => event,
                    // It is kept, so nothing is lost.
                    Err(RecvError::Lagged(_)) => {
                        self.catch_up().await.ok()?;
                        continue;
                    }
                    Err(RecvError::Closed) => return None,
                },
            };
            if self.last.is_some_and(|last| event.id <= last) {
                continue;
            }
            self.last = Some(event.id);
            return Some(Told::Event(event));
        }
    }
}

fn message(kind: &str, data: &impl Serialize) -> Message {
    let text = serde_json::to_string(data).expect("plain values with texts as keys can be written");
    Message::default().event(kind).data(text)
}

pub(crate) async fn watch(
    State(app): State<App>,
) -> Sse<impl Stream<Item = Result<Message, Infallible>>> {
    let (all, coming) = app.sight.listen();
    let first: Vec<Change> = all.into_iter().map(|vm| Change::Is(Box::new(vm))).collect();
    let state = (app, first.into_iter(), coming);
    let stream = stream::unfold(state, |(app, mut first, mut coming)| async move {
        let change = match first.next() {
            Some(change) => change,
            None => match coming.recv().await {
                Ok(change) => change,
                // Too slow: all of it anew, which is what is true now.
                Err(RecvError::Lagged(_)) => {
                    let (all, anew) = app.sight.listen();
                    let message = message("anew", &json!({}));
                    return Some((Ok(message), (app, as_changes(all), anew)));
                }
                Err(RecvError::Closed) => return None,
            },
        };
        let message = match &change {
            Change::Is(vm) => message("vm", vm),
            Change::Gone(name) => message("gone", &json!({ "name": name })),
        };
        Some((Ok(message), (app, first, coming)))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(ALIVE_EVERY))
}

fn as_changes(all: Vec<VmView>) -> std::vec::IntoIter<Change> {
    let changes = all.into_iter().map(|vm| Change::Is(Box::new(vm)));
    changes.collect::<Vec<_>>().into_iter()
}
