//! The threads that virtio workers run on, one for each.
//!
//! A thread waits for its doorbell, its worker's files and its worker's deadline, lets the worker serve, and waits
//! again. Everything a worker does to guest memory happens inside the [`Gate`], so a paused VM's memory stays as it is.
//! A worker that panics is our mistake: its thread notes the panic, the attendant ends the life, and the panic goes
//! on in the thread that runs the machine, as a vCPU's does.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use devices::virtio::{Broken, Doorbell, RunningWorkers, StartWorkers, Wake, Worker};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use vcpu::Kick;

use crate::gate::Gate;

type OnBroken = dyn Fn(&Broken) + Send + Sync;
type Panic = Box<dyn Any + Send>;
type Threads = Arc<Mutex<Vec<(Arc<Bell>, JoinHandle<()>)>>>;

/// The workers' threads of one life.
pub(crate) struct DeviceThreads {
    gate: Arc<Gate>,
    panic: Arc<Mutex<Option<Panic>>>,
    has_panicked: Arc<AtomicBool>,
    /// All that run, so that a life's end finds them.
    threads: Threads,
    /// Called when a worker panicked.
    attendant: Arc<dyn Kick>,
}

impl DeviceThreads {
    pub(crate) fn new(gate: Arc<Gate>, attendant: Arc<dyn Kick>) -> DeviceThreads {
        DeviceThreads {
            gate,
            panic: Arc::default(),
            has_panicked: Arc::default(),
            threads: Arc::default(),
            attendant,
        }
    }

    /// Ends every worker and waits for it. Not to be called from a worker's thread, nor from inside the room.
    pub(crate) fn stop_all(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        threads.iter().for_each(|(bell, _)| bell.stop());
        self.gate.call();
        for (_, thread) in threads {
            // The thread catches a worker's panic itself.
            let _ = thread.join();
        }
    }

    pub(crate) fn has_panicked(&self) -> bool {
        self.has_panicked.load(Ordering::Acquire)
    }

    /// The first panic of a worker.
    pub(crate) fn take_panic(&self) -> Option<Panic> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// How a thread is called.
struct Bell {
    queues: Vec<(u16, AtomicBool)>,
    stop: AtomicBool,
    done: AtomicBool,
    broken: Mutex<Option<Broken>>,
    event: OwnedFd,
}

impl Bell {
    fn ring(&self) {
        // The counter is full only if nobody ever reads it; then it rings already.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring();
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
}

impl StartWorkers for DeviceThreads {
    fn start(
        &self,
        name: &str,
        workers: Vec<Box<dyn Worker>>,
        on_broken: Box<dyn Fn(&Broken) + Send + Sync>,
    ) -> Box<dyn RunningWorkers> {
        let on_broken: Arc<OnBroken> = Arc::from(on_broken);
        let (threads, gate) = (Arc::clone(&self.threads), Arc::clone(&self.gate));
        let mut running = Running { bells: Vec::new(), threads, gate };
        for (n, worker) in workers.into_iter().enumerate() {
            if let Err(error) = self.start_one(&mut running, &format!("{name}.{n}"), worker, &on_broken) {
                tracing::error!("cannot start a thread for {name}: {error}");
                let queue = running.bells.len() as u16;
                on_broken(&Broken { queue, what: "the host gives no thread".to_owned() });
            }
        }
        Box::new(running)
    }
}

impl DeviceThreads {
    fn start_one(
        &self,
        running: &mut Running,
        name: &str,
        worker: Box<dyn Worker>,
        on_broken: &Arc<OnBroken>,
    ) -> std::io::Result<()> {
        let queues = worker.queues().into_iter().map(|queue| (queue, AtomicBool::new(false))).collect();
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (stop, done) = (AtomicBool::new(false), AtomicBool::new(false));
        let bell = Arc::new(Bell { queues, stop, done, broken: Mutex::new(None), event });
        let (panic, has_panicked) = (Arc::clone(&self.panic), Arc::clone(&self.has_panicked));
        let attendant = Arc::clone(&self.attendant);
        let thread = {
            let (bell, gate) = (Arc::clone(&bell), Arc::clone(&self.gate));
            let on_broken = Arc::clone(on_broken);
            std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                // The worker is gone when this returns or has caught a panic, and only then is the thread done.
                let result = catch_unwind(AssertUnwindSafe(|| run(worker, &bell, &gate)));
                match result {
                    Ok(Ok(())) => {}
                    Ok(Err(broken)) => {
                        *bell.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(broken.clone());
                        on_broken(&broken);
                    }
                    Err(caught) => {
                        panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(caught);
                        has_panicked.store(true, Ordering::Release);
                        attendant.kick();
                    }
                }
                bell.done.store(true, Ordering::Release);
            })?
        };
        running.bells.push(Arc::clone(&bell));
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push((bell, thread));
        Ok(())
    }
}

