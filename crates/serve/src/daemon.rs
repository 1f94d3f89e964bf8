//! The daemon itself: what it knows, what it keeps, and the loop in which it looks and takes steps.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{EndKind, VmSpec};
use fleet::Inventory;
use host::lock::Lock;
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::doors::Doors;
use crate::error::ServeError;
use crate::events::{Events, event};
use crate::fetch::{Source, fetch};
use crate::keeper::{Step, decide};
use crate::media::{Folder, next_spec};
use crate::options::Options;
use crate::orders::{Orders, Words, perform, problem};
use crate::sight::{Sight, insight};
use crate::store::{Store, StoreError};
use crate::subscribers::Subscribers;
use crate::words::{
    BootOverride, Declaration, Declared, Desired, Event, Medium, Operation, Problem, Severity,
};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Starts at the same time; the order of declarations holds between them.
const STARTS_MAX: usize = 4;
/// Before an observer that has ended is started again.
const OBSERVER_PAUSE: Duration = Duration::from_secs(2);
/// Between two times that memory which is not needed any more is given back.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(20);
/// Media that are fetched at the same time.
const FETCHES_MAX: usize = 8;
/// How long a guest may take to power off.
pub(crate) const GRACE_SECONDS: u64 = 30;

/// Everything there is.
pub(crate) struct Daemon {
    pub(crate) options: Options,
    pub(crate) store: Store,
    pub(crate) events: Events,
    pub(crate) sight: Sight,
    pub(crate) orders: Orders,
    pub(crate) inventory: Inventory,
    pub(crate) doors: Doors,
    pub(crate) subscribers: Subscribers,
    /// What lies in drives.
    pub(crate) media: Folder,
    /// For whose drives something is being fetched, and by which operation. Taken after `declaring`.
    fetching: Lock<BTreeMap<String, u64>>,
    /// One change of declarations at a time: what is compared with a version is still so when it is kept.
    declaring: Lock<()>,
    /// Somebody wants the next look now.
    poke: Notify,
}

/// What came of a change to a declaration.
pub(crate) enum Changed {
    /// It is so now.
    To(Box<Declared>),
    /// Somebody else was faster: this is the version now, 0 for none.
    Not(u64),
}

impl Daemon {
    pub(crate) fn new(options: Options) -> Result<Daemon, ServeError> {
        let store = Store::open(&options.state)?;
        let mut declared = store.declared()?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        if store.is_new_boot(boot.trim())? {
            let wanted = declared.iter_mut().filter(|one| one.what.boot);
            let changes: Vec<_> = wanted
                .map(|one| {
                    one.what.desired = Desired::Running;
                    one.wanted += 1;
                    (one.what.name.to_string(), Some(one.clone()))
                })
                .collect();
            store.declare(&changes)?;
        }
        let doors = Doors::new(store.tokens()?);
        let unkept = |source| ServeError::Host("read or write who subscribes to events", source);
        let subscribers = Subscribers::new(&options.state).map_err(unkept)?;
        let unkept = |source| ServeError::Host("use its folder of media", source);
        let media = Folder::open(&options.state, &declared).map_err(unkept)?;
        Ok(Daemon {
            inventory: Inventory::of_user()?,
            sight: Sight::new(declared),
            events: Events::new(),
            orders: Orders::new(),
            doors,
            subscribers,
            media,
            fetching: Lock::new(BTreeMap::new()),
            declaring: Lock::new(()),
            poke: Notify::new(),
            store,
            options,
        })
    }

