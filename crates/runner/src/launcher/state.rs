//! What the launcher does next: an event in, acts out. No descriptor, no process, no clock of its own.
//!
//! ```text
//!             Built            Ended
//! building ---------> serving --------> over --(process gone)--> the client is told, and nothing is left to do
//!     |                  |
//!     `--(process gone)--'  what happened becomes the end, in its place
//! ```
//!
//! Invariants. The end is recorded once, and before anybody is told of it. The client is told last, when the process is
//! gone, so that nothing of a VM runs when a command that started it has returned. A VM that shall end and does not is
//! killed after [`PATIENCE`]; a VM that is suspended goes on before anything is asked of it.

use std::fmt;
use std::time::{Duration, Instant};

use api::{EndKind, Jail};
use machine::StopCause;

use crate::ask::{Ask, Asked, GRACE, OnTerm};
use crate::ending;
use crate::trouble::{RunError, Trouble};
use crate::wire::{Ended, FromClient, FromVm, Outcome, ToClient, ToVm, Wish};

/// How long a VM may take to end whose client is gone, or whose end is written down.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What happens to a launcher.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Event {
    /// The client says something.
    Client(FromClient),
    /// The client has hung up.
    ClientGone,
    /// The VM's process says something.
    Vm(FromVm),
    /// The VM's process is gone, and all that it said has been heard.
    VmGone(Gone),
    /// This process got a signal.
    Signal(i32),
    /// The deadline has passed.
    TimeUp,
    /// Something could not be done for the VM.
    Refused(Trouble),
}

/// What the kernel ends a process by that makes a call which its filter forbids on pain of death.
const SIGSYS: i32 = 31;

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gone {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gone::Exited(status) => write!(f, "exit status {status}"),
            Gone::Killed(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What is to be done.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Act {
    /// Make the control socket, say what the VM is and what stands around it, and hand the socket over.
    Serve(Jail),
    /// Tell the VM's process.
    TellVm(ToVm),
    /// Tell the client.
    TellClient(ToClient),
    /// Give the VM's process what it asks for, or say why not.
    Grant(u64, Wish),
    /// Say what there is to say in the VM's folder from now on.
    LetGo,
    /// Stop the VM's process for a while.
    SuspendVm,
    /// Undo that.
    ContinueVm,
    /// End the VM's process by force.
    KillVm,
    /// Write down the end, if it is to be kept, and give the name back.
    Record(Box<Ended>, IsKept),
    /// Leave nothing: the VM never was.
    Discard,
    /// Say this on standard error.
    Say(String),
    /// End this process.
    Leave,
}

/// Whether what a VM leaves is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IsKept {
    Yes,
    No,
}

/// How far the VM is.
#[derive(Clone, PartialEq, Debug)]
enum Stage {
    Building,
    Serving,
    Over(Box<Ended>),
}

/// What a launcher knows.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct State {
    name: String,
    is_kept: bool,
    is_detached: bool,
    stage: Stage,
    /// It could be reached, so its end is worth a record.
    has_served: bool,
    has_started: bool,
    is_client_here: bool,
    is_suspended: bool,
    /// The VM was to end because its client vanished.
    is_orphaned: bool,
    was_killed: bool,
    refusal: Option<Trouble>,
    asked: Asked,
    deadline: Option<Instant>,
}

impl State {
    /// The VM `name` is being built.
    pub(super) fn new(name: &str, is_kept: bool, is_detached: bool) -> State {
        State {
            name: name.to_owned(),
            is_kept,
            is_detached,
            stage: Stage::Building,
            has_served: false,
            has_started: false,
            is_client_here: true,
            is_suspended: false,
            is_orphaned: false,
            was_killed: false,
            refusal: None,
            asked: Asked::new(OnTerm::PowerButton),
            deadline: None,
        }
    }

    /// Whether its guest runs, and is not to end.
    pub(super) fn is_running(&self) -> bool {
        self.stage == Stage::Serving && self.has_started && self.deadline.is_none()
    }

    /// When [`Event::TimeUp`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What is to be done now, in this order.
    pub(super) fn take(&mut self, event: Event, now: Instant) -> Vec<Act> {
        match event {
            Event::Client(said) => self.client_said(said),
            Event::ClientGone => self.client_gone(now),
            Event::Vm(said) => self.vm_said(said, now),
            Event::VmGone(gone) => self.vm_gone(gone),
            Event::Signal(signal) => {
                let ask = self.asked.take(signal, now);
                self.ask(ask)
            }
            Event::TimeUp => {
                self.deadline = None;
                self.was_killed = true;
                vec![Act::KillVm]
            }
            Event::Refused(trouble) => {
                self.refusal.get_or_insert(trouble);
                vec![Act::KillVm]
            }
        }
    }

    fn client_said(&mut self, said: FromClient) -> Vec<Act> {
        match said {
            FromClient::Stop(cause) => self.awake(ToVm::Stop(cause)),
            FromClient::PowerOff { grace_ms } => self.awake(ToVm::PowerOff { grace_ms }),
            FromClient::Resize { rows, columns } => {
                vec![Act::TellVm(ToVm::Resize { rows, columns })]
            }
            FromClient::Suspend => {
                self.is_suspended = true;
                vec![Act::SuspendVm]
            }
            FromClient::GoOn => self.go_on(),
        }
    }

