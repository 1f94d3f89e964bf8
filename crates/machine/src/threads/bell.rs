//! How a vCPU thread is called: out of guest code if it is there, out of its sleep if it halted.
//!
//! The board rings when something became pending for a vCPU ([`IrqSink`]); it does so inside a visit, that is,
//! under the board's lock. A vCPU thread looks for interrupts and says that it enters the guest under one hold of the
//! same lock. So a ring either comes before the look and is answered by it, or after and finds the vCPU marked as in
//! the guest, and kicks; a kick is never lost. A thread that rings for itself during its own visit kicks nobody, which
//! saves an exit per interrupt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::IrqSink;
use host::lock::{Condition, Lock};
use vcpu::Kick;

/// One vCPU's bell.
pub(crate) struct Bell {
    /// Another one after the vCPU has changed its engine.
    kicker: Lock<Arc<dyn Kick>>,
    in_guest: AtomicBool,
    rung: Lock<bool>,
    changed: Condition,
}

impl Bell {
    pub(crate) fn new(kicker: Arc<dyn Kick>) -> Bell {
        Bell {
            kicker: Lock::new(kicker),
            in_guest: AtomicBool::new(false),
            rung: Lock::new(false),
            changed: Condition::new(),
        }
    }

    /// The vCPU thread is about to look: whatever rang so far is answered by that. Called under the board's lock.
    ///
    /// Who rings to end a life says so before it rings, so that ring is not lost either: the thread asks whether
    /// its life is over before it sleeps.
    pub(crate) fn answered(&self) {
        *self.rung.lock() = false;
    }

    /// The vCPU thread has looked and enters the guest. Called under the board's lock.
    pub(crate) fn entering(&self) {
        self.in_guest.store(true, Ordering::SeqCst);
    }

    /// The vCPU thread has left the guest.
    pub(crate) fn left(&self) {
        self.in_guest.store(false, Ordering::SeqCst);
    }

    /// Calls the vCPU thread.
    pub(crate) fn ring(&self) {
        self.wake();
        if self.in_guest.load(Ordering::SeqCst) {
            self.kick();
        }
    }

    /// Calls the vCPU thread wherever it is, also between a look and the guest. For what is not under the lock.
    pub(crate) fn ring_always(&self) {
        self.wake();
        self.kick();
    }

    fn kick(&self) {
        self.kicker.lock().kick();
    }

    /// From now on the vCPU is kicked like this.
    pub(crate) fn set_kicker(&self, kicker: Arc<dyn Kick>) {
        *self.kicker.lock() = kicker;
    }

    fn wake(&self) {
        *self.rung.lock() = true;
        self.changed.notify_one();
    }

    /// Sleeps until somebody rings; returns at once if somebody did since the last [`Bell::answered`].
    pub(crate) fn sleep(&self) {
        let rung = self.rung.lock();
        let mut rung = self.changed.wait_while(rung, |rung| !*rung);
        *rung = false;
    }
}

/// The bells of all vCPUs, known only once the vCPUs are made: the board is made before them.
#[derive(Default)]
pub(crate) struct Bells(std::sync::OnceLock<Vec<Bell>>);

impl Bells {
    /// Hangs up the bells.
    pub(crate) fn set(&self, bells: Vec<Bell>) {
        assert!(self.0.set(bells).is_ok(), "a life is assembled once");
    }

    /// One vCPU's bell.
    pub(crate) fn of(&self, vcpu_id: u32) -> &Bell {
        &self.all()[vcpu_id as usize]
    }

    /// Every bell; none before they were hung up.
    pub(crate) fn all(&self) -> &[Bell] {
        self.0.get().map_or(&[], Vec::as_slice)
    }
}

impl IrqSink for Bells {
    fn notify(&self, vcpu_id: u32) {
        if let Some(bell) = self.all().get(vcpu_id as usize) {
            bell.ring();
        }
    }
}
