//! Numbers and events to a collector of OpenTelemetry (OTLP/HTTP 1.x, JSON encoding).
//!
//! Two tasks that know nothing of each other. **Numbers** are those of `/metrics`, sent every so often; what did not
//! arrive is not sent again, for the next ones say more. **Events** are sent in their order, and each until it has
//! arrived or the collector will not have it: where the daemon is in its log is kept in the store, so a collector that was
//! away for a night, or a daemon that was, loses what the log itself has lost by then and nothing else. An event may
//! arrive twice, with the same `mother.event.id`.
//!
//! Which answers mean "again later" is the specification's list (OTLP/HTTP response, failures). Between two tries pass 1
//! to 60 s, or what the collector asks for.

mod words;

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use serde::Serialize;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::words::{Logs, Metrics, Resource};
use crate::daemon::Daemon;
use crate::metrics::gather;
use crate::options::Collector;
use crate::post::{Place, PostError};
use crate::words::{Event, now};

/// Numbers in one request: collectors take bodies of some megabytes.
const POINTS_MAX: usize = 5000;
/// Events in one request.
const EVENTS_MAX: usize = 500;
/// So that what happens together is sent together.
const GATHER_EVENTS: Duration = Duration::from_millis(500);
/// Before the first new try, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest that a collector can ask for.
const LONGEST_WISH: Duration = Duration::from_secs(600);

/// Why something was not taken.
enum Failure {
    /// It may be taken later, after this if the collector says so.
    Later(String, Option<Duration>),
    /// It will not be.
    Never(String),
}

/// Sends for ever.
pub(crate) async fn export(daemon: Arc<Daemon>, collector: Collector) {
    let resource = Arc::new(Resource::new(&daemon.options, &collector.attributes));
    let collector = Arc::new(collector);
    let mut both = JoinSet::new();
    both.spawn(numbers(
        Arc::clone(&daemon),
        Arc::clone(&collector),
        Arc::clone(&resource),
    ));
    both.spawn(events(daemon, collector, resource));
    // They end with this task.
    pending::<()>().await;
}

