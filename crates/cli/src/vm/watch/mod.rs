//! `mother watch`: follows a policy for guests that run.
//!
//! ```text
//! each VM: a thread that hears events (Tracer), one that looks every second (Watcher, metrics)
//!                        └──────────> Engine, under one lock ──> journal ──> action ──> journal
//! ```
//!
//! Who hears an event also acts on it, at once: between an event and a paused guest is no queue. The engine decides under a
//! lock, because budgets and causes are common to all; what it decides is written down under the same lock, before it is
//! done, so the journal has decisions in the order in which they were made.

mod act;
mod follows;
pub(super) mod journal;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::{VmName, VmState};
use clap::Args;
use fleet::{Client, ClientError, Inventory, Record};
use host::lock::Lock;
use insight::trace::{Event, EventKind, Reach, Wanted};
use policy::{Decision, Engine, Policy, Seen, Trigger};
use watch::{Listener, Tracer, Watcher};

use super::observe::cache;
use super::orders::time;
use super::words::{find, names};
use crate::answers::Outcome;
use crate::failure::Failure;
use crate::observed::{Guests, Observation};
use crate::read_policy::{policy_of, policy_text, read_policy};
use follows::Follows;
use journal::Journal;

/// How often VMs are looked for, and what is no event.
const EVERY: Duration = Duration::from_secs(1);
/// A VM whose observer failed is tried again so much later.
const AGAIN: Duration = Duration::from_secs(5);

/// `mother watch`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
A policy is a file (docs/policies.md) or a preset: observe, which only writes down;
guarded, which pauses what contradicts itself; locked, which pauses every change of who
may do what, too. Each decision is written to the journal with what was seen, before
anything is done, and then what came of it.

Examples:
  mother watch --policy observe
  mother watch --policy locked web
  mother watch --policy site.toml --dry-run --json
  mother policy show locked > site.toml")]
pub struct WatchArguments {
    /// Which VMs; without a name all that run, those that are started later too
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// A file, or a preset: observe, guarded, locked
    #[arg(long, value_name = "FILE|PRESET")]
    policy: String,
    /// Decide and write down, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Where decisions are kept [default: decisions.jsonl in Mother's state folder]
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// For so long: seconds, or with s, m or h [default: until Ctrl-C]
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    limit: Option<Duration>,
    /// Print decisions and outcomes as JSON: an object on a line
    #[arg(long)]
    json: bool,
}

impl WatchArguments {
    /// The guests that this watches, and what it follows.
    pub fn looks_into(&self) -> Result<Observation, Failure> {
        // Once: who looks and who acts have the same, and what comes through a pipe comes but once.
        let text = policy_text(&self.policy)?;
        let policy = self.as_wished(policy_of(&self.policy, text.as_deref())?);
        Ok(Observation {
            guests: match &self.names[..] {
                [] => Guests::All,
                typed => Guests::Named(names(typed)?),
            },
            output: None,
            follows: Some((Box::new(Follows::new(policy, &self.journal()?)?), text)),
            image: Vec::new(),
            theirs: None,
            screen: None,
        })
    }

    fn as_wished(&self, mut policy: Policy) -> Policy {
        policy.dry_run |= self.dry_run;
        policy
    }

    fn journal(&self) -> Result<PathBuf, Failure> {
        match &self.journal {
            Some(path) => Ok(path.clone()),
            None => journal::place(),
        }
    }
}

/// Follows the policy; the exit status.
pub fn watch(arguments: &WatchArguments) -> Result<u8, Failure> {
    let policy = arguments.as_wished(read_policy(&arguments.policy)?);
    let inventory = Inventory::of_user()?;
    let wished = names(&arguments.names)?;
    for name in &arguments.names {
        find(&inventory, name)?;
    }
    let shared = Arc::new(Shared {
        wanted: Wanted {
            kinds: policy.event_kinds(),
            files: policy.files(),
        },
        looks: policy
            .rules
            .iter()
            .any(|rule| !matches!(rule.trigger, Trigger::Event(_))),
        inside: Lock::new(Inside {
            engine: Engine::new(policy),
            journal: Journal::asked(arguments.journal.as_deref(), arguments.json),
        }),
        is_over: AtomicBool::new(false),
    });
    let end = arguments.limit.map(|limit| Instant::now() + limit);
    let result = follow(&shared, &inventory, &wished, end);
    shared.is_over.store(true, Ordering::Relaxed);
    result.map(|()| 0)
}

/// Has every VM that is meant watched until the time is up.
fn follow(
    shared: &Arc<Shared>,
    inventory: &Inventory,
    wished: &[VmName],
    end: Option<Instant>,
) -> Result<(), Failure> {
    let mut watched: BTreeMap<VmName, Vec<JoinHandle<()>>> = BTreeMap::new();
    let mut had_any = false;
    while end.is_none_or(|end| Instant::now() < end) {
        watched.retain(|_, threads| threads.iter().any(|thread| !thread.is_finished()));
        let vms = inventory.list()?;
        let is_meant = |name: &VmName| wished.is_empty() || wished.contains(name);
        let alive = vms
            .into_iter()
            .filter(|vm| is_meant(&vm.name) && !matches!(vm.state, VmState::Ended | VmState::Died));
        for vm in alive {
            had_any = true;
            let record = inventory.record(&vm.name);
            let is_new = |name: &VmName| begin(shared, name, &record);
            watched.entry(vm.name).or_insert_with_key(is_new);
        }
        if let Some(failure) = shared.lock().journal.take_failure() {
            return Err(failure);
        }
        // Those that were named have ended.
        if !wished.is_empty() && had_any && watched.is_empty() {
            return Ok(());
        }
        let left = end.map_or(EVERY, |end| end.saturating_duration_since(Instant::now()));
        thread::sleep(EVERY.min(left));
    }
    Ok(())
}

