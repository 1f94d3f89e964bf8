//! What a pager's threads and everybody who asks it share.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use host::lock::{Condition, Lock};

use crate::core::{Broken, Core};
use crate::estimate::Estimate;

/// What the pager has to say by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The guest waits: there is no room for a page that it needs. With the reason.
    Stalled(String),
    /// It goes on.
    Flowing,
    /// Pages cannot be brought back, and who waits for one waits for ever. With the reason.
    Broken(String),
}

/// For how long somebody who asked for the accounts is expected to ask again.
const ASKED_HOLDS: Duration = Duration::from_secs(60);

/// What is said when a thread is gone.
pub(crate) const LOST: &str = "a thread of the pager is gone";

/// What the threads and everybody else share.
pub(crate) struct Shared<M> {
    pub(crate) memory: Arc<M>,
    pub(crate) core: Mutex<Core<M>>,
    /// Wakes the service thread.
    pub(crate) call: OwnedFd,
    pub(crate) is_stopping: AtomicBool,
    pub(crate) room: Lock<bool>,
    pub(crate) room_wanted: Condition,
    pub(crate) waiting: AtomicUsize,
    pub(crate) waiting_since: Lock<Option<Instant>>,
    pub(crate) told: Lock<Told>,
    /// When somebody last asked for the accounts.
    pub(crate) asked: Lock<Option<Instant>>,
    pub(crate) latency: Latency,
    pub(crate) listener: Box<dyn Fn(Event) + Send + Sync>,
    pub(crate) cpu_ns: [AtomicU64; 2],
    /// Most pages brought in ahead of a guest that goes through memory in order.
    pub(crate) ahead_pages: u64,
    /// The kernel's number of each of the pager's threads.
    pub(crate) threads: Lock<Vec<i32>>,
}

/// What is known beside the core.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) working_set: Option<Estimate>,
    pub(crate) dirty: Option<Estimate>,
    pub(crate) stalled: Option<String>,
    pub(crate) broken: Option<String>,
}

/// How often a fault took between 2^n and 2^(n+1) quarters of a microsecond.
pub(crate) struct Latency([AtomicU64; 40]);

impl Default for Latency {
    fn default() -> Latency {
        Latency([const { AtomicU64::new(0) }; 40])
    }
}

impl Latency {
    fn note(&self, time: Duration) {
        let quarters = (time.as_nanos() as u64 / 250).max(1);
        self.0[quarters.ilog2().min(39) as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Upper end of the step in which `share` of all lie.
    pub(crate) fn quantile(&self, share: f64) -> Option<u64> {
        let counts: Vec<u64> = self
            .0
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        let all: u64 = counts.iter().sum();
        let mut seen = 0;
        counts.iter().enumerate().find_map(|(step, count)| {
            seen += count;
            (all > 0 && seen as f64 >= share * all as f64).then_some((2_u64 << step).div_ceil(4))
        })
    }
}

impl<M> Shared<M> {
    /// The core. Once a thread has panicked inside it, nobody may believe it.
    pub(crate) fn core(&self) -> Result<MutexGuard<'_, Core<M>>, Broken> {
        self.core.lock().map_err(|_| Broken::Panicked)
    }

    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock()
    }

    /// Somebody asks for the accounts.
    pub(crate) fn note_asked(&self) {
        *self.asked.lock() = Some(Instant::now());
    }

    /// Whether anybody asked for the accounts not long ago.
    pub(crate) fn is_asked(&self) -> bool {
        let asked = *self.asked.lock();
        asked.is_some_and(|asked| asked.elapsed() < ASKED_HOLDS)
    }

    /// Has the service thread look.
    pub(crate) fn ring(&self) {
        // It is full only if the thread has not looked for 2^64 calls.
        let _ = rustix::io::write(&self.call, &1_u64.to_ne_bytes());
    }

    /// Has the reclaiming thread look.
    pub(crate) fn want_room(&self) {
        *self.room.lock() = true;
        self.room_wanted.notify_one();
    }

    /// Waits until somebody wants room, at most so long.
    pub(crate) fn wait_for_work(&self, patience: Duration) {
        let wanted = self.room.lock();
        let wants_none = |wanted: &mut bool| !*wanted;
        *self
            .room_wanted
            .wait_timeout_while(wanted, patience, wants_none) = false;
    }

    /// Pages kept free below the limit, so that a fault finds room without waiting.
    pub(crate) fn headroom(&self, limit: Option<u64>) -> u64 {
        limit.map_or(0, |limit| (limit / 64).clamp(4, 512))
    }

    pub(crate) fn note_latency(&self, time: Duration) {
        self.latency.note(time);
    }

    pub(crate) fn note_waiting(&self, count: usize, oldest: Option<Instant>) {
        self.waiting.store(count, Ordering::Relaxed);
        *self.waiting_since.lock() = oldest;
    }

    /// How long the one has waited that waits longest.
    pub(crate) fn waiting_for(&self) -> Option<Duration> {
        self.waiting_since.lock().map(|since| since.elapsed())
    }

    /// Somebody waits that cannot go on, or can again.
    pub(crate) fn set_stalled(&self, reason: Option<String>) {
        let mut told = self.told();
        if told.stalled.is_some() == reason.is_some() {
            return;
        }
        told.stalled.clone_from(&reason);
        drop(told);
        (self.listener)(reason.map_or(Event::Flowing, Event::Stalled));
    }

    /// The calling thread is one of the pager's.
    pub(crate) fn note_thread(&self) {
        let thread = host::cpu::thread_number();
        self.threads.lock().push(thread);
    }

    /// Whether a thread of the pager is gone that nobody told to stop: it was killed, without a last word.
    pub(crate) fn has_lost_thread(&self) -> bool {
        let threads = self.threads.lock();
        let is_lost = threads.iter().any(|thread| !host::cpu::has_thread(*thread));
        is_lost && !self.is_stopping.load(Ordering::Acquire)
    }

    /// Nobody is served any more.
    pub(crate) fn broke(&self, reason: &str) {
        self.told().broken.get_or_insert_with(|| reason.to_owned());
        (self.listener)(Event::Broken(reason.to_owned()));
    }
}

/// An error with what is behind it, as one sentence: `act: cause: cause`.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// Notes the CPU time of the calling thread, which is the `which`th of the pager's.
pub(crate) fn note_cpu(shared: &Shared<impl Sized>, which: usize) {
    shared.cpu_ns[which].store(
        host::cpu::thread_cpu_time().as_nanos() as u64,
        Ordering::Relaxed,
    );
}
