//! What attaching and looking costs.

use std::path::Path;
use std::time::{Duration, Instant};

use insight::{Account, Kernel, Limits, Look, attach};

use crate::guest::Guest;

/// Times of each are taken so often; the median counts.
const RUNS: usize = 9;
/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(20);

fn median(mut run: impl FnMut() -> Duration) -> f64 {
    let mut times: Vec<Duration> = (0..RUNS).map(|_| run()).collect();
    times.sort();
    times[RUNS / 2].as_secs_f64() * 1e3
}

fn timed<T>(act: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    drop(act());
    start.elapsed()
}

/// What is promised.
pub struct Costs {
    /// To recognise a kernel that nobody has seen, in milliseconds.
    pub cold: f64,
    /// And one whose profile is kept.
    pub warm: f64,
    /// What `mother truth --watch` takes, in percent of a core.
    pub share: f64,
}

/// Measures one guest and prints a line for each thing.
pub fn run(guest: &mut Guest, name: &str, cache: &Path) -> Costs {
    let memory = guest.memory();
    let registers = guest.registers();
    let own = median(|| timed(|| attach(memory.clone(), &registers, None).unwrap()));
    let by_file = |cache: Option<&Path>| {
        let loaded = guest.loaded(cache);
        attach(memory.clone(), &registers, Some(&loaded)).unwrap()
    };
    let cold = median(|| timed(|| by_file(None)));
    let kernel = by_file(Some(cache));
    let warm = median(|| timed(|| by_file(Some(cache))));
    let blind = median(|| timed(|| attach(memory.clone(), &[], None).unwrap()));
    let say = |what: &str, milliseconds: f64| {
        crate::say(&format!("{name:30} {what:34} {milliseconds:8.2} ms"))
    };
    say("attach by the guest's own memory", own);
    say("attach by the kernel file", cold);
    say("attach, profile kept", warm);
    say("attach without registers", blind);
    type Reader = fn(&Look<'_>);
    let looks: [(&str, Reader); 9] = [
        ("processes", |look| drop(look.processes())),
        ("memory counters", |look| drop(look.memory_counters())),
        ("modules", |look| drop(look.modules())),
        ("kernel log", |look| drop(look.kernel_log())),
        ("hidden tasks, by books", |look| {
            drop(look.hidden_tasks(insight::hidden::Depth::Books))
        }),
        ("hidden tasks, by slabs", |look| {
            drop(look.hidden_tasks(insight::hidden::Depth::Slabs))
        }),
        ("hidden modules", |look| drop(look.hidden_modules())),
        ("sockets", |look| drop(look.sockets())),
        ("mounts", |look| drop(look.mounts())),
    ];
    for (what, read) in looks {
        say(what, median(|| timed(|| with_look(&kernel, read))));
    }
    // Its own guest's clock ticks meanwhile, and nothing else.
    let share = guest.watched_for(WATCHED) * 100.0;
    crate::say(&format!(
        "{name:30} {:34} {share:8.2} % of a core",
        "watching once a second"
    ));
    Costs { cold, warm, share }
}

fn with_look(kernel: &Kernel, read: fn(&Look<'_>)) {
    let account = Account::new(Limits::default());
    read(&kernel.look(&account, &[]));
}
