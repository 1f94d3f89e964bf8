//! The room: what vCPUs and the attendant visit one at a time, and what devices' threads send letters to.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use api::Metrics;
use devices::{Board, BoardEvent, Nanos};
use host::lock::Lock;

use crate::console::ConsoleInput;
use crate::life::msr::MachineMsrs;
use crate::life::{End, Life};
use crate::outcome::ending::Ending;
use crate::report::metrics;
use crate::threads::mailbox::Mailbox;

/// Bytes offered to the serial port at once.
const OFFERED_BYTES: usize = 64;

/// Board and MSRs: what vCPUs and the attendant visit one at a time.
pub(crate) struct Room {
    pub(crate) board: Board,
    pub(crate) msrs: MachineMsrs,
    /// Bytes typed that the serial port has no room for yet.
    pub(super) typed: Vec<u8>,
    /// The serial port knows that its reader is behind.
    pub(super) is_slow: bool,
    /// What devices' threads have to say to the board.
    pub(super) mailbox: Arc<Mailbox>,
}

/// A visit to the room. Who leaves looks whether a device's thread came meanwhile.
pub(crate) struct Visit<'a> {
    /// Always there until the visit ends.
    pub(super) inside: Option<MutexGuard<'a, Room>>,
    pub(super) cell: &'a Lock<Room>,
    pub(super) mailbox: &'a Mailbox,
}

impl Deref for Visit<'_> {
    type Target = Room;

    fn deref(&self) -> &Room {
        self.inside
            .as_ref()
            .expect("a visit is inside until it ends")
    }
}

impl DerefMut for Visit<'_> {
    fn deref_mut(&mut self) -> &mut Room {
        self.inside
            .as_mut()
            .expect("a visit is inside until it ends")
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.inside = None;
        deliver_mail(self.cell, self.mailbox);
    }
}

/// Delivers what lies in the mailbox, unless somebody is in the room, who will do it then.
fn deliver_mail(cell: &Lock<Room>, mailbox: &Mailbox) {
    while mailbox.has_letters() {
        let Some(mut room) = cell.try_lock() else {
            return;
        };
        mailbox.deliver(&mut room.board);
    }
}

impl Room {
    /// After a visit: offers what was typed, hears what the guest wants of the VM, and sets the alarm.
    pub(crate) fn settle(&mut self, life: &Life, now: Nanos) {
        self.mailbox.deliver(&mut self.board);
        if let Some(input) = &life.input {
            self.offer_input(input, now);
            let is_slow = life.output.is_behind();
            if is_slow != self.is_slow {
                self.is_slow = is_slow;
                self.board.slow_console(now, is_slow);
            }
        }
        if let Some(event) = self.board.take_event() {
            life.end(match event {
                BoardEvent::PowerOff => End::Ending(Ending::PoweredOff),
                BoardEvent::Reset => End::Reset,
                BoardEvent::DebugExit(status) => End::Ending(Ending::DebugExit(status)),
            });
        }
        life.alarm.set(self.board.deadline());
    }

    fn offer_input(&mut self, input: &ConsoleInput, now: Nanos) {
        while self.typed.len() < OFFERED_BYTES {
            let Some(byte) = input.take() else { break };
            self.typed.push(byte);
        }
        if !self.typed.is_empty() {
            let taken = self.board.type_console(now, &self.typed);
            self.typed.drain(..taken);
        }
    }
}

/// Lets devices' threads into the room. They hold it weakly: the room holds the devices, and those their threads.
pub(super) fn open_mailbox(mailbox: &Arc<Mailbox>, room: &Arc<Lock<Room>>) {
    let weak_mailbox = Arc::downgrade(mailbox);
    let weak_room = Arc::downgrade(room);
    mailbox.set_way(move || {
        if let (Some(mailbox), Some(room)) = (weak_mailbox.upgrade(), weak_room.upgrade()) {
            deliver_mail(&room, &mailbox);
        }
    });
}

/// How often a client that wants to read the board tries to enter the room, a millisecond apart.
const TRIES: u32 = 50;

/// What the board of a life has counted, for clients: as of now, or as of the last time if the room stays taken, as
/// it does when a vCPU waits in it for a page.
pub(super) fn board_meter(
    room: &Arc<Lock<Room>>,
    mailbox: &Arc<Mailbox>,
) -> impl Fn() -> Metrics + use<> {
    let room = Arc::clone(room);
    let mailbox = Arc::clone(mailbox);
    let last = Lock::new(Metrics::default());
    move || {
        let mut last = last.lock();
        for _ in 0..TRIES {
            if let Some(inside) = room.try_lock() {
                let counters = inside.board.counters();
                let unknown = inside.msrs.unknown_count();
                drop(inside);
                // A device's thread may have come meanwhile.
                deliver_mail(&room, &mailbox);
                *last = metrics::board(&counters, unknown);
                break;
            }
            host::rest::rest(Duration::from_millis(1));
        }
        last.clone()
    }
}
