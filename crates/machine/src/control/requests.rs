//! What a VM is asked from outside, as a value: no lock, no thread, no clock of its own.
//!
//! **Problem.** Clients of the control socket, signals and the terminal ask at any time, several at once and for
//! opposite things. The VM can only do what they ask between two steps of its attendant, and some of it not at all: a
//! guest that waits for room for its pages does not come to rest before there is some. And everyone who asks must hear
//! what came of it, once.
//!
//! **Plan.** What is *wanted* is kept here, what *is* stands in [`State`], which only the attendant and the threads
//! around it change. [`Requests::ask`] takes a request with the sender of its answer; [`Requests::next`] compares what
//! is wanted with what is and names the attendant's next step, and changes nothing, so that a step can ask whether
//! it is still the right one while it waits; [`Requests::settle`] gives every answer that is due. The attendant takes a
//! step, says so, and asks again:
//!
//! ```text
//!  state      steps to the next state                        steps that stay
//!
//!  Built  ─── the life begins ──> Running
//!  Running ── Pause ────────────> Paused                     Attend, PressPower, SendNmi
//!  Running ── Hold ─────────────> Held                       (no room for the guest's pages)
//!  Held ───── Flow ─────────────> Running                    Wait
//!  Paused ─── Resume ───────────> Running                    Wait, Switch (it has another engine then), Save,
//!                                                            HandOver (until it is to go on here all the same)
//!  any ────── End ──────────────> Ended                      (also: the guest ends itself)
//!
//!  what is wanted                              makes the next step
//!
//!  pause, until resumed or to be stopped       Pause, unless it is Held
//!  rest, for as long as somebody needs it      the same; when nobody does any more, as it was
//!  engines to change to, states to be taken    Pause, Switch or Save for each, Resume unless a pause is wanted
//!  the power button, once or every few seconds PressPower, as soon as it is Running
//!  an NMI                                      SendNmi, as soon as it is Running
//!  an end: at once, or after its grace time    End, wherever it is
//! ```
//!
//! **Invariants.** Every request is answered once at most, and at last when the VM has ended: what is still open is
//! refused then. An answer says what is, not what is meant to be: a pause is answered when nothing of the guest
//! runs. Of two opposite requests the later one counts, and the earlier one is told so. From when a state is taken for another
//! process until the guest is to go on here all the same nothing is noted: whoever asks is told to ask again.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::engine::EngineKind;
use crate::outcome::ending::{Ending, StopCause};
use crate::outcome::refusal::{PauseError, SwitchError};

/// How long a guest that is to stop is given before its power button is pressed again: one that was still starting
/// has not heard it.
pub(crate) const PRESS_AGAIN: Duration = Duration::from_secs(3);

/// Where the answer to a request goes. Nobody need listen any more.
pub(crate) type Answer<E> = mpsc::Sender<Result<(), E>>;

/// What can be asked of a VM.
#[derive(Debug)]
pub(crate) enum Request {
    /// Come to rest. Answered when nothing of the guest runs and its time stands still.
    Pause(Answer<PauseError>),
    /// The same until its ticket is released, and be as before then; an order to go on or to stop overrules it.
    Rest(Answer<PauseError>),
    /// Go on. Answered when the guest runs.
    Resume(Answer<PauseError>),
    /// Change to this engine, at rest, and be as before then. Answered when that is done.
    Switch(EngineKind, Answer<SwitchError>),
    /// Take the state of board and vCPUs, at rest, and be as before then. Answered when that is done.
    Save(Answer<SwitchError>),
    /// Take the state, at rest, and stay there for another process to go on from it. Answered when it is taken.
    HandOver(Answer<SwitchError>),
    /// Press the power button, if need be after a pause. Answered at once.
    PressPower(Answer<PauseError>),
    /// Send an NMI. Answered at once; those that are asked for before it was sent are one.
    Nmi(Answer<PauseError>),
    /// Go on if paused, press the power button again and again, and end the VM when the grace time is over. Answered
    /// at once.
    Stop(Duration, Answer<PauseError>),
    /// End now, wherever the guest is. Answered at once.
    End(StopCause, Answer<PauseError>),
}

/// The kinds of [`Request`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Pause,
    Rest,
    Resume,
    Switch,
    Save,
    HandOver,
    PressPower,
    Nmi,
    Stop,
    End,
}

