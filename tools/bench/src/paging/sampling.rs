//! What it costs that a pager looks at random pages all the time, for the working set and the dirty rate: work over memory
//! without a limit, with a pager and without one, in turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use mem::GuestMemory;
use paging::{AHEAD_PAGES, Pager, Settings};
use x86::Gpa;

use crate::runs::median;

const PAGE_BYTES: u64 = 4096;
/// All of it, and what the work is on.
const PAGE_COUNT: u64 = 128 * 1024;
const HOT_PAGES: u64 = 16 * 1024;
/// With and without in turns, half a window of the estimates each; what is dearest happens at a window's beginning.
const TIME: Duration = Duration::from_secs(2);
const ROUNDS: usize = 20;
/// Most of the speed that may be lost.
const COST_MAX: f64 = 0.01;

/// Measures it; whether what was promised holds.
pub fn measure() -> Result<bool> {
    println!(
        "sampling: reads all of 64 MiB of 512 and writes to every page, {} s each, in turns",
        TIME.as_secs()
    );
    let memory = Arc::new(GuestMemory::flat(PAGE_COUNT * PAGE_BYTES)?);
    for page in 0..PAGE_COUNT {
        memory.write(Gpa(page * PAGE_BYTES), &page.to_le_bytes())?;
    }
    let settings = Settings {
        limit_bytes: None,
        store_memory_bytes: 1 << 20,
        file: None,
        ahead_pages: AHEAD_PAGES,
    };
    work(&memory)?;
    let mut rates = Vec::new();
    let mut ratios = Vec::new();
    let mut cpu = 0.0;
    for round in 0..ROUNDS {
        let mut with = || -> Result<f64> {
            let pager = Pager::start(Arc::clone(&memory), &settings, Box::new(|_| {}))?;
            let rate = work(&memory)?;
            cpu += pager.books().cpu.as_secs_f64() / TIME.as_secs_f64() / ROUNDS as f64;
            Ok(rate)
        };
        // Who is first changes, so that a host that slows down or recovers favours neither.
        let (with, without) = if round % 2 == 0 {
            let with = with()?;
            (with, work(&memory)?)
        } else {
            let without = work(&memory)?;
            (with()?, without)
        };
        rates.push(without);
        ratios.push(with / without);
    }
    ratios.sort_by(f64::total_cmp);
    let least = ratios[0];
    let most = ratios[ROUNDS - 1];
    let cost = 1.0 - median(ratios);
    println!(
        "  {:.0} pages a millisecond without; with it {:.2} % of the speed lost (median of {ROUNDS} pairs, {:.1} to {:.1}; \
         promised {:.0} %); the pager takes {:.2} % of a CPU",
        median(rates),
        cost * 100.0,
        (1.0 - most) * 100.0,
        (1.0 - least) * 100.0,
        COST_MAX * 100.0,
        cpu * 100.0
    );
    Ok(cost <= COST_MAX)
}

/// Pages of which every word was read and one written, in a millisecond.
fn work(memory: &GuestMemory) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0_u64;
    let mut bytes = [0; PAGE_BYTES as usize];
    while start.elapsed() < TIME {
        for _ in 0..HOT_PAGES {
            // Each once in no order.
            let gpa = Gpa(count * 6151 % HOT_PAGES * PAGE_BYTES);
            memory.read(gpa, &mut bytes)?;
            let sum = bytes
                .iter()
                .fold(0_u64, |sum, &byte| sum.wrapping_add(u64::from(byte)));
            memory.write(gpa, &sum.to_le_bytes())?;
            count += 1;
        }
    }
    Ok(count as f64 / (start.elapsed().as_secs_f64() * 1e3))
}
