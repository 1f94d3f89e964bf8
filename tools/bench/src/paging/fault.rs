//! How long somebody waits for a page that is away: measured by who waits, from the access to its end.

use std::time::Instant;

use anyhow::{Result, ensure};
use paging::{AHEAD_PAGES, PageFile, Settings};
use x86::Gpa;

use super::pages::{PAGE_BYTES, PAGE_COUNT, paged, word};
use crate::runs::median;

/// What a page may take from memory, and from a file that the host has in its page cache.
const MEMORY_US: f64 = 25.0;
const FILE_US: f64 = 150.0;

/// Measures both places.
pub fn measure() -> Result<bool> {
    println!(
        "fault: from the access to its end, pages of programs and text, one after the other in no order"
    );
    let mut is_kept = from("compressed memory", 1 << 30, None, MEMORY_US)?;
    let folder = std::env::temp_dir();
    is_kept &= from(
        "page file, in the host's cache",
        1 << 20,
        Some(PageFile::open(&folder, 1 << 30)?),
        FILE_US,
    )?;
    Ok(is_kept)
}

fn from(name: &str, store_memory_bytes: u64, file: Option<PageFile>, most_us: f64) -> Result<bool> {
    let in_file = file.is_some();
    let settings = Settings {
        limit_bytes: None,
        store_memory_bytes,
        file,
        ahead_pages: AHEAD_PAGES,
    };
    let (memory, pager) = paged(&settings)?;
    let mut times = Vec::new();
    let mut page = 1;
    for _ in 0..6000 {
        // A walk that meets every page once and never in order.
        page = (page * 5 + 4099) % PAGE_COUNT;
        let before = pager.books().counts.page_ins;
        let start = Instant::now();
        let found = memory.read_value(Gpa(page * PAGE_BYTES), 8)?;
        let time = start.elapsed();
        ensure!(found == word(page), "page {page} is another");
        if pager.books().counts.page_ins > before {
            times.push(time.as_secs_f64() * 1e6);
        }
    }
    let books = pager.books();
    times.sort_by(f64::total_cmp);
    let count = times.len();
    let p99 = times[times.len() * 99 / 100];
    let middle = median(times);
    let share = if in_file {
        books.store.file_pages
    } else {
        books.store.memory_pages
    };
    println!(
        "  {name}: median {middle:.1} us, 99 of 100 below {p99:.1} us ({count} faults, {share} pages there; promised {most_us} us)"
    );
    println!(
        "    {} MiB of the guest away, for {:.1} MiB of memory and {:.1} MiB of file",
        books.out_bytes >> 20,
        books.store.memory_bytes as f64 / 1048576.0,
        books.store.file_held_bytes as f64 / 1048576.0
    );
    Ok(middle <= most_us)
}
