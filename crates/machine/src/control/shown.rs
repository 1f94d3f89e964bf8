//! What a VM shows of itself while it runs, to those who look and to those who run it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use api::{CpuWeight, EngineMemoryBook, HostCostBook, Metrics, Rates};
use host::lock::{Condition, Lock};
use paging::Books as PagingBooks;

use crate::attach::broker::Broker;
use crate::control::door::Door;
use crate::control::requests::{Phase, Requests};
use crate::control::{Ground, Inside, MachineControl, Shared};
use crate::engine::EngineKind;
use crate::limits::Limits;
use crate::outcome::ending::StopCause;
use crate::paging::Paging;
use crate::report::footprint::Footprint;
use crate::report::metrics;
use crate::threads::bell::Bell;
use crate::threads::observe::Observed;

/// What is known of a VM that runs.
pub(super) struct Shown {
    pub(super) phase: Phase,
    /// The engine it runs on.
    pub(super) engine: EngineKind,
    /// The phase was [`Phase::Running`] at least once.
    has_run: bool,
    /// Its first life goes on from one that was paused in another process, and stands still.
    pub(super) begins_paused: bool,
    /// How often the guest started again.
    pub(super) reboots: u64,
    /// What is shown of the present life.
    pub(super) observed: Option<Arc<Observed>>,
    /// What the lives before it counted.
    pub(super) earlier: Metrics,
}

impl Shown {
    pub(super) fn reached(&mut self, phase: Phase) {
        self.phase = phase;
        self.begins_paused &= phase == Phase::Built;
        self.has_run |= matches!(phase, Phase::Running | Phase::Paused);
    }
}

impl fmt::Debug for MachineControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineControl")
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}

impl MachineControl {
    /// Of the VM that stands on `ground`; `time_up` is when it is to end at the latest.
    pub(crate) fn new(
        ground: Ground,
        paging: Paging,
        limits: Limits,
        broker: Arc<dyn Broker>,
        footprint: Arc<Footprint>,
        time_up: Option<Instant>,
    ) -> MachineControl {
        let shown = Shown {
            phase: Phase::Built,
            engine: ground.plan.engine.kind,
            has_run: false,
            begins_paused: false,
            reboots: 0,
            observed: None,
            earlier: Metrics::default(),
        };
        let inside = Inside {
            requests: Requests::new(time_up),
            shown,
        };
        MachineControl(Arc::new(Shared {
            inside: Lock::new(inside),
            phase_changed: Condition::new(),
            attention: Lock::new(None),
            paging,
            limits,
            broker,
            footprint,
            engines: ground.plan.engines.clone(),
            ground,
            saved: Lock::default(),
            door: Door::default(),
        }))
    }

    /// The guest may use so much per second from now on; what is not said stays.
    pub fn set_rates(&self, rates: &Rates) {
        self.0.limits.set(rates);
        self.call_attention();
    }

    /// The VM's processes get CPU time by this weight from now on, against others.
    ///
    /// # Errors
    /// What the host says; the weight is what it was.
    pub fn weigh(&self, weight: CpuWeight) -> io::Result<()> {
        self.0.broker.weigh(weight)
    }

    /// It begins on this engine, whatever was planned.
    pub(crate) fn begins_on(&self, engine: EngineKind) {
        self.inside().shown.engine = engine;
    }

    /// The engine that the VM runs on.
    pub fn engine(&self) -> EngineKind {
        self.inside().shown.engine
    }

    /// What the VM is doing.
    pub fn phase(&self) -> Phase {
        self.inside().shown.phase
    }

    /// Waits until the guest has run; false if the VM ended before.
    pub fn wait_until_started(&self) -> bool {
        let wait = |inside: &mut Inside| inside.shown.phase == Phase::Built;
        let inside = self.0.phase_changed.wait_while(self.inside(), wait);
        inside.shown.has_run
    }

    /// Why it was stopped, if it was.
    pub fn stop_cause(&self) -> Option<StopCause> {
        self.inside().requests.stop_cause()
    }

    /// Whether the guest was asked to power off and has not yet.
    pub fn is_stopping(&self) -> bool {
        self.inside().requests.is_stopping()
    }

    /// How often the guest started again.
    pub fn reboots(&self) -> u64 {
        self.inside().shown.reboots
    }

