//! How much a VM may cost its host in memory, all in all: guest memory, compressed pages, the engine, and the process's own.
//!
//! While there is a limit, a thread looks ten times a second at what each part takes, and gives each of the three that can
//! yield its share of what the others leave. First the engine's: translations are made anew, and cost time once. Then the
//! store's, where there is a page file: it keeps a few MiB, the rest goes to the file. Then guest memory's: what it may hold at
//! a time shrinks to [`GUEST_LEAST_BYTES`]. Each keeps its share by itself at every moment; what is looked at ten times a second
//! is what has none, the process's own memory, for which some is kept free.
//!
//! The least that a VM costs is told before it starts, so the limit can fall short later only where pages that are away fill a
//! store without a file. Then the parts are at their least, the limit is not kept, and that is said.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use api::HostCostBook;
use host::lock::{Condition, Lock};

use crate::control::MachineControl;
use crate::paging::Paging;
use crate::plan::VmPlan;
use crate::threads::engine_limit::EngineLimit;

/// How often the thread looks.
const LOOK: Duration = Duration::from_millis(100);
/// Least of its memory that a guest gets on with, if it has so much.
const GUEST_LEAST_BYTES: u64 = 12 << 20;
/// What a store with a page file keeps in memory.
const STORE_BYTES: u64 = 4 << 20;
/// What a store without one may grow by until it is looked at again.
const STORE_STEP_BYTES: u64 = 4 << 20;
/// What is kept free for what has no share.
const FREE_BYTES: u64 = 3 << 20;
/// What the engine leaves free for guest memory to grow, before it takes more itself.
const ENGINE_GAP_BYTES: u64 = 8 << 20;
/// More the engine never makes use of.
const ENGINE_MOST_BYTES: u64 = 256 << 20;
/// The process's own, its program with it, of the smallest VM; and one byte for so many of guest memory, for tables of its pages.
const OWN_BYTES: u64 = 20 << 20;
const PAGES_SHARE: u64 = 64;

/// The least that a VM costs its host, in bytes.
pub(crate) fn least_cost_bytes(memory_bytes: u64, vcpu_count: u32) -> u64 {
    let parts = OWN_BYTES
        + memory_bytes / PAGES_SHARE
        + FREE_BYTES
        + soft::least_bytes(vcpu_count)
        + STORE_BYTES
        + GUEST_LEAST_BYTES;
    parts.next_multiple_of(1 << 20)
}

/// What the parts take, and what was asked for them.
#[derive(Clone, Copy, Debug)]
struct Parts {
    guest: u64,
    store: u64,
    engine: u64,
    /// The process's own beside those, and its program.
    rest: u64,
    /// Most that guest memory can be.
    guest_most: u64,
    engine_least: u64,
    /// What the engine has of late.
    engine_share: u64,
    has_file: bool,
}

/// What the parts may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shares {
    guest: u64,
    store: u64,
    engine: u64,
    short: u64,
}

