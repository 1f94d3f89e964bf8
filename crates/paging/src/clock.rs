//! Which pages are cold: a clock hand that goes round over the resident pages.
//!
//! The hand takes what it passes out of the host's page tables. What is back in them when it comes round again was used
//! meanwhile, by whatever means: a vCPU of either engine, a device, the kernel on their behalf. What is not is cold, and
//! a candidate to leave. A page that is used costs one soft fault of the host's for each round, and rounds are made only
//! when pages have to leave.

use std::io;

use crate::memory::Memory;

/// Pages that the hand passes at a time.
pub(crate) const STRIDE: u64 = 1024;

/// Where the hand is, and what it knows of each page.
#[derive(Debug)]
pub(crate) struct Clock {
    hand: u64,
    /// Whether the page was taken out of the page tables when the hand was here last.
    watched: Vec<bool>,
}

impl Clock {
    pub(crate) fn new(page_count: u64) -> Clock {
        Clock {
            hand: 0,
            watched: vec![false; page_count as usize],
        }
    }

    /// The stretch that the hand passes next: first page and count.
    pub(crate) fn stretch(&self) -> (u64, u64) {
        (self.hand, STRIDE.min(self.watched.len() as u64 - self.hand))
    }

    /// Passes the stretch, in which `resident` pages are in memory. Returns its cold ones. `used` is called for pages
    /// that were used since the last round, before that is forgotten.
    pub(crate) fn pass<M: Memory>(
        &mut self,
        memory: &M,
        resident: &[bool],
        mut used: impl FnMut(u64),
    ) -> io::Result<Vec<u64>> {
        let (first, count) = self.stretch();
        let mut in_tables = vec![false; count as usize];
        memory.used(first, &mut in_tables)?;
        let mut cold = Vec::new();
        let mut watch = Vec::new();
        for (at, (&is_resident, &is_used)) in resident.iter().zip(&in_tables).enumerate() {
            let page = first + at as u64;
            let watched = &mut self.watched[page as usize];
            match (is_resident, is_used, *watched) {
                (false, ..) => *watched = false,
                (true, false, true) => cold.push(page),
                (true, false, false) => *watched = true,
                (true, true, _) => {
                    used(page);
                    *watched = true;
                    watch.push(page);
                }
            }
        }
        let mut result = Ok(());
        crate::core::each_run(watch, |first, count| {
            if result.is_ok() {
                result = memory.watch_use(first, count);
            }
        });
        self.hand = (first + count) % self.watched.len() as u64;
        result.map(|()| cold)
    }
}
