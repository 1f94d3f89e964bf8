//! Ten guests of 512 MiB on a host that gives a GiB to all of them together.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api::VmName;
use daemon::{Client, Inventory};

use super::guest::Guest;

const GUEST_COUNT: usize = 10;
const BUDGET_BYTES: u64 = 1 << 30;

/// Each fills memory, and reads all of it twice.
const WORK: &str = "mount -t tmpfs -o size=400m none /mnt; i=0; while [ $i -lt 20 ]; do (echo $i; cat /bin/busybox; yes $i$i) | \
                    head -c 16777216 > /mnt/f$i; i=$((i+1)); done; cat /mnt/* | md5sum > /tmp/a; cat /mnt/* | md5sum > /tmp/b; \
                    cmp /tmp/a /tmp/b && echo finished same";

/// Measures.
pub fn measure() -> Result<bool> {
    let limit = format!("{}K", BUDGET_BYTES / 1024 / GUEST_COUNT as u64);
    println!(
        "many: {GUEST_COUNT} guests of 512 MiB, each fills and reads 320 MiB; the host gives {limit} to each"
    );
    let start = Instant::now();
    let names: Vec<String> = (0..GUEST_COUNT).map(|number| format!("bench-many-{number}")).collect();
    let mut guests = Vec::new();
    for name in &names {
        let mut guest = Guest::start(name, &["--memory", "512M", "--resident-limit", &limit])?;
        guest.say(WORK)?;
        guests.push(guest);
    }
    let (done, finished) = std::sync::mpsc::channel();
    let mut threads = Vec::new();
    for mut guest in guests {
        let done = done.clone();
        threads.push(std::thread::spawn(move || -> Result<Guest> {
            let said = guest.hear("finished");
            let _ = done.send(());
            ensure!(said? == "same", "a guest read something else than it wrote");
            Ok(guest)
        }));
    }
    let (mut most, mut most_away, mut store) = (0, 0, 0);
    let mut left = GUEST_COUNT;
    while left > 0 {
        if finished.recv_timeout(Duration::from_millis(250)).is_ok() {
            left -= 1;
        }
        let (resident, away, held) = sums(&names);
        most = most.max(resident);
        if away > most_away {
            (most_away, store) = (away, held);
        }
    }
    for thread in threads {
        thread.join().ok().context("a thread panicked")??.finish()?;
    }
    println!("  all {GUEST_COUNT} finished in {:.0} s", start.elapsed().as_secs_f64());
    println!(
        "  at most {} MiB resident together, {} MiB away for {} MiB of store",
        most >> 20,
        most_away >> 20,
        store >> 20
    );
    Ok(most <= BUDGET_BYTES + BUDGET_BYTES / 50)
}

/// Resident, away, and what is held for that, of all guests.
fn sums(names: &[String]) -> (u64, u64, u64) {
    let books = |name: &String| {
        let name = VmName::new(name).ok()?;
        let books = Client::connect(&Inventory::of_user().ok()?.record(&name)).ok()?.books().ok()?;
        let store = books.memory.paging.as_ref().map_or(0, |paging| paging.store_memory_bytes);
        Some((books.memory.resident_bytes, books.memory.paged_out_bytes(), store))
    };
    names.iter().filter_map(books).fold((0, 0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2))
}
