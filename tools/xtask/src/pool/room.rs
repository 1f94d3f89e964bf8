//! How much room there is on the disks that tests write to, by `df` of coreutils.
//!
//! Two guests that install themselves beside a dump of a third take gigabytes for a minute. Where a disk is small, or
//! somebody else writes to it, they have to come one after the other, and what failed of a full disk has said nothing about
//! the code.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, thread};

use crate::workspace;

/// Beside others a job is started only while so much is free: what the largest jobs take together.
const BESIDE_OTHERS: u64 = 3 << 30;
/// One job alone wants so much, and waits for it.
const ALONE: u64 = 1 << 30;
/// How long it is waited for, altogether: then everything is tried with what there is.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);

/// The disks, and the least that was free on one of them.
pub struct Room {
    folders: Vec<PathBuf>,
    looked: Option<(Instant, u64)>,
    least: u64,
    patience: Duration,
}

impl Room {
    /// Where tests write: beside the build, temporary files, what is cached.
    pub fn begin() -> Room {
        let cache = env::var_os("XDG_CACHE_HOME").or_else(|| env::var_os("HOME"));
        let folders = [
            Some(workspace::root()),
            Some(env::temp_dir()),
            cache.map(PathBuf::from),
        ];
        Room {
            folders: folders.into_iter().flatten().collect(),
            looked: None,
            least: u64::MAX,
            patience: PATIENCE,
        }
    }

    /// Bytes that were free on the fullest disk when it was the least.
    pub fn least(&self) -> Option<u64> {
        (self.least != u64::MAX).then_some(self.least)
    }

    /// Whether a job may start beside `running` others. Looks anew about once a second.
    pub fn has_room(&mut self, running: usize) -> bool {
        let free = match self.looked {
            Some((when, free)) if when.elapsed() < LOOK => free,
            _ => self.look(),
        };
        let needed = if running == 0 { ALONE } else { BESIDE_OTHERS };
        free >= needed || running == 0 && self.patience.is_zero()
    }

    /// Until one job may run alone, as long as there is patience.
    pub fn wait(&mut self) {
        if !self.has_room(0) {
            println!(
                "       waits for {} MiB on the disks of {}: {} MiB are free",
                ALONE >> 20,
                self.names(),
                self.look() >> 20
            );
        }
        while !self.has_room(0) {
            thread::sleep(LOOK);
            self.patience = self.patience.saturating_sub(LOOK);
        }
    }

    fn names(&self) -> String {
        let names: Vec<_> = self
            .folders
            .iter()
            .map(|folder| folder.to_string_lossy())
            .collect();
        names.join(", ")
    }

    /// What cannot be asked for is taken to be there.
    fn look(&mut self) -> u64 {
        let asked = Command::new("df")
            .args(["--block-size=1", "--output=avail"])
            .args(&self.folders)
            .output();
        let free = asked.map_or(u64::MAX, |answer| {
            least_of(&String::from_utf8_lossy(&answer.stdout)).unwrap_or(u64::MAX)
        });
        self.looked = Some((Instant::now(), free));
        self.least = self.least.min(free);
        free
    }
}

/// Whether a job's words say that a disk was full.
pub fn was_wanting(output: &str) -> bool {
    ["No space left on device", "StorageFull", "iB are free"]
        .iter()
        .any(|words| output.contains(words))
}

/// A title, then a number for each folder.
fn least_of(table: &str) -> Option<u64> {
    table
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_disk_counts() {
        let check = |table: &str, expected| assert_eq!(least_of(table), expected, "{table}");
        check("    Avail\n81234\n 512\n81234\n", Some(512));
        check("Avail\n", None);
        check("", None);
    }

    #[test]
    fn others_are_company_only_where_there_is_room_for_all() {
        let mut room = Room::begin();
        assert!(room.look() > 0);
        assert_eq!(room.least(), room.looked.map(|(_, free)| free));
        for (free, running, patience, expected) in [
            (BESIDE_OTHERS, 3, PATIENCE, true),
            (BESIDE_OTHERS - 1, 3, PATIENCE, false),
            (BESIDE_OTHERS - 1, 0, PATIENCE, true),
            (ALONE - 1, 0, PATIENCE, false),
            (ALONE - 1, 1, Duration::ZERO, false),
            (ALONE - 1, 0, Duration::ZERO, true),
        ] {
            room.looked = Some((Instant::now(), free));
            room.patience = patience;
            assert_eq!(room.has_room(running), expected, "{free} {running}");
        }
    }
}