    /// Looks, and takes steps, for ever.
    pub(crate) async fn tend(self: Arc<Self>) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut gave_back = Instant::now();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.poke.notified() => {}
            }
            let daemon = Arc::clone(&self);
            let looked = spawn_blocking(move || daemon.look()).await;
            if let Err(error) = looked {
                tracing::error!("a look at the host ended: {error}");
            }
            self.take_steps();
            // What many starts at the same time have taken.
            if gave_back.elapsed() >= GIVE_BACK_EVERY {
                gave_back = Instant::now();
                let _ = spawn_blocking(host::heap::give_back).await;
            }
        }
    }

    /// Has the next look come now.
    pub(crate) fn poke(&self) {
        self.poke.notify_one();
    }

    fn look(&self) {
        match self.inventory.list() {
            Ok(found) => {
                let events = self.sight.renew(found);
                self.tell(events);
            }
            Err(error) => tracing::warn!("cannot list VMs: {error}"),
        }
        if let Err(error) = self.doors.flush(&self.store) {
            tracing::error!("the audit log: {error}");
        }
    }

    /// Keeps events and tells them; that the disk is full must not stop VMs from being tended.
    pub(crate) fn tell(&self, events: Vec<Event>) {
        if let Err(error) = self.events.add(&self.store, events) {
            tracing::error!("events are lost: {error}");
        }
    }

    fn take_steps(self: &Arc<Self>) {
        let mut starting = 0;
        let mut order = None;
        for declared in self.sight.all_declared() {
            let name = declared.what.name.as_str();
            let Some(situation) = self.sight.situation(name) else {
                continue;
            };
            if self.orders.is_busy(name) {
                starting += 1;
                order.get_or_insert(declared.what.order);
                continue;
            }
            match decide(&situation) {
                Step::Rest | Step::StartIn(_) => {}
                Step::NoteServed => {
                    let daemon = Arc::clone(self);
                    let declared = declared.clone();
                    spawn_blocking(move || daemon.note_served(&declared));
                }
                Step::Stop => {
                    let stop = Words::new(["stop", "--json", name]);
                    self.begin("stop", &declared, vec![stop]);
                }
                // Those of a later order wait for those of an earlier one.
                Step::Start if order.is_some_and(|first| first < declared.what.order) => {}
                Step::Start if starting < STARTS_MAX => {
                    starting += 1;
                    order.get_or_insert(declared.what.order);
                    self.begin("start", &declared, vec![Words::start(name)]);
                }
                Step::Start => {}
            }
        }
    }

    /// Begins what serves the wish of a declared VM; the operation.
    pub(crate) fn begin(
        self: &Arc<Self>,
        what: &'static str,
        declared: &Declared,
        commands: Vec<Words>,
    ) -> Operation {
        let name = declared.what.name.to_string();
        self.sight.note_try(&name);
        let declared = declared.clone();
        self.work(
            what,
            Some(&name),
            move |daemon, outcome| {
                let name = declared.what.name.as_str();
                match outcome {
                    Ok(()) => {
                        daemon.note_served(&declared);
                        daemon.sight.note_outcome(name, None);
                    }
                    Err(error) => {
                        let text = format!("cannot {what} it: {}", whole(error));
                        daemon.sight.note_outcome(name, Some(text.clone()));
                        daemon.tell(vec![event(name, "trouble", Severity::Warning, text)]);
                    }
                }
            },
            commands,
        )
    }

    /// Runs commands one after the other as one operation; `then` hears what came of it.
    pub(crate) fn work(
        self: &Arc<Self>,
        what: &str,
        vm: Option<&str>,
        then: impl FnOnce(&Arc<Daemon>, &Result<(), Problem>) + Send + 'static,
        commands: Vec<Words>,
    ) -> Operation {
        let (id, cancelled) = self.orders.begin(what, vm);
        let daemon = Arc::clone(self);
        let vm = vm.map(str::to_owned);
        tokio::spawn(async move {
            let mut outcome = Ok(());
            let mut was_ended = false;
            for words in commands {
                let words = match Arc::clone(&daemon).turn_of(words).await {
                    Ok(words) => words,
                    Err(error) => {
                        outcome = Err(error);
                        break;
                    }
                };
                let noted = |line: &str| daemon.orders.note(id, line);
                outcome = perform(&words, noted, Some(cancelled.clone()))
                    .await
                    .map(drop);
                if outcome.is_err() {
                    break;
                }
                if let Some(vm) = words.is_graceful.then_some(&vm).and_then(Option::as_ref) {
                    let looked = Arc::clone(&daemon);
                    let vm = vm.clone();
                    let seen = spawn_blocking(move || looked.had_to_end(&vm)).await;
                    was_ended = seen.unwrap_or(false);
                }
            }
            let told = Arc::clone(&daemon);
            let noted = outcome.clone();
            let done = spawn_blocking(move || then(&told, &noted)).await;
            // What is there now is known before the operation is done.
            let looked = Arc::clone(&daemon);
            let seen = spawn_blocking(move || looked.look()).await;
            let mut outcome = done.and(seen).map_err(broken).and(outcome);
            if outcome.is_ok() && was_ended {
                let text =
                    format!("the guest did not power off in {GRACE_SECONDS} s, and was ended");
                outcome = Err(problem("ignored", text));
            }
            daemon.orders.end(id, &outcome);
            daemon.poke();
        });
        self.orders
            .operation(id)
            .expect("an operation that runs is remembered")
    }

    /// Whether a guest that was asked to power off did not, and was ended.
    fn had_to_end(&self, vm: &str) -> bool {
        self.look();
        let end = self.sight.one(vm).and_then(|vm| vm.end);
        end.is_some_and(|end| end.kind == EndKind::Stopped)
    }

    /// The wish of this declaration was served.
    fn note_served(&self, declared: &Declared) {
        let _one = self.declaring.lock();
        let name = declared.what.name.as_str();
        let Some(mut now) = self.sight.declared(name) else {
            return;
        };
        if now.served < declared.wanted {
            now.served = declared.wanted;
            match self.store.declare(&[(name.to_owned(), Some(now.clone()))]) {
                Ok(()) => self.sight.declare(name, Some(now)),
                // It is served again after a new start of the daemon, which finds it done.
                Err(error) => tracing::error!("{name}: {error}"),
            }
        }
    }

    /// Declares a VM, or changes its declaration: `expected` is the version that it must have, 0 for none at all.
    pub(crate) fn declare(
        &self,
        what: Declaration,
        expected: Option<u64>,
    ) -> Result<Changed, StoreError> {
        let _one = self.declaring.lock();
        let name = what.name.to_string();
        let old = self.sight.declared(&name);
        let version = old.as_ref().map_or(0, |old| old.version);
        if expected.is_some_and(|expected| expected != version) {
            return Ok(Changed::Not(version));
        }
        self.keep(vec![what], &[])?;
        let declared = self.sight.declared(&name);
        Ok(declared.map_or(Changed::Not(0), |declared| Changed::To(Box::new(declared))))
    }

    /// Declares these and forgets those, all of it or nothing.
    pub(crate) fn declare_all(
        &self,
        wanted: Vec<Declaration>,
        surplus: &[String],
    ) -> Result<(), StoreError> {
        let _one = self.declaring.lock();
        self.keep(wanted, surplus)
    }

    /// The same while nothing else is declared.
    fn keep(&self, wanted: Vec<Declaration>, surplus: &[String]) -> Result<(), StoreError> {
        let mut changes = Vec::new();
        let mut events = Vec::new();
        for what in wanted {
            let name = what.name.to_string();
            let old = self.sight.declared(&name);
            let is_wish = old
                .as_ref()
                .is_none_or(|old| old.what.desired != what.desired)
                && (what.desired == Desired::Running || old.is_some());
            let (version, wanted, served) = old
                .as_ref()
                .map_or((0, 0, 0), |old| (old.version, old.wanted, old.served));
            let declared = Declared {
                what,
                version: version + 1,
                wanted: wanted + u64::from(is_wish),
                served,
                medium: old.as_ref().and_then(|old| old.medium.clone()),
                boot: old.as_ref().map(|old| old.boot).unwrap_or_default(),
            };
            let (kind, text) = if old.is_none() {
                ("declared", "the VM is declared".to_owned())
            } else {
                (
                    "changed",
                    format!("its declaration has version {}", declared.version),
                )
            };
            events.push(event(&name, kind, Severity::Info, text));
            changes.push((name, Some(declared)));
        }
        for name in surplus {
            let text = "it is declared no more".to_owned();
            events.push(event(name, "deleted", Severity::Info, text));
            changes.push((name.clone(), None));
        }
        self.store.declare(&changes)?;
        for (name, declared) in changes {
            let forgotten = match declared {
                None => self.sight.declared(&name),
                Some(_) => None,
            };
            self.sight.declare(&name, declared);
            if let Some(forgotten) = forgotten {
                self.empty_drive(&name, &forgotten);
            }
        }
        self.tell(events);
        self.poke();
        Ok(())
    }

    /// Has a declared VM run or not, whatever it was before; none if it is not declared.
    pub(crate) fn wish(
        &self,
        name: &str,
        desired: Desired,
    ) -> Result<Option<Declared>, StoreError> {
        let _one = self.declaring.lock();
        let Some(mut declared) = self.sight.declared(name) else {
            return Ok(None);
        };
        if declared.what.desired != desired {
            declared.version += 1;
        }
        declared.what.desired = desired;
        declared.wanted += 1;
        self.store
            .declare(&[(name.to_owned(), Some(declared.clone()))])?;
        self.sight.declare(name, Some(declared.clone()));
        Ok(Some(declared))
    }

    /// Forgets a declaration, if it has this version.
    pub(crate) fn forget(&self, name: &str, expected: Option<u64>) -> Result<Changed, StoreError> {
        let _one = self.declaring.lock();
        let Some(declared) = self.sight.declared(name) else {
            return Ok(Changed::Not(0));
        };
        if expected.is_some_and(|expected| expected != declared.version) {
            return Ok(Changed::Not(declared.version));
        }
        self.store.declare(&[(name.to_owned(), None)])?;
        self.sight.declare(name, None);
        self.empty_drive(name, &declared);
        let text = "it is declared no more".to_owned();
        self.tell(vec![event(name, "deleted", Severity::Info, text)]);
        Ok(Changed::To(Box::new(declared)))
    }

    /// A command as it is when its turn comes.
    async fn turn_of(self: Arc<Self>, words: Words) -> Result<Words, Problem> {
        let Some(name) = words.starts.clone() else {
            return Ok(words);
        };
        let told = spawn_blocking(move || self.begin_start(&name)).await;
        told.map_err(broken)?.map_err(|problem| *problem)
    }

    /// The command that starts a declared VM now. What holds for one start is used up by it, which is kept before there is
    /// a start: it never holds twice.
    fn begin_start(&self, name: &str) -> Result<Words, Box<Problem>> {
        let _one = self.declaring.lock();
        let Some(mut declared) = self.sight.declared(name) else {
            return Err(problem("refused", "it is declared no more").into());
        };
        let spec = next_spec(&declared, &self.media)?;
        let words = start_words(&declared.what, &spec);
        let left = declared.boot.used();
        if left != declared.boot {
            declared.boot = left;
            self.keep_one(name, declared).map_err(unkept)?;
        }
        Ok(words)
    }

    /// Keeps what has changed of a declared VM besides its declaration.
    fn keep_one(&self, name: &str, declared: Declared) -> Result<(), StoreError> {
        self.store
            .declare(&[(name.to_owned(), Some(declared.clone()))])?;
        self.sight.declare(name, Some(declared));
        Ok(())
    }

    /// From where a declared VM starts from now on; `change` says it of what holds now. None if it is not declared.
    pub(crate) fn override_boot(
        &self,
        name: &str,
        change: impl FnOnce(BootOverride) -> BootOverride,
    ) -> Result<Option<BootOverride>, StoreError> {
        let _one = self.declaring.lock();
        let Some(mut declared) = self.sight.declared(name) else {
            return Ok(None);
        };
        declared.boot = change(declared.boot);
        let boot = declared.boot;
        self.keep_one(name, declared)?;
        Ok(Some(boot))
    }

    /// Puts a medium into the drive of a declared VM, which has it from its next start on; what is not put in is gone. What the
    /// operation `fetch` brought is for the VM that was declared when it began, not for a later one of that name.
    pub(crate) fn insert(
        &self,
        name: &str,
        medium: Medium,
        fetch: Option<u64>,
    ) -> Result<(), Box<Problem>> {
        let _one = self.declaring.lock();
        let is_for_another =
            fetch.is_some_and(|id| self.fetching.lock().get(name).copied() != Some(id));
        let inserted = match self.sight.declared(name) {
            None => Err(problem("refused", "it is declared no more").into()),
            Some(_) if is_for_another => Err(problem("refused", "it is declared no more").into()),
            Some(declared) if declared.medium.is_some() => {
                Err(problem("refused", "something lies in its drive already").into())
            }
            Some(mut declared) => {
                declared.medium = Some(medium.clone());
                self.keep_one(name, declared)
                    .map_err(|error| unkept(error).into())
            }
        };
        match &inserted {
            Ok(()) => {
                let text = format!("{} bytes lie in its drive", medium.len_bytes);
                self.tell(vec![event(name, "inserted", Severity::Info, text)]);
            }
            Err(_) => self.media.remove(&medium),
        }
        inserted
    }

    /// Takes the medium out of the drive of a declared VM; whether there was one. A guest that has it keeps it until it ends.
    pub(crate) fn eject(&self, name: &str) -> Result<bool, StoreError> {
        let _one = self.declaring.lock();
        let Some(mut declared) = self.sight.declared(name) else {
            return Ok(false);
        };
        let Some(medium) = declared.medium.take() else {
            return Ok(false);
        };
        self.keep_one(name, declared)?;
        self.media.remove(&medium);
        let text = "nothing lies in its drive".to_owned();
        self.tell(vec![event(name, "ejected", Severity::Info, text)]);
        Ok(true)
    }

    /// What lay in the drive of a VM that is declared no more goes, and what is on the way into it is not waited for: the next VM
    /// of that name is another.
    fn empty_drive(&self, name: &str, forgotten: &Declared) {
        if let Some(medium) = &forgotten.medium {
            self.media.remove(medium);
        }
        if let Some(id) = self.fetching.lock().remove(name) {
            self.orders.cancel(id);
        }
    }

    /// Begins to fetch a medium for the drive of a declared VM; the operation, or why there is none. May wait for the disk.
    pub(crate) fn begin_fetch(
        self: &Arc<Self>,
        name: &str,
        source: Source,
    ) -> Result<Operation, &'static str> {
        let _one = self.declaring.lock();
        if self.sight.declared(name).is_none() {
            return Err("it is declared no more");
        }
        // It is no order to the VM, which may be started meanwhile.
        let (id, cancelled) = {
            let mut fetching = self.fetching.lock();
            if fetching.contains_key(name) {
                return Err("a medium for this drive is being fetched");
            }
            if fetching.len() >= FETCHES_MAX {
                return Err("as many media as may be are being fetched for others");
            }
            let begun = self.orders.begin(&format!("insert medium {name}"), None);
            fetching.insert(name.to_owned(), begun.0);
            begun
        };
        let daemon = Arc::clone(self);
        let name = name.to_owned();
        tokio::spawn(async move {
            let outcome = daemon.fetch_for(&name, &source, (id, cancelled)).await;
            let mut fetching = daemon.fetching.lock();
            if fetching.get(&name) == Some(&id) {
                fetching.remove(&name);
            }
            drop(fetching);
            daemon.orders.end(id, &outcome);
        });
        self.orders
            .operation(id)
            .ok_or("too much is being done at once")
    }

    async fn fetch_for(
        self: &Arc<Self>,
        name: &str,
        source: &Source,
        (id, mut cancelled): (u64, watch::Receiver<bool>),
    ) -> Result<(), Problem> {
        let note = |text: String| self.orders.note(id, &text);
        let medium = tokio::select! {
            fetched = fetch(source, &self.media, note) => fetched?,
            _ = cancelled.wait_for(|is| *is) => return Err(problem("cancelled", "it was cancelled")),
        };
        let daemon = Arc::clone(self);
        let name = name.to_owned();
        spawn_blocking(move || daemon.insert(&name, medium, Some(id)))
            .await
            .map_err(broken)?
            .map_err(|problem| *problem)
    }

    /// Has an observer look at all guests, again and again, in a process of its own.
    pub(crate) async fn observe(self: Arc<Self>) {
        loop {
            let words = ["truth", "--watch", "--json"];
            let read = |daemon: &Arc<Daemon>, line: &str| {
                let (name, insight) = insight(line)?;
                daemon.sight.observed(name.as_str(), insight)
            };
            self.read_from(&words, read).await;
            sleep(OBSERVER_PAUSE).await;
        }
    }

    /// Follows a policy for all guests, in a process of its own.
    pub(crate) async fn follow_policy(self: Arc<Self>, policy: String) {
        loop {
            let words = ["watch", "--policy", &policy, "--json"];
            self.read_from(&words, |_, line| decision(line)).await;
            sleep(OBSERVER_PAUSE).await;
        }
    }

    async fn read_from(
        self: &Arc<Self>,
        words: &[&str],
        read: impl Fn(&Arc<Daemon>, &str) -> Option<Event>,
    ) {
        let child = Command::new("/proc/self/exe")
            .args(words)
            .current_dir(Path::new("/"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .env(crate::options::BY_DAEMON, "1")
            .kill_on_drop(true)
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                tracing::error!("cannot start an observer: {error}");
                return;
            }
        };
        let Some(said) = child.stdout.take() else {
            return;
        };
        let mut lines = BufReader::new(said).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(event) = read(self, &line) {
                let daemon = Arc::clone(self);
                let _ = spawn_blocking(move || daemon.tell(vec![event])).await;
            }
        }
        let _ = child.wait().await;
    }
}

