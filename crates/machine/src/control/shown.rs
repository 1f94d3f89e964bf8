//! What a VM shows of itself while it runs, to those who look and to those who run it.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use paging::Books as PagingBooks;
use vcpu::Kick;

use crate::control::requests::Requests;
use crate::control::{Inside, MachineControl, Shared};
use crate::engine::EngineKind;
use crate::outcome::ending::StopCause;
use crate::paging::Paging;
use crate::threads::observe::Observed;

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

/// What is known of a VM that runs.
pub(super) struct Shown {
    pub(super) phase: Phase,
    /// The engine it runs on.
    pub(super) engine: EngineKind,
    /// The phase was [`Phase::Running`] at least once.
    has_run: bool,
    /// How often the guest started again.
    reboots: u64,
    /// What is shown of the present life.
    observed: Option<Arc<Observed>>,
}

impl Shown {
    pub(super) fn reached(&mut self, phase: Phase) {
        self.phase = phase;
        self.has_run |= phase == Phase::Running;
    }
}

impl MachineControl {
    /// A VM that begins on `engine`; `time_up` is when it is to end at the latest.
    pub(crate) fn new(
        engine: EngineKind,
        paging: Paging,
        time_up: Option<Instant>,
    ) -> MachineControl {
        let shown = Shown {
            phase: Phase::Built,
            engine,
            has_run: false,
            reboots: 0,
            observed: None,
        };
        let inside = Inside {
            requests: Requests::new(time_up),
            shown,
        };
        MachineControl(Arc::new(Shared {
            inside: Mutex::new(inside),
            phase_changed: Condvar::new(),
            attention: Mutex::new(None),
            paging,
        }))
    }

    /// The engine that the VM runs on.
    pub fn engine(&self) -> EngineKind {
        self.inside().shown.engine
    }

    /// What the VM is doing.
    pub fn phase(&self) -> Phase {
        self.inside().shown.phase
    }

    /// Waits until the guest has run; false if the VM ended before.
    pub fn wait_until_started(&self) -> bool {
        let wait = |inside: &mut Inside| inside.shown.phase == Phase::Built;
        let waited = self.0.phase_changed.wait_while(self.inside(), wait);
        let inside = waited.unwrap_or_else(PoisonError::into_inner);
        inside.shown.has_run
    }

    /// Why it is to end at once, if it is.
    pub fn stop_cause(&self) -> Option<StopCause> {
        self.inside().requests.stop_cause()
    }

    /// Whether the guest was asked to power off and has not yet.
    pub fn is_stopping(&self) -> bool {
        self.inside().requests.is_stopping()
    }

    /// How often the guest started again.
    pub fn reboots(&self) -> u64 {
        self.inside().shown.reboots
    }

    /// The guest starts again.
    pub(crate) fn count_reboot(&self) {
        self.inside().shown.reboots += 1;
    }

    /// A life begins, of which this is shown, or one is over.
    pub(crate) fn set_observed(&self, observed: Option<Arc<Observed>>) {
        self.inside().shown.observed = observed;
    }

    /// What is shown of the present life; `None` before the first, between two, and after the last.
    pub(crate) fn observed(&self) -> Option<Arc<Observed>> {
        self.inside().shown.observed.clone()
    }

    /// What the host holds of the guest's memory; `None` between two lives.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.observed()?.memory.resident_bytes().ok()
    }

    /// Its paging.
    pub(crate) fn paging(&self) -> &Paging {
        &self.0.paging
    }

    /// Why the guest waits for room for its pages, if it does.
    pub fn stalled(&self) -> Option<String> {
        self.0.paging.stalled()
    }

    /// The pager's accounts of the present life; none where guest memory is not paged.
    pub fn paging_books(&self) -> Option<PagingBooks> {
        Some(self.0.paging.pager()?.books())
    }

    /// Whether the guest waits for room has changed: requests that wait for its rest may wait in vain now.
    pub(crate) fn paging_changed(&self) {
        self.change(|_, _, _| ());
        self.call_attention();
    }

    /// Has the attendant look.
    pub(crate) fn call_attention(&self) {
        let attention = &self.0.attention;
        if let Some(attendant) = &*attention.lock().unwrap_or_else(PoisonError::into_inner) {
            attendant.kick();
        }
    }

    /// Has `attendant` called after every request from now on.
    pub(crate) fn set_attention(&self, attendant: Arc<dyn Kick>) {
        let attention = &self.0.attention;
        *attention.lock().unwrap_or_else(PoisonError::into_inner) = Some(attendant);
    }
}
