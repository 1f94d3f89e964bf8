//! The threads that virtio workers run on, one for each.
//!
//! A thread waits for its doorbell, its worker's files and its worker's deadline, lets the worker serve, and waits
//! again. Whoever rings the doorbell writes to an event only if the thread is asleep or about to be. Everything a worker
//! does to guest memory happens inside the [`Gate`], so a paused VM's memory stays as it is. A worker that panics is our
//! mistake: its thread notes the panic, the attendant ends the life, and the panic goes on in the thread that runs the
//! machine, as a vCPU's does.

use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use devices::virtio::{
    Broken, DeviceMetrics, Doorbell, RunningWorkers, StartWorkers, Wake, Worker, WorkerState,
};
use host::jail::{self, Kind};
use host::lock::{Condition, Lock};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use vcpu::Kick;

use crate::threads::gate::Gate;
use crate::threads::helper::Helper;
use crate::threads::patience::Patience;

type OnBroken = dyn Fn(&Broken) + Send + Sync;
type Panic = Box<dyn Any + Send>;
type Threads = Arc<Lock<Vec<(Arc<Bell>, JoinHandle<()>)>>>;

/// How long somebody who asks a worker waits before he looks whether its thread has ended.
const ANSWER_LOOK: Duration = Duration::from_millis(20);

/// The workers' threads of one life.
pub(crate) struct DeviceThreads {
    shared: Arc<Shared>,
    /// Starts them.
    helper: Arc<Helper>,
}

/// What is known of the threads.
struct Shared {
    gate: Arc<Gate>,
    panic: Arc<Lock<Option<Panic>>>,
    has_panicked: Arc<AtomicBool>,
    /// All that run, so that a life's end finds them.
    threads: Threads,
    /// Called when a worker panicked.
    attendant: Arc<dyn Kick>,
    /// What each thread starts with.
    patience: Patience,
}

impl DeviceThreads {
    pub(crate) fn new(
        gate: Arc<Gate>,
        attendant: Arc<dyn Kick>,
        patience: Patience,
        helper: Arc<Helper>,
    ) -> DeviceThreads {
        let shared = Arc::new(Shared {
            gate,
            patience,
            panic: Arc::default(),
            has_panicked: Arc::default(),
            threads: Arc::default(),
            attendant,
        });
        DeviceThreads { shared, helper }
    }

    /// Who does things for a vCPU's thread.
    pub(crate) fn helper(&self) -> &Helper {
        &self.helper
    }

    /// Ends every worker and waits for it. Not to be called from a worker's thread, nor from inside the room.
    pub(crate) fn stop_all(&self) {
        let threads = std::mem::take(&mut *self.shared.threads.lock());
        threads.iter().for_each(|(bell, _)| bell.stop());
        self.shared.gate.call();
        for (_, thread) in threads {
            // The thread catches a worker's panic itself.
            let _ = thread.join();
        }
    }

    pub(crate) fn has_panicked(&self) -> bool {
        self.shared.has_panicked.load(Ordering::Acquire)
    }

    /// The first panic of a worker.
    pub(crate) fn take_panic(&self) -> Option<Panic> {
        self.shared.panic.lock().take()
    }
}

/// One queue's notifications.
struct QueueBell {
    queue: u16,
    /// The front has rung, and the thread has not heard yet.
    rung: AtomicBool,
    /// Rings past the front: an engine that takes notifications itself adds to it, and sets no flag.
    wire: Arc<OwnedFd>,
}

impl QueueBell {
    /// How often it rang past the front since last asked.
    fn take_wired(&self) -> u64 {
        let mut count = [0_u8; 8];
        // Nothing to read is nothing rung.
        let read = rustix::io::read(&*self.wire, &mut count);
        if read.is_ok() {
            u64::from_ne_bytes(count)
        } else {
            0
        }
    }
}

/// How a thread is called.
struct Bell {
    queues: Vec<QueueBell>,
    /// The thread looks at nothing but its event, or is about to.
    is_asleep: AtomicBool,
    stop: AtomicBool,
    done: AtomicBool,
    broken: Lock<Option<Broken>>,
    /// Somebody wants to know where the worker stands, and what it said.
    asked: AtomicBool,
    answer: Lock<Option<WorkerState>>,
    answered: Condition,
    event: OwnedFd,
    /// The device's counters, for what its front does not see.
    metrics: Arc<DeviceMetrics>,
}