/// What `mother watch --json` says of a decision and of what came of it, as an event.
fn decision(line: &str) -> Option<Event> {
    let value: Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let vm = value["vm"].as_str()?;
    let rule = value["rule"].as_str()?;
    let said = match (value["action"].as_str(), value["done"].as_bool()) {
        (Some(action), Some(true)) => format!("rule {rule}: {action} is done"),
        (Some(action), _) => format!("rule {rule}: {action} is not done: {}", text("why")),
        _ => format!("rule {rule} holds: {}", value["evidence"]),
    };
    Some(event(vm, "policy", Severity::Warning, said))
}

/// The command that starts a declared VM, whose description is `spec` this time.
fn start_words(what: &Declaration, spec: &VmSpec) -> Words {
    let mut spec: Map<String, Value> = spec.said();
    spec.insert("name".to_owned(), Value::from(what.name.as_str()));
    Words {
        words: ["run", "--detach", "--json"].map(str::to_owned).to_vec(),
        spec: Some(Value::Object(spec)),
        folder: Some(what.folder.clone()),
        ..Words::default()
    }
}

/// A problem in one line.
pub(crate) fn whole(problem: &Problem) -> String {
    let complaints = problem
        .complaints
        .iter()
        .map(|complaint| format!("{}: {}", complaint.field, complaint.what));
    let parts: Vec<String> = [problem.message.clone()]
        .into_iter()
        .chain(problem.causes.iter().cloned())
        .chain(complaints)
        .collect();
    parts.join(": ")
}

fn unkept(error: StoreError) -> Problem {
    problem("internal", whole_of(&error))
}

/// An error with its causes, in one line.
fn whole_of(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let all = [error.to_string()]
        .into_iter()
        .chain(causes.map(ToString::to_string));
    all.collect::<Vec<_>>().join(": ")
}

fn broken(error: JoinError) -> Problem {
    problem("internal", error.to_string())
}
