//! How far an upgrade is, and what comes next: an event in, what is to be done out.
//!
//! ```text
//! preparing --Ready--> resting --Gives--> building --Built--> closing --Closed, TimeUp--> over: the new process has the guest
//!     |                   |                   |                  |
//!     `-------------------`-------------------`------------------`--(anything else)--> over: the old process keeps it
//! ```
//!
//! Invariant. There is one step after which the new process has the guest and the old one is killed, and it is taken when all that
//! could fail has been done. Whatever happens before it ends with the old process going on.

use std::time::{Duration, Instant};

use crate::wire::Refused;

/// How long a new process may take to open everything, in which it reads images; and an old one to bring in pages that are away, which
/// may be all of a large guest's memory.
const PREPARING_TIME: Duration = Duration::from_secs(60);
/// How long an old one may take for that and to bring the guest to rest.
const RESTING_TIME: Duration = Duration::from_secs(120);
/// How long a new one may take to go on with it. The guest stands still.
const BUILDING_TIME: Duration = Duration::from_secs(10);

/// How long the old one may take to let no more clients in. One that does not answer is killed with whom it has let in.
const CLOSING_TIME: Duration = Duration::from_millis(500);

/// What happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    /// The new process has locked itself in.
    Ready,
    /// The old one has the guest rest, and has given it away.
    Gives,
    /// The old one keeps it, and this is why.
    Keeps(Refused),
    /// The new one has built it.
    Built,
    /// The old one lets no client in any more.
    Closed,
    /// The new one cannot, or is gone.
    Failed(Refused),
    /// Something else is more important.
    CalledOff(&'static str),
    /// The deadline has passed.
    TimeUp,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Nothing.
    Wait,
    /// Ask the old process for the guest.
    Ask,
    /// Hand it to the new one.
    Hand,
    /// Have the old one let no more clients in, whom it would take along.
    Close,
    /// Kill the old process, and have the new one run.
    Commit,
    /// Kill the new process, and have the old one go on.
    CallOff(Refused),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Preparing,
    Resting,
    Building,
    Closing,
    Over,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Steps {
    stage: Stage,
    deadline: Option<Instant>,
}

impl Steps {
    /// A new process was started.
    pub(super) fn begin(now: Instant) -> Steps {
        Steps {
            stage: Stage::Preparing,
            deadline: Some(now + PREPARING_TIME),
        }
    }

    /// When [`Seen::TimeUp`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether the new process has the guest.
    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// What is to be done now.
    pub(super) fn take(&mut self, seen: Seen, now: Instant) -> Step {
        let stage = self.stage;
        let mut go = |stage, time: Option<Duration>, step| {
            self.stage = stage;
            self.deadline = time.map(|time| now + time);
            step
        };
        match (stage, seen) {
            (Stage::Over, _) => Step::Wait,
            (Stage::Preparing, Seen::Ready) => go(Stage::Resting, Some(RESTING_TIME), Step::Ask),
            (Stage::Resting, Seen::Gives) => go(Stage::Building, Some(BUILDING_TIME), Step::Hand),
            (Stage::Building, Seen::Built) => go(Stage::Closing, Some(CLOSING_TIME), Step::Close),
            (Stage::Closing, Seen::Closed | Seen::TimeUp) => go(Stage::Over, None, Step::Commit),
            // Said twice, or too early: by a process that is not ours any more.
            (_, Seen::Ready | Seen::Gives | Seen::Built | Seen::Closed) => Step::Wait,
            (_, Seen::Keeps(why) | Seen::Failed(why)) => go(Stage::Over, None, Step::CallOff(why)),
            (_, Seen::CalledOff(why)) => {
                let why = Refused {
                    why: why.to_owned(),
                    help: None,
                };
                go(Stage::Over, None, Step::CallOff(why))
            }
            (stage, Seen::TimeUp) => {
                let why = match stage {
                    Stage::Resting => {
                        "the process that runs it did not bring its guest to rest in time"
                    }
                    _ => "the process that was to run it was not ready in time",
                };
                let why = Refused {
                    why: why.to_owned(),
                    help: Some("try again when the host has less to do".to_owned()),
                };
                go(Stage::Over, None, Step::CallOff(why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(why: &str) -> Refused {
        Refused {
            why: why.to_owned(),
            help: None,
        }
    }

    /// What is done when this happens, one after the other.
    fn check(seen: &[Seen], expected: &[Step]) {
        let mut steps = Steps::begin(Instant::now());
        let done: Vec<Step> = seen
            .iter()
            .map(|seen| steps.take(seen.clone(), Instant::now()))
            .collect();
        assert_eq!(done, expected, "{seen:?}");
        let ends = |step: &Step| matches!(step, Step::Commit | Step::CallOff(_));
        assert_eq!(steps.is_over(), expected.iter().any(ends), "{seen:?}");
        assert_eq!(steps.deadline().is_none(), steps.is_over(), "{seen:?}");
    }

    #[test]
    fn the_old_process_is_let_go_when_the_new_one_is_built_and_not_before() {
        use Seen::{Built, Closed, Gives, Ready, TimeUp};
        use Step::{Ask, Close, Commit, Hand, Wait};
        check(&[Ready, Gives, Built], &[Ask, Hand, Close]);
        check(&[Gives, Built, Ready, Ready], &[Wait, Wait, Ask, Wait]);
        check(&[Ready, Closed, Built, Gives], &[Ask, Wait, Wait, Hand]);
        let late = Seen::Failed(refused("late"));
        for closed in [Closed, TimeUp] {
            check(
                &[Ready, Gives, Built, closed, late.clone()],
                &[Ask, Hand, Close, Commit, Wait],
            );
        }
    }

    #[test]
    fn whatever_fails_before_that_has_the_old_process_go_on() {
        let way = [Seen::Ready, Seen::Gives, Seen::Built];
        let done = [Step::Ask, Step::Hand, Step::Close];
        for so_far in 0..=way.len() {
            let why = || refused("why");
            let check_end = |end: Seen, expected: Refused| {
                let seen = [&way[..so_far], &[end, Seen::Built]].concat();
                let last = [Step::CallOff(expected), Step::Wait];
                check(&seen, &[&done[..so_far], &last[..]].concat());
            };
            check_end(Seen::Failed(why()), why());
            check_end(Seen::Keeps(why()), why());
            check_end(Seen::CalledOff("why"), why());
            // When all is done but that the old process lets clients in, time is no reason.
            if so_far == way.len() {
                continue;
            }
            let mut steps = Steps::begin(Instant::now());
            for seen in &way[..so_far] {
                steps.take(seen.clone(), Instant::now());
            }
            assert!(matches!(
                steps.take(Seen::TimeUp, Instant::now()),
                Step::CallOff(Refused { help: Some(_), .. })
            ));
        }
    }
}
