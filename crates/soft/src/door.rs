//! The doors to translated code: how vCPUs are called out of it, and kept out.
//!
//! Each vCPU has a door. It goes in before it runs translated code and comes out when nothing of what it does depends
//! on the code cache any more: its exit is understood and its registers are exact. Stores that the interpreter makes
//! into guest memory happen behind the door too. Whoever changes what all vCPUs build on uses two means:
//!
//! - [`Doors::call_out`]: some vCPUs come out once and give up write access to a page before they go in again. A page
//!   is about to be translated, and a store that its owner did not see would be lost.
//! - [`Doors::shut`]: everybody comes out and stays out as long as the guard lives. The code cache is cleared, or a
//!   locked instruction that no locked instruction of ours can do is done.
//!
//! Both are called under the lock of the translations, so there is one caller at a time, and nobody behind a door takes
//! that lock: a wait ends as soon as translated code polls. Going in is one locked instruction: a store to `inside`
//! that is ordered before the look for orders, as the caller's order is before its look at `inside`. A VM with one
//! vCPU has nobody to be called and leaves all that out.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mem::{Hva, Writers};
use vcpu::Kick;

/// The machine wants the vCPU to come back.
const KICKED: u32 = 1 << 0;
/// There are orders.
const CALLED: u32 = 1 << 1;

/// Looks before whoever waits gives its core away, and before it sleeps between looks.
const LOOKS_SPINNING: u32 = 400;
const LOOKS_YIELDING: u32 = 420;
const NAP: Duration = Duration::from_micros(20);

/// What a vCPU has to do before it goes in again.
#[derive(Default)]
struct Orders {
    /// Host pages to which write access has been taken.
    protect: Vec<Hva>,
    is_shut: bool,
}

/// One vCPU's door.
#[derive(Default)]
pub(crate) struct Door {
    /// What translated code polls: nobody wants anything while it is 0.
    wanted: AtomicU32,
    inside: AtomicU32,
    orders: Mutex<Orders>,
    opened: Condvar,
}

impl Kick for Door {
    fn kick(&self) {
        self.wanted.fetch_or(KICKED, Ordering::SeqCst);
    }
}

impl Door {
    /// Whether somebody wants something of the vCPU.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) != 0
    }

    /// Whether the machine kicked since this was last asked.
    pub(crate) fn take_kick(&self) -> bool {
        self.wanted.load(Ordering::Acquire) & KICKED != 0
            && self.wanted.fetch_and(!KICKED, Ordering::SeqCst) & KICKED != 0
    }

    /// Address of the word that translated code polls.
    pub(crate) fn address(&self) -> u64 {
        self.wanted.as_ptr() as u64
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes in, after all orders have been carried out: `protect` takes write access to a page away.
    pub(crate) fn go_in(&self, mut protect: impl FnMut(Hva)) {
        loop {
            self.inside.swap(1, Ordering::SeqCst);
            if self.wanted.load(Ordering::SeqCst) & CALLED == 0 {
                return;
            }
            self.come_out();
            let mut orders = self.orders();
            while orders.is_shut {
                orders = self
                    .opened
                    .wait(orders)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            self.wanted.fetch_and(!CALLED, Ordering::SeqCst);
            orders.protect.drain(..).for_each(&mut protect);
        }
    }

    /// Comes out.
    pub(crate) fn come_out(&self) {
        self.inside.store(0, Ordering::Release);
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders());
        self.wanted.fetch_or(CALLED, Ordering::SeqCst);
    }

    fn wait_until_out(&self) {
        let mut looks = 0;
        while self.inside.load(Ordering::SeqCst) != 0 {
            looks += 1;
            match looks {
                ..LOOKS_SPINNING => std::hint::spin_loop(),
                LOOKS_SPINNING..LOOKS_YIELDING => std::thread::yield_now(),
                _ => std::thread::sleep(NAP),
            }
        }
    }
}

/// The doors of all vCPUs of a VM, by index. All are there before the first vCPU runs.
#[derive(Default)]
pub(crate) struct Doors {
    all: Vec<Arc<Door>>,
    /// vCPUs called out of translated code to give up a page.
    pub(crate) calls: AtomicU64,
    /// Times that all vCPUs were kept out.
    pub(crate) stops: AtomicU64,
}

impl Doors {
    pub(crate) fn new(all: Vec<Arc<Door>>) -> Doors {
        Doors {
            all,
            ..Doors::default()
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    fn others(&self, mine: usize) -> impl Iterator<Item = (usize, &Door)> {
        self.all
            .iter()
            .enumerate()
            .filter(move |(index, _)| *index != mine)
            .map(|(index, door)| (index, &**door))
    }

    /// Takes write access to the host page `page` away from those of `writers` that are not vCPU `mine`. When this
    /// returns, what they have stored there can be seen, and they store no more unseen.
    pub(crate) fn call_out(&self, mine: usize, writers: Writers, page: Hva) {
        let called = || {
            self.others(mine)
                .filter(|(index, _)| writers.may_have(*index))
        };
        for (_, door) in called() {
            self.calls.fetch_add(1, Ordering::Relaxed);
            door.order(|orders| orders.protect.push(page));
        }
        called().for_each(|(_, door)| door.wait_until_out());
    }

    /// Has everybody but vCPU `mine` out of translated code until the guard is dropped.
    pub(crate) fn shut(&self, mine: usize) -> Shut<'_> {
        self.stops
            .fetch_add(u64::from(self.count() > 1), Ordering::Relaxed);
        self.others(mine)
            .for_each(|(_, door)| door.order(|orders| orders.is_shut = true));
        self.others(mine)
            .for_each(|(_, door)| door.wait_until_out());
        Shut { doors: self, mine }
    }
}

/// Keeps everybody but one vCPU out.
pub(crate) struct Shut<'a> {
    doors: &'a Doors,
    mine: usize,
}

impl Drop for Shut<'_> {
    fn drop(&mut self) {
        for (_, door) in self.doors.others(self.mine) {
            door.orders().is_shut = false;
            door.opened.notify_all();
        }
    }
}