    fn ask(&mut self, ask: Ask) -> Vec<Act> {
        match ask {
            Ask::PowerOff => {
                let grace_ms = u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX);
                self.awake(ToVm::PowerOff { grace_ms })
            }
            Ask::Stop(cause) => self.awake(ToVm::Stop(cause)),
            Ask::Die => vec![Act::KillVm],
            Ask::Nothing => Vec::new(),
        }
    }

    /// Tells the VM something that it has to run for.
    fn awake(&mut self, what: ToVm) -> Vec<Act> {
        let mut acts = self.go_on();
        acts.push(Act::TellVm(what));
        acts
    }

    fn go_on(&mut self) -> Vec<Act> {
        if std::mem::take(&mut self.is_suspended) {
            vec![Act::ContinueVm]
        } else {
            Vec::new()
        }
    }

    fn client_gone(&mut self, now: Instant) -> Vec<Act> {
        self.is_client_here = false;
        let lives_on = self.is_detached && self.has_started;
        if lives_on || matches!(self.stage, Stage::Over(_)) {
            return Vec::new();
        }
        self.is_orphaned = true;
        self.deadline.get_or_insert(now + PATIENCE);
        self.awake(ToVm::Stop(StopCause::Left))
    }

    fn vm_said(&mut self, said: FromVm, now: Instant) -> Vec<Act> {
        match said {
            FromVm::Built { jail } if self.stage == Stage::Building => {
                self.stage = Stage::Serving;
                self.has_served = true;
                vec![Act::Serve(jail)]
            }
            FromVm::Started if self.stage == Stage::Serving => {
                self.has_started = true;
                let mut acts = Vec::new();
                if self.is_detached {
                    acts.push(Act::LetGo);
                }
                acts.push(Act::TellClient(ToClient::Started));
                acts
            }
            FromVm::Ask { number, wish } => vec![Act::Grant(number, wish)],
            FromVm::Ended(ended) if !matches!(self.stage, Stage::Over(_)) => {
                self.deadline = Some(now + PATIENCE);
                let mut acts = self.over(*ended);
                acts.push(Act::TellVm(ToVm::Recorded));
                acts
            }
            // Said twice, or too early: by a process that is not ours any more. It is not answered.
            FromVm::Built { .. }
            | FromVm::Started
            | FromVm::Ended(_)
            | FromVm::Asked { .. }
            | FromVm::Ready { .. }
            | FromVm::Gives { .. }
            | FromVm::Keeps { .. }
            | FromVm::LetsNobodyIn
            | FromVm::Refusals => Vec::new(),
        }
    }

    /// The VM has ended like this.
    fn over(&mut self, mut ended: Ended) -> Vec<Act> {
        if self.is_orphaned && ended.end.kind == EndKind::Stopped {
            ended.end.message =
                "the command that started it vanished: killed from outside, or crashed".to_owned();
        }
        self.stage = Stage::Over(Box::new(ended.clone()));
        if !self.has_served || self.refusal.is_some() {
            return vec![Act::Discard];
        }
        // A run at a terminal has said everything there; what went wrong is kept all the same.
        let is_wrong = matches!(
            ended.end.kind,
            EndKind::Crashed | EndKind::Failed | EndKind::Died
        );
        let is_kept = self.is_kept || is_wrong || (self.is_orphaned && self.has_started);
        let is_kept = if is_kept { IsKept::Yes } else { IsKept::No };
        vec![Act::Record(Box::new(ended), is_kept)]
    }

    fn vm_gone(&mut self, gone: Gone) -> Vec<Act> {
        let mut acts = match self.stage {
            Stage::Over(_) => Vec::new(),
            Stage::Building | Stage::Serving => self.over(self.vanished(gone)),
        };
        let Stage::Over(ended) = self.stage.clone() else {
            return acts;
        };
        if self.is_detached && self.has_started {
            acts.extend(words(&ended).map(Act::Say));
        }
        let last = match (self.refusal.take(), &ended.outcome) {
            (Some(trouble), _) => ToClient::Failed(trouble),
            (None, Outcome::Failed(trouble)) if !self.has_served => {
                ToClient::Failed(trouble.clone())
            }
            _ => ToClient::Ended(ended),
        };
        if self.is_client_here {
            acts.push(Act::TellClient(last));
        }
        acts.push(Act::Leave);
        acts
    }

    /// The end of a VM whose process ended without saying how.
    fn vanished(&self, gone: Gone) -> Ended {
        let what = match gone {
            Gone::Killed(signal) if self.was_killed => {
                format!("it did not end in time, and was ended by signal {signal}")
            }
            Gone::Killed(9) => {
                "it was ended by signal 9: killed from outside (kill -9), or the host ran out of \
                                memory"
                    .to_owned()
            }
            Gone::Killed(SIGSYS) => {
                "it was ended by its jail: it made a system call that only a process makes which \
                 has been taken over"
                    .to_owned()
            }
            Gone::Killed(signal) => {
                format!("it was ended by signal {signal}: killed from outside, or crashed")
            }
            Gone::Exited(status) => {
                let error = RunError::Lost {
                    name: self.name.clone(),
                    what: format!("Mother failed; its process ended with exit status {status}"),
                };
                return ending::of_trouble(error.into());
            }
        };
        ending::of_vanished(&self.name, &what)
    }
}

/// What is said of an end.
fn words(ended: &Ended) -> Option<String> {
    let words = match &ended.outcome {
        Outcome::Ran(ran) => ran.words.clone(),
        Outcome::Failed(trouble) if trouble.is_closed_pipe => String::new(),
        Outcome::Failed(trouble) => format!("{}\n", trouble.text()),
    };
    (!words.is_empty()).then_some(words)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
