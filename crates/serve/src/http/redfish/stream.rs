//! Events as a stream (DSP0266, "Server-sent events"): each message has an `Event` resource as its data.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::errors::Wrong;
use super::events::Stream;
use super::happening::of;
use crate::http::app::App;
use crate::http::streams::{Reader, Told};

/// So that whoever stands between does not think that nobody is there.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

/// Opens a stream; `Last-Event-ID` goes on where another one stopped.
pub(super) async fn open(app: &App, headers: &HeaderMap) -> Result<Response, Wrong> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if !text(header::ACCEPT.as_str()).is_none_or(takes_streams) {
        return Err(Wrong::new(
            StatusCode::NOT_ACCEPTABLE,
            "HeaderInvalid",
            &["Accept"],
        ));
    }
    let last = text("last-event-id").and_then(|id| id.trim().parse().ok());
    let reader = Reader::new(app.clone(), last).await?;
    let state = (reader, Stream::open(app)?);
    let messages = stream::unfold(state, |(mut reader, mut stream)| async move {
        loop {
            let told = tokio::select! {
                told = reader.told() => told?,
                _ = stream.ended.wait_for(|is_over| *is_over) => return None,
            };
            // That older ones are gone has no message in Redfish; their numbers show it.
            if let Told::Event(event) = told {
                let data = of(&event, "").to_string();
                let message = Message::default().id(event.id.to_string()).data(data);
                return Some((Ok::<_, Infallible>(message), (reader, stream)));
            }
        }
    });
    let alive = KeepAlive::new().interval(ALIVE_EVERY);
    Ok(Sse::new(messages).keep_alive(alive).into_response())
}

/// Whether an `Accept` header has room for streams.
fn takes_streams(accept: &str) -> bool {
    let mut kinds = accept
        .split(',')
        .map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kinds.any(|kind| matches!(kind, "*/*" | "text/*" | "text/event-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_says_whether_it_takes_streams() {
        let check =
            |accept: &str, expected: bool| assert_eq!(takes_streams(accept), expected, "{accept}");
        check("text/event-stream", true);
        check("text/event-stream;charset=utf-8", true);
        check("application/json, */*;q=0.1", true);
        check("application/json", false);
    }
}
