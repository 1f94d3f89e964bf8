//! A pager around one guest memory: its threads, what is asked of it and what it tells.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use host::lock::{Condition, Lock};
use host::userfault::OpenError;
use mem::{Faults, GuestMemory, PageKeeper, PagedMemory};
use rustix::event::{EventfdFlags, eventfd};
use thiserror::Error;

use crate::base::{Base, CHUNK_PAGES, InBase};
use crate::core::{Broken, Core, Counts, Looked, Served};
use crate::estimate::Estimate;
use crate::memory::{PAGE_BYTES, PageBytes};
use crate::shared::{Event, Latency, Shared};
use crate::store::{Medium, PageFile, ReadError, Store, StoreTotals};
use crate::{guard, reclaim, service};

/// Pages of a guest that one request may ask for.
const LOOK_PAGES_MAX: usize = 64;
/// Pages that may be watched for writes.
const WATCH_PAGES_MAX: usize = 65_536;

/// Pages brought in ahead that are worth it; `docs/decisions/0016` has the measurement.
pub const AHEAD_PAGES: u64 = 16;

/// How a guest's memory is paged.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How much of it the host may hold; `None`: all.
    pub limit_bytes: Option<u64>,
    /// Memory that compressed pages may take.
    pub store_memory_bytes: u64,
    /// The page file. It serves one pager at a time.
    pub file: Option<PageFile>,
    /// Most pages brought in ahead of a guest that goes through memory in order; usually [`AHEAD_PAGES`].
    pub ahead_pages: u64,
}

/// Why paging cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Faults cannot be handled.
    #[error("cannot handle faults of guest memory")]
    Faults(#[source] OpenError),
    /// The page file cannot be made.
    #[error("cannot make a page file in {folder}")]
    File {
        /// The folder that was to hold the page file.
        folder: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The host gives no thread, memory or descriptor.
    #[error("cannot start the pager")]
    Start(#[source] io::Error),
}

/// The pager's accounts.
#[derive(Clone, PartialEq, Debug)]
pub struct Books {
    /// How many bytes may be resident.
    pub limit_bytes: Option<u64>,
    /// How many bytes are, by the memory file's own account.
    pub resident_bytes: u64,
    /// Bytes of guest pages that are in the store.
    pub out_bytes: u64,
    /// Bytes of guest pages that lie in what the guest was brought back from, not used since.
    pub base_bytes: u64,
    /// Bytes of guest pages that were put away as zeros, for which nothing is stored.
    pub zero_bytes: u64,
    /// What is stored for them.
    pub store: StoreTotals,
    /// Memory that the store may take.
    pub store_memory_budget: u64,
    /// What happened so far.
    pub counts: Counts,
    /// The working set.
    pub working_set: Option<Estimate>,
    /// Pages written.
    pub dirty: Option<Estimate>,
    /// Why the guest waits, if it does.
    pub stalled: Option<String>,
    /// How long the pager took from hearing of a fault to having the page back: median and 99 of 100, in microseconds.
    pub fault_in_us: Option<(u64, u64)>,
    /// CPU time of the pager's threads.
    pub cpu: Duration,
}

impl PageKeeper for Shared<PagedMemory> {
    fn forget(
        &self,
        first: u64,
        count: u64,
        punch: &mut dyn FnMut() -> io::Result<u64>,
    ) -> io::Result<u64> {
        let mut core = self.core().map_err(io::Error::other)?;
        let given_back = core.forget(first, count, punch)?;
        drop(core);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.ring();
        }
        Ok(given_back)
    }
}

/// See the module. Dropped when no vCPU and no device uses the memory any more.
pub struct Pager {
    shared: Arc<Shared<PagedMemory>>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Pager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pager").finish_non_exhaustive()
    }
}

