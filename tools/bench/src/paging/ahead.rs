//! What it is worth to bring pages in ahead: a walk through memory in order, and one in no order, with it and without.

use std::time::Instant;

use anyhow::{Result, ensure};
use paging::{AHEAD_PAGES, Settings};
use x86::Gpa;

use super::pages::{PAGE_BYTES, PAGE_COUNT, paged, word};
use crate::runs::median;

const ROUNDS: usize = 3;

/// Prints the time of a page for each; whether it is worth it.
pub fn measure() -> Result<bool> {
    println!(
        "ahead: a walk over 64 MiB of programs and text of which a tenth may be resident, time for a page"
    );
    let mut is_worth_it = true;
    for (name, step) in [("in order", 1), ("in no order", 6151)] {
        let mut with = Vec::new();
        let mut without = Vec::new();
        for _ in 0..ROUNDS {
            without.push(walk(0, step)?);
            with.push(walk(AHEAD_PAGES, step)?);
        }
        let with = median(with);
        let without = median(without);
        println!(
            "  {name}: {without:.1} us without, {with:.1} us with up to {AHEAD_PAGES} pages ahead"
        );
        is_worth_it &= if step == 1 {
            with < without
        } else {
            with < without * 1.05
        };
    }
    Ok(is_worth_it)
}

/// Microseconds that a page took.
fn walk(ahead_pages: u64, step: u64) -> Result<f64> {
    let settings = Settings {
        limit_bytes: None,
        store_memory_bytes: 1 << 30,
        file: None,
        ahead_pages,
    };
    let (memory, _pager) = paged(&settings)?;
    let start = Instant::now();
    for at in 0..PAGE_COUNT {
        let page = at * step % PAGE_COUNT;
        ensure!(
            memory.read_value(Gpa(page * PAGE_BYTES), 8)? == word(page),
            "page {page} is another"
        );
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / PAGE_COUNT as f64)
}