    /// What is shown of the present life; `None` before the first, between two, and after the last.
    pub(crate) fn observed(&self) -> Option<Arc<Observed>> {
        self.inside().shown.observed.clone()
    }

    /// What the host holds of the guest's memory; `None` between two lives.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.observed()?.memory.resident_bytes().ok()
    }

    /// Every number of its lives so far.
    pub(crate) fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::default();
        let help = "How often the guest started again.";
        metrics.count("reboots_total", help, &[], self.reboots());
        let help = "CPU time of the VM's whole process: guest, devices, and Mother herself.";
        let cpu_seconds = host::cpu::process_cpu_time().as_secs_f64();
        metrics.count_seconds("cpu_seconds_total", help, &[], cpu_seconds);
        if let Some(bytes) = self.resident_bytes() {
            let help = "What the host holds of the guest's memory.";
            metrics.bytes("memory_resident_bytes", help, &[], bytes);
        }
        if let Some(bytes) = self.0.footprint.own_bytes() {
            let help = "Memory of the VM's process beside the guest's and the code made of it: engine, devices, clients.";
            metrics.bytes("vmm_memory_bytes", help, &[], bytes);
        }
        if let Some(engine) = self.engine_memory() {
            let help = "What the engine holds beside the guest's pages: code made of the guest's, and tables.";
            metrics.bytes("engine_held_bytes", help, &[], engine.held_bytes);
        }
        if let Some(limit) = self.engine_limit_bytes() {
            let help =
                "How much the engine may hold beside the guest's pages, where there is a limit.";
            metrics.bytes("engine_limit_bytes", help, &[], limit);
        }
        if let Some(cost) = self.host_cost() {
            metrics::host_cost(&mut metrics, &cost);
        }
        if let Some(refused) = host::jail::refused() {
            metrics::refused(&mut metrics, refused.count);
        }
        metrics.merge(self.inside().shown.earlier.clone());
        metrics.merge(self.present());
        metrics
    }

    /// What the present life has counted.
    pub(super) fn present(&self) -> Metrics {
        let Some(observed) = self.observed() else {
            return Metrics::default();
        };
        let mut metrics = (observed.board)();
        metrics::exits(&mut metrics, &observed.exits());
        if let Some(books) = self.paging_books() {
            metrics::pager(&mut metrics, &books);
        }
        metrics
    }

    /// What the VM costs its host, where that has a limit.
    pub(crate) fn host_cost(&self) -> Option<HostCostBook> {
        self.0.limits.host.book()
    }

    /// The VM may cost its host so much from now on.
    pub(crate) fn limit_host(&self, bytes: Option<u64>) {
        self.0.limits.host.set(bytes);
    }

    /// Has the vCPUs come out of the guest, to give back what is too much.
    pub(crate) fn call_vcpus(&self) {
        if let Some(observed) = self.observed() {
            observed.bells.all().iter().for_each(Bell::ring_always);
        }
    }

    /// What the store of its paging holds in memory.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let pager = self.0.paging.pager();
        pager.map_or(0, |pager| pager.store_bytes())
    }

    /// What the process costs, measured for the limit of the whole.
    pub(crate) fn measure_cost(&self) -> Option<(u64, u64)> {
        self.0.footprint.own_and_program_bytes()
    }

    /// All limits.
    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// How much the engine may hold.
    pub(crate) fn engine_limit_bytes(&self) -> Option<u64> {
        self.0.limits.engine.limit_bytes()
    }

    /// What the engine holds, and may.
    pub(crate) fn engine_memory(&self) -> Option<EngineMemoryBook> {
        self.0.limits.engine.book()
    }

    /// The engine may hold so much from now on.
    pub(crate) fn limit_engine(&self, bytes: Option<u64>) {
        self.0.limits.engine.set(bytes);
        self.call_vcpus();
    }

    /// Its paging.
    pub(crate) fn paging(&self) -> &Paging {
        &self.0.paging
    }

    /// Why the guest waits for room for its pages, if it does.
    pub fn stalled(&self) -> Option<String> {
        self.0.paging.stalled()
    }

    /// The pager's accounts of the present life; none where guest memory is not paged.
    pub fn paging_books(&self) -> Option<PagingBooks> {
        Some(self.0.paging.pager()?.books())
    }
}
