//! A guest whose hot set fits its limit: the same work without a limit and with most of its memory away, in turns.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api::{Counter, HostBooks, VmName};
use fleet::{Client, Inventory};

use super::guest::{Guest, mother};
use crate::runs::median;

/// Speed that has to be kept, and how much of what the guest touched has to be away.
const SPEED: f64 = 0.95;
const AWAY: f64 = 0.80;
const NAME: &str = "bench-hot";
const ROUNDS: usize = 9;
/// How long everything may take to come back.
const BACK: Duration = Duration::from_secs(30);
/// A guest that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(350);

/// The hot work, and how long it took by the guest's clock.
const WORK: &str = "a=$(cut -d' ' -f1 /proc/uptime); i=0; while [ $i -lt 20 ]; do cat /mnt/hot | md5sum >/dev/null; i=$((i+1)); done; \
                    b=$(cut -d' ' -f1 /proc/uptime); echo took $(echo $a $b | awk '{print $2-$1}')";

/// Measures it; whether what was promised holds.
pub fn measure() -> Result<bool> {
    println!("hot: 512 MiB, 360 MiB of files, work on 8 MiB of them");
    let mut guest = Guest::start(NAME, &["--memory", "512M"], LIMIT)?;
    guest.say(
        "mount -t tmpfs -o size=450m none /mnt; head -c 8388608 /dev/urandom > /mnt/hot; i=0; \
         while [ $i -lt 22 ]; do (echo $i; cat /bin/busybox; head -c 4194304 /dev/urandom; yes $i) | head -c 16777216 > /mnt/f$i; \
         i=$((i+1)); done; echo filled",
    )?;
    guest.hear("filled")?;
    let mut free = Vec::new();
    let mut limited = Vec::new();
    let mut ratios = Vec::new();
    let mut away = 0.0;
    for _ in 0..ROUNDS {
        mother(&["limit", NAME, "--resident", "none"])?;
        wait_until_all_is_back()?;
        let without = work(&mut guest)?;
        mother(&["limit", NAME, "--resident", "13%"])?;
        work(&mut guest)?;
        let with = work(&mut guest)?;
        away = share_away()?;
        free.push(without);
        limited.push(with);
        ratios.push(without / with);
    }
    guest.finish()?;
    ratios.sort_by(f64::total_cmp);
    let least = ratios[0];
    let most = ratios[ROUNDS - 1];
    // Of neighbours in time: a host's own noise is slower than a round.
    let ratio = median(ratios);
    println!(
        "  without a limit {:.2} s, with {:.2} s: {:.1} % of its speed (median of {ROUNDS} pairs, {:.1} to {:.1}; promised {:.0} %)",
        median(free),
        median(limited),
        ratio * 100.0,
        least * 100.0,
        most * 100.0,
        SPEED * 100.0
    );
    println!(
        "  {:.1} % of what it touched is away (promised {:.0} %)",
        away * 100.0,
        AWAY * 100.0
    );
    Ok(ratio >= SPEED && away >= AWAY)
}

fn work(guest: &mut Guest) -> Result<f64> {
    guest.say(WORK)?;
    guest
        .hear("took")?
        .parse()
        .context("the guest says how long it took")
}

fn books() -> Result<HostBooks> {
    let name = VmName::new(NAME).map_err(|error| anyhow::anyhow!(error.what))?;
    Ok(Client::connect(&Inventory::of_user()?.record(&name))?.books()?)
}

/// So that bringing it back does not count as work. Zeros come back only when they are used.
fn wait_until_all_is_back() -> Result<()> {
    let start = Instant::now();
    let is_away = |place: &Counter| place.name != "zeros" && place.value > 0;
    while books()?.memory.paged_out.iter().any(is_away) {
        ensure!(
            start.elapsed() < BACK,
            "pages are still away {} s after the limit was lifted",
            BACK.as_secs()
        );
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn share_away() -> Result<f64> {
    let books = books()?;
    let memory = &books.memory;
    if let Some(paging) = &memory.paging {
        println!(
            "  resident {} MiB, away {} MiB for {:.1} MiB of store; the pager used {:.2} s of CPU, a page back in {} us (median)",
            memory.resident_bytes >> 20,
            memory.paged_out_bytes() >> 20,
            paging.store_memory_bytes as f64 / 1048576.0,
            paging.cpu_seconds,
            paging.fault_in_median_us.unwrap_or(0)
        );
    }
    let away = memory.paged_out_bytes() as f64;
    Ok(away / (away + memory.resident_bytes as f64))
}