impl Bell {
    fn new(worker: &dyn Worker, metrics: Arc<DeviceMetrics>) -> std::io::Result<Bell> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let mut queues = Vec::new();
        for queue in worker.queues() {
            queues.push(QueueBell {
                queue,
                rung: AtomicBool::new(false),
                wire: Arc::new(event()?),
            });
        }
        Ok(Bell {
            queues,
            is_asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            done: AtomicBool::new(false),
            broken: Lock::new(None),
            asked: AtomicBool::new(false),
            answer: Lock::default(),
            answered: Condition::new(),
            event: event()?,
            metrics,
        })
    }

    /// Something is to be served. Only the first who says so has to wake the thread.
    fn notify(&self, place: &AtomicBool) {
        // A flag that is up already is heard: it is taken down after the event was emptied.
        if place.swap(true, Ordering::SeqCst) {
            return;
        }
        // Pairs with the fence in `fall_asleep`: either this look sees the thread asleep, or it sees the flag.
        fence(Ordering::SeqCst);
        if self.is_asleep.load(Ordering::SeqCst) {
            self.ring();
        }
    }

    fn is_called(&self) -> bool {
        self.is_held_up()
            || self
                .queues
                .iter()
                .any(|queue| queue.rung.load(Ordering::SeqCst))
    }

    /// From here on a notification writes to the event. True if one came before.
    fn fall_asleep(&self) -> bool {
        self.is_asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.is_called()
    }

    fn ring(&self) {
        // The counter is full only if nobody ever reads it; then it rings already.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether the thread has something else to do than to serve.
    fn is_held_up(&self) -> bool {
        self.stop.load(Ordering::Acquire) || self.asked.load(Ordering::Acquire)
    }

    /// Says where the worker stands, if anybody wants to know; whether anybody did.
    fn answer(&self, worker: &dyn Worker) -> bool {
        let is_asked = self.asked.swap(false, Ordering::AcqRel);
        if is_asked {
            let mut answer = self.answer.lock();
            *answer = Some(worker.save());
            self.answered.notify_all();
        }
        is_asked
    }

    /// Asks the thread where its worker stands and waits for that; nothing if the thread has ended.
    fn ask(&self, gate: &Gate) -> Option<WorkerState> {
        let mut answer = self.answer.lock();
        self.asked.store(true, Ordering::Release);
        self.ring();
        gate.call();
        while answer.is_none() && !self.done.load(Ordering::Acquire) {
            answer = self.answered.wait_timeout(answer, ANSWER_LOOK).0;
        }
        answer.take()
    }

    fn silence(&self) {
        let _ = rustix::io::read(&self.event, &mut [0_u8; 8]);
    }
}

/// The running workers of one device.
struct Running {
    bells: Vec<Arc<Bell>>,
    threads: Threads,
    gate: Arc<Gate>,
    helper: Arc<Helper>,
}

impl StartWorkers for DeviceThreads {
    fn start(
        &self,
        name: &str,
        workers: Vec<Box<dyn Worker>>,
        metrics: &Arc<DeviceMetrics>,
        on_broken: Box<dyn Fn(&Broken) + Send + Sync>,
    ) -> Box<dyn RunningWorkers> {
        let shared = Arc::clone(&self.shared);
        let name = name.to_owned();
        let metrics = Arc::clone(metrics);
        let helper = Arc::clone(&self.helper);
        // Whoever calls is a vCPU's thread.
        self.helper
            .have_done(move || shared.start(&helper, &name, workers, &metrics, on_broken))
    }
}

