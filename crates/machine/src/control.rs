//! Acting on a running VM from outside: another thread, a signal's thread, the control socket.
//!
//! Whoever asks leaves a note and calls the attendant of the present life, which does what the notes say. Notes
//! outlive a life: a guest that resets itself is paused or stopped all the same.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::{ClaimBook, Counter, DeviceStatus};
use devices::virtio::balloon::BalloonReading;
use paging::Books as PagingBooks;
use vcpu::Kick;

use crate::attach::Handles;
use crate::attach::device_status::{self, DeviceCounters};
use crate::engine::{self, EngineKind, NoEngine};
use crate::outcome::ending::StopCause;
use crate::outcome::refusal::{PauseError, SwitchError};
use crate::paging::Paging;
use crate::threads::observe::Observed;

/// How long a guest that is to stop is given before its power button is pressed again.
const PRESS_AGAIN: Duration = Duration::from_secs(3);

/// How far a VM has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Built, or being built.
    Built,
    /// Guest code runs or sleeps.
    Running,
    /// Nothing of the guest runs, and its time stands still.
    Paused,
    /// It has ended.
    Ended,
}

/// Stops a VM, pauses it, or presses its power button. Cheap to clone; any thread may use it, also before and after
/// the run.
#[derive(Clone)]
pub struct MachineControl(Arc<Requests>);

/// Hears why pages of the guest do not come back.
pub(crate) type WhenBroken = Box<dyn Fn(String) + Send>;

struct Requests {
    stop: AtomicBool,
    power_button: AtomicBool,
    pause: AtomicBool,
    /// Held by the one who has the VM change its engine.
    switching: Mutex<()>,
    notes: Mutex<Notes>,
    phase_changed: Condvar,
    /// Who is to hear of requests: the attendant of the present life.
    attention: Mutex<Option<Arc<dyn Kick>>>,
    paging: Paging,
    /// Who is to hear that pages do not come back.
    when_broken: Mutex<Option<WhenBroken>>,
}

struct Notes {
    phase: Phase,
    /// The phase was [`Phase::Running`] at least once.
    has_run: bool,
    cause: Option<StopCause>,
    /// When the grace time is over.
    stop_at: Option<Instant>,
    /// When the power button is pressed again.
    press_at: Option<Instant>,
    /// How often the guest started again.
    reboots: u64,
    /// The engine it runs on.
    engine: EngineKind,
    /// The engine it is to change to, and what came of that.
    switch_to: Option<EngineKind>,
    switch_result: Option<Result<(), SwitchError>>,
    /// What is shown of the present life.
    observed: Option<Arc<Observed>>,
    /// The devices, once they are there.
    devices: Option<(Vec<DeviceCounters>, Handles)>,
}

impl MachineControl {
    pub(crate) fn new(engine: EngineKind, paging: Paging) -> MachineControl {
        let notes = Notes {
            phase: Phase::Built,
            has_run: false,
            cause: None,
            stop_at: None,
            press_at: None,
            reboots: 0,
            engine,
            switch_to: None,
            switch_result: None,
            observed: None,
            devices: None,
        };
        MachineControl(Arc::new(Requests {
            stop: AtomicBool::new(false),
            power_button: AtomicBool::new(false),
            pause: AtomicBool::new(false),
            switching: Mutex::new(()),
            notes: Mutex::new(notes),
            phase_changed: Condvar::new(),
            attention: Mutex::new(None),
            paging,
            when_broken: Mutex::new(None),
        }))
    }
}

impl fmt::Debug for MachineControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stop = self.0.stop.load(Ordering::Relaxed);
        f.debug_struct("MachineControl")
            .field("stop", &stop)
            .finish_non_exhaustive()
    }
}

impl MachineControl {
    /// Ends the VM at once, wherever its guest is: the run ends with [`crate::Ending::Stopped`].
    pub fn stop(&self) {
        self.stop_because(StopCause::Left);
    }

    /// The same, for this reason. The first one counts.
    pub fn stop_because(&self, cause: StopCause) {
        self.notes().cause.get_or_insert(cause);
        self.0.stop.store(true, Ordering::Release);
        // Who waits for room would not hear of it.
        if let Some(pager) = self.0.paging.pager() {
            pager.let_all_in();
        }
        self.call_attention();
    }

    /// Presses the power button: a guest that listens to ACPI shuts itself down.
    pub fn press_power_button(&self) {
        self.0.power_button.store(true, Ordering::Release);
        self.call_attention();
    }

    /// Presses the power button, of a paused VM after resuming it, and ends the VM if it has not ended by itself
    /// when `grace` is over. Asked again, the earlier end counts. The button is pressed again every few seconds: a
    /// guest that was still starting has not heard it.
    pub fn stop_gracefully(&self, grace: Duration) {
        {
            let mut notes = self.notes();
            let at = Instant::now().checked_add(grace);
            notes.stop_at = notes.stop_at.into_iter().chain(at).min();
            notes.press_at.get_or_insert(Instant::now() + PRESS_AGAIN);
        }
        self.0.pause.store(false, Ordering::Release);
        self.press_power_button();
    }

