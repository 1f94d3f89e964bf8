//! What attaching and looking costs.

use std::path::Path;
use std::time::{Duration, Instant};

use insight::{Account, Kernel, Limits, Look, attach};

use crate::guest::Guest;

/// Times of each are taken so often; the median counts.
const RUNS: usize = 9;

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

/// Measures one guest and prints a line for each thing. Returns cold and warm attach in milliseconds.
pub fn run(guest: &mut Guest, name: &str, cache: &Path) -> (f64, f64) {
    let (memory, registers) = (guest.memory(), guest.registers());
    let cold = median(|| timed(|| attach(memory.clone(), &registers, None).unwrap()));
    let kernel = attach(memory.clone(), &registers, Some(cache)).unwrap();
    let warm = median(|| timed(|| attach(memory.clone(), &registers, Some(cache)).unwrap()));
    let blind = median(|| timed(|| attach(memory.clone(), &[], None).unwrap()));
    let say =
        |what: &str, milliseconds: f64| crate::say(&format!("{name:30} {what:34} {milliseconds:8.2} ms"));
    say("attach, nothing kept", cold);
    say("attach, profile kept", warm);
    say("attach without registers", blind);
    type Reader = fn(&Look<'_>);
    let looks: [(&str, Reader); 6] = [
        ("processes", |look| drop(look.processes())),
        ("memory counters", |look| drop(look.memory_counters())),
        ("modules", |look| drop(look.modules())),
        ("kernel log", |look| drop(look.kernel_log())),
        ("hidden tasks, by books", |look| drop(look.hidden_tasks(insight::hidden::Depth::Books))),
        ("hidden tasks, by slabs", |look| drop(look.hidden_tasks(insight::hidden::Depth::Slabs))),
    ];
    for (what, read) in looks {
        say(what, median(|| timed(|| with_look(&kernel, read))));
    }
    (cold, warm)
}

fn with_look(kernel: &Kernel, read: fn(&Look<'_>)) {
    let account = Account::new(Limits::default());
    read(&kernel.look(&account, &[]));
}
