//! Whether what a guest was for is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set when a guest's program has ended: there is nothing in it any more that could be asked to end.
#[derive(Clone, Debug, Default)]
pub(super) struct IsOver(Arc<AtomicBool>);

impl IsOver {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
