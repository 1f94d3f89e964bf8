//! What an observer sees of a life: each vCPU's registers, and its book.
//!
//! Every vCPU has a monitor here. An observer leaves a request in each and calls the vCPUs as an interrupt does; each
//! vCPU's thread, which alone may ask its engine, answers with its registers wherever the call finds it: behind an exit,
//! in its sleep, in a pause, or while it waits for the console. Guest code goes on at once, and nothing is paused.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use api::{Counter, Metrics, SelectorsView, TableView, VcpuBook, VcpuView};
use host::lock::{Condition, Lock};
use mem::GuestMemory;
use vcpu::{EngineError, Vcpu, VcpuState};
use x86::DescriptorTable;

use crate::boot::LoadedKernel;
use crate::outcome::exits::{ExitCounts, ExitKind};
use crate::outcome::rest::Rest;
use crate::threads::bell::{Bell, Bells};
use crate::threads::crew::Times;
use crate::threads::gate::Gate;
use crate::threads::probing::Probing;
use crate::threads::time::GuestTime;

/// A time that is not: nobody rests.
const NOT_RESTING: u64 = u64::MAX;

/// One life, as it is shown.
pub(crate) struct Observed {
    /// Which one, counted from 0.
    pub(crate) life: u64,
    pub(crate) memory: Arc<GuestMemory>,
    /// The kernel file that was loaded.
    pub(crate) kernel: Arc<LoadedKernel>,
    pub(crate) time: GuestTime,
    pub(crate) monitors: Arc<Vec<VcpuMonitor>>,
    pub(crate) bells: Arc<Bells>,
    pub(crate) gate: Arc<Gate>,
    /// Who hears of what its kernel passes.
    pub(crate) probing: Arc<Probing>,
    /// What its board has counted.
    pub(crate) board: Box<dyn Fn() -> Metrics + Send + Sync>,
}

/// What a vCPU's thread laid down, and when.
#[derive(Clone, Copy)]
struct Shown {
    view: VcpuView,
    at: Instant,
}

/// One vCPU's registers on request, its exits and its rests.
pub(crate) struct VcpuMonitor {
    start: Instant,
    /// How often somebody asked, and how many of those are answered.
    asked: AtomicU64,
    answered: AtomicU64,
    shown: Lock<Option<Shown>>,
    changed: Condition,
    /// The kernel's times of the vCPU's thread, if the host shows them, and what they were when this life began; none
    /// while no vCPU of this life runs.
    times: Option<Arc<Times>>,
    before: Lock<Option<(u64, u64)>>,
    exits: [AtomicU64; ExitKind::ALL.len()],
    /// Nanoseconds of all rests that are over.
    /// What [`VcpuMonitor::own_times`] was where this life went on from.
    earlier: Lock<(u64, u64)>,
    halted_ns: AtomicU64,
    waiting_ns: AtomicU64,
    /// When the present rest began, in nanoseconds since `start`; which kind it is.
    resting_since_ns: AtomicU64,
    rests_for_startup: AtomicU32,
}

impl VcpuMonitor {
    /// The monitor of a vCPU whose thread has these times.
    pub(crate) fn new(times: Option<Arc<Times>>) -> VcpuMonitor {
        VcpuMonitor {
            start: Instant::now(),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            shown: Lock::default(),
            changed: Condition::new(),
            times,
            before: Lock::default(),
            exits: std::array::from_fn(|_| AtomicU64::new(0)),
            earlier: Lock::default(),
            halted_ns: AtomicU64::new(0),
            waiting_ns: AtomicU64::new(0),
            resting_since_ns: AtomicU64::new(NOT_RESTING),
            rests_for_startup: AtomicU32::new(0),
        }
    }

    fn shown(&self) -> MutexGuard<'_, Option<Shown>> {
        self.shown.lock()
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// The vCPU's thread enters this life. To be called by another one, which may read its times.
    pub(crate) fn take(&self) {
        *self.before() = self.schedule_times();
    }

    /// The vCPU's thread has left this life.
    pub(crate) fn leave(&self) {
        *self.before() = None;
    }

