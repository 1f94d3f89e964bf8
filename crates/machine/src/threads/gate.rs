//! The gate that everything of a guest passes before it does something: vCPU threads before they enter guest code,
//! device threads before they serve their queues. A pause closes it and waits until all are outside.
//!
//! Who is inside and may stay there for long, as vCPU threads do, has to be called out after the gate was closed; it
//! comes back with [`Inside::wait_outside`] when what it does is at a boundary.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use host::lock::{Condition, Lock};

/// How often somebody who waits looks whether the wait still makes sense.
const PATIENCE: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    closed: AtomicBool,
    /// How many are inside.
    inside: Lock<usize>,
    changed: Condition,
}

/// Somebody is inside; leaves when dropped.
#[derive(Debug)]
pub(crate) struct Inside<'a>(&'a Gate);

impl Gate {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.inside.lock()
    }

    /// Whether it is closed: who is inside should come out.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Goes inside, waiting while it is closed; goes in anyway when that does not make sense any more (`goes_on`),
    /// because who is inside finds out about ends.
    pub(crate) fn enter(&self, goes_on: impl Fn() -> bool) -> Inside<'_> {
        let mut inside = self.lock();
        while self.is_closed() && goes_on() {
            inside = self.changed.wait(inside);
        }
        *inside += 1;
        Inside(self)
    }

    /// Is inside, closed or not, and does nothing yet: who arrives where it is closed goes outside first
    /// ([`Inside::wait_outside`]), and can be asked there.
    pub(crate) fn arrive(&self) -> Inside<'_> {
        *self.lock() += 1;
        Inside(self)
    }

    /// Closes it and waits until nobody is inside; false if that stops making sense before. `call` is called again
    /// and again to have those inside come out.
    pub(crate) fn close(&self, call: impl Fn(), goes_on: impl Fn() -> bool) -> bool {
        self.closed.store(true, Ordering::Release);
        loop {
            call();
            let inside = self.lock();
            if *inside == 0 {
                return true;
            }
            if !goes_on() {
                return false;
            }
            drop(self.changed.wait_timeout(inside, PATIENCE));
        }
    }

    /// Closes it and waits for nobody: who comes out stays outside.
    pub(crate) fn shut(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Opens it.
    pub(crate) fn open(&self) {
        self.closed.store(false, Ordering::Release);
        self.call();
    }

    /// Has everybody who waits look whether that still makes sense.
    pub(crate) fn call(&self) {
        // Taking the lock orders this after a look that comes before a wait.
        drop(self.lock());
        self.changed.notify_all();
    }
}

impl Inside<'_> {
    /// Goes outside and comes in again when the gate is open. Returns at once if it is.
    pub(crate) fn wait_outside(&mut self, mut goes_on: impl FnMut() -> bool) {
        if !self.0.is_closed() {
            return;
        }
        let mut inside = self.0.lock();
        *inside -= 1;
        self.0.changed.notify_all();
        while self.0.is_closed() && goes_on() {
            inside = self.0.changed.wait(inside);
        }
        *inside += 1;
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut inside = self.0.lock();
        *inside -= 1;
        // Asked under the lock: who closes it later counts itself. Device threads leave often, pauses are rare.
        if self.0.is_closed() {
            self.0.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn nothing_happens_inside_a_closed_gate() {
        let gate = Gate::default();
        let over = AtomicBool::new(false);
        let work = AtomicU64::new(0);
        let goes_on = || !over.load(Ordering::Relaxed);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while goes_on() {
                        let mut inside = gate.enter(goes_on);
                        for _ in 0..100 {
                            work.fetch_add(1, Ordering::Relaxed);
                            inside.wait_outside(goes_on);
                        }
                    }
                });
            }
            for _ in 0..20 {
                assert!(gate.close(|| (), goes_on));
                let before = work.load(Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
                assert_eq!(work.load(Ordering::Relaxed), before);
                gate.open();
                while work.load(Ordering::Relaxed) == before {
                    std::thread::yield_now();
                }
            }
            assert!(gate.close(|| (), goes_on));
            over.store(true, Ordering::Relaxed);
            gate.call();
        });
    }

    #[test]
    fn closing_gives_up_when_it_makes_no_sense_any_more() {
        let gate = Arc::new(Gate::default());
        let _inside = gate.enter(|| true);
        assert!(!gate.close(|| (), || false));
    }
}
