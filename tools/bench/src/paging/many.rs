//! Ten guests of 512 MiB on a host that gives a GiB to all of them together, beside the same ten without a limit.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api::{HostBooks, VmName};
use fleet::{Client, Inventory};

use super::guest::Guest;

const GUEST_COUNT: usize = 10;
const BUDGET_BYTES: u64 = 1 << 30;
/// A run in which somebody has not finished by then has failed.
const PATIENCE: Duration = Duration::from_secs(270);

/// Each fills 320 MiB, and reads all of them. All have the same to say in the end, whatever was away meanwhile.
const WORK: &str = "mount -t tmpfs -o size=400m none /mnt; i=0; while [ $i -lt 20 ]; do (echo $i; cat /bin/busybox; yes $i$i) | \
                    head -c 16777216 > /mnt/f$i; i=$((i+1)); done; echo finished $(cat /mnt/* | md5sum)";

/// What a run took and had.
struct Run {
    seconds: f64,
    /// What every guest said in the end.
    said: String,
    /// The most that was resident together.
    resident_bytes: u64,
    /// The most that was away together, and what was held for that.
    away_bytes: u64,
    store_bytes: u64,
    /// CPU time of the pagers.
    pager_seconds: f64,
    page_ins: u64,
}

/// Measures it; whether what was promised holds.
pub fn measure() -> Result<bool> {
    let limit = format!("{}K", BUDGET_BYTES / 1024 / GUEST_COUNT as u64);
    println!(
        "many: {GUEST_COUNT} guests of 512 MiB, each fills 320 MiB and reads them; the host gives {limit} to each"
    );
    let free = run(&[]).context("without a limit")?;
    print("without a limit", &free);
    let limited = run(&["--resident-limit", &limit]).context("with a limit")?;
    print("with one", &limited);
    let saved = free
        .resident_bytes
        .saturating_sub(limited.resident_bytes + limited.store_bytes);
    println!(
        "  saved: {} MiB of {}, store counted; it cost {:.0} % more time, and {:.1} s of the pagers' CPU for {} page-ins",
        saved >> 20,
        free.resident_bytes >> 20,
        (limited.seconds / free.seconds - 1.0) * 100.0,
        limited.pager_seconds,
        limited.page_ins
    );
    ensure!(
        free.said == limited.said,
        "with a limit the guests read something else"
    );
    Ok(limited.resident_bytes <= BUDGET_BYTES + BUDGET_BYTES / 50)
}

fn print(name: &str, run: &Run) {
    println!(
        "  {name}: all {GUEST_COUNT} finished in {:.0} s; at most {} MiB resident together, {} MiB away for {} MiB of store",
        run.seconds,
        run.resident_bytes >> 20,
        run.away_bytes >> 20,
        run.store_bytes >> 20
    );
}

/// Ten guests with these words, from their start to the last one's word.
fn run(words: &[&str]) -> Result<Run> {
    let start = Instant::now();
    let names: Vec<String> = (0..GUEST_COUNT)
        .map(|number| format!("bench-many-{number}"))
        .collect();
    let (done, finished) = channel();
    let mut threads = Vec::new();
    for name in &names {
        let mut guest = Guest::start(
            name,
            &[&["--memory", "512M"], words].concat(),
            PATIENCE + Duration::from_secs(20),
        )?;
        guest.say(WORK)?;
        let done = done.clone();
        threads.push(std::thread::spawn(move || -> Result<(Guest, String)> {
            let said = guest.hear("finished");
            let _ = done.send(());
            Ok((guest, said?))
        }));
    }
    let mut run = Run {
        seconds: 0.0,
        said: String::new(),
        resident_bytes: 0,
        away_bytes: 0,
        store_bytes: 0,
        pager_seconds: 0.0,
        page_ins: 0,
    };
    let mut left = GUEST_COUNT;
    while left > 0 {
        match finished.recv_timeout(Duration::from_millis(250)) {
            Ok(()) => left -= 1,
            Err(RecvTimeoutError::Timeout) if start.elapsed() < PATIENCE => {}
            Err(_) => {
                bail!(
                    "{left} of {GUEST_COUNT} guests have not finished after {} s",
                    PATIENCE.as_secs()
                )
            }
        }
        run.add(
            &names
                .iter()
                .filter_map(|name| books(name))
                .collect::<Vec<_>>(),
        );
    }
    run.seconds = start.elapsed().as_secs_f64();
    for thread in threads {
        let (guest, said) = thread.join().ok().context("a thread panicked")??;
        guest.finish()?;
        ensure!(
            run.said.is_empty() || run.said == said,
            "a guest read something else than another"
        );
        run.said = said;
    }
    Ok(run)
}

impl Run {
    /// What all guests' books say now.
    fn add(&mut self, books: &[HostBooks]) {
        let sum = |of: fn(&HostBooks) -> u64| books.iter().map(of).sum::<u64>();
        self.resident_bytes = self
            .resident_bytes
            .max(sum(|books| books.memory.resident_bytes));
        let away = sum(|books| books.memory.paged_out_bytes());
        if away > self.away_bytes {
            self.away_bytes = away;
            self.store_bytes = sum(|books| {
                books
                    .memory
                    .paging
                    .as_ref()
                    .map_or(0, |paging| paging.store_memory_bytes)
            });
        }
        let paging = || {
            books
                .iter()
                .filter_map(|books| books.memory.paging.as_ref())
        };
        self.pager_seconds = self
            .pager_seconds
            .max(paging().map(|paging| paging.cpu_seconds).sum());
        let is_page_in = |name: &str| matches!(name, "page_ins" | "prefetched");
        let counters = paging().flat_map(|paging| &paging.counters);
        let page_ins = counters
            .filter(|counter| is_page_in(&counter.name))
            .map(|counter| counter.value)
            .sum();
        self.page_ins = self.page_ins.max(page_ins);
    }
}

fn books(name: &str) -> Option<HostBooks> {
    let name = VmName::new(name).ok()?;
    Client::connect(&Inventory::of_user().ok()?.record(&name))
        .ok()?
        .books()
        .ok()
}
