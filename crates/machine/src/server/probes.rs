//! A client that hears of what a guest's kernel passes, for as long as both are there.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::{Outcome, RefusalCode};
use probe::{Hit, Point};

use crate::server::Shared;
use crate::server::lines::{refusal, reply};
use crate::threads::observe::Observed;
use crate::threads::probing::{NoSession, Passed, SESSIONS_MAX, Session};

/// A line with no hits is sent so often: who has gone is found out by that.
const QUIET: Duration = Duration::from_secs(1);
/// Bytes of hits for one line: as text, hexadecimal digits at most, they fit into a reply.
const LINE_BYTES: usize = 96 * 1024;

/// Serves `points` of the guest's life number `life` until the client goes or the life is over.
pub(super) fn serve(shared: &Shared, stream: &UnixStream, life: u64, points: Vec<Point>) {
    if let Err(outcome) = hear(shared, stream, life, points) {
        reply(stream, outcome);
    }
}

fn hear(
    shared: &Shared,
    stream: &UnixStream,
    life: u64,
    points: Vec<Point>,
) -> Result<(), Outcome> {
    probe::check(&points)
        .map_err(|refused| refusal(RefusalCode::BadRequest, refused.to_string()))?;
    let observed = shared.control.observed().filter(|now| now.life == life);
    let observed = observed.ok_or_else(|| no_session(NoSession::Over))?;
    let session = observed.probing.begin(points).map_err(no_session)?;
    let begun = Begun { observed, session };
    let mut goes_on = reply(stream, Outcome::Probing);
    while goes_on {
        let heard = begun.session.hear(LINE_BYTES, QUIET);
        let now = (Instant::now(), SystemTime::now());
        goes_on = !heard.is_over;
        let hits = heard.hits.into_iter().map(|passed| hit(passed, now));
        let line = Outcome::Hits {
            hits: hits.collect(),
            lost: heard.lost,
            is_over: heard.is_over,
        };
        goes_on &= reply(stream, line);
    }
    Ok(())
}

/// A session, which ends when this is dropped.
struct Begun {
    observed: Arc<Observed>,
    session: Arc<Session>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.observed.probing.end(&self.session);
    }
}

/// A hit with the time of day of its pass.
fn hit(passed: Passed, (now, time): (Instant, SystemTime)) -> Hit {
    let age = now.saturating_duration_since(passed.at);
    let at = time.checked_sub(age).unwrap_or(UNIX_EPOCH);
    Hit {
        point: passed.point,
        vcpu_id: passed.vcpu_id,
        at_ns: at
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64),
        values: passed.values,
    }
}

fn no_session(why: NoSession) -> Outcome {
    match why {
        NoSession::Full => refusal(
            RefusalCode::Busy,
            format!("{SESSIONS_MAX} observers hear of this guest's kernel already"),
        ),
        NoSession::Over => refusal(RefusalCode::WrongState, "that life of the guest is over"),
        NoSession::TimedOut => refusal(
            RefusalCode::TimedOut,
            "the guest's vCPUs did not come out of the guest in time",
        ),
        NoSession::Engine => refusal(
            RefusalCode::NotHere,
            "the engine that the guest runs on does not tell what its kernel passes",
        ),
        NoSession::Room(most) => refusal(
            RefusalCode::NotHere,
            format!("the processor stops at {most} addresses at most, of all observers together"),
        ),
        NoSession::Guest => refusal(
            RefusalCode::NotHere,
            "the guest uses the processor's breakpoints itself",
        ),
    }
}
