//! The thread that answers faults.
//!
//! It never waits for anything but faults: what has no room is put aside and tried again when the reclaiming thread has
//! made some. So a guest's threads wait for exactly one thing, room, and who makes room never waits for them.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mem::PagedMemory;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::base::InBase;
use crate::core::{Broken, Served};
use crate::memory::{Memory, PAGE_BYTES};
use crate::shared::{Shared, note_cpu};

/// A fault that was not answered yet.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    page: u64,
    is_protected: bool,
    since: Instant,
    attempts: u32,
}

/// How often something that the host refuses is tried.
const ATTEMPTS_MAX: u32 = 50;
/// How long between two attempts.
const PAUSE: Duration = Duration::from_millis(20);
/// How long it waits for faults at a time; whoever wants something rings.
const WAIT: Duration = Duration::from_secs(60);

/// What the thread knows from fault to fault.
struct Service {
    waiting: VecDeque<Waiting>,
    ahead: Ahead,
}

/// Whether the guest goes through its memory in order, and how far it is worth going ahead.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// Where the next fault comes if it does.
    expected: u64,
    window: u64,
    window_max: u64,
}

impl Ahead {
    pub(crate) fn new(window_max: u64) -> Ahead {
        Ahead {
            expected: 0,
            window: 0,
            window_max,
        }
    }

    /// A fault at `page`: how many pages behind it to bring in too.
    pub(crate) fn after(&mut self, page: u64) -> u64 {
        let is_in_order = page == self.expected;
        self.window = if is_in_order {
            (self.window * 2).max(2).min(self.window_max)
        } else {
            0
        };
        self.expected = page + 1 + self.window;
        self.window
    }
}

/// Answers until told to stop.
pub(crate) fn serve(shared: &Shared<PagedMemory>) {
    let mut service = Service {
        waiting: VecDeque::new(),
        ahead: Ahead::new(shared.ahead_pages),
    };
    while !shared.is_stopping.load(Ordering::Acquire) {
        let tries_again = service.waiting.iter().any(|one| one.attempts > 0);
        wait(shared, if tries_again { PAUSE } else { WAIT });
        let mut faults = Vec::new();
        if let Err(error) = shared.memory.take_faults(&mut faults) {
            shared.broke(&format!("cannot hear of faults: {error}"));
            return;
        }
        let now = Instant::now();
        let again = std::mem::take(&mut service.waiting);
        let new = faults.iter().map(|fault| Waiting {
            page: fault.offset / PAGE_BYTES,
            is_protected: fault.is_protected,
            since: now,
            attempts: 0,
        });
        for one in again.into_iter().chain(new) {
            if let Err(broken) = service.answer(shared, one) {
                shared.broke(&crate::shared::with_causes(&broken));
                return;
            }
        }
        let oldest = service.waiting.iter().map(|one| one.since).min();
        shared.note_waiting(service.waiting.len(), oldest);
        note_cpu(shared, 0);
    }
}

fn wait(shared: &Shared<PagedMemory>, timeout: Duration) {
    let timeout = Timespec::try_from(timeout).ok();
    let mut fds = [
        PollFd::from_borrowed_fd(shared.memory.waits(), PollFlags::IN),
        PollFd::new(&shared.call, PollFlags::IN),
    ];
    // Interrupted or not, who comes back looks.
    let _ = poll(&mut fds, timeout.as_ref());
    if !fds[1].revents().is_empty() {
        let _ = rustix::io::read(&shared.call, &mut [0; 8]);
    }
}

impl Service {
    fn answer(&mut self, shared: &Shared<PagedMemory>, mut one: Waiting) -> Result<(), Broken> {
        match serve_one(shared, one.page, one.is_protected) {
            Ok(Served::NoRoom) => {
                shared.want_room();
                self.waiting.push_back(one);
                Ok(())
            }
            Ok(Served::Back) => {
                shared.note_latency(one.since.elapsed());
                self.go_ahead(shared, one.page)
            }
            Ok(Served::Done) => {
                if !one.is_protected {
                    self.go_ahead(shared, one.page)?;
                }
                Ok(())
            }
            Ok(Served::Read(..) | Served::ReadBase(_)) => {
                unreachable!("reads are finished in `serve_one`")
            }
            Err(broken) if broken.may_pass() && one.attempts < ATTEMPTS_MAX => {
                one.attempts += 1;
                self.waiting.push_back(one);
                Ok(())
            }
            Err(broken) => Err(broken),
        }
    }

    /// Brings in what comes next, if the guest goes through its memory in order and there is room to spare.
    fn go_ahead(&mut self, shared: &Shared<PagedMemory>, page: u64) -> Result<(), Broken> {
        let window = self.ahead.after(page);
        let mut core = shared.core()?;
        let spare = shared.headroom(core.limit());
        let mut count = 0;
        for next in page + 1..(page + 1 + window).min(core.page_count()) {
            if core.room() <= spare / 2 || !core.fetch_ahead(next)? {
                break;
            }
            count += 1;
        }
        if core.excess(spare) > 0 {
            shared.want_room();
        }
        drop(core);
        if count > 0 {
            // So that one sees which of them are used. If the host refuses, they count as used.
            let _ = Memory::watch_use(&*shared.memory, page + 1, count);
        }
        Ok(())
    }
}

/// Serves one fault, reading the page file if it has to.
pub(crate) fn serve_one(
    shared: &Shared<PagedMemory>,
    page: u64,
    is_protected: bool,
) -> Result<Served, Broken> {
    let served = shared.core()?.fault(page, is_protected)?;
    let (id, in_file) = match served {
        Served::Read(id, in_file) => (id, in_file),
        Served::ReadBase(in_base) => return bring_chunk(shared, page, &in_base),
        served => return Ok(served),
    };
    let read = in_file.read();
    let mut core = shared.core()?;
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(_) if core.was_moved(page, id, &in_file) => return Ok(Served::NoRoom),
        Err(source) => return Err(Broken::Lost { page, source }),
    };
    match core.finish(page, id, in_file.born, &bytes)? {
        // It was in another place of the file meanwhile: the next attempt finds it.
        Served::Read(..) | Served::ReadBase(_) => Ok(Served::NoRoom),
        served => Ok(served),
    }
}

/// Brings a page from the base, and its neighbours.
pub(crate) fn bring_chunk(
    shared: &Shared<PagedMemory>,
    page: u64,
    in_base: &InBase,
) -> Result<Served, Broken> {
    let chunk = in_base
        .read()
        .map_err(|source| Broken::Base { page, source })?;
    match shared.core()?.arrive(page, &chunk)? {
        // It came and went meanwhile: the next attempt finds it.
        Served::Read(..) | Served::ReadBase(_) => Ok(Served::NoRoom),
        served => Ok(served),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_goes_in_order_is_met_ahead_of_it() {
        let check = |pages: &[u64], expected: &[u64]| {
            let mut ahead = Ahead::new(16);
            let got: Vec<u64> = pages.iter().map(|&page| ahead.after(page)).collect();
            assert_eq!(got, expected, "{pages:?}");
        };
        check(
            &[100, 101, 104, 109, 118, 135, 152],
            &[0, 2, 4, 8, 16, 16, 16],
        );
        check(&[100, 50, 7, 8], &[0, 0, 0, 2]);
        check(&[100, 101, 500, 501], &[0, 2, 0, 2]);
    }
}