impl Shared {
    fn start(
        &self,
        helper: &Arc<Helper>,
        name: &str,
        workers: Vec<Box<dyn Worker>>,
        metrics: &Arc<DeviceMetrics>,
        on_broken: Box<OnBroken>,
    ) -> Box<dyn RunningWorkers> {
        let on_broken: Arc<OnBroken> = Arc::from(on_broken);
        let threads = Arc::clone(&self.threads);
        let gate = Arc::clone(&self.gate);
        let mut running = Running {
            bells: Vec::new(),
            threads,
            gate,
            helper: Arc::clone(helper),
        };
        for (n, worker) in workers.into_iter().enumerate() {
            let thread = format!("{name}.{n}");
            let bell = Bell::new(&*worker, Arc::clone(metrics));
            let started = bell
                .and_then(|bell| self.start_one(&mut running, &thread, worker, bell, &on_broken));
            if let Err(error) = started {
                tracing::error!("cannot start a thread for {name}: {error}");
                let queue = running.bells.len() as u16;
                on_broken(&Broken {
                    queue,
                    what: "the host gives no thread".to_owned(),
                });
            }
        }
        Box::new(running)
    }

    fn start_one(
        &self,
        running: &mut Running,
        name: &str,
        worker: Box<dyn Worker>,
        bell: Bell,
        on_broken: &Arc<OnBroken>,
    ) -> std::io::Result<()> {
        let bell = Arc::new(bell);
        let panic = Arc::clone(&self.panic);
        let has_panicked = Arc::clone(&self.has_panicked);
        let attendant = Arc::clone(&self.attendant);
        let patience = self.patience;
        let thread = {
            let bell = Arc::clone(&bell);
            let gate = Arc::clone(&self.gate);
            let on_broken = Arc::clone(on_broken);
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || {
                    jail::enter(Kind::Device);
                    // The worker is gone when this returns or has caught a panic, and only then is the thread done.
                    let result =
                        catch_unwind(AssertUnwindSafe(|| run(worker, &bell, &gate, patience)));
                    match result {
                        Ok(Ok(())) => {}
                        Ok(Err(broken)) => {
                            *bell.broken.lock() = Some(broken.clone());
                            on_broken(&broken);
                        }
                        Err(caught) => {
                            panic.lock().get_or_insert(caught);
                            has_panicked.store(true, Ordering::Release);
                            attendant.kick();
                        }
                    }
                    bell.done.store(true, Ordering::Release);
                })?
        };
        running.bells.push(Arc::clone(&bell));
        self.threads.lock().push((bell, thread));
        Ok(())
    }
}

/// What a thread does.
fn run(
    mut worker: Box<dyn Worker>,
    bell: &Bell,
    gate: &Gate,
    mut patience: Patience,
) -> Result<(), Broken> {
    let mut wakes = vec![Wake::Start];
    loop {
        for wake in wakes.drain(..) {
            loop {
                let inside = gate.enter(|| !bell.is_held_up());
                if bell.stop.load(Ordering::Acquire) {
                    return Ok(());
                }
                // Asked in a pause: it says so and waits on.
                if !bell.answer(&*worker) {
                    worker.serve(wake)?;
                    break;
                }
                drop(inside);
            }
        }
        bell.answer(&*worker);
        wait(&*worker, bell, &mut patience, &mut wakes);
        if bell.stop.load(Ordering::Acquire) {
            return Ok(());
        }
    }
}

/// Waits until there is something to serve.
fn wait(worker: &dyn Worker, bell: &Bell, patience: &mut Patience, wakes: &mut Vec<Wake>) {
    let sources = worker.sources();
    let sinks = worker.sinks();
    let deadline = worker.deadline();
    let start = Instant::now();
    // While it looks at its bell alone it would not hear its files.
    let span = if sources.is_empty() && sinks.is_empty() {
        patience.span()
    } else {
        Duration::ZERO
    };
    while !bell.is_called() && start.elapsed() < span {
        std::hint::spin_loop();
    }
    let is_called = bell.fall_asleep();
    // Files are looked at also when there is no need to sleep: a busy queue must not keep them from being served.
    let wired = if !is_called || !sources.is_empty() || !sinks.is_empty() {
        look_at_files(
            &sources,
            &sinks,
            bell,
            time_left(is_called, deadline),
            wakes,
        )
    } else {
        false
    };
    bell.is_asleep.store(false, Ordering::SeqCst);
    let rung = bell
        .queues
        .iter()
        .filter(|queue| queue.rung.swap(false, Ordering::SeqCst));
    let others = wakes.len();
    wakes.extend(rung.map(|queue| Wake::Notified(queue.queue)));
    if wired {
        // What rings past the front sets no flag that a look would see.
        patience.called(Duration::MAX);
    } else if wakes.len() > others {
        patience.called(start.elapsed());
    }
    if deadline.is_some_and(|at| at <= Instant::now()) {
        wakes.push(Wake::Deadline);
    }
}

