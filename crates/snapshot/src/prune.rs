//! Which snapshots are not needed any more: a choice, made of values.

use std::time::Duration;

use crate::manifest::{Kind, Manifest};

/// What `prune` is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Prune {
    /// Those that are younger stay.
    pub older_than: Duration,
    /// So many of each VM stay, the newest.
    pub keep: usize,
}

impl Prune {
    /// Which of these go, at a time in seconds since 1970. A suspended VM is nowhere else, so it never does.
    pub(crate) fn choose(self, of: &[(&str, &Manifest)], now: f64) -> Vec<String> {
        let mut newest_first: Vec<_> = of
            .iter()
            .filter(|(_, manifest)| manifest.kind == Kind::Snapshot)
            .collect();
        newest_first.sort_by(|a, b| b.1.made_at.total_cmp(&a.1.made_at));
        let mut chosen = Vec::new();
        for (at, (name, manifest)) in newest_first.iter().enumerate() {
            let newer = &newest_first[..at];
            let of_this_vm = newer.iter().filter(|other| other.1.vm == manifest.vm);
            let age = now - manifest.made_at;
            if of_this_vm.count() >= self.keep && age >= self.older_than.as_secs_f64() {
                chosen.push((*name).to_owned());
            }
        }
        chosen
    }
}
