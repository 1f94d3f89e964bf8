//! Pages whose next write is to be noticed: those that somebody watches, and those whose dirtying is sampled.

use std::collections::HashMap;

/// Pages watched, and whether each was written.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    /// Whether it was written since it was armed.
    watched: HashMap<u64, bool>,
    sampled: HashMap<u64, bool>,
}

impl Watches {
    /// Whether the page has to be protected while it is in memory.
    pub(crate) fn wants(&self, page: u64) -> bool {
        self.watched.get(&page) == Some(&false) || self.sampled.get(&page) == Some(&false)
    }

    /// Every page that has to be protected while it is in memory.
    pub(crate) fn wanted(&self) -> Vec<u64> {
        let unwritten = |(&page, &written): (&u64, &bool)| (!written).then_some(page);
        self.watched
            .iter()
            .chain(&self.sampled)
            .filter_map(unwritten)
            .collect()
    }

    /// It is being written.
    pub(crate) fn written(&mut self, page: u64) {
        for kind in [&mut self.watched, &mut self.sampled] {
            if let Some(written) = kind.get_mut(&page) {
                *written = true;
            }
        }
    }

    /// Whether a watched page was written since it was last asked for, and asks for the next time; `None` if it was not
    /// watched yet.
    pub(crate) fn ask(&mut self, page: u64) -> Option<bool> {
        self.watched.insert(page, false)
    }

    /// How many pages somebody watches.
    pub(crate) fn watched_count(&self) -> usize {
        self.watched.len()
    }

    /// Whether somebody watches the page.
    pub(crate) fn is_watched(&self, page: u64) -> bool {
        self.watched.contains_key(&page)
    }

    /// Ends a sample: its pages that were not written, and how many it had and how many were.
    pub(crate) fn end_sample(&mut self) -> (Vec<u64>, (u64, u64)) {
        let all = self.sampled.len() as u64;
        let unwritten = self
            .sampled
            .drain()
            .filter_map(|(page, written)| (!written).then_some(page));
        let unwritten: Vec<u64> = unwritten.collect();
        let written = all - unwritten.len() as u64;
        (unwritten, (all, written))
    }

    /// Begins a sample of these pages.
    pub(crate) fn begin_sample(&mut self, pages: &[u64]) {
        self.sampled = pages.iter().map(|&page| (page, false)).collect();
    }
}