/// Waits until one of the worker's files or its bell is ready, or the time is over, and notes what is. Whether queues
/// were notified past the front.
fn look_at_files(
    sources: &[BorrowedFd<'_>],
    sinks: &[BorrowedFd<'_>],
    bell: &Bell,
    time_left: Option<Timespec>,
    wakes: &mut Vec<Wake>,
) -> bool {
    let mut wired = false;
    let mut files = vec![PollFd::new(&bell.event, PollFlags::IN)];
    files.extend(
        bell.queues
            .iter()
            .map(|queue| PollFd::new(&*queue.wire, PollFlags::IN)),
    );
    let first_source = files.len();
    files.extend(
        sources
            .iter()
            .map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)),
    );
    files.extend(
        sinks
            .iter()
            .map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::OUT)),
    );
    // Interrupted by a signal: nothing is ready, and the loop comes back.
    let is_ready = poll(&mut files, time_left.as_ref()).is_ok();
    let is_ready = |n: usize| is_ready && !files[n].revents().is_empty();
    if is_ready(0) {
        bell.silence();
    }
    for (_, queue) in bell
        .queues
        .iter()
        .enumerate()
        .filter(|(n, _)| is_ready(1 + n))
    {
        DeviceMetrics::add(&bell.metrics.notifications, queue.take_wired());
        wakes.push(Wake::Notified(queue.queue));
        wired = true;
    }
    wakes.extend(
        (0..sources.len())
            .filter(|n| is_ready(first_source + n))
            .map(Wake::Readable),
    );
    let first_sink = first_source + sources.len();
    wakes.extend(
        (0..sinks.len())
            .filter(|n| is_ready(first_sink + n))
            .map(Wake::Writable),
    );
    wired
}

/// How long a thread may sleep; for ever if nothing is said.
fn time_left(is_called: bool, deadline: Option<Instant>) -> Option<Timespec> {
    if is_called {
        return Some(Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        });
    }
    let left = deadline?.saturating_duration_since(Instant::now());
    Some(Timespec {
        tv_sec: left.as_secs() as i64,
        tv_nsec: i64::from(left.subsec_nanos()),
    })
}

impl Doorbell for Running {
    fn notify(&self, queue: u16) {
        for bell in &self.bells {
            if let Some(place) = bell.queues.iter().find(|place| place.queue == queue) {
                bell.notify(&place.rung);
            }
        }
    }

    fn events(&self) -> Vec<(u16, Arc<OwnedFd>)> {
        let queues = self.bells.iter().flat_map(|bell| &bell.queues);
        queues
            .map(|queue| (queue.queue, Arc::clone(&queue.wire)))
            .collect()
    }
}

impl RunningWorkers for Running {
    fn stop(&mut self) {
        self.bells.iter().for_each(|bell| bell.stop());
        self.gate.call();
    }

    fn have_stopped(&self) -> bool {
        self.bells
            .iter()
            .all(|bell| bell.done.load(Ordering::Acquire))
    }

    fn save(&self) -> Vec<WorkerState> {
        let bells = self.bells.iter();
        bells.filter_map(|bell| bell.ask(&self.gate)).collect()
    }

    fn take_broken(&mut self) -> Option<Broken> {
        let take = |bell: &Arc<Bell>| bell.broken.lock().take();
        self.bells.iter().find_map(take)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        let mine = |bell: &Arc<Bell>| self.bells.iter().any(|mine| Arc::ptr_eq(mine, bell));
        let threads: Vec<_> = {
            let mut threads = self.threads.lock();
            threads.extract_if(.., |(bell, _)| mine(bell)).collect()
        };
        let bells = std::mem::take(&mut self.bells);
        // Their descriptors are closed there: who drops this may be a vCPU's thread.
        self.helper.have_done(move || {
            for (_, thread) in threads {
                let _ = thread.join();
            }
            drop(bells);
        });
    }
}

#[cfg(test)]
#[path = "device_threads_tests.rs"]
mod tests;