/// What becomes of a request when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reception {
    /// It is noted, and answered when it has come true.
    Noted,
    /// It is noted, which is the answer.
    Taken,
    /// It is refused: there is no room for the guest's pages.
    Stalled,
    /// It is refused: the VM has ended.
    TooLate,
    /// It is granted and forgotten: the VM has ended, and no more than that was wanted.
    Moot,
}

/// Which request is legal in which phase: the one place that says so. The columns are the variants of [`Phase`]:
/// Built, Running, Held, Paused, Ended.
const RECEPTIONS: [(Kind, [Reception; 5]); 10] = {
    use Reception::{Moot, Noted, Stalled, Taken, TooLate};
    [
        (Kind::Pause, [Noted, Noted, Stalled, Noted, TooLate]),
        (Kind::Rest, [Noted, Noted, Stalled, Noted, TooLate]),
        (Kind::Resume, [Noted, Noted, Noted, Noted, TooLate]),
        (Kind::Switch, [Noted, Noted, Stalled, Noted, TooLate]),
        (Kind::Save, [Noted, Noted, Stalled, Noted, TooLate]),
        (Kind::HandOver, [Noted, Noted, Stalled, Noted, TooLate]),
        (Kind::PressPower, [Taken, Taken, Taken, Taken, Moot]),
        (Kind::Nmi, [Taken, Taken, Taken, Taken, TooLate]),
        (Kind::Stop, [Taken, Taken, Taken, Taken, Moot]),
        (Kind::End, [Taken, Taken, Taken, Taken, Moot]),
    ]
};

pub(crate) fn reception(kind: Kind, phase: Phase) -> Reception {
    RECEPTIONS[kind as usize].1[phase as usize]
}

impl Request {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Request::Pause(_) => Kind::Pause,
            Request::Rest(_) => Kind::Rest,
            Request::Resume(_) => Kind::Resume,
            Request::Switch(..) => Kind::Switch,
            Request::Save(_) => Kind::Save,
            Request::HandOver(_) => Kind::HandOver,
            Request::PressPower(_) => Kind::PressPower,
            Request::Nmi(_) => Kind::Nmi,
            Request::Stop(..) => Kind::Stop,
            Request::End(..) => Kind::End,
        }
    }

    fn answer(self, result: Result<(), Refusal>) {
        // A client that asked and went away does not listen.
        let _ = match self {
            Request::Pause(answer)
            | Request::Rest(answer)
            | Request::Resume(answer)
            | Request::PressPower(answer)
            | Request::Nmi(answer)
            | Request::Stop(_, answer)
            | Request::End(_, answer) => answer.send(result.map_err(PauseError::from)).is_ok(),
            Request::Switch(_, answer) | Request::Save(answer) | Request::HandOver(answer) => {
                answer.send(result.map_err(SwitchError::from)).is_ok()
            }
        };
    }
}

/// Why something asked of a VM in this state is not done, whatever it was.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Refusal {
    Ended,
    Stalled(String),
    Moving,
}

impl From<Refusal> for PauseError {
    fn from(refusal: Refusal) -> PauseError {
        match refusal {
            Refusal::Ended => PauseError::Ended,
            Refusal::Stalled(why) => PauseError::Stalled(why),
            Refusal::Moving => PauseError::Moving,
        }
    }
}

impl From<Refusal> for SwitchError {
    fn from(refusal: Refusal) -> SwitchError {
        match refusal {
            Refusal::Ended => SwitchError::Ended,
            Refusal::Stalled(why) => SwitchError::Stalled(why),
            Refusal::Moving => SwitchError::Moving,
        }
    }
}

/// How far a VM has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Built, or being built.
    Built,
    /// Guest code runs or sleeps.
    Running,
    /// It stands still in the middle of things, its time too, until there is room for its pages.
    Held,
    /// Nothing of the guest runs, and its time stands still.
    Paused,
    /// It has ended.
    Ended,
}

/// What a VM is doing, as far as requests depend on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    /// Why the guest waits for room for its pages, if it does. It is [`Phase::Held`] as soon as the attendant has seen
    /// that.
    pub(crate) stalled: Option<String>,
}

/// What the attendant is to do next. `until` is when to ask again even if nothing happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// End the VM like this.
    End(Ending),
    /// Have the guest's threads stand still without waiting for those that wait for a page.
    Hold,
    /// Have a held guest go on.
    Flow,
    /// Bring the guest to rest.
    Pause,
    /// Have a paused guest go on.
    Resume,
    /// Change to this engine, and tell the result under this ticket.
    Switch(EngineKind, Ticket),
    /// Take the state of board and vCPUs, and tell the result under this ticket.
    Save(Ticket),
    /// Take the state for another process, tell the result under this ticket, and stay here until the guest is to go on.
    HandOver(Ticket),
    /// Press the power button.
    PressPower,
    /// Send an NMI.
    SendNmi,
    /// Look after the running guest, then sleep.
    Attend { until: Option<Instant> },
    /// Sleep: the guest stands still.
    Wait { until: Option<Instant> },
}

