//! The threads of a VM's vCPUs: one for each, over all lives of the guest.
//!
//! The kernel counts for each thread how long it ran and how long it was kept from running, and shows that in a file.
//! A thread of its own for each life would need that file opened in each life; these open it once, before the guest
//! runs.

use host::at::FileAt;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use host::cpu::ThreadClock;
use host::jail::{self, Kind};
use host::sampling::{IsSampled, Sampled};
use vcpu::Spot;

/// A thread whose time is profiled.
#[derive(Clone)]
pub(crate) struct Profiled {
    /// Where it says it is.
    pub(crate) spot: Arc<Spot>,
    /// Whom to ask in translated code.
    pub(crate) sampled: Arc<Sampled>,
    pub(crate) times: Arc<Times>,
}

type Job = Box<dyn FnOnce() + Send>;

/// See the module. Its threads end when it is dropped.
pub(crate) struct Crew {
    hands: Vec<Hand>,
    kind: Kind,
}

/// The kernel's times of a thread.
pub(crate) struct Times {
    /// `schedstat`, where the host shows it.
    schedule: Option<File>,
    clock: ThreadClock,
}

/// Longest line of `schedstat`: three numbers.
const SCHEDULE_BYTES: usize = 64;

impl Times {
    fn of_this_thread() -> Times {
        Times {
            schedule: File::open("/proc/thread-self/schedstat").ok(),
            clock: ThreadClock::of_this_thread(),
        }
    }

    /// CPU time that the thread has used.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.clock.read().unwrap_or_default()
    }

    /// Nanoseconds that it ran, and that it was ready and did not run, where the host shows that.
    pub(crate) fn schedule(&self) -> Option<(u64, u64)> {
        let mut bytes = [0; SCHEDULE_BYTES];
        let len = self.schedule.as_ref()?.read_at(&mut bytes, 0).ok()?;
        let text = std::str::from_utf8(&bytes[..len]).ok()?;
        let mut numbers = text
            .split_ascii_whitespace()
            .map_while(|word| word.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    }
}

struct Hand {
    /// Taken when the thread is to end.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    times: Option<Arc<Times>>,
    /// Where it is, and whom to ask, if its time is profiled.
    profiled: Option<Profiled>,
}

impl Crew {
    /// So many threads, which wait for something to do. When they do a vCPU's work they are what `kind` says. Whether they are
    /// profiled is told by `is_profiled`.
    pub(crate) fn new(count: u32, kind: Kind, is_profiled: bool) -> io::Result<Crew> {
        let hands = (0..count).map(|vcpu_id| Hand::new(vcpu_id, is_profiled));
        let hands = hands.collect::<Result<_, _>>()?;
        Ok(Crew { hands, kind })
    }

    /// The kernel's times of each thread.
    pub(crate) fn times(&self) -> impl Iterator<Item = Option<Arc<Times>>> + '_ {
        self.hands.iter().map(|hand| hand.times.clone())
    }

    /// Has every thread do something, as what it was born as; they have when this comes back.
    pub(crate) fn have_all(&self, act: fn()) {
        let doing: Vec<_> = self.hands.iter().map(|hand| hand.start(act)).collect();
        for done in doing {
            // One that is gone does nothing any more.
            let _ = done.recv();
        }
    }

    /// What each of its threads is profiled by; none if they are not.
    pub(crate) fn profiled(&self) -> Option<Vec<Profiled>> {
        self.hands
            .iter()
            .map(|hand| hand.profiled.clone())
            .collect()
    }

    /// Has the thread of a vCPU do something; what came of it, or its panic, is there when it is done.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        vcpu_id: u32,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> mpsc::Receiver<thread::Result<T>> {
        let kind = self.kind;
        self.hands[vcpu_id as usize].start(move || {
            jail::enter(kind);
            work()
        })
    }
}

impl Hand {
    fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> mpsc::Receiver<thread::Result<T>> {
        let (sender, receiver) = mpsc::channel();
        let job = move || {
            let done = catch_unwind(AssertUnwindSafe(work));
            // Nobody may wait any more for a machine that broke.
            let _ = sender.send(done);
        };
        // A thread of ours only ends when it is told to; otherwise the receiver is told of the loss.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(Box::new(job));
        }
        receiver
    }

    fn new(vcpu_id: u32, is_profiled: bool) -> io::Result<Hand> {
        let (jobs, to_do) = mpsc::channel::<Job>();
        let (ready, is_ready) = mpsc::channel();
        let work = move || {
            // What translated code needs of its thread; a host that refuses it is heard of when there is code.
            let _ = host::fault::use_alternate_stack();
            let times = Arc::new(Times::of_this_thread());
            let profiled = is_profiled.then(|| profile_this_thread(&times)).transpose();
            let (_sampled, profiled) = match profiled {
                Ok(profiled) => profiled.unzip(),
                Err(error) => {
                    // Who waits is told, and this thread has nothing to do.
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            let _ = ready.send(Ok((times, profiled)));
            for job in to_do {
                job();
            }
        };
        let thread = thread::Builder::new()
            .name(format!("vcpu{vcpu_id}"))
            .spawn(work)?;
        let (times, profiled) = is_ready.recv().map_err(io::Error::other)??;
        Ok(Hand {
            jobs: Some(jobs),
            thread: Some(thread),
            times: Some(times),
            profiled,
        })
    }
}

/// Has the calling thread be sampled as long as the first of these is there.
fn profile_this_thread(times: &Arc<Times>) -> io::Result<(IsSampled, Profiled)> {
    let spot = Arc::new(Spot::counting());
    let seen = Arc::clone(&spot);
    let own = Sampled::this_thread(move || seen.words())?;
    let profiled = Profiled {
        spot,
        sampled: own.sampled(),
        times: Arc::clone(times),
    };
    Ok((own, profiled))
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vcpu_keeps_its_thread_and_a_panic_is_told() {
        let crew = Crew::new(2, Kind::Vcpu, false).unwrap();
        let thread_of = |vcpu_id| {
            let thread = || thread::current().id();
            crew.start(vcpu_id, thread).recv().unwrap().unwrap()
        };
        let first = thread_of(0);
        let second = thread_of(1);
        assert_ne!(first, second);
        assert_eq!((thread_of(0), thread_of(1)), (first, second));
        let panicked = crew.start(1, || panic!("on purpose")).recv().unwrap();
        assert!(panicked.is_err());
        assert_eq!(thread_of(1), second);
    }
}
