//! What it costs that a pager looks at random pages all the time, for the working set and the dirty rate: work over memory
//! without a limit, with a pager and without one, in turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use mem::GuestMemory;
use paging::{AHEAD_PAGES, Pager, Settings};
use x86::Gpa;

use super::super::median;

const PAGE_BYTES: u64 = 4096;
/// All of it, and what the work is on.
const PAGE_COUNT: u64 = 128 * 1024;
const HOT_PAGES: u64 = 16 * 1024;
/// Three windows of the estimates.
const TIME: Duration = Duration::from_secs(12);
const ROUNDS: usize = 3;
/// Most of the speed that may be lost.
const COST_MAX: f64 = 0.01;

/// Measures.
pub fn measure() -> Result<bool> {
    println!("sampling: reads and writes all over 64 MiB of 512, {} s each, in turns", TIME.as_secs());
    let memory = Arc::new(GuestMemory::flat(PAGE_COUNT * PAGE_BYTES)?);
    for page in 0..PAGE_COUNT {
        memory.write(Gpa(page * PAGE_BYTES), &page.to_le_bytes())?;
    }
    let settings =
        Settings { limit_bytes: None, store_memory_bytes: 1 << 20, file: None, ahead_pages: AHEAD_PAGES };
    work(&memory)?;
    let (mut without, mut with, mut cpu) = (Vec::new(), Vec::new(), 0.0);
    for _ in 0..ROUNDS {
        without.push(work(&memory)?);
        let pager = Pager::start(Arc::clone(&memory), &settings, Box::new(|_| {}))?;
        with.push(work(&memory)?);
        cpu = pager.books().cpu.as_secs_f64() / TIME.as_secs_f64();
    }
    let (without, with) = (median(without), median(with));
    let cost = 1.0 - with / without;
    println!(
        "  {without:.0} pages a millisecond without, {with:.0} with: {:.2} % lost (promised {:.0} %); the pager takes {:.2} % of a CPU",
        cost * 100.0,
        COST_MAX * 100.0,
        cpu * 100.0
    );
    Ok(cost <= COST_MAX)
}

/// Pages read and written in a millisecond.
fn work(memory: &GuestMemory) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0_u64;
    while start.elapsed() < TIME {
        for _ in 0..HOT_PAGES {
            // Each once in no order.
            let gpa = Gpa(count * 6151 % HOT_PAGES * PAGE_BYTES);
            let value = memory.read_value(gpa, 8)?;
            memory.write(gpa, &(value + 1).to_le_bytes())?;
            count += 1;
        }
    }
    Ok(count as f64 / (start.elapsed().as_secs_f64() * 1e3))
}