/// What all threads share.
struct Shared {
    inside: Lock<Inside>,
    wanted: Wanted,
    /// Whether there is something to look for beside events.
    looks: bool,
    is_over: AtomicBool,
}

struct Inside {
    engine: Engine,
    journal: Journal,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock()
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Decides on what was seen, writes it down, and does it.
    fn see(self: &Arc<Shared>, name: &VmName, at_ns: u64, seen: &Seen<'_>) {
        let decisions = {
            let mut inside = self.lock();
            let decisions = inside.engine.see(name, at_ns, seen);
            for decision in &decisions {
                inside.journal.decided(decision);
            }
            decisions
        };
        for decision in decisions {
            self.act(&decision);
        }
    }

    fn act(self: &Arc<Shared>, decision: &Decision) {
        for (place, action) in decision.then.iter().enumerate() {
            let shared = Arc::clone(self);
            let outcome = Outcome::of(decision, action);
            let tell = move |result: Result<(), String>| {
                shared
                    .lock()
                    .journal
                    .did(&outcome.came_to(now_ns(), result));
            };
            follows::ask(decision, place, action, tell);
        }
    }
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64)
}

/// Threads that watch a VM until it has ended.
fn begin(shared: &Arc<Shared>, name: &VmName, record: &Record) -> Vec<JoinHandle<()>> {
    let mut threads = Vec::new();
    if !shared.wanted.kinds.is_empty() {
        let vm = Vm::new(shared, name, record);
        threads.push(thread::spawn(move || vm.hear()));
    }
    if shared.looks {
        let vm = Vm::new(shared, name, record);
        threads.push(thread::spawn(move || vm.look()));
    }
    threads
}

/// A VM, to one thread.
struct Vm {
    shared: Arc<Shared>,
    name: VmName,
    record: Record,
}

impl Vm {
    fn new(shared: &Arc<Shared>, name: &VmName, record: &Record) -> Vm {
        Vm {
            shared: Arc::clone(shared),
            name: name.clone(),
            record: record.clone(),
        }
    }

    /// Says what is in the way, once, and waits.
    fn complain(&self, error: &ClientError) {
        eprintln!("mother: {}: {error}", self.name);
        thread::sleep(AGAIN);
    }

    fn see(&self, at_ns: u64, seen: &Seen<'_>) {
        self.shared.see(&self.name, at_ns, seen);
    }

    /// Hears its events.
    fn hear(&self) {
        while !self.shared.is_over() {
            let tracer = Tracer::connect(self.record.clone(), cache(), self.shared.wanted.clone());
            match tracer.and_then(|mut tracer| tracer.run(&mut Heard(self))) {
                Ok(()) => return,
                Err(ClientError::Connection(_)) if self.has_ended() => return,
                Err(error) => self.complain(&error),
            }
        }
    }

    /// Whether nobody answers for it any more.
    fn has_ended(&self) -> bool {
        Client::connect(&self.record).is_err()
    }

    /// Looks at it every second: what is said beside what is true, and the host's numbers.
    fn look(&self) {
        while !self.shared.is_over() {
            match self.look_on() {
                Ok(()) => return,
                Err(ClientError::Connection(_)) if self.has_ended() => return,
                // It starts again just now.
                Err(ClientError::Refused { .. }) => thread::sleep(EVERY),
                Err(error) => self.complain(&error),
            }
        }
    }

    fn look_on(&self) -> Result<(), ClientError> {
        let mut watcher = Watcher::connect(self.record.clone(), cache())?.for_long();
        while !self.shared.is_over() {
            let begun = Instant::now();
            let assessment = watcher.assess()?;
            self.see(now_ns(), &Seen::Rows(&assessment.rows));
            let metrics = Client::connect(&self.record)?.metrics()?;
            self.see(now_ns(), &Seen::Facts(&metrics));
            watcher.wait(EVERY.saturating_sub(begun.elapsed()));
        }
        Ok(())
    }
}

/// Hears a VM's events for the engine.
struct Heard<'a>(&'a Vm);

impl Listener for Heard<'_> {
    fn begins(&mut self, _: u64, reaches: &[(EventKind, Reach)]) {
        for line in super::trace::words::reaches(&self.0.name, reaches) {
            eprintln!("mother: {line}");
        }
    }

    fn event(&mut self, event: &Event) -> bool {
        self.0.see(now_ns(), &Seen::Event(event));
        !self.0.shared.is_over()
    }

    fn lost(&mut self, count: u64) {
        eprintln!(
            "mother: {}: {count} passes of the guest's kernel were not heard, and no rule was asked about them",
            self.0.name
        );
    }

    fn quiet(&mut self) -> bool {
        !self.0.shared.is_over()
    }
}
