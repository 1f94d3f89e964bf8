//! Paging of a VM over all its lives: what was asked for, and the pager of the present life.

use std::fs::File;
use std::io;
use std::sync::{Arc, MutexGuard};

use host::lock::Lock;
use mem::{Faults, GuestMemory};
use paging::{AHEAD_PAGES, Base, Event, PageFile, Pager, Settings, StartError, with_causes};

use crate::engine::EngineKind;
use crate::plan::PagingPlan;
use crate::plan::host_findings::KERNEL_FAULTS_HELP;

/// Why a guest on KVM has no limit.
const ON_KVM: &str = "it is on KVM, which reaches it from inside the kernel, whose page faults this user is not given";
/// Why a guest with a limit does not go there.
const LIMITED: &str = "the guest has a limit, or pages of it are away still, and KVM reaches its memory from inside the \
                       kernel, whose page faults this user is not given; take the limit away first \
                       (`mother limit NAME --resident none`)";

/// Hears why pages of the guest do not come back.
pub(crate) type WhenBroken = Box<dyn Fn(String) + Send>;

/// Hears that something changed about which a VM must do something.
pub(crate) type OnChange = dyn Fn() + Send + Sync;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Paging(Arc<Inside>);

struct Inside {
    state: Lock<State>,
    /// Held while limits are changed, from what is written down until the pager has them, so that the last written are the last it has.
    orders: Lock<()>,
}

struct State {
    settings: Settings,
    /// What a limit of the whole VM leaves for guest memory, and for the store.
    shares: Option<(u64, u64)>,
    /// What faults of any life's memory are handled with; none if the host does not allow it.
    faults: Option<Arc<Faults>>,
    pager: Option<Arc<Pager>>,
    /// Whether the guest's engine reaches memory in a way whose faults we are not given: the pager stands aside.
    is_aside: bool,
    /// Why there is none.
    why_not: Option<String>,
    /// Why the guest waits for room, if it does.
    stalled: Option<String>,
    /// Why pages do not come back, if they do not.
    broken: Option<String>,
    /// Hears of that.
    when_broken: Option<WhenBroken>,
}

/// Makes the page file that `plan` wants.
pub(crate) fn open_file(plan: &PagingPlan) -> Result<Option<File>, StartError> {
    let made = plan.file.as_ref().map(|(folder, _)| {
        PageFile::make(folder).map_err(|source| StartError::File {
            folder: folder.clone(),
            source,
        })
    });
    made.transpose()
}

impl State {
    /// Whether limits can be changed here; with `is_limited`, whether there can be one.
    fn can_change(&self, is_limited: bool) -> Result<(), String> {
        if let Some(why_not) = &self.why_not {
            return Err(why_not.clone());
        }
        let pager = self.pager.as_ref();
        if is_limited && pager.is_some_and(|pager| pager.is_in_huge_pages()) {
            return Err(
                "it is in huge pages; a guest that was started without `--huge-pages` can have a limit"
                    .to_owned(),
            );
        }
        if is_limited && self.is_aside {
            return Err(format!(
                "{ON_KVM}; `mother switch` to the engine soft, or {KERNEL_FAULTS_HELP}"
            ));
        }
        Ok(())
    }

    /// What was asked for, within what a limit of the whole VM leaves.
    fn shared(&self) -> Settings {
        let mut settings = self.settings.clone();
        if let Some((resident, store)) = self.shares {
            settings.limit_bytes = settings.limit_bytes.into_iter().chain([resident]).min();
            settings.store_memory_bytes = settings.store_memory_bytes.min(store);
        }
        settings
    }
}

impl Paging {
    /// A limit of the whole VM leaves so many bytes for guest memory, and for the store, from now on.
    pub(crate) fn share(&self, shares: Option<(u64, u64)>) -> io::Result<()> {
        let _orders = self.0.orders.lock();
        let (pager, settings) = {
            let mut state = self.state();
            if state.shares == shares {
                return Ok(());
            }
            state.shares = shares;
            (state.pager.clone(), state.shared())
        };
        let Some(pager) = pager else {
            return Ok(());
        };
        pager.set_store_memory(settings.store_memory_bytes)?;
        pager.set_limit(settings.limit_bytes)
    }

    /// What was asked for guest memory, and whether there is a page file.
    pub(crate) fn asked(&self) -> (Option<u64>, bool) {
        let settings = &self.state().settings;
        (settings.limit_bytes, settings.file.is_some())
    }