/// What a thread does.
fn run(mut worker: Box<dyn Worker>, bell: &Bell, gate: &Gate) -> Result<(), Broken> {
    let mut wakes = vec![Wake::Start];
    loop {
        for wake in wakes.drain(..) {
            let inside = gate.enter(|| !bell.stop.load(Ordering::Acquire));
            if bell.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            worker.serve(wake)?;
            drop(inside);
        }
        wait(&*worker, bell, &mut wakes);
        if bell.stop.load(Ordering::Acquire) {
            return Ok(());
        }
    }
}

/// Waits until there is something to serve.
fn wait(worker: &dyn Worker, bell: &Bell, wakes: &mut Vec<Wake>) {
    let (sources, sinks) = (worker.sources(), worker.sinks());
    let mut files = vec![PollFd::new(&bell.event, PollFlags::IN)];
    files.extend(sources.iter().map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)));
    files.extend(sinks.iter().map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::OUT)));
    let deadline = worker.deadline();
    let timeout = deadline.map(|at| {
        let left = at.saturating_duration_since(Instant::now());
        Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
    });
    // Interrupted by a signal: nothing is ready, and the loop comes back.
    if poll(&mut files, timeout.as_ref()).is_err() {
        return;
    }
    let is_ready = |n: usize| !files[n].revents().is_empty();
    if is_ready(0) {
        bell.silence();
        let rung = bell.queues.iter().filter(|(_, rung)| rung.swap(false, Ordering::AcqRel));
        wakes.extend(rung.map(|(queue, _)| Wake::Notified(*queue)));
    }
    wakes.extend((0..sources.len()).filter(|n| is_ready(1 + n)).map(Wake::Readable));
    wakes.extend((0..sinks.len()).filter(|n| is_ready(1 + sources.len() + n)).map(Wake::Writable));
    if deadline.is_some_and(|at| at <= Instant::now()) {
        wakes.push(Wake::Deadline);
    }
}

impl Doorbell for Running {
    fn notify(&self, queue: u16) {
        for bell in &self.bells {
            let place = bell.queues.iter().find(|(served, _)| *served == queue);
            // A bell that rings already is heard: the flag is taken after the event is.
            if place.is_some_and(|(_, rung)| !rung.swap(true, Ordering::AcqRel)) {
                bell.ring();
            }
        }
    }
}

impl RunningWorkers for Running {
    fn stop(&mut self) {
        self.bells.iter().for_each(|bell| bell.stop());
        self.gate.call();
    }

    fn have_stopped(&self) -> bool {
        self.bells.iter().all(|bell| bell.done.load(Ordering::Acquire))
    }

    fn take_broken(&mut self) -> Option<Broken> {
        let take = |bell: &Arc<Bell>| bell.broken.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.bells.iter().find_map(take)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        let mine = |bell: &Arc<Bell>| self.bells.iter().any(|mine| Arc::ptr_eq(mine, bell));
        let threads: Vec<_> = {
            let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
            threads.extract_if(.., |(bell, _)| mine(bell)).collect()
        };
        for (_, thread) in threads {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[path = "device_threads_tests.rs"]
mod tests;
