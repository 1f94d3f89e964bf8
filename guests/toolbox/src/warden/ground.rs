//! What the warden and the agent have in common.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Exit statuses of shells for a program that cannot be started: it is not there, or it is no program.
pub(crate) const NOT_FOUND: i32 = 127;
pub(crate) const NOT_EXECUTABLE: i32 = 126;

/// What a shell adds to the number of the signal that ended a program.
pub(crate) const ENDED_BY_SIGNAL: i32 = 128;

/// After how long of nothing new what the program has left behind is not waited for.
pub(crate) const QUIET: Duration = Duration::from_millis(500);

/// Looks a name up in the program's own `PATH`, not in ours.
pub(crate) fn find(program: &str, path: &str) -> String {
    if program.contains('/') {
        return program.to_owned();
    }
    let candidates = path.split(':').map(|folder| format!("{folder}/{program}"));
    candidates
        .into_iter()
        .find(|file| fs::metadata(file).is_ok())
        .unwrap_or_else(|| program.to_owned())
}

/// Takes a lock; what a thread that panicked under it has left is used like any other.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
