//! Memory of which a tenth may be resident, for measurements of a pager without a guest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use mem::GuestMemory;
use paging::{Pager, Settings};
use x86::Gpa;

use super::codec::sample;

pub(super) const PAGE_COUNT: u64 = 16 * 1024;
pub(super) const PAGE_BYTES: u64 = 4096;
/// How long pages may take to leave.
const PATIENCE: Duration = Duration::from_secs(60);

/// The word that page `page` begins with: each one is another.
pub(super) fn word(page: u64) -> u64 {
    page * 3 + 1
}

/// 64 MiB of programs and text, most of it put away.
pub(super) fn paged(settings: &Settings) -> Result<(Arc<GuestMemory>, Pager)> {
    let memory = Arc::new(GuestMemory::flat(PAGE_COUNT * PAGE_BYTES)?);
    let pager = Pager::start(
        Arc::clone(&memory),
        settings,
        Box::new(|event| eprintln!("{event:?}")),
    )?;
    let pages = sample()?;
    ensure!(!pages.is_empty(), "there are pages to sample");
    for page in 0..PAGE_COUNT {
        let mut bytes = pages[page as usize % pages.len()];
        bytes[..8].copy_from_slice(&word(page).to_le_bytes());
        memory.write(Gpa(page * PAGE_BYTES), &bytes)?;
    }
    pager.set_limit(Some(PAGE_COUNT * PAGE_BYTES / 10))?;
    let deadline = Instant::now() + PATIENCE;
    while !pager.is_within_limit() {
        if Instant::now() > deadline {
            bail!("pages do not leave: {:?}", pager.books());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok((memory, pager))
}