    /// Pauses the VM: when this returns, nothing of the guest runs, and its time stands still. A VM that is paused
    /// stays so.
    ///
    /// # Errors
    /// [`PauseError`].
    pub fn pause(&self, patience: Duration) -> Result<(), PauseError> {
        self.0.pause.store(true, Ordering::Release);
        self.call_attention();
        let reached = self.wait_for(Phase::Paused, patience, true);
        if matches!(reached, Err(PauseError::TimedOut | PauseError::Stalled(_))) {
            self.0.pause.store(false, Ordering::Release);
            self.call_attention();
        }
        reached
    }

    /// Undoes a pause.
    ///
    /// # Errors
    /// [`PauseError`].
    pub fn resume(&self, patience: Duration) -> Result<(), PauseError> {
        self.0.pause.store(false, Ordering::Release);
        self.call_attention();
        self.wait_for(Phase::Running, patience, false)
    }

    /// The engine that the VM runs on.
    pub fn engine(&self) -> EngineKind {
        self.notes().engine
    }

    /// Moves the guest to the engine `wanted` (`kvm` or `soft`) and has it go on there, unless it was paused before.
    ///
    /// # Errors
    /// [`SwitchError`]: the guest is on its old engine then, and goes on.
    pub fn switch(&self, wanted: &str, patience: Duration) -> Result<(), SwitchError> {
        let choice = engine::choose(wanted, &engine::findings_for(wanted))
            .map_err(|NoEngine { what, help }| SwitchError::NoEngine { what, help })?;
        if self.engine() == choice.kind {
            return Err(SwitchError::Already(choice.kind));
        }
        self.change_engine(choice.kind, patience)
    }

    /// The same without asking whether it makes sense.
    pub(crate) fn change_engine(
        &self,
        kind: EngineKind,
        patience: Duration,
    ) -> Result<(), SwitchError> {
        let _one_at_a_time = self
            .0
            .switching
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let was_paused = self.is_pause_wanted();
        let failed = |error| match error {
            PauseError::Ended => SwitchError::Ended,
            PauseError::TimedOut => SwitchError::TimedOut,
            PauseError::Stalled(why) => SwitchError::Stalled(why),
        };
        self.pause(patience).map_err(failed)?;
        self.notes().switch_to = Some(kind);
        self.call_attention();
        let waits =
            |notes: &mut Notes| notes.switch_result.is_none() && notes.phase != Phase::Ended;
        let waited = self
            .0
            .phase_changed
            .wait_timeout_while(self.notes(), patience, waits);
        let result = {
            let mut notes = waited.unwrap_or_else(PoisonError::into_inner).0;
            notes.switch_to = None;
            let has_ended = notes.phase == Phase::Ended;
            let none = if has_ended {
                SwitchError::Ended
            } else {
                SwitchError::TimedOut
            };
            notes.switch_result.take().unwrap_or(Err(none))
        };
        if !was_paused {
            self.resume(patience).map_err(failed)?;
        }
        result
    }

    /// The engine that the paused VM is to change to.
    pub(crate) fn switch_wanted(&self) -> Option<EngineKind> {
        let notes = self.notes();
        notes.switch_to.filter(|_| notes.switch_result.is_none())
    }

    /// What came of it.
    pub(crate) fn switched(&self, result: Result<(), SwitchError>) {
        let mut notes = self.notes();
        if let (Some(kind), Ok(())) = (notes.switch_to, &result) {
            notes.engine = kind;
        }
        notes.switch_result = Some(result);
        drop(notes);
        self.0.phase_changed.notify_all();
    }

    /// Waits until the guest has run; false if the VM ended before.
    pub fn wait_until_started(&self) -> bool {
        let notes = self.notes();
        let wait = |notes: &mut Notes| notes.phase == Phase::Built;
        let notes = self
            .0
            .phase_changed
            .wait_while(notes, wait)
            .unwrap_or_else(PoisonError::into_inner);
        notes.has_run
    }

    /// Waits for a phase; in vain, if `moves`, as long as the guest waits for room: its threads do not come to rest.
    fn wait_for(&self, wanted: Phase, patience: Duration, moves: bool) -> Result<(), PauseError> {
        let stalled = || self.stalled().filter(|_| moves);
        let wait = |notes: &mut Notes| {
            notes.phase != wanted && notes.phase != Phase::Ended && stalled().is_none()
        };
        let waited = self
            .0
            .phase_changed
            .wait_timeout_while(self.notes(), patience, wait);
        let phase = waited.unwrap_or_else(PoisonError::into_inner).0.phase;
        match (phase, stalled()) {
            (phase, _) if phase == wanted => Ok(()),
            (Phase::Ended, _) => Err(PauseError::Ended),
            (_, Some(why)) => Err(PauseError::Stalled(why)),
            _ => Err(PauseError::TimedOut),
        }
    }

    /// What the VM is doing.
    pub fn phase(&self) -> Phase {
        self.notes().phase
    }

    /// Why it was stopped, if it was.
    pub fn stop_cause(&self) -> Option<StopCause> {
        self.notes().cause
    }

