//! Asks every VM once a second, each on a thread of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use api::{VmName, VmState};
use fleet::{ClientError, Inventory};
use host::lock::Lock;
use insight::Observed;
use insight::tasks::Process;
use watch::{Assessment, Watcher};

use super::super::everybody::host_memory_bytes;

/// Between two looks at one VM, and at the list of VMs.
const EVERY: Duration = Duration::from_secs(1);

/// What a thread found out about its VM.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) at: Instant,
    pub(super) state: VmState,
    /// What is known; none if it does not answer, with the reason.
    pub(super) assessment: Result<Box<Assessment>, String>,
    /// Its processes, if they were asked for.
    pub(super) processes: Option<Result<Vec<Process>, String>>,
}

/// What is known of all VMs.
#[derive(Clone, Default)]
pub(super) struct News(Arc<Lock<Shared>>);

#[derive(Default)]
struct Shared {
    found: BTreeMap<VmName, Found>,
    wanted: Option<VmName>,
    trouble: Option<String>,
    host_bytes: u64,
}

/// Everything that was found since last asked.
pub(super) struct Taken {
    pub(super) found: BTreeMap<VmName, Found>,
    pub(super) trouble: Option<String>,
    /// All memory of the host; 0 if that is not known.
    pub(super) host_bytes: u64,
}

impl News {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock()
    }

    /// What is known now.
    pub(super) fn take(&self) -> Taken {
        let shared = self.lock();
        Taken {
            found: shared.found.clone(),
            trouble: shared.trouble.clone(),
            host_bytes: shared.host_bytes,
        }
    }

    /// Whose processes are wanted.
    pub(super) fn ask_for(&self, name: Option<&VmName>) {
        self.lock().wanted = name.cloned();
    }
}

/// Starts to gather; threads end with the process.
pub(super) fn start(inventory: Inventory, cache: Option<PathBuf>) -> News {
    let news = News::default();
    let gathered = news.clone();
    // Without a thread there is no news, which the screen shows as no guests.
    let _ = thread::Builder::new()
        .name("guests".to_owned())
        .spawn(move || list(&inventory, cache.as_ref(), &gathered));
    news
}

/// Watches which VMs there are, and starts a thread for each new one.
fn list(inventory: &Inventory, cache: Option<&PathBuf>, news: &News) {
    loop {
        let host_bytes = host_memory_bytes();
        news.lock().host_bytes = host_bytes;
        match inventory.list() {
            Ok(vms) => {
                let alive = vms
                    .into_iter()
                    .filter(|vm| !matches!(vm.state, VmState::Ended | VmState::Died));
                let alive: BTreeMap<VmName, VmState> =
                    alive.map(|vm| (vm.name, vm.state)).collect();
                let mut shared = news.lock();
                shared.trouble = None;
                shared.found.retain(|name, _| alive.contains_key(name));
                for (name, state) in alive {
                    let unknown = || Found {
                        at: Instant::now(),
                        state,
                        assessment: Err("not looked at yet".to_owned()),
                        processes: None,
                    };
                    let is_new = !shared.found.contains_key(&name);
                    shared
                        .found
                        .entry(name.clone())
                        .or_insert_with(unknown)
                        .state = state;
                    if is_new {
                        let inventory = inventory.clone();
                        let cache = cache.cloned();
                        let news = news.clone();
                        let watch = move || watch(&inventory, &name, cache, &news);
                        let _ = thread::Builder::new().name("guest".to_owned()).spawn(watch);
                    }
                }
            }
            Err(error) => news.lock().trouble = Some(error.to_string()),
        }
        thread::sleep(EVERY);
    }
}

/// Watches one VM until it is gone from the list.
fn watch(inventory: &Inventory, name: &VmName, cache: Option<PathBuf>, news: &News) {
    let mut watcher = None;
    loop {
        let start = Instant::now();
        let wants_processes = news.lock().wanted.as_ref() == Some(name);
        let (assessment, processes) = look(
            &mut watcher,
            inventory,
            name,
            cache.clone(),
            wants_processes,
        );
        match news.lock().found.get_mut(name) {
            Some(found) => {
                (found.at, found.assessment, found.processes) =
                    (Instant::now(), assessment, processes);
            }
            None => return,
        }
        thread::sleep(EVERY.saturating_sub(start.elapsed()));
    }
}

type Seen = (
    Result<Box<Assessment>, String>,
    Option<Result<Vec<Process>, String>>,
);

fn look(
    watcher: &mut Option<Watcher>,
    inventory: &Inventory,
    name: &VmName,
    cache: Option<PathBuf>,
    wants_processes: bool,
) -> Seen {
    let mut connected = match watcher.take() {
        Some(watcher) => watcher,
        None => match Watcher::connect(inventory.record(name), cache) {
            Ok(watcher) => watcher.for_long(),
            Err(error) => return (Err(error.to_string()), None),
        },
    };
    let assessment = match connected.assess() {
        Ok(assessment) => Ok(Box::new(assessment)),
        // The next look connects again.
        Err(error @ ClientError::Connection(_)) => return (Err(error.to_string()), None),
        Err(error) => Err(error.to_string()),
    };
    let processes = wants_processes.then(|| processes(&mut connected));
    *watcher = Some(connected);
    (assessment, processes)
}

fn processes(watcher: &mut Watcher) -> Result<Vec<Process>, String> {
    let snapshot = watcher
        .observer()
        .observe()
        .map_err(|error| error.to_string())?;
    let kernel = snapshot.kernel.map_err(|not| not.to_string())?;
    let account = kernel.account();
    match kernel.look(&account, &snapshot.registers).processes() {
        Observed::Seen { value, .. } => Ok(value),
        Observed::NotObservable { why } => Err(why),
    }
}
