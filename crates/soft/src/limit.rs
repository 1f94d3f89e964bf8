//! How much of the host's memory the engine may hold beside the guest's pages, and how that is shared.
//!
//! Each vCPU has TLBs and jump caches, a quarter of the limit for all vCPUs together: fewer of them cost a guest that goes to and
//! fro between many address spaces flushes. The rest is for translations, which are made anew when it is full (`budget`). A limit
//! comes down while vCPUs run, so each sees to its own tables on its own thread, and the first that comes clears the translations if
//! they are too much, with the others out of them.

use std::sync::atomic::Ordering;

use vcpu::EngineMemory;

use crate::allowance::NONE;
use crate::bank::{Banks, Bounds};
use crate::cpu::SoftVcpu;
use crate::soft::Soft;

/// Least that translations take of which a guest gets on: code and tables of some thousand blocks.
const TRANSLATIONS_LEAST_BYTES: u64 = 6 << 20;
/// Least that each vCPU takes: the fewest tables that Linux goes to and fro between, and what was decoded lately.
const VCPU_LEAST_BYTES: u64 = 3 << 20;
/// What a vCPU holds beside its tables: its block, what was decoded lately, thunks.
pub(crate) const VCPU_BYTES: usize = 160 << 10;
/// One byte of the limit in so many is for tables of vCPUs.
const VCPUS_SHARE: usize = 4;

/// The least that an engine with so many vCPUs can work in, in bytes.
pub fn least_bytes(vcpu_count: u32) -> u64 {
    TRANSLATIONS_LEAST_BYTES + VCPU_LEAST_BYTES * u64::from(vcpu_count)
}

/// What a limit leaves for translations, and for the tables of each of so many vCPUs.
fn shares(most_bytes: u64, vcpu_count: usize) -> (Option<usize>, Bounds) {
    if most_bytes == NONE {
        return (None, Bounds::MOST);
    }
    let most = usize::try_from(most_bytes).unwrap_or(usize::MAX);
    let bounds = Bounds::within(most / VCPUS_SHARE / vcpu_count.max(1));
    let vcpus = vcpu_count * (bounds.len_bytes() + VCPU_BYTES);
    (Some(most.saturating_sub(vcpus)), bounds)
}

impl EngineMemory for Soft {
    fn held_bytes(&self) -> u64 {
        let limit = &self.limit;
        let vcpus = self.doors.get().map_or(0, |doors| doors.count());
        let held = limit.translations.load(Ordering::Relaxed)
            + limit.banks.load(Ordering::Relaxed)
            + vcpus * VCPU_BYTES;
        held as u64
    }

    fn code_bytes(&self) -> u64 {
        self.limit.code.load(Ordering::Relaxed) as u64
    }

    fn set_limit(&self, bytes: Option<u64>) {
        self.limit
            .most_bytes
            .store(bytes.unwrap_or(NONE), Ordering::Relaxed);
        self.limit.changes.fetch_add(1, Ordering::Release);
    }
}

impl SoftVcpu {
    /// Keeps the limit, if it was changed since this was last called.
    pub(crate) fn obey_limit(&mut self) {
        let changes = self.soft.limit.changes.load(Ordering::Acquire);
        if changes == self.limit_changes {
            return;
        }
        self.limit_changes = changes;
        let most_bytes = self.soft.limit.most_bytes.load(Ordering::Relaxed);
        let (budget, bounds) = shares(most_bytes, self.soft.doors().count());
        self.banks.bound(bounds);
        // What was current may lie elsewhere.
        self.update_context();
        self.banks.count_in(&self.soft);
        self.keep_budget(budget);
    }
}

impl Banks {
    /// Counts what these tables take, from now on, among those of all vCPUs.
    pub(crate) fn count_in(&mut self, soft: &Soft) {
        let bytes = self.len_bytes();
        if bytes != self.counted {
            let all = &soft.limit.banks;
            all.fetch_add(bytes, Ordering::Relaxed);
            all.fetch_sub(self.counted, Ordering::Relaxed);
            self.counted = bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_limit_is_the_shares_are_no_more_and_enough_to_work_in() {
        for (vcpus, limit) in [
            (1, least_bytes(1)),
            (1, 16 << 20),
            (1, 40 << 20),
            (1, 4 << 30),
            (2, least_bytes(2)),
            (7, 64 << 20),
            (64, least_bytes(64)),
            (64, 1 << 30),
        ] {
            let count = vcpus as usize;
            let (translations, bounds) = shares(limit, count);
            let translations = translations.unwrap();
            let all = translations + count * (bounds.len_bytes() + VCPU_BYTES);
            assert_eq!(all as u64, limit, "{vcpus} vCPUs");
            let least = TRANSLATIONS_LEAST_BYTES as usize;
            assert!(translations >= least, "{vcpus} vCPUs: {translations}");
        }
        assert!(shares(NONE, 1) == (None, Bounds::MOST));
    }

    #[test]
    fn the_least_of_a_vcpu_is_what_its_fewest_tables_take() {
        let least = Bounds::within(0).len_bytes() + VCPU_BYTES;
        assert!(least as u64 <= VCPU_LEAST_BYTES, "{least}");
    }
}