/// The number of a request, by which it can be taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket(u64);

/// A request that is not answered yet.
#[derive(Debug)]
struct Open<E> {
    ticket: Ticket,
    answer: Answer<E>,
}

impl<E> Open<E> {
    fn answer(self, result: Result<(), E>) {
        // A client that asked and went away does not listen.
        let _ = self.answer.send(result);
    }
}

/// What is done to a guest at rest that is as before then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    Switch(EngineKind),
    Save,
    HandOver,
}

/// What is wanted of one VM.
#[derive(Debug)]
pub(crate) struct Requests {
    tickets: u64,
    wants_pause: bool,
    pauses: Vec<Open<PauseError>>,
    /// Who needs the guest to rest, and those of them who have not been told that it does.
    needs: Vec<Ticket>,
    rests: Vec<Open<PauseError>>,
    resumes: Vec<Open<PauseError>>,
    /// Engines to change to and states to be taken, one after the other.
    works: VecDeque<(Work, Open<SwitchError>)>,
    /// Those that are over, and what came of them. Answered when the VM is as it was before them.
    worked: Vec<(Open<SwitchError>, Result<(), SwitchError>)>,
    wants_press: bool,
    wants_nmi: bool,
    press_again_at: Option<Instant>,
    /// When the grace time is over.
    stop_at: Option<Instant>,
    /// When the VM's time is up.
    time_up: Option<Instant>,
    end: Option<StopCause>,
    moving: Moving,
}

/// Whether the guest moves to another process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Moving {
    /// It stays, and is not handed over.
    No,
    /// It may be handed over.
    May,
    /// Its state was taken to be handed over: it stands still, and what is asked of it is refused.
    Is,
}

impl Requests {
    /// Nothing is wanted but an end when the time is up.
    pub(crate) fn new(time_up: Option<Instant>) -> Requests {
        Requests {
            tickets: 0,
            wants_pause: false,
            pauses: Vec::new(),
            needs: Vec::new(),
            rests: Vec::new(),
            resumes: Vec::new(),
            works: VecDeque::new(),
            worked: Vec::new(),
            wants_press: false,
            wants_nmi: false,
            press_again_at: None,
            stop_at: None,
            time_up,
            end: None,
            moving: Moving::No,
        }
    }

