//! Events of a guest as they come: from passes of its kernel where the VM's engine tells of them, and by looking again and
//! again where it does not.
//!
//! A tracer lives through resets: each life of the guest has another kernel, in another place, and is met anew. While a guest
//! boots its kernel is not known yet; what happens before is not told.

mod log;
mod sample;

use std::path::PathBuf;
use std::time::Duration;

use api::RefusalCode;
use fleet::{ClientError, OneVm, Passes, Record};
use insight::Kernel;
use insight::trace::{Event, EventKind, Plan, Reach, Told, Wanted};

use crate::observer::Observer;
use log::Log;
use sample::Sampler;

/// How long to wait before a guest whose kernel is not known yet is looked at again.
const AGAIN: Duration = Duration::from_millis(100);
/// How often what cannot be told is looked for.
const PERIOD: Duration = Duration::from_millis(250);

/// Hears of a guest's events.
pub trait Listener {
    /// From now on events of these kinds are told, as far as that.
    fn begins(&mut self, life: u64, reaches: &[(EventKind, Reach)]);
    /// Something happened. False: no more is wanted.
    fn event(&mut self, event: &Event) -> bool;
    /// So many passes of the kernel were not told, because they came faster than they were heard.
    fn lost(&mut self, count: u64);
    /// Nothing has happened for a while. False: no more is wanted.
    fn quiet(&mut self) -> bool;
}

/// Traces one VM.
pub struct Tracer {
    observer: Observer,
    wanted: Wanted,
    /// Nothing of the guest's is to be told as it passes.
    only_looks: bool,
}

/// How one life's events ended.
enum Ended {
    /// Nobody wants more.
    Listener,
    /// The life is over, the kernel is another one, or the engine changed.
    Life,
}

impl Tracer {
    /// Connects to the VM of `record`; what is learned about kernels is kept in `cache`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(
        record: Record,
        cache: Option<PathBuf>,
        wanted: Wanted,
    ) -> Result<Tracer, ClientError> {
        Ok(Tracer {
            observer: Observer::connect(record, cache)?,
            wanted,
            only_looks: false,
        })
    }

    /// Looks again and again also where every pass could be told: a guest pays nothing for that.
    pub fn only_looking(mut self) -> Tracer {
        self.only_looks = true;
        self
    }

    /// Tells `listener` of events until it wants no more.
    ///
    /// # Errors
    /// [`ClientError`]: the VM has ended, or its process does not answer.
    pub fn run(&mut self, listener: &mut dyn Listener) -> Result<(), ClientError> {
        let vm = self.observer.vm().clone();
        loop {
            let snapshot = match self.observer.observe() {
                Ok(snapshot) => snapshot,
                // It starts again just now.
                Err(ClientError::Refused { .. }) if listener.quiet() => {
                    std::thread::sleep(AGAIN);
                    continue;
                }
                Err(ClientError::Refused { .. }) => return Ok(()),
                Err(error) => return Err(error),
            };
            let life = snapshot.books.life;
            let Ok(kernel) = snapshot.kernel else {
                if !listener.quiet() {
                    return Ok(());
                }
                std::thread::sleep(AGAIN);
                continue;
            };
            let ended = match self.only_looks {
                true => Err(NotHere),
                false => hear(&vm, kernel, life, &self.wanted, listener)?,
            };
            let ended = match ended {
                Ok(ended) => ended,
                Err(NotHere) => {
                    let mut sampler = Sampler::new(kernel, &self.wanted);
                    listener.begins(life, sampler.reaches());
                    let only_looks = self.only_looks;
                    sample(&mut self.observer, life, only_looks, &mut sampler, listener)?
                }
            };
            match ended {
                Ended::Listener => return Ok(()),
                Ended::Life => std::thread::sleep(AGAIN),
            }
        }
    }
}

/// The guest's engine does not tell.
struct NotHere;

/// Tells of a life whose passes are told, if they are.
fn hear(
    vm: &OneVm,
    kernel: &Kernel,
    life: u64,
    wanted: &Wanted,
    listener: &mut dyn Listener,
) -> Result<Result<Ended, NotHere>, ClientError> {
    let plan = Plan::new(kernel, wanted);
    // Before anything is told: what the log gets from then on is told too.
    let log = Log::new(kernel);
    let code = match vm.again()?.probe(life, plan.points()) {
        Ok(passes) => {
            listener.begins(life, plan.reaches());
            return Life { kernel, plan }.tell(passes, log, listener).map(Ok);
        }
        Err(ClientError::Refused { code, message }) => (code, message),
        Err(error) => return Err(error),
    };
    match code {
        (RefusalCode::NotHere, _) => Ok(Err(NotHere)),
        // It started again just now, or its vCPUs wait for their pages.
        (RefusalCode::WrongState | RefusalCode::TimedOut, _) => Ok(Ok(match listener.quiet() {
            true => Ended::Life,
            false => Ended::Listener,
        })),
        (code, message) => Err(ClientError::Refused { code, message }),
    }
}

/// A life whose passes are told.
struct Life<'a> {
    kernel: &'a Kernel,
    plan: Plan,
}

impl Life<'_> {
    fn tell(
        &self,
        mut passes: Passes,
        mut log: Log,
        listener: &mut dyn Listener,
    ) -> Result<Ended, ClientError> {
        loop {
            let some = passes.wait()?;
            if some.lost > 0 {
                listener.lost(some.lost);
            }
            for hit in &some.hits {
                let goes_on = match self.plan.event(self.kernel, hit) {
                    Told::Event(event) => listener.event(&event),
                    Told::LogGrew => {
                        log.grew();
                        true
                    }
                    Told::Nothing => true,
                };
                if !goes_on {
                    return Ok(Ended::Listener);
                }
            }
            if !log.tell(self.kernel, &Reach::Exact, listener) {
                return Ok(Ended::Listener);
            }
            if some.is_over {
                return Ok(Ended::Life);
            }
            if some.hits.is_empty() && !listener.quiet() {
                return Ok(Ended::Listener);
            }
            if some.hits.is_empty() && !self.kernel.is_still_there() {
                return Ok(Ended::Life);
            }
        }
    }
}

/// Looks again and again at a guest whose engine tells nothing.
fn sample(
    observer: &mut Observer,
    life: u64,
    only_looks: bool,
    sampler: &mut Sampler,
    listener: &mut dyn Listener,
) -> Result<Ended, ClientError> {
    loop {
        std::thread::sleep(PERIOD);
        let snapshot = match observer.observe() {
            Ok(snapshot) => snapshot,
            Err(ClientError::Refused { .. }) => return Ok(Ended::Life),
            Err(error) => return Err(error),
        };
        let (Ok(kernel), true) = (snapshot.kernel, snapshot.books.life == life) else {
            return Ok(Ended::Life);
        };
        // A guest that has come to an engine that tells is traced there.
        if snapshot.books.engine == "soft" && !only_looks {
            return Ok(Ended::Life);
        }
        if !sampler.look(kernel, listener) || !listener.quiet() {
            return Ok(Ended::Listener);
        }
    }
}
