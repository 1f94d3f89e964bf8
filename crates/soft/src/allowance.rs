//! What is noted of how much memory the engine may hold, and holds: of translations for `budget`, of all of it for `limit`.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// There is no limit.
pub(crate) const NONE: u64 = u64::MAX;
/// How many tables translations have.
pub(crate) const TABLES: usize = 11;

/// How much translations may take.
#[derive(Default)]
pub(crate) struct Budget {
    pub(crate) most_bytes: Option<usize>,
    /// Most entries that each table had room for since memory was last given back.
    pub(crate) peaks: [usize; TABLES],
}

/// What may be held, and is.
pub(crate) struct Limit {
    pub(crate) most_bytes: AtomicU64,
    /// Raised with every change.
    pub(crate) changes: AtomicU64,
    /// Bytes of translations, as of when the last was made.
    pub(crate) translations: AtomicUsize,
    /// Of these, bytes of code.
    pub(crate) code: AtomicUsize,
    /// Bytes of all vCPUs' tables.
    pub(crate) banks: AtomicUsize,
}

impl Limit {
    pub(crate) fn new() -> Limit {
        Limit {
            most_bytes: AtomicU64::new(NONE),
            changes: AtomicU64::new(0),
            translations: AtomicUsize::new(0),
            code: AtomicUsize::new(0),
            banks: AtomicUsize::new(0),
        }
    }

    /// Writes down what translations hold, under their lock.
    pub(crate) fn note_translations(&self, code: usize, tables: usize) {
        self.translations.store(code + tables, Ordering::Relaxed);
        self.code.store(code, Ordering::Relaxed);
    }
}
