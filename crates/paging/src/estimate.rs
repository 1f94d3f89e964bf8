//! How much memory a guest uses, and how fast it changes it: counted in a random sample, told with its error.
//!
//! A window begins with a few pages taken out of the host's page tables, and a few protected against writing. At its end
//! one counts which were used and which were written. The guest runs on meanwhile, and pays one soft fault of the host's
//! for each sampled page that it uses. Of `n` pages a share `f` was used; then `f` of all pages are in the working set,
//! with a standard error of `sqrt(f(1-f)/n)` of them.

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use crate::memory::Memory;

/// How long a window is.
pub(crate) const WINDOW: Duration = Duration::from_secs(4);
/// Pages sampled for use.
const USE_SAMPLE: u64 = 1024;
/// Pages sampled for writes; each one written costs a fault that we answer.
const WRITE_SAMPLE: u64 = 256;

/// A number of pages, estimated.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Estimate {
    /// So many.
    pub pages: f64,
    /// Standard error.
    pub error_pages: f64,
    /// In how long a time.
    pub window: Duration,
    /// How many pages were looked at.
    pub sample: u64,
    /// When the window ended.
    pub ended: Instant,
}

impl Estimate {
    /// `hits` of `sample` pages, out of `page_count`.
    pub(crate) fn of(hits: u64, sample: u64, page_count: u64, window: Duration) -> Estimate {
        let n = sample.max(1) as f64;
        let all = page_count as f64;
        let share = hits as f64 / n;
        // A whole sample says no more of the rest than that; none at all is not certainty either.
        let error = (share * (1.0 - share) / n).sqrt().max(1.0 / n);
        let error = if sample >= page_count { 0.0 } else { error };
        Estimate {
            pages: share * all,
            error_pages: error * all,
            window,
            sample,
            ended: Instant::now(),
        }
    }
}

/// Numbers that nobody has to guess, only not to repeat (Marsaglia's xorshift).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn pages(&mut self, wanted: u64, page_count: u64) -> Vec<u64> {
        if wanted >= page_count {
            return (0..page_count).collect();
        }
        let mut chosen = HashSet::new();
        while (chosen.len() as u64) < wanted {
            chosen.insert(self.roll(page_count));
        }
        let mut pages: Vec<u64> = chosen.into_iter().collect();
        pages.sort_unstable();
        pages
    }
}

/// The sample of the present window.
#[derive(Debug)]
pub(crate) struct Sampler {
    dice: Dice,
    since: Instant,
    pages: Vec<u64>,
    /// Pages of the sample that were used and whose trace the clock has wiped out.
    used: HashSet<u64>,
}

impl Sampler {
    pub(crate) fn new() -> Sampler {
        let seed = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let dice = Dice(seed.as_nanos() as u64 | 1);
        Sampler {
            dice,
            since: Instant::now(),
            pages: Vec::new(),
            used: HashSet::new(),
        }
    }

    /// Whether the window is over.
    pub(crate) fn is_due(&self) -> bool {
        self.pages.is_empty() || self.since.elapsed() >= WINDOW
    }

    /// Gives the window up, if there is one: true then.
    pub(crate) fn stop(&mut self) -> bool {
        self.used.clear();
        !std::mem::take(&mut self.pages).is_empty()
    }

    /// The clock found a page used.
    pub(crate) fn note_used(&mut self, page: u64) {
        if self.pages.binary_search(&page).is_ok() {
            self.used.insert(page);
        }
    }

    /// Ends the window, if there was one, and begins the next. `None` after the first call.
    pub(crate) fn turn<M: Memory>(&mut self, memory: &M) -> io::Result<Option<Estimate>> {
        let window = self.since.elapsed();
        let mut hits = 0;
        for &page in &self.pages {
            let mut used = [false];
            memory.used(page, &mut used)?;
            hits += u64::from(used[0] || self.used.contains(&page));
        }
        let sample = self.pages.len() as u64;
        let page_count = memory.page_count();
        let estimate = (sample > 0).then(|| Estimate::of(hits, sample, page_count, window));
        self.pages = self.dice.pages(USE_SAMPLE, page_count);
        self.used.clear();
        for &page in &self.pages {
            memory.watch_use(page, 1)?;
        }
        self.since = Instant::now();
        Ok(estimate)
    }

    /// The pages whose writes are to be counted in this window.
    pub(crate) fn pages_to_protect(&mut self, page_count: u64) -> Vec<u64> {
        self.dice.pages(WRITE_SAMPLE, page_count)
    }

    /// How long the present window lasts already.
    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_that_of_a_sample() {
        let check = |hits, sample, all, pages: f64, error: f64| {
            let got = Estimate::of(hits, sample, all, WINDOW);
            assert!((got.pages - pages).abs() < 0.01, "{got:?}");
            assert!((got.error_pages - error).abs() < 0.01, "{got:?}");
        };
        check(100, 1000, 100_000, 10_000.0, 948.68);
        check(500, 1000, 100_000, 50_000.0, 1581.14);
        check(0, 1000, 100_000, 0.0, 100.0);
        check(1000, 1000, 100_000, 100_000.0, 100.0);
        check(7, 64, 64, 7.0, 0.0);
    }

    /// Nine samples of ten lie within 1.65 standard errors; of a hundred, hardly fewer than eighty do.
    #[test]
    fn the_true_number_lies_within_the_error() {
        let mut dice = Dice(12_345);
        let all = 50_000;
        let in_use = 7_000;
        let mut within = 0;
        for _ in 0..100 {
            let hits = dice
                .pages(USE_SAMPLE, all)
                .iter()
                .filter(|&&page| page % all < in_use)
                .count() as u64;
            let estimate = Estimate::of(hits, USE_SAMPLE, all, WINDOW);
            within +=
                u64::from((estimate.pages - in_use as f64).abs() < 1.65 * estimate.error_pages);
        }
        assert!(within >= 80, "{within} of 100");
    }
}
