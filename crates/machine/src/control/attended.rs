//! The other side of [`MachineControl`]: what the attendant and the threads around it hear from it and tell it.

use std::sync::Arc;

use vcpu::Kick;

use crate::control::requests::{Step, Ticket};
use crate::control::{Inside, MachineControl, Phase};
use crate::engine::EngineKind;
use crate::life::saved::LifeState;
use crate::outcome::ending::Ending;
use crate::outcome::refusal::SwitchError;
use crate::threads::observe::Observed;

impl MachineControl {
    /// What the attendant is to do.
    pub(crate) fn next(&self) -> Step {
        self.change(|requests, state, now| requests.next(state, now))
    }

    /// The attendant ends the VM like this.
    pub(crate) fn ends(&self, ending: &Ending) {
        self.change(|requests, _, _| requests.ends(ending));
    }

    /// The attendant has sent the NMI.
    pub(crate) fn sent_nmi(&self) {
        self.change(|requests, _, _| requests.sent_nmi());
    }

    /// The attendant has pressed the power button.
    pub(crate) fn pressed(&self) {
        self.change(|requests, _, now| requests.pressed(now));
    }

    /// The attendant has changed the engine to `kind`, or has failed to.
    pub(crate) fn switched(
        &self,
        kind: EngineKind,
        ticket: Ticket,
        result: Result<(), SwitchError>,
    ) {
        if result.is_ok() {
            self.inside().shown.engine = kind;
        }
        self.change(|requests, _, _| requests.worked(ticket, result));
    }

    /// The attendant has taken the guest's state, or has failed to.
    pub(crate) fn saved(&self, ticket: Ticket, result: Result<LifeState, SwitchError>) {
        let result = result.map(|state| self.0.saved.lock().push((ticket, state)));
        self.change(|requests, _, _| requests.worked(ticket, result));
    }

    /// The attendant is about to take the guest's state for another process; false if nobody wants that any more.
    pub(crate) fn moves(&self, ticket: Ticket) -> bool {
        self.change(|requests, _, _| requests.moves(ticket))
    }

    /// It has, or has failed to; whether the guest is to stand still from now on.
    pub(crate) fn moved(&self, ticket: Ticket, result: Result<LifeState, SwitchError>) -> bool {
        let result = result.map(|state| self.0.saved.lock().push((ticket, state)));
        self.change(|requests, _, _| requests.moved(ticket, result))
    }

    /// Waits until the guest is to go on in this process.
    pub(crate) fn wait_until_it_stays(&self) {
        let is_moving = |inside: &mut Inside| inside.requests.is_moving();
        drop(self.0.phase_changed.wait_while(self.inside(), is_moving));
    }

    /// Whether a life that begins stands still: that of a VM that was paused in another process.
    pub(crate) fn begins_paused(&self) -> bool {
        let inside = self.inside();
        inside.shown.begins_paused && inside.requests.is_paused()
    }

    /// The VM is in this phase from now on.
    pub(crate) fn reached(&self, phase: Phase) {
        self.inside().shown.reached(phase);
        self.change(|_, _, _| ());
        self.0.phase_changed.notify_all();
    }

    /// The guest starts again.
    pub(crate) fn count_reboot(&self) {
        self.inside().shown.reboots += 1;
    }

    /// A life begins, of which this is shown.
    pub(crate) fn life_begins(&self, observed: Observed) {
        self.inside().shown.observed = Some(Arc::new(observed));
    }

    /// The life is over: what it counted is kept, and nothing more is shown of it.
    pub(crate) fn life_is_over(&self) {
        let present = self.present();
        let mut inside = self.inside();
        inside.shown.observed = None;
        inside.shown.earlier.merge(present);
    }

    /// Whether the guest waits for room has changed: requests that wait for its rest may wait in vain now.
    pub(crate) fn paging_changed(&self) {
        self.change(|_, _, _| ());
        self.call_attention();
    }

    /// Has the attendant look.
    pub(crate) fn call_attention(&self) {
        let attention = &self.0.attention;
        if let Some(attendant) = &*attention.lock() {
            attendant.kick();
        }
    }

    /// Has `attendant` called after every request from now on.
    pub(crate) fn set_attention(&self, attendant: Arc<dyn Kick>) {
        let attention = &self.0.attention;
        *attention.lock() = Some(attendant);
    }
}