    /// Opens what paging needs in this process in any life, beside the page file, if the plan has one. Without a limit a
    /// host that allows no paging is good enough: there is no pager then. `device` is `/dev/userfaultfd`, if it was opened
    /// for this process. `is_shared` is whether the whole VM has a limit.
    pub(crate) fn open(
        plan: &PagingPlan,
        file: Option<File>,
        device: Option<&File>,
        is_shared: bool,
    ) -> Result<Paging, StartError> {
        let file = plan.file.as_ref().and_then(|(_, budget_bytes)| {
            let file = file?;
            Some(PageFile::of_file(file, *budget_bytes))
        });
        let settings = Settings {
            limit_bytes: plan.limit_bytes,
            store_memory_bytes: plan.store_memory_bytes,
            file,
            ahead_pages: AHEAD_PAGES,
        };
        let (faults, why_not) = match Faults::open(device).map_err(StartError::Faults) {
            Ok(faults) => (Some(Arc::new(faults)), None),
            Err(error) if plan.limit_bytes.is_none() && !is_shared => {
                (None, Some(with_causes(&error)))
            }
            Err(error) => return Err(error),
        };
        let state = State {
            settings,
            shares: None,
            faults,
            pager: None,
            is_aside: false,
            why_not,
            stalled: None,
            broken: None,
            when_broken: None,
        };
        Ok(Paging(Arc::new(Inside {
            state: Lock::new(state),
            orders: Lock::default(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    /// A life with this memory begins, on this engine. Opens nothing. Whether memory stands on `base` now: not where faults
    /// of the engine's accesses are nobody's to answer.
    pub(crate) fn begin(
        &self,
        name: &str,
        engine: EngineKind,
        memory: &Arc<GuestMemory>,
        base: Option<&Arc<dyn Base>>,
        on_change: Arc<OnChange>,
    ) -> Result<bool, StartError> {
        let orders = self.0.orders.lock();
        let (settings, faults) = {
            let state = self.state();
            (state.shared(), state.faults.clone())
        };
        let Some(faults) = faults else {
            return Ok(false);
        };
        let is_answered = engine != EngineKind::Kvm || faults.sees_kernel();
        let base = base.filter(|_| is_answered).cloned();
        let stands_on_it = base.is_some();
        let paging = self.clone();
        let name = name.to_owned();
        let listener = Box::new(move |event| {
            paging.note(&name, event);
            on_change();
        });
        match Pager::start_with(faults, Arc::clone(memory), &settings, base, listener) {
            Ok(pager) => {
                self.state().pager = Some(Arc::new(pager));
                drop(orders);
                self.serve(engine).map_err(StartError::Start)?;
                Ok(stands_on_it)
            }
            Err(error @ StartError::Faults(_)) if settings.limit_bytes.is_none() => {
                self.state().why_not = Some(with_causes(&error));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// From now on the guest runs on this engine. Of KVM's accesses, which come from inside the kernel, faults come only to
    /// who is privileged; where they do not come here, the pager has to stand aside, and cannot while there is a limit.
    pub(crate) fn serve(&self, engine: EngineKind) -> io::Result<()> {
        // Not under the lock, which the pager's own words need.
        let Some(pager) = self.pager() else {
            return Ok(());
        };
        let is_aside = engine == EngineKind::Kvm && !pager.sees_kernel();
        if is_aside && !pager.is_limited() {
            // What lies in a snapshot still could not be brought when it is used.
            pager.leave_base().map_err(io::Error::other)?;
        }
        match is_aside {
            true if !pager.step_aside()? => return Err(io::Error::other(LIMITED)),
            true => {}
            false => pager.come_back()?,
        }
        self.state().is_aside = is_aside;
        Ok(())
    }

    /// The life is over.
    pub(crate) fn end(&self) {
        let pager = {
            let mut state = self.state();
            state.stalled = None;
            state.is_aside = false;
            state.pager.take()
        };
        // Its threads are joined outside of the lock, which their last words may need.
        drop(pager);
    }

    fn note(&self, name: &str, event: Event) {
        let mut state = self.state();
        match event {
            Event::Stalled(why) => {
                tracing::warn!("{name}: the guest waits, there is no room for its pages: {why}");
                state.stalled = Some(why);
            }
            Event::Flowing => {
                tracing::warn!("{name}: the guest goes on");
                state.stalled = None;
            }
            Event::Broken(why) => {
                let why = state.broken.get_or_insert(why).clone();
                if let Some(act) = &state.when_broken {
                    act(why);
                }
            }
        }
    }

    /// The pager of the present life.
    pub(crate) fn pager(&self) -> Option<Arc<Pager>> {
        self.state().pager.clone()
    }

    /// The pager of the present life, if writes to the guest's pages are noticed.
    pub(crate) fn watcher(&self) -> Option<Arc<Pager>> {
        let state = self.state();
        state.pager.clone().filter(|_| !state.is_aside)
    }

    /// What was asked for guest memory, and for what compressed pages may take.
    pub(crate) fn said(&self) -> (Option<u64>, u64) {
        let settings = &self.state().settings;
        (settings.limit_bytes, settings.store_memory_bytes)
    }

    /// Why the guest waits for room, if it does.
    pub(crate) fn stalled(&self) -> Option<String> {
        self.state().stalled.clone()
    }

    /// Calls `act`, with the reason, when pages of the guest do not come back. It is called under a lock, and must not
    /// wait.
    pub(crate) fn when_broken(&self, act: WhenBroken) {
        let mut state = self.state();
        if let Some(why) = &state.broken {
            act(why.clone());
        }
        state.when_broken = Some(act);
    }

    /// Whether guest memory can have a limit here, or why not.
    pub(crate) fn can_be_limited(&self) -> Result<(), String> {
        self.state().can_change(true)
    }

    /// Other limits from now on, also in lives to come.
    pub(crate) fn set(
        &self,
        limit_bytes: Option<Option<u64>>,
        store_memory_bytes: Option<u64>,
    ) -> Result<Option<Arc<Pager>>, String> {
        let _orders = self.0.orders.lock();
        let mut state = self.state();
        state.can_change(matches!(limit_bytes, Some(Some(_))))?;
        if let Some(limit_bytes) = limit_bytes {
            state.settings.limit_bytes = limit_bytes;
        }
        if let Some(bytes) = store_memory_bytes {
            state.settings.store_memory_bytes = bytes;
        }
        let pager = state.pager.clone();
        let Settings {
            limit_bytes: limit,
            store_memory_bytes: store,
            ..
        } = state.shared();
        drop(state);
        if let Some(pager) = &pager {
            if store_memory_bytes.is_some() {
                pager
                    .set_store_memory(store)
                    .map_err(|error| error.to_string())?;
            }
            pager.set_limit(limit).map_err(|error| error.to_string())?;
        }
        Ok(pager)
    }
}
