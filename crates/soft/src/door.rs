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
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use host::lock::{Condition, Lock};
use mem::{Hva, Writers};
use vcpu::Kick;

/// The machine wants the vCPU to come back.
const KICKED: u32 = 1 << 0;
/// There are orders.
const CALLED: u32 = 1 << 1;

/// Looks before whoever waits sleeps between looks. It never yields its core instead: on a busy host each yield gives a
/// whole slice of the scheduler away, some milliseconds (since Linux 6.18 what it would have got later, too:
/// kernel/sched/fair.c, `yield_task_fair`).
const LOOKS_SPINNING: u32 = 400;
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
    orders: Lock<Orders>,
    /// How often orders were carried out.
    carried_out: AtomicU64,
    opened: Condition,
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
        self.orders.lock()
    }

    /// Goes in, after all orders have been carried out: `protect` takes write access to a page away. Whether there were
    /// any.
    pub(crate) fn go_in(&self, mut protect: impl FnMut(Hva)) -> bool {
        let mut were_any = false;
        loop {
            self.inside.swap(1, Ordering::SeqCst);
            if self.wanted.load(Ordering::SeqCst) & CALLED == 0 {
                return were_any;
            }
            were_any = true;
            self.come_out();
            let mut orders = self.orders();
            while orders.is_shut {
                orders = self.opened.wait(orders);
            }
            self.wanted.fetch_and(!CALLED, Ordering::SeqCst);
            orders.protect.drain(..).for_each(&mut protect);
            self.carried_out.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Comes out.
    pub(crate) fn come_out(&self) {
        self.inside.store(0, Ordering::Release);
    }

    /// Gives an order; returns how often orders had been carried out before.
    fn order(&self, change: impl FnOnce(&mut Orders)) -> u64 {
        let mut orders = self.orders();
        change(&mut orders);
        let before = self.carried_out.load(Ordering::SeqCst);
        drop(orders);
        self.wanted.fetch_or(CALLED, Ordering::SeqCst);
        before
    }

    /// Waits until the vCPU is out, or has been out and carried out the order that came after `before`: it may have gone
    /// in again so fast that nobody saw it, and nothing will call it out another time.
    fn wait_until_carried_out(&self, before: u64) {
        self.wait_while(|| self.carried_out.load(Ordering::SeqCst) == before);
    }

    fn wait_until_out(&self) {
        self.wait_while(|| true);
    }

    /// Waits while the vCPU is inside and `waits` says so.
    fn wait_while(&self, waits: impl Fn() -> bool) {
        let mut looks = 0;
        while self.inside.load(Ordering::SeqCst) != 0 && waits() {
            looks += 1;
            match looks {
                ..LOOKS_SPINNING => std::hint::spin_loop(),
                // No sleep: a vCPU's thread waits on futexes alone, whoever might wake it.
                _ => std::thread::park_timeout(NAP),
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
        let called: Vec<(&Door, u64)> = self
            .others(mine)
            .filter(|(index, _)| writers.may_have(*index))
            .map(|(_, door)| (door, door.order(|orders| orders.protect.push(page))))
            .collect();
        self.calls.fetch_add(called.len() as u64, Ordering::Relaxed);
        for (door, before) in called {
            door.wait_until_carried_out(before);
        }
    }

    /// Has everybody but vCPU `mine` out of translated code until the guard is dropped.
    pub(crate) fn shut(&self, mine: usize) -> Shut<'_> {
        self.stops
            .fetch_add(u64::from(self.count() > 1), Ordering::Relaxed);
        for (_, door) in self.others(mine) {
            door.order(|orders| orders.is_shut = true);
        }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    /// A door and a thread behind it that goes in and comes out until it is told to end; it counts its ways in.
    struct Visitor {
        door: Arc<Door>,
        ways_in: Arc<AtomicU64>,
        protected: Arc<Lock<Vec<u64>>>,
        ends: Arc<AtomicBool>,
        thread: Option<std::thread::JoinHandle<()>>,
    }

    impl Visitor {
        fn new() -> Visitor {
            let door = Arc::new(Door::default());
            let ends = Arc::new(AtomicBool::new(false));
            let ways_in = Arc::default();
            let protected = Arc::new(Lock::new(vec![]));
            let mut visitor = Visitor {
                door,
                ways_in,
                protected,
                ends,
                thread: None,
            };
            let door = Arc::clone(&visitor.door);
            let ends = Arc::clone(&visitor.ends);
            let ways_in = Arc::clone(&visitor.ways_in);
            let protected = Arc::clone(&visitor.protected);
            visitor.thread = Some(std::thread::spawn(move || {
                while !ends.load(Ordering::SeqCst) {
                    door.go_in(|Hva(page)| protected.lock().push(page));
                    ways_in.fetch_add(1, Ordering::SeqCst);
                    while !door.is_wanted() && !ends.load(Ordering::SeqCst) {
                        std::hint::spin_loop();
                    }
                    door.come_out();
                }
            }));
            visitor
        }

        fn wait_for_ways_in(&self, count: u64) {
            while self.ways_in.load(Ordering::SeqCst) < count {
                std::thread::yield_now();
            }
        }
    }

    impl Drop for Visitor {
        fn drop(&mut self) {
            self.ends.store(true, Ordering::SeqCst);
            self.thread.take().map(std::thread::JoinHandle::join);
        }
    }

    #[test]
    fn a_kick_is_wanted_until_it_is_taken_once() {
        let door = Door::default();
        assert!(!door.is_wanted() && !door.take_kick());
        door.kick();
        door.kick();
        assert!(door.is_wanted());
        assert!(door.take_kick() && !door.take_kick() && !door.is_wanted());
    }

    #[test]
    fn a_kick_is_not_taken_for_an_order_nor_an_order_for_a_kick() {
        let door = Door::default();
        assert_eq!(door.order(|orders| orders.protect.push(Hva(0x5000))), 0);
        assert!(door.is_wanted() && !door.take_kick());
        let mut pages = vec![];
        door.go_in(|Hva(page)| pages.push(page));
        assert_eq!(pages, [0x5000]);
        assert!(!door.is_wanted());
        door.come_out();
        door.kick();
        door.go_in(|Hva(page)| pages.push(page));
        assert!(door.is_wanted(), "going in takes no kick");
        assert_eq!(pages, [0x5000], "an order is carried out once");
        door.come_out();
    }

    /// Masks of writers, and which of three vCPUs are called; the caller is vCPU 0.
    #[test]
    fn only_others_that_may_have_the_page_are_called_out() {
        let visitors: Vec<Visitor> = (0..2).map(|_| Visitor::new()).collect();
        let mut all = vec![Arc::new(Door::default())];
        all.extend(visitors.iter().map(|visitor| Arc::clone(&visitor.door)));
        let doors = Doors::new(all);
        visitors
            .iter()
            .for_each(|visitor| visitor.wait_for_ways_in(1));
        let memory = mem::GuestMemory::flat(1 << 20).unwrap();
        let notes = memory.notes();
        let page = x86::Gfn(5);
        assert!(notes.add_writer(page, 0) && notes.add_writer(page, 2));
        let writers = notes.add_code(page);
        doors.call_out(0, writers, Hva(0x5000));
        assert_eq!(doors.calls.load(Ordering::SeqCst), 1);
        // When the call is over, whoever is inside again has carried it out.
        visitors[1].wait_for_ways_in(2);
        assert_eq!(*visitors[1].protected.lock(), [0x5000]);
        assert_eq!(visitors[0].ways_in.load(Ordering::SeqCst), 1);
        assert!(visitors[0].protected.lock().is_empty());
    }

    #[test]
    fn nobody_is_inside_while_the_doors_are_shut() {
        let visitors: Vec<Visitor> = (0..2).map(|_| Visitor::new()).collect();
        let mut all = vec![Arc::new(Door::default())];
        all.extend(visitors.iter().map(|visitor| Arc::clone(&visitor.door)));
        let doors = Doors::new(all);
        for turn in 1..=20 {
            visitors
                .iter()
                .for_each(|visitor| visitor.wait_for_ways_in(turn));
            let shut = doors.shut(0);
            let seen: Vec<u64> = visitors
                .iter()
                .map(|visitor| visitor.ways_in.load(Ordering::SeqCst))
                .collect();
            std::thread::sleep(Duration::from_micros(300));
            for (visitor, seen) in visitors.iter().zip(seen) {
                assert_eq!(visitor.ways_in.load(Ordering::SeqCst), seen);
            }
            drop(shut);
        }
        visitors
            .iter()
            .for_each(|visitor| visitor.wait_for_ways_in(21));
        assert_eq!(doors.stops.load(Ordering::SeqCst), 20);
    }
}