fn shares(limit: u64, parts: Parts) -> Shares {
    let all = limit.saturating_sub(parts.rest + FREE_BYTES);
    let store = match parts.has_file {
        true => STORE_BYTES,
        false => parts.store + STORE_STEP_BYTES,
    };
    // A store that is being written to its file still takes what it takes.
    let stored = store.max(parts.store);
    let left = all.saturating_sub(parts.guest + stored + ENGINE_GAP_BYTES);
    let most = ENGINE_MOST_BYTES.max(parts.engine_least);
    let engine = left.clamp(parts.engine_least, most);
    // Down at once; up only for a step that is worth it.
    let is_step = engine < parts.engine_share || engine >= parts.engine_share + ENGINE_GAP_BYTES;
    let engine = if is_step { engine } else { parts.engine_share };
    let least = GUEST_LEAST_BYTES.min(parts.guest_most);
    let left = all.saturating_sub(stored + engine.max(parts.engine));
    Shares {
        guest: left.clamp(least, parts.guest_most) / 4096 * 4096,
        store,
        engine,
        short: (stored + engine + least).saturating_sub(all),
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct HostLimit {
    inside: Lock<Inside>,
    changed: Condition,
}

#[derive(Debug, Default)]
struct Inside {
    limit_bytes: Option<u64>,
    book: Option<HostCostBook>,
    is_over: bool,
}

impl HostLimit {
    /// Before there is a guest: it begins within the limit.
    pub(crate) fn begin(
        &self,
        limit_bytes: Option<u64>,
        plan: &VmPlan,
        paging: &Paging,
        engine: &EngineLimit,
    ) {
        let Some(limit) = limit_bytes else {
            return;
        };
        self.inside.lock().limit_bytes = limit_bytes;
        host::heap::map_large();
        let least = soft::least_bytes(plan.vcpu_count);
        engine.share(Some(least));
        let rest = OWN_BYTES + plan.memory_bytes / PAGES_SHARE;
        let guest = limit.saturating_sub(rest + FREE_BYTES + least + STORE_BYTES);
        let guest = guest.min(plan.memory_bytes) / 4096 * 4096;
        // There is no pager yet, so nothing is refused.
        let _ = paging.share(Some((guest, STORE_BYTES)));
    }

    /// So many bytes from now on; `None` is no limit.
    pub(crate) fn set(&self, limit_bytes: Option<u64>) {
        if limit_bytes.is_some() {
            host::heap::map_large();
        }
        self.inside.lock().limit_bytes = limit_bytes;
        self.changed.notify_all();
    }

    /// What it costs, as of the last look.
    pub(crate) fn book(&self) -> Option<HostCostBook> {
        self.inside.lock().book
    }
}

/// Ends the thread when it is dropped.
pub(crate) struct Keeper {
    limit: Arc<HostLimit>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        self.limit.inside.lock().is_over = true;
        self.limit.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts the thread that keeps the limit of the VM that `control` leads to.
pub(crate) fn keep(control: &MachineControl, plan: &VmPlan) -> io::Result<Keeper> {
    let limit = Arc::clone(&control.limits().host);
    let is_over = Arc::new(AtomicBool::new(false));
    let mut looking = Looking {
        limit: Arc::clone(&limit),
        control: control.clone(),
        name: plan.name.clone(),
        memory_bytes: plan.memory_bytes,
        engine_least: soft::least_bytes(plan.vcpu_count),
        engine_share: None,
        is_short: false,
    };
    let thread = thread::Builder::new()
        .name("host-limit".to_owned())
        .spawn(move || looking.go())?;
    Ok(Keeper {
        limit,
        is_over,
        thread: Some(thread),
    })
}

/// What the thread knows.
struct Looking {
    limit: Arc<HostLimit>,
    control: MachineControl,
    name: String,
    memory_bytes: u64,
    engine_least: u64,
    engine_share: Option<u64>,
    is_short: bool,
}

impl Looking {
    fn go(&mut self) {
        loop {
            let limit = {
                let inside = self.limit.inside.lock();
                let inside = match inside.limit_bytes {
                    Some(_) => self.limit.changed.wait_timeout(inside, LOOK).0,
                    None if inside.book.is_none() && self.engine_share.is_none() => {
                        let rests =
                            |inside: &mut Inside| inside.limit_bytes.is_none() && !inside.is_over;
                        self.limit.changed.wait_while(inside, rests)
                    }
                    None => inside,
                };
                if inside.is_over {
                    return;
                }
                inside.limit_bytes
            };
            match limit {
                Some(limit) => self.look(limit),
                None => self.let_go(),
            }
        }
    }

    /// There is no limit any more.
    fn let_go(&mut self) {
        self.engine_share = None;
        self.is_short = false;
        self.limit.inside.lock().book = None;
        self.share_engine(None);
        self.share_memory(None);
    }

    fn look(&mut self, limit: u64) {
        let control = &self.control;
        let (Some((own, program)), Some(guest)) =
            (control.measure_cost(), control.resident_bytes())
        else {
            return;
        };
        let (engine, code) = control.limits().engine.held();
        let store = control
            .paging_books()
            .map_or(0, |books| books.store.memory_bytes);
        let (asked, has_file, _) = control.paging().asked();
        // A number for each page, for who reads guest memory.
        let map = self.memory_bytes / 1024;
        let own = own.saturating_sub(engine - code + store) + map;
        let parts = Parts {
            guest,
            store,
            engine,
            rest: own + program,
            guest_most: asked.unwrap_or(self.memory_bytes).min(self.memory_bytes),
            engine_least: self.engine_least,
            engine_share: self.engine_share.unwrap_or(self.engine_least),
            has_file,
        };
        let shares = shares(limit, parts);
        let total_bytes = guest + store + engine + own + program;
        let book = HostCostBook {
            limit_bytes: limit,
            total_bytes,
            guest_bytes: guest,
            store_bytes: store,
            engine_bytes: engine,
            own_bytes: own,
            program_bytes: program,
            short_bytes: shares.short,
        };
        self.limit.inside.lock().book = Some(book);
        self.tell(&book);
        self.engine_share = Some(shares.engine);
        self.share_engine(Some(shares.engine));
        self.share_memory(Some((shares.guest, shares.store)));
        if total_bytes + FREE_BYTES / 2 > limit {
            // What the heap keeps of what was freed.
            host::heap::give_back();
        }
    }

    fn share_engine(&self, share: Option<u64>) {
        if self.control.limits().engine.share(share) {
            self.control.call_vcpus();
        }
    }

    fn share_memory(&self, shares: Option<(u64, u64)>) {
        if let Err(error) = self.control.paging().share(shares) {
            tracing::warn!("{}: guest memory keeps no limit: {error}", self.name);
        }
    }

    /// Says when the limit is not kept, and when it is again.
    fn tell(&mut self, book: &HostCostBook) {
        let is_short = book.short_bytes > 0;
        if is_short != std::mem::replace(&mut self.is_short, is_short) {
            let name = &self.name;
            let limit = book.limit_bytes >> 20;
            match is_short {
                true => tracing::warn!(
                    "{name}: the limit of {limit} MiB of the host's memory is not kept: {} MiB more are needed",
                    book.short_bytes.div_ceil(1 << 20)
                ),
                false => tracing::warn!("{name}: the limit of {limit} MiB is kept again"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// In MiB: the limit; guest, store, engine and rest as they are, the engine's share of late, and whether there is a
    /// file; then the shares of guest, store and engine, and what is missing.
    fn check(what: &str, limit: u64, now: [u64; 5], has_file: bool, expected: [u64; 4]) {
        let [guest, store, engine, rest, engine_share] = now.map(|part| part * MIB);
        let parts = Parts {
            guest,
            store,
            engine,
            rest,
            guest_most: 512 * MIB,
            engine_least: 9 * MIB,
            engine_share,
            has_file,
        };
        let got = shares(limit * MIB, parts);
        let got = [got.guest, got.store, got.engine, got.short].map(|part| part / MIB);
        assert_eq!(got, expected, "{what}");
    }

    #[test]
    fn translations_yield_first_then_the_store_then_the_guest() {
        check(
            "there is room for all",
            300,
            [100, 0, 50, 20, 50],
            true,
            [223, 4, 50, 0],
        );
        check(
            "the engine takes what is left",
            300,
            [100, 0, 50, 20, 60],
            true,
            [213, 4, 60, 0],
        );
        check(
            "the guest grows",
            300,
            [200, 0, 160, 20, 160],
            true,
            [113, 4, 65, 0],
        );
        check(
            "the engine has yielded",
            300,
            [200, 0, 65, 20, 65],
            true,
            [208, 4, 65, 0],
        );
        check(
            "the engine is at its least",
            100,
            [60, 0, 9, 20, 9],
            true,
            [64, 4, 9, 0],
        );
        check(
            "the store is being written",
            100,
            [50, 20, 9, 20, 9],
            true,
            [48, 4, 9, 0],
        );
        check(
            "there is no file",
            100,
            [40, 20, 9, 20, 9],
            false,
            [44, 24, 9, 0],
        );
        check(
            "the guest is at its least",
            100,
            [14, 50, 9, 20, 9],
            false,
            [14, 54, 9, 0],
        );
        check(
            "the limit is not kept",
            100,
            [12, 60, 9, 20, 9],
            false,
            [12, 64, 9, 8],
        );
        check(
            "nor where the rest is too much",
            50,
            [12, 4, 9, 40, 9],
            true,
            [12, 4, 9, 18],
        );
    }

    #[test]
    fn the_least_that_a_vm_costs_is_enough_for_its_least_parts() {
        for (memory, vcpus) in [(32, 1), (512, 1), (4096, 4)] {
            let memory = memory * MIB;
            let parts = Parts {
                guest: 0,
                store: 0,
                engine: 0,
                rest: OWN_BYTES + memory / PAGES_SHARE,
                guest_most: memory,
                engine_least: soft::least_bytes(vcpus),
                engine_share: 0,
                has_file: true,
            };
            let shares = shares(least_cost_bytes(memory, vcpus), parts);
            assert_eq!(shares.short, 0, "{memory} bytes, {vcpus} vCPUs");
        }
    }
}