    /// Whether somebody asked the guest to power off and it has not yet.
    pub fn is_stopping(&self) -> bool {
        self.notes().stop_at.is_some()
    }

    /// How often the guest started again.
    pub fn reboots(&self) -> u64 {
        self.notes().reboots
    }

    /// What the host holds of the guest's memory; `None` between two lives.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.observed()?.memory.resident_bytes().ok()
    }

    /// What every device counted; the console printed this much.
    pub(crate) fn devices(&self, printed_bytes: u64) -> Vec<DeviceStatus> {
        let counter = |name: &str, value| Counter {
            name: name.to_owned(),
            value,
        };
        let console = DeviceStatus {
            name: "console".to_owned(),
            counters: vec![counter("bytes_from_guest", printed_bytes)],
        };
        let mut devices = vec![console];
        devices.extend(self.device_counters());
        devices
    }

    /// What every virtio device counted.
    pub(crate) fn device_counters(&self) -> Vec<DeviceStatus> {
        match &self.notes().devices {
            Some((counters, handles)) => device_status::read(counters, &handles.balloon.read()),
            None => Vec::new(),
        }
    }

    /// Asks the guest for so much of its memory: its balloon takes pages until it holds that many bytes, as far as the
    /// guest can spare them. 0 gives all back. False, and nothing is asked, if the guest has no driver for it.
    pub fn set_balloon_target(&self, bytes: u64) -> bool {
        self.notes()
            .devices
            .as_ref()
            .is_some_and(|(_, handles)| handles.balloon.set_target(bytes))
    }

    /// What is known of the balloon; `None` before the VM is built.
    pub fn balloon(&self) -> Option<BalloonReading> {
        self.notes()
            .devices
            .as_ref()
            .map(|(_, handles)| handles.balloon.read())
    }

    /// What programs in the guest say of it.
    pub(crate) fn claims(&self) -> ClaimBook {
        self.notes()
            .devices
            .as_ref()
            .map(|(_, handles)| handles.claims.book())
            .unwrap_or_default()
    }

    /// The window that the console is shown in has this size now. Only the virtio console tells the guest.
    pub fn resize_window(&self, rows: u16, columns: u16) {
        if let Some((_, handles)) = &self.notes().devices {
            handles.window.resize(rows, columns);
        }
    }

    /// The VM is built, with these devices.
    pub(crate) fn set_devices(&self, counters: Vec<DeviceCounters>, handles: Handles) {
        self.notes().devices = Some((counters, handles));
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Calls `act`, with the reason, when pages of the guest do not come back.
    pub(crate) fn when_broken(&self, act: WhenBroken) {
        *self
            .0
            .when_broken
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(act);
        self.paging_changed();
    }

    /// The pager said something.
    pub(crate) fn paging_changed(&self) {
        if let Some(why) = self.0.paging.broken()
            && let Some(act) = &*self
                .0
                .when_broken
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        {
            act(why);
        }
        self.call_attention();
        // Who waits for a pause waits in vain now. Taking the lock orders this after a look that comes before a wait.
        drop(self.notes());
        self.0.phase_changed.notify_all();
    }

    /// Has the attendant look.
    pub(crate) fn call_attention(&self) {
        if let Some(attendant) = &*self
            .0
            .attention
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
        {
            attendant.kick();
        }
    }

    /// Has `attendant` called after every request from now on.
    pub(crate) fn set_attention(&self, attendant: Arc<dyn Kick>) {
        *self
            .0
            .attention
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(attendant);
    }

    /// A life begins, of which this is shown, or one is over.
    pub(crate) fn set_observed(&self, observed: Option<Arc<Observed>>) {
        self.notes().observed = observed;
    }

    /// What is shown of the present life; `None` before the first, between two, and after the last.
    pub(crate) fn observed(&self) -> Option<Arc<Observed>> {
        self.notes().observed.clone()
    }

    /// The guest starts again.
    pub(crate) fn count_reboot(&self) {
        self.notes().reboots += 1;
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        let mut notes = self.notes();
        notes.phase = phase;
        notes.has_run |= phase == Phase::Running;
        drop(notes);
        self.0.phase_changed.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.0.stop.load(Ordering::Acquire)
    }

    /// When the grace time is over.
    pub(crate) fn stop_at(&self) -> Option<Instant> {
        self.notes().stop_at
    }

    pub(crate) fn is_pause_wanted(&self) -> bool {
        self.0.pause.load(Ordering::Acquire)
    }

    /// When the power button is due to be pressed again.
    pub(crate) fn press_at(&self) -> Option<Instant> {
        self.notes().press_at
    }

    /// Whether the power button was pressed since last asked, or is due again.
    pub(crate) fn take_power_button(&self) -> bool {
        let is_due = |at: &mut Instant| {
            let now = Instant::now();
            let is_due = *at <= now;
            if is_due {
                *at = now + PRESS_AGAIN;
            }
            is_due
        };
        self.0.power_button.swap(false, Ordering::AcqRel)
            | self.notes().press_at.as_mut().is_some_and(is_due)
    }
}
