//! What it is worth to bring pages in ahead: a walk through memory in order, and one in no order, with it and without.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use mem::GuestMemory;
use paging::{AHEAD_PAGES, Pager, Settings};
use x86::Gpa;

use super::super::median;
use super::codec::sample;

const PAGE_COUNT: u64 = 16 * 1024;
const PAGE_BYTES: u64 = 4096;
const ROUNDS: usize = 3;

/// Prints the time of a page for each; whether it is worth it.
pub fn measure() -> Result<bool> {
    println!(
        "ahead: a walk over 64 MiB of programs and text of which a tenth may be resident, time for a page"
    );
    let mut is_worth_it = true;
    for (name, step) in [("in order", 1), ("in no order", 6151)] {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            without.push(walk(0, step)?);
            with.push(walk(AHEAD_PAGES, step)?);
        }
        let (with, without) = (median(with), median(without));
        println!("  {name}: {without:.1} us without, {with:.1} us with up to {AHEAD_PAGES} pages ahead");
        is_worth_it &= if step == 1 { with < without } else { with < without * 1.05 };
    }
    Ok(is_worth_it)
}

/// Microseconds that a page took.
fn walk(ahead_pages: u64, step: u64) -> Result<f64> {
    let memory = Arc::new(GuestMemory::flat(PAGE_COUNT * PAGE_BYTES)?);
    let settings = Settings { limit_bytes: None, store_memory_bytes: 1 << 30, file: None, ahead_pages };
    let pager = Pager::start(Arc::clone(&memory), &settings, Box::new(|event| eprintln!("{event:?}")))?;
    let pages = sample()?;
    for page in 0..PAGE_COUNT {
        let mut bytes = pages[page as usize % pages.len()];
        bytes[..8].copy_from_slice(&page.to_le_bytes());
        memory.write(Gpa(page * PAGE_BYTES), &bytes)?;
    }
    pager.set_limit(Some(PAGE_COUNT * PAGE_BYTES / 10))?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !pager.is_within_limit() {
        if Instant::now() > deadline {
            bail!("pages do not leave: {:?}", pager.books());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let start = Instant::now();
    for at in 0..PAGE_COUNT {
        let page = at * step % PAGE_COUNT;
        ensure!(memory.read_value(Gpa(page * PAGE_BYTES), 8)? == page, "page {page} is another");
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / PAGE_COUNT as f64)
}
