//! Events of a guest as they come: from passes of its kernel where the VM's engine tells of them, and by looking again and
//! again where it does not.
//!
//! On the silicon the processor stops at four addresses and no more: there the kinds that matter most are told from passes
//! and the others are looked for, at the same time. A guest may take its debug registers for itself, and what was told is
//! then looked for like the rest, until it leaves them again.
//!
//! A tracer lives through resets: each life of the guest has another kernel, in another place, and is met anew. While a guest
//! boots its kernel is not known yet; what happens before is not told.

mod log;
mod sample;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use api::RefusalCode;
use fleet::{ClientError, OneVm, Passes, Record, SomePasses};
use insight::Kernel;
use insight::trace::{Event, EventKind, Plan, Reach, Told, Wanted};
use x86::debug::BREAKPOINTS;

use crate::observer::Observer;
use log::Log;
use sample::Sampler;

/// How long to wait before a guest whose kernel is not known yet is looked at again.
const AGAIN: Duration = Duration::from_millis(100);
/// How often what cannot be told is looked for.
const PERIOD: Duration = Duration::from_millis(250);
/// How often it is asked whether a guest's engine tells more by now.
const MORE: Duration = Duration::from_secs(10);

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
            let engine = Engine::of(&snapshot.books.engine);
            let Ok(kernel) = snapshot.kernel else {
                if !listener.quiet() {
                    return Ok(());
                }
                std::thread::sleep(AGAIN);
                continue;
            };
            let ended = match self.only_looks {
                true => Err(NotHere),
                false => hear(&vm, (kernel, engine), life, &self.wanted, listener)?,
            };
            let ended = match ended {
                Ok(ended) => ended,
                Err(NotHere) => {
                    let mut sampler = Sampler::new(kernel, &self.wanted);
                    listener.begins(life, sampler.reaches());
                    let looking = Looking {
                        life,
                        wanted: (!self.only_looks).then_some(&self.wanted),
                    };
                    looking.tell(&mut self.observer, &mut sampler, listener)?
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

/// At how many addresses an engine tells of passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Engine {
    Any,
    Few,
}

impl Engine {
    fn of(name: &str) -> Engine {
        match name {
            "soft" => Engine::Any,
            _ => Engine::Few,
        }
    }

    fn plan(self, kernel: &Kernel, wanted: &Wanted) -> Plan {
        match self {
            Engine::Any => Plan::new(kernel, wanted),
            Engine::Few => Plan::within(kernel, wanted, BREAKPOINTS),
        }
    }
}

/// Tells of a life whose passes are told, if they are.
fn hear(
    vm: &OneVm,
    (kernel, engine): (&Kernel, Engine),
    life: u64,
    wanted: &Wanted,
    listener: &mut dyn Listener,
) -> Result<Result<Ended, NotHere>, ClientError> {
    let plan = engine.plan(kernel, wanted);
    if plan.reaches().is_empty() {
        return Ok(Err(NotHere));
    }
    let rest = rest(wanted, plan.reaches());
    // Before anything is told: what the log gets from then on is told too.
    let log = Log::new(kernel);
    let code = match vm.again()?.probe(life, plan.points()) {
        Ok(passes) => {
            let sampler = (engine == Engine::Few).then(|| Sampler::new(kernel, &rest));
            let sampled = sampler.as_ref().map_or(&[][..], Sampler::reaches);
            let reaches: Vec<_> = plan.reaches().iter().chain(sampled).cloned().collect();
            listener.begins(life, &in_order(wanted, reaches));
            let mut told = Life { vm, kernel, plan };
            return told.tell(passes, log, sampler, listener).map(Ok);
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

/// What is wanted and not told from passes.
fn rest(wanted: &Wanted, told: &[(EventKind, Reach)]) -> Wanted {
    let is_told = |kind: &EventKind| told.iter().any(|(other, _)| other == kind);
    let mut rest = wanted.clone();
    rest.kinds.retain(|kind| !is_told(kind));
    rest
}

/// As it was asked for.
fn in_order(wanted: &Wanted, mut reaches: Vec<(EventKind, Reach)>) -> Vec<(EventKind, Reach)> {
    reaches.sort_by_key(|(kind, _)| wanted.kinds.iter().position(|other| other == kind));
    reaches
}

/// A life whose passes are told.
struct Life<'a> {
    vm: &'a OneVm,
    kernel: &'a Kernel,
    plan: Plan,
}

impl Life<'_> {
    /// What has no address is looked for by `sampler` meanwhile.
    fn tell(
        &mut self,
        mut passes: Passes,
        mut log: Log,
        mut sampler: Option<Sampler>,
        listener: &mut dyn Listener,
    ) -> Result<Ended, ClientError> {
        let mut looked = Instant::now();
        let mut asked = Instant::now();
        loop {
            let some = match &sampler {
                Some(_) if !passes.comes(PERIOD) => SomePasses::default(),
                _ => passes.wait()?,
            };
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
            if let Some(sampler) = &mut sampler
                && is_due(&mut looked, PERIOD)
                && !sampler.look(self.kernel, listener)
            {
                return Ok(Ended::Listener);
            }
            if sampler.is_some() && is_due(&mut asked, MORE) && self.has_come_to_more()? {
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

    /// Whether the guest is on an engine by now that tells of everything.
    fn has_come_to_more(&self) -> Result<bool, ClientError> {
        let books = self.vm.again()?.books()?;
        Ok(Engine::of(&books.engine) == Engine::Any)
    }
}

/// Whether so long has gone by since; if so it begins anew.
fn is_due(since: &mut Instant, period: Duration) -> bool {
    let is_due = since.elapsed() >= period;
    if is_due {
        *since = Instant::now();
    }
    is_due
}

/// A life that is looked at again and again, as its engine tells nothing.
struct Looking<'a> {
    life: u64,
    /// What might be told from passes one day, if anything may be.
    wanted: Option<&'a Wanted>,
}

impl Looking<'_> {
    fn tell(
        &self,
        observer: &mut Observer,
        sampler: &mut Sampler,
        listener: &mut dyn Listener,
    ) -> Result<Ended, ClientError> {
        let vm = observer.vm().clone();
        let mut asked = Instant::now();
        loop {
            std::thread::sleep(PERIOD);
            let snapshot = match observer.observe() {
                Ok(snapshot) => snapshot,
                Err(ClientError::Refused { .. }) => return Ok(Ended::Life),
                Err(error) => return Err(error),
            };
            let (Ok(kernel), true) = (snapshot.kernel, snapshot.books.life == self.life) else {
                return Ok(Ended::Life);
            };
            let engine = Engine::of(&snapshot.books.engine);
            // A guest that has come to an engine that tells is traced there.
            let is_told = match (self.wanted, engine) {
                (None, _) => false,
                (Some(_), Engine::Any) => true,
                (Some(wanted), Engine::Few) => {
                    is_due(&mut asked, MORE) && self.would_be_told(&vm, kernel, wanted)?
                }
            };
            if is_told {
                return Ok(Ended::Life);
            }
            if !sampler.look(kernel, listener) || !listener.quiet() {
                return Ok(Ended::Listener);
            }
        }
    }

    /// Whether the guest has left its debug registers, or another observer its addresses, so that something is told now.
    fn would_be_told(
        &self,
        vm: &OneVm,
        kernel: &Kernel,
        wanted: &Wanted,
    ) -> Result<bool, ClientError> {
        let points = Engine::Few.plan(kernel, wanted).points();
        if points.is_empty() {
            return Ok(false);
        }
        match vm.again()?.probe(self.life, points) {
            Ok(_) => Ok(true),
            Err(ClientError::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_and_what_is_looked_for_is_all_that_was_wanted_in_its_order() {
        let wanted = Wanted {
            kinds: vec![
                EventKind::Exec,
                EventKind::Exit,
                EventKind::Module,
                EventKind::Log,
            ],
            files: vec!["/etc/shadow".to_owned()],
        };
        let told = vec![
            (EventKind::Exec, Reach::Exact),
            (EventKind::Module, Reach::Exact),
        ];
        let rest = rest(&wanted, &told);
        assert_eq!(rest.kinds, [EventKind::Exit, EventKind::Log]);
        assert_eq!(rest.files, wanted.files);
        let missed = Reach::Sampled {
            missed: "what is short".to_owned(),
        };
        let sampled = rest.kinds.iter().map(|kind| (*kind, missed.clone()));
        let all = in_order(&wanted, told.into_iter().chain(sampled).collect());
        let kinds: Vec<EventKind> = all.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, wanted.kinds);
    }
}
