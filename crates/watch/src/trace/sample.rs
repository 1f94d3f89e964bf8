//! Events of which the guest's engine does not tell: what is there now and was not before.

use std::collections::{HashMap, HashSet};

use insight::tasks::{Process, State};
use insight::trace::{Actor, Ancestor, Event, EventKind, Path, Reach, Wanted, What};
use insight::{Kernel, Look, Observed};

use super::log::{Log, now_ns};
use super::{Listener, PERIOD};

/// What a process is known by: a PID comes again, one that was started at the same moment does not.
type Key = (i32, u64);

/// What was there at the last look.
pub(super) struct Sampler {
    reaches: Vec<(EventKind, Reach)>,
    processes: HashMap<Key, Known>,
    modules: HashSet<u64>,
    log: Log,
}

/// A process, as far as a change of it is an event.
struct Known {
    actor: Actor,
    executable: Option<String>,
}

impl Sampler {
    /// What is there now is not told.
    pub(super) fn new(kernel: &Kernel, wanted: &Wanted) -> Sampler {
        let reach = |kind: EventKind| {
            let missed = match kind {
                EventKind::Exec | EventKind::Exit | EventKind::Fork => {
                    format!("what lives for less than {} ms", PERIOD.as_millis())
                }
                EventKind::Module => {
                    format!("what is loaded for less than {} ms", PERIOD.as_millis())
                }
                EventKind::Log => "what the ring has lost when it is looked at".to_owned(),
                _ => {
                    let why = "it leaves nothing behind that could be looked for";
                    return Reach::NotObservable {
                        why: why.to_owned(),
                    };
                }
            };
            Reach::Sampled { missed }
        };
        let reaches = wanted.kinds.iter().map(|kind| (*kind, reach(*kind)));
        let mut sampler = Sampler {
            reaches: reaches.collect(),
            processes: HashMap::new(),
            modules: HashSet::new(),
            log: Log::new(kernel),
        };
        sampler.look(kernel, &mut Nobody);
        sampler
    }

    /// How far each kind is told.
    pub(super) fn reaches(&self) -> &[(EventKind, Reach)] {
        &self.reaches
    }

    /// Tells what is new. False: no more is wanted.
    pub(super) fn look(&mut self, kernel: &Kernel, to: &mut dyn Listener) -> bool {
        let account = kernel.account();
        let look = kernel.look(&account, &[]);
        let mut events = Vec::new();
        if [EventKind::Exec, EventKind::Exit, EventKind::Fork]
            .into_iter()
            .any(|kind| self.reach(kind).is_some())
        {
            events.extend(self.changed_processes(&look));
        }
        if self.reach(EventKind::Module).is_some() {
            events.extend(self.new_modules(&look));
        }
        let told = events
            .into_iter()
            .all(|(process, what)| match self.reach(what.kind()) {
                Some(reach) => to.event(&Event {
                    at_ns: now_ns(),
                    vcpu: None,
                    reach,
                    process,
                    what,
                }),
                None => true,
            });
        let Some(reach) = self.reach(EventKind::Log) else {
            return told;
        };
        self.log.grew();
        told && self.log.tell(kernel, &reach, to)
    }

    /// How far a kind is told; `None` if it is not wanted.
    fn reach(&self, kind: EventKind) -> Option<Reach> {
        let found = self.reaches.iter().find(|(other, _)| *other == kind);
        found.map(|(_, reach)| reach.clone())
    }

    fn changed_processes(&mut self, look: &Look<'_>) -> Vec<(Option<Actor>, What)> {
        let Observed::Seen { value: mut now, .. } = look.processes() else {
            return Vec::new();
        };
        // One whose parent has not asked how it ended has ended all the same.
        now.retain(|process| !matches!(process.state, State::Zombie | State::Dead));
        let names: HashMap<i32, (String, i32)> = now
            .iter()
            .map(|process| (process.pid, (process.comm.clone(), process.parent_pid)))
            .collect();
        let mut before = std::mem::take(&mut self.processes);
        let mut events = Vec::new();
        for process in &now {
            let actor = actor(process, &names);
            let executable = match &process.executable {
                Observed::Seen { value, .. } => Some(value.clone()),
                Observed::NotObservable { .. } => None,
            };
            let key = (process.pid, process.started_ns);
            let known = before.remove(&key);
            if known.is_none() {
                let what = What::Fork {
                    child_pid: process.pid,
                    is_kernel: process.is_kernel,
                };
                events.push((None, what));
            }
            let is_new = known.is_none_or(|known| known.executable != executable);
            if is_new && let Some(path) = &executable {
                events.push((Some(actor.clone()), exec(process, path)));
            }
            self.processes.insert(key, Known { actor, executable });
        }
        let gone = before.into_values().map(|known| {
            let what = What::Exit {
                status: None,
                signal: None,
                has_core: false,
            };
            (Some(known.actor), what)
        });
        events.extend(gone);
        events
    }

    fn new_modules(&mut self, look: &Look<'_>) -> Vec<(Option<Actor>, What)> {
        let Observed::Seen { value: now, .. } = look.modules() else {
            return Vec::new();
        };
        let before = std::mem::take(&mut self.modules);
        self.modules = now.iter().map(|module| module.address).collect();
        let new = now
            .into_iter()
            .filter(|module| !before.contains(&module.address));
        new.map(|module| {
            let what = What::Module {
                module: module.name,
                parameters: None,
                taints: 0,
            };
            (None, what)
        })
        .collect()
    }
}

fn exec(process: &Process, path: &str) -> What {
    let arguments = match &process.command_line {
        Observed::Seen { value, .. } => value.clone(),
        Observed::NotObservable { .. } => Vec::new(),
    };
    What::Exec {
        executable: Some(Path {
            path: path.to_owned(),
            is_nameless: path.ends_with(" (deleted)"),
        }),
        given: None,
        interpreter: None,
        arguments,
    }
}

fn actor(process: &Process, names: &HashMap<i32, (String, i32)>) -> Actor {
    /// Ancestors that are named.
    const MOST: usize = 16;
    let mut ancestors = Vec::new();
    let mut at = process.parent_pid;
    while let Some((name, parent)) = names.get(&at).filter(|_| ancestors.len() < MOST) {
        ancestors.push(Ancestor {
            pid: at,
            name: name.clone(),
        });
        at = *parent;
    }
    let cgroup = match &process.cgroup {
        Observed::Seen { value, .. } => Some(value.clone()),
        Observed::NotObservable { .. } => None,
    };
    Actor {
        pid: process.pid,
        tid: process.pid,
        name: process.comm.clone(),
        is_kernel: process.is_kernel,
        started_ns: process.started_ns,
        identity: None,
        ancestors,
        cgroup,
        container: process.container.clone(),
    }
}

/// Hears nothing.
struct Nobody;

impl Listener for Nobody {
    fn begins(&mut self, _: u64, _: &[(EventKind, Reach)]) {}

    fn event(&mut self, _: &Event) -> bool {
        true
    }

    fn lost(&mut self, _: u64) {}

    fn quiet(&mut self) -> bool {
        true
    }
}
