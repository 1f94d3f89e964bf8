//! Acting on a running VM from outside: another thread, a signal's thread, the control socket.
//!
//! What may be asked, and what follows from it, is [`requests`]'s. Here is the lock around it: a request is noted under
//! it, the attendant of the present life is called, and the one who asked waits for the answer. Requests outlive a
//! life: a guest that resets itself is paused or stopped all the same.

mod attended;
pub(crate) mod door;
mod requests;
mod saving;
mod shown;
mod switching;

use std::sync::{Arc, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use host::lock::{Condition, Lock};
use vcpu::Kick;

use crate::attach::broker::Broker;
use crate::control::door::Door;
use crate::engine::EngineFinding;
use crate::life::saved::LifeState;
use crate::limits::Limits;
use crate::outcome::ending::StopCause;
use crate::outcome::refusal::PauseError;
use crate::paging::Paging;
use crate::report::footprint::Footprint;
pub use requests::Phase;
pub(crate) use requests::Step;
use requests::{Answer, Request, Requests, State, Ticket};
pub(crate) use saving::Ground;
use shown::Shown;

/// Stops a VM, pauses it, or presses its power button. Cheap to clone; any thread may use it, also before and after
/// the run.
#[derive(Clone)]
pub struct MachineControl(Arc<Shared>);

struct Shared {
    inside: Lock<Inside>,
    phase_changed: Condition,
    /// Who is to hear of requests: the attendant of the present life.
    attention: Lock<Option<Arc<dyn Kick>>>,
    paging: Paging,
    limits: Limits,
    broker: Arc<dyn Broker>,
    footprint: Arc<Footprint>,
    /// What this host was found to have when the VM was planned.
    engines: Vec<EngineFinding>,
    /// What it stands on.
    ground: Ground,
    /// States that were taken and not fetched yet.
    saved: Lock<Vec<(Ticket, LifeState)>>,
    door: Door,
}

struct Inside {
    requests: Requests,
    shown: Shown,
}

/// Somebody needs the guest to rest; goes on when this is dropped.
pub struct Resting {
    control: MachineControl,
    ticket: Ticket,
}

impl Resting {
    /// Whether the guest has rested all the time, which ends now: an order to go on or to stop overrules it.
    pub fn release(self) -> bool {
        self.let_go()
    }

    fn let_go(&self) -> bool {
        let rested = self
            .control
            .change(|requests, state, _| requests.release(self.ticket, state));
        self.control.call_attention();
        rested
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl MachineControl {
    /// Ends the VM at once, wherever its guest is: the run ends with [`crate::Ending::Stopped`].
    pub fn stop(&self) {
        self.stop_because(StopCause::Left);
    }

    /// The same, for this reason. The first one counts.
    pub fn stop_because(&self, cause: StopCause) {
        // One that moves to another process is ended there, by whoever has it move.
        let _ = self.order_end(cause);
    }

    /// The same for who wants to know whether it is noted.
    ///
    /// # Errors
    /// [`PauseError::Moving`].
    pub fn order_end(&self, cause: StopCause) -> Result<(), PauseError> {
        let noted = self.tell(|answer| Request::End(cause, answer));
        // A thread that waits for room for a page, the attendant's perhaps, would not hear of it.
        if let Some(pager) = self.0.paging.pager() {
            pager.let_all_in();
        }
        noted
    }

    /// Presses the power button: a guest that listens to ACPI shuts itself down.
    pub fn press_power_button(&self) {
        // As above.
        let _ = self.tell(Request::PressPower);
    }

    /// Sends an NMI to the first vCPU; a guest that stands still takes it when it goes on.
    ///
    /// # Errors
    /// [`PauseError`]: the VM has ended.
    pub fn send_nmi(&self, patience: Duration) -> Result<(), PauseError> {
        self.ask(Request::Nmi, patience, PauseError::TimedOut)
    }

    /// Presses the power button, of a paused VM after resuming it, and ends the VM if it has not ended by itself
    /// when `grace` is over. Asked again, the earlier end counts. The button is pressed again every few seconds: a
    /// guest that was still starting has not heard it.
    pub fn stop_gracefully(&self, grace: Duration) {
        // As above.
        let _ = self.order_stop(grace);
    }

    /// The same for who wants to know whether it is noted.
    ///
    /// # Errors
    /// [`PauseError::Moving`].
    pub fn order_stop(&self, grace: Duration) -> Result<(), PauseError> {
        self.tell(|answer| Request::Stop(grace, answer))
    }

    /// Pauses the VM: when this returns, nothing of the guest runs, and its time stands still. A VM that is paused
    /// stays so.
    ///
    /// # Errors
    /// [`PauseError`].
    pub fn pause(&self, patience: Duration) -> Result<(), PauseError> {
        self.ask(Request::Pause, patience, PauseError::TimedOut)
    }

    /// Has the VM rest as in a pause for as long as the value lives that is returned, and go on as it was before then: a VM
    /// that is paused stays so.
    ///
    /// # Errors
    /// [`PauseError`].
    pub fn rest(&self, patience: Duration) -> Result<Resting, PauseError> {
        let (answer, answers) = mpsc::channel();
        let resting = Resting {
            ticket: self.note(Request::Rest(answer)),
            control: self.clone(),
        };
        match answers.recv_timeout(patience) {
            Ok(Ok(())) => Ok(resting),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(PauseError::TimedOut),
        }
    }

    /// Undoes a pause.
    ///
    /// # Errors
    /// [`PauseError`].
    pub fn resume(&self, patience: Duration) -> Result<(), PauseError> {
        self.ask(Request::Resume, patience, PauseError::TimedOut)
    }

    /// Makes a request that is answered at once, or whose answer is not waited for.
    fn tell(&self, request: impl FnOnce(Answer<PauseError>) -> Request) -> Result<(), PauseError> {
        let (answer, answers) = mpsc::channel();
        self.note(request(answer));
        answers.try_recv().unwrap_or(Ok(()))
    }

    /// Makes a request and waits for its answer; takes it back if that takes too long.
    fn ask<E>(
        &self,
        request: impl FnOnce(Answer<E>) -> Request,
        patience: Duration,
        timed_out: E,
    ) -> Result<(), E> {
        let (answer, answers) = mpsc::channel();
        let ticket = self.note(request(answer));
        answers.recv_timeout(patience).unwrap_or_else(|_| {
            self.change(|requests, state, _| requests.take_back(ticket, state));
            // The answer may have come just before.
            answers.try_recv().unwrap_or(Err(timed_out))
        })
    }

    fn note(&self, request: Request) -> Ticket {
        let ticket = self.change(|requests, state, now| requests.ask(request, state, now));
        self.call_attention();
        ticket
    }

    /// Does something to the requests, and has those answered that can be after that.
    fn change<T>(&self, act: impl FnOnce(&mut Requests, &State, Instant) -> T) -> T {
        let mut inside = self.inside();
        let state = State {
            phase: inside.shown.phase,
            stalled: self.0.paging.stalled(),
        };
        let result = act(&mut inside.requests, &state, Instant::now());
        inside.requests.settle(&state);
        result
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.inside.lock()
    }
}