    fn before(&self) -> MutexGuard<'_, Option<(u64, u64)>> {
        self.before.lock()
    }

    fn schedule_times(&self) -> Option<(u64, u64)> {
        self.times.as_ref()?.schedule()
    }

    /// CPU time that the vCPU's thread has used, in this life and those before.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.times
            .as_ref()
            .map_or(Duration::ZERO, |times| times.cpu_time())
    }

    /// This life went on from a snapshot, before which a thread elsewhere ran and waited for so many nanoseconds.
    pub(crate) fn goes_on_from(&self, (run_ns, wait_ns): (u64, u64)) {
        *self.earlier.lock() = (run_ns, wait_ns);
    }

    /// Nanoseconds that the vCPU's thread ran, and that it was ready and did not run, since this life began, wherever that was.
    pub(crate) fn own_times(&self) -> Option<(u64, u64)> {
        let (ran, waited) = (*self.before())?;
        let (run, wait) = self.schedule_times()?;
        let (earlier_run, earlier_wait) = *self.earlier.lock();
        let run = run.saturating_sub(ran).saturating_add(earlier_run);
        let wait = wait.saturating_sub(waited).saturating_add(earlier_wait);
        Some((run, wait))
    }

    /// Lays the registers down if somebody asked. Called by the vCPU's thread wherever a call can find it.
    pub(crate) fn serve(
        &self,
        vcpu_id: u32,
        vcpu: &mut dyn Vcpu,
        rest: Rest,
    ) -> Result<(), EngineError> {
        let asked = self.asked.load(Ordering::Acquire);
        if asked == self.answered.load(Ordering::Relaxed) {
            return Ok(());
        }
        let view = view(vcpu_id, &vcpu.state()?, rest);
        let mut shown = self.shown();
        *shown = Some(Shown {
            view,
            at: Instant::now(),
        });
        self.answered.store(asked, Ordering::Release);
        drop(shown);
        self.changed.notify_all();
        Ok(())
    }

    /// Writes down what the vCPU's thread has counted so far.
    pub(crate) fn count(&self, exits: &ExitCounts) {
        for (shared, count) in self.exits.iter().zip(exits.0) {
            shared.store(count, Ordering::Relaxed);
        }
    }

    /// What it has written down.
    pub(crate) fn exits(&self) -> ExitCounts {
        ExitCounts(std::array::from_fn(|kind| {
            self.exits[kind].load(Ordering::Relaxed)
        }))
    }

    /// The vCPU rests from now on, or does not any more.
    pub(crate) fn rest(&self, rest: Rest) {
        let since = self.resting_since_ns.swap(NOT_RESTING, Ordering::AcqRel);
        if since != NOT_RESTING {
            let sum = match self.rests_for_startup.load(Ordering::Relaxed) {
                0 => &self.halted_ns,
                _ => &self.waiting_ns,
            };
            sum.fetch_add(self.now_ns().saturating_sub(since), Ordering::AcqRel);
        }
        if rest != Rest::None {
            self.rests_for_startup
                .store((rest == Rest::WaitsForSipi).into(), Ordering::Relaxed);
            self.resting_since_ns
                .store(self.now_ns(), Ordering::Release);
        }
    }

    fn book(&self, vcpu_id: u32) -> VcpuBook {
        let times = self.own_times();
        let seconds = |ns: u64| Duration::from_nanos(ns).as_secs_f64();
        let mut halted = self.halted_ns.load(Ordering::Acquire);
        let mut waiting = self.waiting_ns.load(Ordering::Acquire);
        let since = self.resting_since_ns.load(Ordering::Acquire);
        if since != NOT_RESTING {
            let now = self.now_ns().saturating_sub(since);
            let is_startup = self.rests_for_startup.load(Ordering::Relaxed) != 0;
            *(if is_startup {
                &mut waiting
            } else {
                &mut halted
            }) += now;
        }
        let exits = self.exits().by_kind().map(|(name, value)| Counter {
            name: name.to_owned(),
            value,
        });
        VcpuBook {
            vcpu_id,
            run_seconds: times.map(|(run, _)| seconds(run)),
            wait_seconds: times.map(|(_, wait)| seconds(wait)),
            halted_seconds: seconds(halted),
            waiting_for_startup_seconds: seconds(waiting),
            exits: exits.to_vec(),
        }
    }
}

impl Observed {
    /// Every vCPU's registers as of now, or as of when it last answered if it does not in time.
    pub(crate) fn registers(&self, patience: Duration) -> Vec<VcpuView> {
        let deadline = Instant::now() + patience;
        let asked: Vec<u64> = self
            .monitors
            .iter()
            .map(|monitor| monitor.asked.fetch_add(1, Ordering::AcqRel) + 1)
            .collect();
        self.bells.all().iter().for_each(Bell::ring_always);
        self.gate.call();
        let answer = |(monitor, asked): (&VcpuMonitor, u64)| {
            let waits = |_: &mut Option<Shown>| monitor.answered.load(Ordering::Acquire) < asked;
            let left = deadline.saturating_duration_since(Instant::now());
            let waited = monitor
                .changed
                .wait_timeout_while(monitor.shown(), left, waits);
            let shown = (*waited)?;
            Some(VcpuView {
                age_ms: shown.at.elapsed().as_millis() as u64,
                ..shown.view
            })
        };
        self.monitors.iter().zip(asked).filter_map(answer).collect()
    }

    /// How often its vCPUs stopped running guest code.
    pub(crate) fn exits(&self) -> ExitCounts {
        let mut sum = ExitCounts::default();
        self.monitors
            .iter()
            .for_each(|monitor| sum += monitor.exits());
        sum
    }

    /// Every vCPU's book.
    pub(crate) fn vcpu_books(&self) -> Vec<VcpuBook> {
        (0..)
            .zip(self.monitors.iter())
            .map(|(vcpu_id, monitor)| monitor.book(vcpu_id))
            .collect()
    }
}

fn view(vcpu_id: u32, state: &VcpuState, rest: Rest) -> VcpuView {
    let table = |table: DescriptorTable| TableView {
        base: table.base,
        limit: table.limit,
    };
    VcpuView {
        vcpu_id,
        cr0: state.cr0.bits(),
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4.bits(),
        efer: state.efer.bits(),
        idtr: table(state.idtr),
        gdtr: table(state.gdtr),
        fs_base: state.fs.base,
        gs_base: state.gs.base,
        kernel_gs_base: state.msrs.kernel_gs_base,
        star: state.msrs.star,
        lstar: state.msrs.lstar,
        cstar: state.msrs.cstar,
        sysenter_eip: state.msrs.sysenter_eip,
        breakpoints: state.debug.address,
        dr7: state.debug.dr7,
        rip: state.rip,
        rsp: state.gprs[vcpu::gpr::RSP],
        rflags: state.rflags.bits(),
        gprs: state.gprs,
        selectors: SelectorsView {
            cs: state.cs.selector,
            ss: state.ss.selector,
            ds: state.ds.selector,
            es: state.es.selector,
            fs: state.fs.selector,
            gs: state.gs.selector,
        },
        cpl: state.cpl(),
        halted: rest == Rest::Halted || state.halted,
        waits_for_startup: rest == Rest::WaitsForSipi || state.waits_for_sipi,
        age_ms: 0,
    }
}
