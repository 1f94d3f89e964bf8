//! The thread that keeps the limit of all that a VM costs its host: it looks what each part takes, and gives each its share.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use api::HostCostBook;

use crate::control::MachineControl;
use crate::plan::VmPlan;
use crate::shares::{Shares, Taken, own_bytes, shares};
use crate::threads::host_limit::{HostLimit, asked};

/// How long a VM costs more than it may until that is said, and how long between two times that the heap is asked for what was freed.
const PATIENCE: Duration = Duration::from_secs(1);
/// The heap is asked when less than this is free, or the process holds more of its own than such a VM's needs.
const HEAP_FREE_BYTES: u64 = 3 << 19;

/// Ends the thread when it is dropped.
pub(crate) struct Keeper {
    limit: Arc<HostLimit>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.limit.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts the thread that keeps the limit of the VM that `control` leads to.
pub(crate) fn keep(control: &MachineControl, plan: &VmPlan) -> io::Result<Keeper> {
    let limit = Arc::clone(&control.limits().host);
    let mut looking = Looking {
        limit: Arc::clone(&limit),
        control: control.clone(),
        plan: plan.clone(),
        engine_share: None,
        has_shared: plan.host_limit_bytes.is_some(),
        since: None,
        trimmed: None,
        history: History::default(),
    };
    let thread = thread::Builder::new()
        .name("host-limit".to_owned())
        .spawn(move || looking.go())?;
    Ok(Keeper {
        limit,
        thread: Some(thread),
    })
}

/// What the thread knows.
struct Looking {
    limit: Arc<HostLimit>,
    control: MachineControl,
    plan: VmPlan,
    engine_share: Option<u64>,
    /// Whether parts have shares.
    has_shared: bool,
    /// Since when the VM costs more than it may, and whether that was said.
    since: Option<(Instant, bool)>,
    /// When the heap was last asked.
    trimmed: Option<Instant>,
    history: History,
}

/// What was found since the limit was set.
#[derive(Default)]
struct History {
    limit_bytes: u64,
    highest_bytes: u64,
    over: Duration,
    looked: Option<Instant>,
}

impl History {
    /// Adds what is found now to it.
    fn add(&mut self, limit_bytes: u64, total_bytes: u64, now: Instant) {
        if self.limit_bytes != limit_bytes {
            *self = History {
                limit_bytes,
                ..History::default()
            };
        }
        self.highest_bytes = self.highest_bytes.max(total_bytes);
        if let Some(looked) = self.looked.replace(now)
            && total_bytes > limit_bytes
        {
            self.over += now - looked;
        }
    }
}

impl Looking {
    fn go(&mut self) {
        while let Some(limit) = self.limit.wait(self.has_shared) {
            match limit {
                Some(limit) => self.look(limit),
                None => self.let_go(),
            }
        }
    }

    /// There is no limit any more.
    fn let_go(&mut self) {
        self.engine_share = None;
        self.since = None;
        self.has_shared = false;
        self.history = History::default();
        self.share(None);
        self.limit.let_go();
    }

    fn look(&mut self, limit: u64) {
        self.has_shared = true;
        let control = &self.control;
        // Between two lives there is no guest memory, and what was shared out holds for the next.
        let (Some((own, program)), Some(guest)) =
            (control.measure_cost(), control.resident_bytes())
        else {
            return;
        };
        let held = control.limits().engine.held();
        let (engine, code) = held.unwrap_or_default();
        let store = control.stored_bytes();
        // A number for each page, for who reads guest memory, lies in a memory file.
        let map = self.plan.memory_bytes / 1024;
        let own = (own + map).saturating_sub(engine - code + store);
        let taken = Taken {
            guest,
            store,
            engine: held.map(|(bytes, _)| bytes),
            rest: own + program,
        };
        let asked = asked(&self.plan, control.paging(), &control.limits().engine);
        let shares = shares(limit, &taken, &asked, self.engine_share);
        self.engine_share = Some(shares.engine);
        self.share(Some(shares));
        let total_bytes = guest + store + engine + own + program;
        let now = Instant::now();
        self.history.add(limit, total_bytes, now);
        let book = HostCostBook {
            limit_bytes: limit,
            total_bytes,
            guest_bytes: guest,
            store_bytes: store,
            engine_bytes: engine,
            own_bytes: own,
            program_bytes: program,
            least_bytes: shares.least,
            highest_bytes: self.history.highest_bytes,
            over_ms: u64::try_from(self.history.over.as_millis()).unwrap_or(u64::MAX),
        };
        self.tell(&book, now);
        self.limit.note(book);
        let is_due = |at: Instant| now.duration_since(at) >= PATIENCE;
        let is_much = taken.rest > own_bytes(self.plan.memory_bytes);
        if (is_much || total_bytes + HEAP_FREE_BYTES > limit) && self.trimmed.is_none_or(is_due) {
            self.trimmed = Some(now);
            host::heap::give_back();
        }
    }

    /// Gives the parts their shares; without any, they have what was asked for.
    fn share(&self, shares: Option<Shares>) {
        let control = &self.control;
        if control
            .limits()
            .engine
            .share(shares.map(|shares| shares.engine))
        {
            control.call_vcpus();
        }
        let shares = shares.map(|shares| (shares.guest, shares.store));
        if let Err(error) = control.paging().share(shares) {
            tracing::warn!("{}: guest memory keeps no limit: {error}", self.plan.name);
        }
    }

    /// Says when the limit is not kept, and when it is again.
    fn tell(&mut self, book: &HostCostBook, now: Instant) {
        let name = &self.plan.name;
        let limit = book.limit_bytes >> 20;
        if book.total_bytes <= book.limit_bytes {
            if let Some((_, true)) = self.since.take() {
                tracing::warn!(
                    "{name}: the limit of {limit} MiB of the host's memory is kept again"
                );
            }
            return;
        }
        let (since, is_said) = self.since.get_or_insert((now, false));
        if !*is_said && now.duration_since(*since) >= PATIENCE {
            *is_said = true;
            let has_file = self.plan.paging.file.is_some();
            tracing::warn!(
                "{name}: the limit of {limit} MiB of the host's memory is not kept: the VM costs {} MiB, and {} MiB at least{}",
                book.total_bytes.div_ceil(1 << 20),
                book.least_bytes.div_ceil(1 << 20),
                if has_file {
                    ""
                } else {
                    "; with `--page-file` compressed pages would go to a file"
                }
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_cost_and_the_time_over_the_limit_are_remembered_until_there_is_another_limit() {
        let begin = Instant::now();
        let mut history = History::default();
        let mut check = |limit, ms, total, highest, over_ms| {
            history.add(limit, total, begin + Duration::from_millis(ms));
            assert_eq!(history.highest_bytes, highest, "after {ms} ms");
            assert_eq!(history.over.as_millis(), over_ms, "after {ms} ms");
        };
        check(50, 0, 60, 60, 0);
        check(50, 100, 55, 60, 100);
        check(50, 200, 50, 60, 100);
        check(50, 350, 51, 60, 250);
        check(70, 400, 40, 40, 0);
        check(70, 500, 71, 71, 100);
    }
}