async fn numbers(daemon: Arc<Daemon>, collector: Arc<Collector>, resource: Arc<Resource>) {
    let mut ticks = interval(collector.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = Trouble::default();
    let mut begun = BTreeMap::new();
    loop {
        ticks.tick().await;
        let asked = Arc::clone(&daemon);
        let with = Arc::clone(&resource);
        let gathered = spawn_blocking(move || {
            let families = gather(&asked, false);
            let at = now();
            let begun = words::beginnings(&begun, &asked.sight.all(), at);
            let requests = Metrics::requests(&with, &families, &begun, at, POINTS_MAX);
            let bodies: Vec<Bytes> = requests.iter().map(body).collect();
            (begun, bodies)
        });
        let bodies;
        (begun, bodies) = gathered.await.unwrap_or_default();
        for body in bodies {
            match send(&collector, "/v1/metrics", body).await {
                Ok(()) => trouble.is_over(),
                Err(Failure::Later(why, _) | Failure::Never(why)) => trouble.says("numbers", &why),
            }
        }
    }
}

async fn events(daemon: Arc<Daemon>, collector: Arc<Collector>, resource: Arc<Resource>) {
    let mut trouble = Trouble::default();
    let mut coming = daemon.events.listen();
    let mut position = None;
    loop {
        let asked = Arc::clone(&daemon);
        let read = spawn_blocking(move || unsent(&asked, position)).await;
        let (at, batch) = match read {
            Ok(Ok(found)) => found,
            Ok(Err(why)) => {
                trouble.says("events", &why);
                sleep(LONGEST_PAUSE).await;
                continue;
            }
            Err(_) => {
                sleep(LONGEST_PAUSE).await;
                continue;
            }
        };
        position = Some(at);
        let Some(last) = batch.last().map(|event| event.id) else {
            // Whatever is heard, the log is what is read.
            let _ = coming.recv().await;
            sleep(GATHER_EVENTS).await;
            coming = coming.resubscribe();
            continue;
        };
        if at + 1 < batch[0].id {
            let lost = batch[0].id - at - 1;
            trouble.says(
                "events",
                &format!("{lost} are older than the log and were not sent"),
            );
        }
        deliver(&collector, &resource, &batch, &mut trouble).await;
        position = Some(last);
        let asked = Arc::clone(&daemon);
        let noted = spawn_blocking(move || asked.store.note_exported(last)).await;
        if let Ok(Err(error)) = noted {
            tracing::warn!("which events were sent is not kept: {error}");
        }
    }
}

/// The last event that has been sent, and the next ones. The first time everything that comes from now on is sent.
fn unsent(daemon: &Daemon, position: Option<u64>) -> Result<(u64, Vec<Event>), String> {
    let store = &daemon.store;
    let read = || {
        let at = match position {
            Some(at) => at,
            None => match store.exported()? {
                Some(at) => at,
                None => {
                    let newest = store.span_of_events()?.map_or(0, |(_, newest)| newest);
                    // The next daemon goes on from here, also if nothing happens before it comes.
                    store.note_exported(newest)?;
                    newest
                }
            },
        };
        Ok((at, store.events(Some(at), EVENTS_MAX)?))
    };
    read().map_err(|error: crate::store::StoreError| error.to_string())
}

/// Sends these until they have arrived or will not be taken.
async fn deliver(
    collector: &Collector,
    resource: &Resource,
    batch: &[Event],
    trouble: &mut Trouble,
) {
    let body = body(&Logs::request(resource, batch));
    let mut pause = FIRST_PAUSE;
    loop {
        match send(collector, "/v1/logs", body.clone()).await {
            Ok(()) => return trouble.is_over(),
            Err(Failure::Never(why)) => return trouble.says("events", &why),
            Err(Failure::Later(why, wish)) => {
                trouble.says("events", &why);
                sleep(wish.map_or(pause, |wish| wish.min(LONGEST_WISH))).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn body(request: &impl Serialize) -> Bytes {
    // Plain structures of texts and numbers: they can be written.
    Bytes::from(serde_json::to_vec(request).unwrap_or_default())
}

async fn send(collector: &Collector, path: &str, body: Bytes) -> Result<(), Failure> {
    let mut place = collector.place.clone();
    place.uri = beside(&collector.place, path).map_err(|why| Failure::Never(why.to_string()))?;
    let answered = place.post("application/json", body).await;
    let answered = answered.map_err(|error| Failure::Later(whole(&error), None))?;
    let says = String::from_utf8_lossy(&answered.body);
    match answered.status {
        status if status.is_success() => {
            if let Some(why) = words::rejected(&answered.body) {
                tracing::warn!("the collector did not take all of it: {why}");
            }
            Ok(())
        }
        status @ (StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT) => Err(Failure::Later(
            format!("it answers {status}"),
            answered.again,
        )),
        status => {
            let says: String = says.chars().take(200).collect();
            let says = says.escape_debug();
            Err(Failure::Never(format!("it answers {status}: {says}")))
        }
    }
}

/// The collector's address with this path behind it.
fn beside(place: &Place, path: &str) -> Result<axum::http::Uri, PostError> {
    let text = place.uri.to_string();
    Ok(Place::new(&format!("{}{path}", text.trim_end_matches('/')))?.uri)
}

/// An error with its causes.
fn whole(error: &PostError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// What was said last, so that a collector that is away all night is told of once.
#[derive(Default)]
struct Trouble(Option<String>);

impl Trouble {
    fn says(&mut self, what: &str, why: &str) {
        if self.0.as_deref() != Some(why) {
            tracing::warn!("{what} for the collector: {why}");
            self.0 = Some(why.to_owned());
        }
    }

    fn is_over(&mut self) {
        if self.0.take().is_some() {
            tracing::info!("the collector takes what it is sent again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_below_the_collectors_address() {
        let check = |text: &str, expected: &str| {
            let place = Place::new(text).unwrap();
            assert_eq!(beside(&place, "/v1/logs").unwrap().to_string(), expected);
        };
        check("http://collector:4318", "http://collector:4318/v1/logs");
        check("https://collector/otlp/", "https://collector/otlp/v1/logs");
    }
}
