//! Lines of the kernel's log as they come.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use insight::trace::{Event, Reach, What};
use insight::{Kernel, Observed};

use super::Listener;

/// The log is read so long after the kernel said that it has more: the record is being written then, and more may come.
const DELAY: Duration = Duration::from_millis(20);

/// What has been told of the log.
pub(super) struct Log {
    /// The number of the first record that has not.
    next: u64,
    /// How often it is to be read for what it is known to have grown by.
    looks: u8,
}

impl Log {
    /// What is in it now is not told.
    pub(super) fn new(kernel: &Kernel) -> Log {
        let account = kernel.account();
        let records = kernel.look(&account, &[]).kernel_log();
        let last = match &records {
            Observed::Seen { value, .. } => value.last().map(|record| record.sequence + 1),
            Observed::NotObservable { .. } => None,
        };
        Log {
            next: last.unwrap_or(0),
            looks: 0,
        }
    }

    /// It has more, or will have within a moment. A guest that is held up may take longer, so it is looked at twice.
    pub(super) fn grew(&mut self) {
        self.looks = 2;
    }

    /// Tells of what has come since, if it has grown. False: no more is wanted.
    pub(super) fn tell(&mut self, kernel: &Kernel, reach: &Reach, to: &mut dyn Listener) -> bool {
        if self.looks == 0 {
            return true;
        }
        self.looks -= 1;
        if self.looks > 0 {
            std::thread::sleep(DELAY);
        }
        let account = kernel.account();
        let Observed::Seen { value: records, .. } = kernel.look(&account, &[]).kernel_log() else {
            return true;
        };
        let next = self.next;
        let now = now_ns();
        for record in records.into_iter().filter(|record| record.sequence >= next) {
            self.next = record.sequence + 1;
            let event = Event {
                at_ns: now,
                vcpu: None,
                reach: reach.clone(),
                process: None,
                what: What::Log {
                    sequence: record.sequence,
                    time_ns: record.time_ns,
                    level: record.level,
                    text: record.text,
                },
            };
            if !to.event(&event) {
                return false;
            }
        }
        true
    }
}

/// The host's time of day.
pub(super) fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64)
}
