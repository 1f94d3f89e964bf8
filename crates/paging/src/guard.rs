//! The thread that looks after the other two.
//!
//! A thread that is ended from outside says nothing, and leaves locked what it had locked; who waits for that lock cannot
//! look. So this one takes none that the others hold for long. If it is the one that is ended, everything else goes on.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use mem::PagedMemory;

use crate::shared::{LOST, Shared};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(500);

/// Looks until told to stop, which comes with a call of `unpark`.
pub(crate) fn guard(shared: &Shared<PagedMemory>) {
    while !shared.is_stopping.load(Ordering::Acquire) {
        if shared.has_lost_thread() {
            return shared.broke(LOST);
        }
        thread::park_timeout(LOOK);
    }
}