impl Pager {
    /// Pages `memory` from now on. `listener` hears what the pager has to say, on one of its threads; it must not touch
    /// guest memory.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        memory: Arc<GuestMemory>,
        settings: &Settings,
        listener: Box<dyn Fn(Event) + Send + Sync>,
    ) -> Result<Pager, StartError> {
        let faults = Faults::open(None).map_err(StartError::Faults)?;
        Pager::start_with(Arc::new(faults), memory, settings, None, listener)
    }

    /// The same with what was opened before: this opens nothing. Memory that nobody has touched may stand on `base`: all
    /// that the guest has lies there at first.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_with(
        faults: Arc<Faults>,
        memory: Arc<GuestMemory>,
        settings: &Settings,
        base: Option<Arc<dyn Base>>,
        listener: Box<dyn Fn(Event) + Send + Sync>,
    ) -> Result<Pager, StartError> {
        let file = settings.file.as_ref().map(|file| {
            let medium: Arc<dyn Medium> = file.medium();
            (medium, file.budget_bytes())
        });
        let memory = Arc::new(PagedMemory::new(memory, faults).map_err(StartError::Faults)?);
        let store = Store::new(settings.store_memory_bytes, file);
        let mut core = Core::new(Arc::clone(&memory), store).map_err(StartError::Start)?;
        if let Some(base) = base {
            core.stand_on(base).map_err(StartError::Start)?;
        }
        let call = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| StartError::Start(errno.into()))?;
        let shared = Arc::new(Shared {
            memory,
            core: Mutex::new(core),
            call,
            is_stopping: AtomicBool::new(false),
            room: Lock::new(false),
            room_wanted: Condition::new(),
            waiting: AtomicUsize::new(0),
            waiting_since: Lock::new(None),
            told: Lock::default(),
            latency: Latency::default(),
            listener,
            asked: Lock::default(),
            cpu_ns: Default::default(),
            threads: Lock::default(),
            ahead_pages: settings.ahead_pages,
        });
        let weak: Weak<Shared<PagedMemory>> = Arc::downgrade(&shared);
        shared.memory.keep_with(weak);
        let mut pager = Pager {
            shared,
            threads: Vec::new(),
        };
        pager
            .spawn("pager", service::serve)
            .map_err(StartError::Start)?;
        pager
            .spawn("reclaim", reclaim::reclaim)
            .map_err(StartError::Start)?;
        pager
            .spawn("pager-guard", guard::guard)
            .map_err(StartError::Start)?;
        pager
            .set_limit(settings.limit_bytes)
            .map_err(StartError::Start)?;
        Ok(pager)
    }

    fn spawn(&mut self, name: &str, body: fn(&Shared<PagedMemory>)) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                host::jail::enter(host::jail::Kind::Pager);
                shared.note_thread();
                if catch_unwind(AssertUnwindSafe(|| body(&shared))).is_err() {
                    shared.broke("a thread of the pager panicked; its message is in the log");
                }
            });
        self.threads.push(thread?);
        Ok(())
    }

    /// The host may hold so many bytes of the guest's memory from now on, or all of it. What is too much leaves by and
    /// by.
    ///
    /// # Errors
    /// What the host says.
    pub fn set_limit(&self, bytes: Option<u64>) -> io::Result<()> {
        let pages = bytes.map(|bytes| bytes / PAGE_BYTES);
        self.shared
            .core()
            .map_err(io::Error::other)?
            .set_limit(pages)?;
        self.shared.want_room();
        self.shared.ring();
        Ok(())
    }

    /// Compressed pages may take so much memory from now on.
    ///
    /// # Errors
    /// If the pager is broken.
    pub fn set_store_memory(&self, bytes: u64) -> io::Result<()> {
        self.shared
            .core()
            .map_err(io::Error::other)?
            .store
            .set_memory_budget(bytes);
        self.shared.want_room();
        Ok(())
    }

    /// Whether guests may run on KVM beside this: the kernel, which reaches their memory itself, can wait for pages too.
    pub fn sees_kernel(&self) -> bool {
        self.shared.memory.sees_kernel()
    }

    /// Handles no faults until [`Pager::come_back`]; false, and nothing is changed, where there is a limit or a page away.
    ///
    /// # Errors
    /// What the host says.
    pub fn step_aside(&self) -> io::Result<bool> {
        self.shared.core().map_err(io::Error::other)?.step_aside()
    }

    /// Handles faults again.
    ///
    /// # Errors
    /// What the host says.
    pub fn come_back(&self) -> io::Result<()> {
        self.shared.core().map_err(io::Error::other)?.come_back()
    }

    /// Whether there is a limit.
    pub fn is_limited(&self) -> bool {
        self.shared.core().is_ok_and(|core| core.limit().is_some())
    }

    /// Whether nothing more has to leave: the limit is kept.
    pub fn is_within_limit(&self) -> bool {
        self.shared.core().is_ok_and(|core| core.excess(0) == 0)
    }

    /// Lets everybody go on who waits for a page, whatever the limit: the guest is about to end.
    pub fn let_all_in(&self) {
        if let Ok(mut core) = self.shared.core() {
            core.lift_ceiling();
        }
        self.shared.ring();
    }

    /// Why nobody is served any more, if so.
    pub fn broken(&self) -> Option<String> {
        self.shared.told().broken.clone()
    }

    /// Whether guest memory comes in huge pages. It can have no limit then: a page that leaves must leave a hole, and the
    /// kernel, where it cannot split a huge page, leaves zeros in its place.
    pub fn is_in_huge_pages(&self) -> bool {
        self.shared.memory.is_in_huge_pages()
    }

    /// The accounts. While a guest in huge pages has no limit, its working set and dirty rate are known only from some
    /// seconds after somebody asked until a minute after nobody does: to sample them breaks up huge pages.
    pub fn books(&self) -> Books {
        self.shared.note_asked();
        let core = self.shared.core.lock();
        // What a core counted before it panicked is shown all the same.
        let mut core = core.unwrap_or_else(PoisonError::into_inner);
        let limit = core.limit();
        let out = core.out();
        let zeros = core.zeros();
        let in_base = core.in_base();
        let counts = core.counts;
        let store = core.store_totals();
        let store_memory_budget = core.store.memory_budget();
        drop(core);
        let told = self.shared.told();
        let latency = &self.shared.latency;
        Books {
            limit_bytes: limit.map(|pages| pages * PAGE_BYTES),
            resident_bytes: self.shared.memory.memory().resident_bytes().unwrap_or(0),
            out_bytes: out * PAGE_BYTES,
            base_bytes: in_base * PAGE_BYTES,
            zero_bytes: zeros * PAGE_BYTES,
            store,
            store_memory_budget,
            counts,
            working_set: told.working_set,
            dirty: told.dirty,
            stalled: told.stalled.clone(),
            fault_in_us: latency.quantile(0.5).zip(latency.quantile(0.99)),
            cpu: Duration::from_nanos(
                self.shared
                    .cpu_ns
                    .iter()
                    .map(|ns| ns.load(Ordering::Relaxed))
                    .sum(),
            ),
        }
    }

    /// Memory that the store holds for pages, gaps included, in bytes.
    pub fn store_bytes(&self) -> u64 {
        let core = self.shared.core.lock();
        let core = core.unwrap_or_else(PoisonError::into_inner);
        core.store_totals().memory_bytes
    }

    /// The bytes of pages of the memory file, wherever they are; nothing is brought in. `None` for a page that there is
    /// not.
    ///
    /// # Errors
    /// [`Broken`] if one cannot be read.
    pub fn look(&self, pages: &[u64]) -> Result<Vec<Option<Box<PageBytes>>>, Broken> {
        pages
            .iter()
            .take(LOOK_PAGES_MAX)
            .map(|&page| self.look_at(page))
            .collect()
    }

    fn look_at(&self, page: u64) -> Result<Option<Box<PageBytes>>, Broken> {
        let mut trouble = ReadError::Checksum;
        for _ in 0..8 {
            let core = self.shared.core()?;
            if page >= core.page_count() {
                return Ok(None);
            }
            let in_file = match core.look(page) {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(Looked::Broken(broken)) => return Err(broken),
                Err(Looked::InFile(in_file)) => in_file,
                Err(Looked::InBase(in_base)) => {
                    drop(core);
                    return self.look_in_base(page, &in_base).map(Some);
                }
            };
            drop(core);
            // Meanwhile it may be elsewhere, and something else where it was.
            match in_file.read() {
                Ok(bytes) => return Ok(Some(Box::new(bytes))),
                Err(source) => trouble = source,
            }
        }
        Err(Broken::Lost {
            page,
            source: trouble,
        })
    }

    /// A page as the base has it. It may have come meanwhile, and been written: then this is what it was when it was asked
    /// for, as for whoever reads a page before somebody writes it.
    fn look_in_base(&self, page: u64, in_base: &InBase) -> Result<Box<PageBytes>, Broken> {
        let chunk = in_base
            .read()
            .map_err(|source| Broken::Base { page, source })?;
        let (pages, _) = chunk.as_chunks::<{ PAGE_BYTES as usize }>();
        Ok(Box::new(pages[(page % CHUNK_PAGES) as usize]))
    }

    /// Brings in everything that lies in the base, whatever the guest uses of it, so that nothing depends on it any more.
    ///
    /// # Errors
    /// [`Broken`] if a page cannot be brought.
    pub fn leave_base(&self) -> Result<(), Broken> {
        let mut page = 0;
        loop {
            let core = self.shared.core()?;
            let (Some(next), Some(base)) = (core.next_in_base(page), core.base()) else {
                return Ok(());
            };
            drop(core);
            let in_base = InBase::of_page(base, next);
            if matches!(
                service::bring_chunk(&self.shared, next, &in_base)?,
                Served::NoRoom
            ) {
                self.shared.want_room();
                host::rest::rest(Duration::from_millis(1));
            }
            page = next;
        }
    }

    /// Brings in all that is away, in the base or in the store, whatever the guest uses of it. What leaves meanwhile, because
    /// there is a limit, may be away again.
    ///
    /// # Errors
    /// [`Broken`] if a page cannot be brought.
    pub fn bring_all(&self) -> Result<(), Broken> {
        self.leave_base()?;
        let mut page = 0;
        while let Some(next) = self.next_out(page)? {
            if matches!(
                service::serve_one(&self.shared, next, false)?,
                Served::NoRoom
            ) {
                self.shared.want_room();
                host::rest::rest(Duration::from_millis(1));
            }
            page = next;
        }
        Ok(())
    }

    fn next_out(&self, page: u64) -> Result<Option<u64>, Broken> {
        Ok(self.shared.core()?.next_out(page))
    }

    /// Whether nothing is away, and nothing may leave.
    pub fn is_all_in(&self) -> bool {
        self.shared.core().is_ok_and(|core| {
            core.limit().is_none() && core.out() == 0 && core.in_base() == 0 && !core.is_leaving()
        })
    }

    /// Which of these pages were written since they were asked for last; all of them, the first time. At most
    /// 65,536 pages can be asked for in all; those beyond count as written.
    ///
    /// # Errors
    /// [`Broken`] if a page cannot be watched.
    pub fn written(&self, pages: &[u64]) -> Result<Vec<bool>, Broken> {
        pages
            .iter()
            .map(|&page| self.shared.core()?.ask_written(page, WATCH_PAGES_MAX))
            .collect()
    }

    /// A descriptor of the residency map; see `residency` for how to read it.
    ///
    /// # Errors
    /// What the host says.
    pub fn residency_map(&self) -> io::Result<File> {
        let core = self.shared.core().map_err(io::Error::other)?;
        core.residency_file().try_clone()
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        self.shared.ring();
        self.shared.want_room();
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[path = "pager_tests.rs"]
mod tests;
