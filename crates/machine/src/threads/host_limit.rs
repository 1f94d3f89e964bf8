//! How much a VM may cost its host in memory, all in all: guest memory, compressed pages, the engine, and the process's own.
//!
//! While there is a limit, a thread looks ten times a second at what each part takes, and gives each of those that can yield its share (`shares`). Each keeps its
//! share by itself at every moment; what is looked at ten times a second is what has none, the process's own memory, for which some is kept free.
//!
//! What cannot yield can be too much: pages that are away fill a store that has no file. Then the parts are at their least, the limit is not kept, and that is said.

use std::time::Duration;

use api::HostCostBook;
use host::lock::{Condition, Lock};

use crate::paging::Paging;
use crate::plan::VmPlan;
use crate::shares::{Asked, Taken, least_cost_bytes, own_bytes, shares};
use crate::threads::engine_limit::EngineLimit;

/// How often the thread looks.
const LOOK: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct HostLimit {
    inside: Lock<Inside>,
    changed: Condition,
    looked: Condition,
}

#[derive(Debug, Default)]
struct Inside {
    limit_bytes: Option<u64>,
    /// What the last look found under this limit; none until there was one.
    book: Option<HostCostBook>,
    is_over: bool,
}

impl HostLimit {
    /// Before there is a guest: it begins within the limit.
    pub(crate) fn begin(&self, plan: &VmPlan, paging: &Paging, engine: &EngineLimit) {
        let Some(limit) = plan.host_limit_bytes else {
            return;
        };
        host::heap::map_large();
        self.inside.lock().limit_bytes = Some(limit);
        let taken = Taken {
            engine: Some(0),
            rest: own_bytes(plan.memory_bytes),
            ..Taken::default()
        };
        let shares = shares(limit, &taken, &asked(plan, paging, engine), None);
        engine.share(Some(shares.engine));
        // There is no pager yet, so nothing is refused.
        let _ = paging.share(Some((shares.guest, shares.store)));
        let sure = least_cost_bytes(plan.memory_bytes, plan.vcpu_count) + plan.memory_bytes;
        if plan.paging.file.is_none() && limit < sure {
            tracing::warn!(
                "{}: without `--page-file` the limit of {} MiB of the host's memory is kept only while what the guest writes can be packed into it",
                plan.name,
                limit >> 20
            );
        }
    }

    /// So many bytes from now on; `None` is no limit.
    pub(crate) fn set(&self, limit_bytes: Option<u64>) {
        if limit_bytes.is_some() {
            host::heap::map_large();
        }
        let mut inside = self.inside.lock();
        inside.limit_bytes = limit_bytes;
        inside.book = None;
        drop(inside);
        self.changed.notify_all();
    }

    /// Waits, for at most so long, until the limit is kept that was set last; what the VM costs if it is not by then.
    pub(crate) fn wait_until_kept(&self, patience: Duration) -> Result<(), Option<HostCostBook>> {
        let is_kept = |inside: &Inside| {
            let book = inside.book.as_ref();
            inside.limit_bytes.is_none()
                || inside.is_over
                || book.is_some_and(|book| book.total_bytes <= book.limit_bytes)
        };
        let inside = self.inside.lock();
        let inside = self
            .looked
            .wait_timeout_while(inside, patience, |inside| !is_kept(inside));
        match is_kept(&inside) {
            true => Ok(()),
            false => Err(inside.book),
        }
    }

    /// What may be, if there is a limit.
    pub(crate) fn limit_bytes(&self) -> Option<u64> {
        self.inside.lock().limit_bytes
    }

    /// What it costs, as of the last look.
    pub(crate) fn book(&self) -> Option<HostCostBook> {
        self.inside.lock().book
    }

    /// Waits until it is time to look; the limit then, or `None` when the VM is over.
    pub(crate) fn wait(&self, has_shared: bool) -> Option<Option<u64>> {
        let inside = self.inside.lock();
        let inside = match inside.limit_bytes {
            _ if inside.is_over => inside,
            Some(_) if inside.book.is_some() => self.changed.wait_timeout(inside, LOOK).0,
            // The first look under a limit is at once, unless nothing could be seen.
            Some(_) if has_shared => self.changed.wait_timeout(inside, LOOK / 10).0,
            None if !has_shared => self.changed.wait_while(inside, |inside| {
                inside.limit_bytes.is_none() && !inside.is_over
            }),
            Some(_) | None => inside,
        };
        (!inside.is_over).then_some(inside.limit_bytes)
    }

    /// The VM is over: nobody waits any more.
    pub(crate) fn end(&self) {
        self.inside.lock().is_over = true;
        self.changed.notify_all();
        self.looked.notify_all();
    }

    /// No limit holds any more, and whoever waits for that hears of it.
    pub(crate) fn let_go(&self) {
        self.looked.notify_all();
    }

    /// Notes what a look found, if the limit is the same still.
    pub(crate) fn note(&self, book: HostCostBook) {
        let mut inside = self.inside.lock();
        if inside.limit_bytes == Some(book.limit_bytes) {
            inside.book = Some(book);
        }
        drop(inside);
        self.looked.notify_all();
    }
}

/// What was asked for the parts.
pub(crate) fn asked(plan: &VmPlan, paging: &Paging, engine: &EngineLimit) -> Asked {
    let (resident, has_file) = paging.asked();
    Asked {
        guest_most: resident.unwrap_or(plan.memory_bytes).min(plan.memory_bytes),
        engine_least: soft::least_bytes(plan.vcpu_count),
        engine_most: engine.limit_bytes().unwrap_or(u64::MAX),
        has_file,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn who_waits_for_a_limit_hears_whether_it_is_kept() {
        let limit = HostLimit::default();
        let short = Duration::from_millis(5);
        let book = |limit_bytes, total_bytes| HostCostBook {
            limit_bytes,
            total_bytes,
            ..HostCostBook::default()
        };
        assert_eq!(limit.wait_until_kept(short), Ok(()), "there is none");
        limit.set(Some(7));
        assert_eq!(limit.wait_until_kept(short), Err(None), "nobody looked");
        limit.note(book(6, 5));
        assert_eq!(limit.wait_until_kept(short), Err(None), "of another limit");
        limit.note(book(7, 8));
        assert_eq!(limit.wait_until_kept(short), Err(Some(book(7, 8))));
        thread::scope(|scope| {
            let waits = scope.spawn(|| limit.wait_until_kept(Duration::from_secs(60)));
            limit.note(book(7, 7));
            assert_eq!(waits.join().unwrap(), Ok(()));
        });
        limit.set(None);
        assert_eq!(limit.book(), None);
        assert_eq!(limit.wait_until_kept(short), Ok(()));
    }
}
