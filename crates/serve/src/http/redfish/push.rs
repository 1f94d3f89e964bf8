//! Events to listeners: a POST over TLS for each, tried again a few times.
//!
//! Only HTTPS is spoken: events name VMs, and headers that are sent along may be secrets. A listener's certificate is
//! compared with those that the host trusts, unless the subscription says `VerifyCertificate: false`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::uri::Scheme;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::sleep;

use super::happening::{is_wanted, of};
use crate::post::{Place, Trusted};
use crate::subscribers::Wish;
use crate::words::Event;

/// How often an event is tried again.
pub(super) const RETRIES: u32 = 3;
/// Before it is.
pub(super) const RETRY_EVERY: Duration = Duration::from_secs(10);
type Problem = Box<dyn std::error::Error + Send + Sync>;

/// Whether events can be sent there.
pub(super) fn is_destination(text: &str) -> bool {
    Place::new(text).is_ok_and(|place| place.uri.scheme() == Some(&Scheme::HTTPS))
}

/// Sends what comes until the subscription ends.
pub(super) async fn deliver(
    mut coming: Receiver<Event>,
    wish: Wish,
    mut end: watch::Receiver<bool>,
    is_failing: Arc<AtomicBool>,
) {
    loop {
        let event = tokio::select! {
            event = coming.recv() => event,
            _ = end.wait_for(|is_over| *is_over) => return,
        };
        let event = match event {
            Ok(event) => event,
            // A listener that is too slow misses some; the log has them.
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        if !is_wanted(&wish, &event) {
            continue;
        }
        tokio::select! {
            arrived = send_some_times(&wish, &event) => is_failing.store(!arrived, Ordering::Relaxed),
            _ = end.wait_for(|is_over| *is_over) => return,
        }
    }
}

/// Whether it arrived.
async fn send_some_times(wish: &Wish, event: &Event) -> bool {
    let body = of(event, &wish.context).to_string();
    for attempt in 0..=RETRIES {
        if attempt > 0 {
            sleep(RETRY_EVERY).await;
        }
        match send(wish, &body).await {
            Ok(()) => return true,
            Err(error) => tracing::debug!("an event is not delivered: {error}"),
        }
    }
    let destination = wish.destination.as_deref().unwrap_or_default();
    tracing::warn!("event {} did not arrive at {destination}", event.id);
    false
}

async fn send(wish: &Wish, body: &str) -> Result<(), Problem> {
    let mut place = Place::new(wish.destination.as_deref().unwrap_or_default())?;
    if !wish.verify {
        place.trusted = Trusted::Any;
    }
    let version = ("OData-Version".to_owned(), "4.0".to_owned());
    let headers = wish.headers.clone();
    place.headers = [version].into_iter().chain(headers).collect();
    let body = Bytes::from(body.to_owned());
    let status = place.post("application/json", body).await?.status;
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("the listener answers {status}").into())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::broadcast;

    use super::*;
    use crate::events::event;
    use crate::words::Severity;

    #[test]
    fn only_https_is_a_destination() {
        let check =
            |text: &str, expected: bool| assert_eq!(is_destination(text), expected, "{text}");
        check("https://192.0.2.1/x", true);
        check("https://[2001:db8::1]:8443", true);
        check("http://192.0.2.1/x", false);
        check("ftp://192.0.2.1/x", false);
        check("/x", false);
        check("", false);
    }

    /// A listener with a certificate of its own; what it was told first.
    async fn listener(folder: &std::path::Path) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (acceptor, _) = crate::http::tls::acceptor(folder, address).unwrap();
        let told = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // Who does not trust this certificate does not come this far.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut text = String::new();
                let mut bytes = [0; 4096];
                while !text.ends_with('}') {
                    let count = stream.read(&mut bytes).await.unwrap();
                    assert!(count > 0, "the listener is left: {text}");
                    text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
                }
                let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                let _ = stream.shutdown().await;
                return text;
            }
        });
        (address.port(), told)
    }

    #[test]
    fn a_listener_gets_events_with_the_headers_it_wants() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let (port, told) = listener(folder.path()).await;
            let wish = Wish {
                destination: Some(format!("https://127.0.0.1:{port}/events?a=b")),
                context: "mine".to_owned(),
                headers: [("X-Key".to_owned(), "k".to_owned())].into(),
                ..Wish::default()
            };
            let trusting = Wish {
                verify: true,
                ..wish.clone()
            };
            assert!(
                send(&trusting, "{}").await.is_err(),
                "nobody vouches for the certificate"
            );
            let (events, coming) = broadcast::channel(4);
            let (end, ended) = watch::channel(false);
            let is_failing = Arc::new(AtomicBool::new(true));
            let delivering = tokio::spawn(deliver(coming, wish, ended, Arc::clone(&is_failing)));
            events
                .send(event(
                    "web",
                    "started",
                    Severity::Info,
                    "it runs".to_owned(),
                ))
                .unwrap();
            let text = told.await.unwrap();
            assert!(text.starts_with("POST /events?a=b HTTP/1.1\r\n"), "{text}");
            assert!(text.to_lowercase().contains("\r\nx-key: k\r\n"), "{text}");
            assert!(text.contains("\"Context\":\"mine\"") && text.contains("Mother.1.1.Started"));
            while is_failing.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(5)).await;
            }
            end.send_replace(true);
            delivering.await.unwrap();
        });
    }
}
