//! What was refused, and what of that is still to be told: a guest that tries everything fills no memory.

use std::collections::HashSet;
use std::time::{Duration, Instant};

/// What is told in words; all is counted.
pub(crate) const TOLD_MAX: usize = 64;

/// How often the count is told: sooner than a guest can end after its last packet, whose refusal is to be in the report.
pub(crate) const TELL_EVERY: Duration = Duration::from_millis(20);

/// The account of one guest.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    count: u64,
    told: HashSet<String>,
    /// What nobody has heard of yet.
    new: Vec<String>,
    last: Option<Instant>,
}

impl Refusals {
    /// One more, in words.
    pub(crate) fn add(&mut self, what: String) {
        self.count += 1;
        if self.told.len() < TOLD_MAX && self.told.insert(what.clone()) {
            self.new.push(what);
        }
    }

    /// When it is to be told, if anything is.
    pub(crate) fn due(&self) -> Option<Instant> {
        let at = self
            .last
            .map_or_else(Instant::now, |last| last + TELL_EVERY);
        (self.count > 0).then_some(at)
    }

    /// Tells it by `say`, if it is time: how many since the last time, and in words what is new. It is kept where `say` has nobody
    /// who listens now.
    pub(crate) fn tell(&mut self, now: Instant, say: impl FnOnce(u64, &[String]) -> bool) {
        let is_early = self.last.is_some_and(|last| now < last + TELL_EVERY);
        if self.count == 0 || is_early {
            return;
        }
        self.last = Some(now);
        if say(self.count, &self.new) {
            self.count = 0;
            self.new.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_tries_everything_fills_no_memory() {
        let mut refusals = Refusals::default();
        for n in 0..10_000 {
            refusals.add(n.to_string());
        }
        let counts = (refusals.count, refusals.told.len(), refusals.new.len());
        assert_eq!(counts, (10_000, TOLD_MAX, TOLD_MAX));
    }

    #[test]
    fn what_was_refused_is_told_once_and_kept_while_nobody_listens() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        let mut heard: Vec<(u64, usize)> = Vec::new();
        let mut tell = |refusals: &mut Refusals, at, listens| {
            refusals.tell(at, |count, new| {
                if listens {
                    heard.push((count, new.len()));
                }
                listens
            });
        };
        refusals.add("one".to_owned());
        tell(&mut refusals, now, false);
        refusals.add("one".to_owned());
        // Not yet, and then once.
        tell(&mut refusals, now, true);
        tell(&mut refusals, now + TELL_EVERY, true);
        tell(&mut refusals, now + 2 * TELL_EVERY, true);
        refusals.add("one".to_owned());
        tell(&mut refusals, now + 3 * TELL_EVERY, true);
        assert_eq!(heard, [(2, 1), (1, 0)]);
    }
}