    /// Takes a request, which is answered now or later.
    pub(crate) fn ask(&mut self, request: Request, state: &State, now: Instant) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let is_called_off = self.moving == Moving::No && request.kind() == Kind::HandOver;
        if self.moving == Moving::Is || is_called_off {
            request.answer(Err(Refusal::Moving));
            return ticket;
        }
        match (reception(request.kind(), state.phase), &state.stalled) {
            (Reception::Moot, _) => request.answer(Ok(())),
            (Reception::TooLate, _) => request.answer(Err(Refusal::Ended)),
            (Reception::Stalled, Some(why)) => {
                request.answer(Err(Refusal::Stalled(why.clone())));
            }
            // Held, but there is room again: the guest is about to go on.
            (Reception::Stalled, None) | (Reception::Noted | Reception::Taken, _) => {
                self.note(request, ticket, now);
            }
        }
        self.settle(state);
        ticket
    }

    fn note(&mut self, request: Request, ticket: Ticket, now: Instant) {
        match request {
            Request::Pause(answer) => {
                self.want_pause(true);
                self.pauses.push(Open { ticket, answer });
            }
            Request::Rest(answer) => {
                self.needs.push(ticket);
                self.rests.push(Open { ticket, answer });
            }
            Request::Resume(answer) => {
                self.want_pause(false);
                self.resumes.push(Open { ticket, answer });
            }
            Request::Switch(kind, answer) => {
                let work = Work::Switch(kind);
                self.works.push_back((work, Open { ticket, answer }));
            }
            Request::Save(answer) => {
                self.works.push_back((Work::Save, Open { ticket, answer }));
            }
            Request::HandOver(answer) => {
                self.works
                    .push_back((Work::HandOver, Open { ticket, answer }));
            }
            Request::PressPower(answer) => {
                self.wants_press = true;
                Open { ticket, answer }.answer(Ok(()));
            }
            Request::Nmi(answer) => {
                self.wants_nmi = true;
                Open { ticket, answer }.answer(Ok(()));
            }
            Request::Stop(grace, answer) => {
                self.want_pause(false);
                self.wants_press = true;
                self.press_again_at.get_or_insert(now + PRESS_AGAIN);
                // A time too long to be told is no end.
                let stop_at = now.checked_add(grace);
                self.stop_at = self.stop_at.into_iter().chain(stop_at).min();
                Open { ticket, answer }.answer(Ok(()));
            }
            Request::End(cause, answer) => {
                self.end.get_or_insert(cause);
                Open { ticket, answer }.answer(Ok(()));
            }
        }
    }

    /// Of two opposite wishes the later one counts.
    fn want_pause(&mut self, wants: bool) {
        self.wants_pause = wants;
        let overruled = if wants {
            &mut self.resumes
        } else {
            &mut self.pauses
        };
        for open in overruled.drain(..) {
            open.answer(Err(PauseError::Overruled));
        }
        if !wants {
            self.needs.clear();
            let rests = self.rests.drain(..);
            rests.for_each(|open| open.answer(Err(PauseError::Overruled)));
        }
    }

    /// Whether the guest is to stand still, for whatever reason.
    fn wants_rest(&self) -> bool {
        self.wants_pause || !self.needs.is_empty()
    }

    /// Who has this ticket needs no rest any more; whether there was rest for it until now.
    pub(crate) fn release(&mut self, ticket: Ticket, state: &State) -> bool {
        let needs = self.needs.len();
        self.needs.retain(|other| *other != ticket);
        state.phase == Phase::Paused && self.needs.len() < needs
    }

    /// What the attendant is to do.
    pub(crate) fn next(&self, state: &State, now: Instant) -> Step {
        if let Some(ending) = self.ending(now) {
            return Step::End(ending);
        }
        let end = self.time_up.into_iter().chain(self.stop_at).min();
        match (state.phase, &state.stalled) {
            (Phase::Running, Some(_)) => Step::Hold,
            (Phase::Held, None) => Step::Flow,
            (Phase::Running, None) if self.wants_rest() || !self.works.is_empty() => Step::Pause,
            (Phase::Running, None) if self.is_press_due(now) => Step::PressPower,
            (Phase::Running, None) if self.wants_nmi => Step::SendNmi,
            (Phase::Running, None) => Step::Attend {
                until: end.into_iter().chain(self.press_again_at).min(),
            },
            (Phase::Paused, _) => match self.works.front() {
                Some((Work::Switch(kind), open)) => Step::Switch(*kind, open.ticket),
                Some((Work::Save, open)) => Step::Save(open.ticket),
                Some((Work::HandOver, open)) => Step::HandOver(open.ticket),
                None if self.wants_rest() => Step::Wait { until: end },
                None => Step::Resume,
            },
            (Phase::Built | Phase::Held | Phase::Ended, _) => Step::Wait { until: end },
        }
    }

    /// The end that is due.
    fn ending(&self, now: Instant) -> Option<Ending> {
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let grace_over = is_over(self.stop_at).then_some(StopCause::GraceOver);
        let stopped = self.end.or(grace_over).map(Ending::Stopped);
        stopped.or(is_over(self.time_up).then_some(Ending::TimedOut))
    }

    fn is_press_due(&self, now: Instant) -> bool {
        self.wants_press || self.press_again_at.is_some_and(|at| at <= now)
    }

    /// The power button has been pressed.
    pub(crate) fn pressed(&mut self, now: Instant) {
        self.wants_press = false;
        if let Some(at) = self.press_again_at.as_mut().filter(|at| **at <= now) {
            *at = now + PRESS_AGAIN;
        }
    }

    /// The NMI has been sent.
    pub(crate) fn sent_nmi(&mut self) {
        self.wants_nmi = false;
    }

    /// The change of engine or the taking of a state under this ticket came to that, unless it was taken back meanwhile.
    pub(crate) fn worked(&mut self, ticket: Ticket, result: Result<(), SwitchError>) {
        let is_it = |(_, open): &(Work, Open<SwitchError>)| open.ticket == ticket;
        if let Some(place) = self.works.iter().position(is_it)
            && let Some((_, open)) = self.works.remove(place)
        {
            self.worked.push((open, result));
        }
    }

    /// From now on the guest may be handed over to another process.
    pub(crate) fn may_move(&mut self) {
        self.moving = Moving::May;
    }

    /// The state is about to be taken under this ticket; false if that is not wanted any more. From now on nothing is noted.
    pub(crate) fn moves(&mut self, ticket: Ticket) -> bool {
        let is_it = |(work, open): &(Work, Open<SwitchError>)| {
            *work == Work::HandOver && open.ticket == ticket
        };
        if self.moving != Moving::May || !self.works.iter().any(is_it) {
            return false;
        }
        self.moving = Moving::Is;
        true
    }

    /// It was taken, or could not be: who asked hears of it now. Whether anybody does.
    pub(crate) fn moved(&mut self, ticket: Ticket, result: Result<(), SwitchError>) -> bool {
        let is_it = |(_, open): &(Work, Open<SwitchError>)| open.ticket == ticket;
        let place = self.works.iter().position(is_it);
        let open = place.and_then(|place| self.works.remove(place));
        let is_taken = result.is_ok() && open.is_some();
        if let Some((_, open)) = open {
            open.answer(result);
        }
        if !is_taken {
            self.moving = Moving::No;
        }
        is_taken
    }

    /// The guest stays in this process, whatever was begun.
    pub(crate) fn stays(&mut self) {
        self.moving = Moving::No;
        let mut kept = VecDeque::new();
        for (work, open) in self.works.drain(..) {
            match work {
                Work::HandOver => open.answer(Err(SwitchError::Moving)),
                _ => kept.push_back((work, open)),
            }
        }
        self.works = kept;
    }

    /// Whether the guest stands still for another process to go on with it.
    pub(crate) fn is_moving(&self) -> bool {
        self.moving == Moving::Is
    }

    /// Whether a pause is wanted that lasts.
    pub(crate) fn is_paused(&self) -> bool {
        self.wants_pause
    }

    /// Gives every answer that is due in this state.
    pub(crate) fn settle(&mut self, state: &State) {
        match (state.phase, &state.stalled) {
            (Phase::Ended, _) => {
                let resumes = self.resumes.drain(..);
                resumes.for_each(|open| open.answer(Err(PauseError::Ended)));
                self.refuse_rest(&Refusal::Ended);
            }
            (Phase::Paused, _) if self.wants_rest() => {
                let pauses = self.pauses.drain(..).chain(self.rests.drain(..));
                pauses.for_each(|open| open.answer(Ok(())));
            }
            (Phase::Paused, _) | (_, None) => {}
            // It will not come to rest: what waits for that is refused as if it were asked now.
            (_, Some(why)) => self.refuse_rest(&Refusal::Stalled(why.clone())),
        }
        let runs = matches!(state.phase, Phase::Running | Phase::Held);
        if runs && !self.wants_pause {
            self.resumes.drain(..).for_each(|open| open.answer(Ok(())));
        }
        let is_as_before = match state.phase {
            Phase::Paused => self.wants_rest() || !self.works.is_empty(),
            _ => true,
        };
        if is_as_before {
            let over = self.worked.drain(..);
            over.for_each(|(open, result)| open.answer(result));
        }
    }

    /// Refuses everything for which the guest would have to come to rest.
    fn refuse_rest(&mut self, why: &Refusal) {
        self.wants_pause = false;
        self.needs.clear();
        let pauses = self.pauses.drain(..).chain(self.rests.drain(..));
        pauses.for_each(|open| open.answer(Err(why.clone().into())));
        let works = self.works.drain(..);
        works.for_each(|(_, open)| open.answer(Err(why.clone().into())));
    }

    /// The one who asked waits no longer: what it wanted and has not come true is not wanted any more.
    pub(crate) fn take_back(&mut self, ticket: Ticket, state: &State) {
        let pauses = self.pauses.len();
        self.pauses.retain(|open| open.ticket != ticket);
        if self.pauses.is_empty() && pauses > 0 {
            self.wants_pause = false;
        }
        self.needs.retain(|other| *other != ticket);
        self.rests.retain(|open| open.ticket != ticket);
        self.resumes.retain(|open| open.ticket != ticket);
        self.works.retain(|(_, open)| open.ticket != ticket);
        self.settle(state);
    }

    /// The VM ends like this now; a stop by the clock is one from now on.
    pub(crate) fn ends(&mut self, ending: &Ending) {
        if let Ending::Stopped(cause) = ending {
            self.end.get_or_insert(*cause);
        }
    }

    /// Why the VM was stopped, if it was.
    pub(crate) fn stop_cause(&self) -> Option<StopCause> {
        self.end
    }

    /// Whether the guest was asked to power off.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop_at.is_some()
    }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
