//! What the guest asked of the board as a whole: power off, reset, end with a code.
//!
//! Devices leave such a wish here; the machine takes it after the access and decides. Nobody calls the machine.

use std::sync::Arc;

use host::lock::Lock;
use serde::{Deserialize, Serialize};

use crate::saved::{Saved, Unfit};

/// Something that ends or restarts the VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BoardEvent {
    /// The guest switched itself off (ACPI S5).
    PowerOff,
    /// The guest asked for a reset, one way or another.
    Reset,
    /// The guest ended itself with this exit status through the debug-exit port.
    DebugExit(u8),
}

/// Where devices leave a [`BoardEvent`]. The first one counts until it is taken.
#[derive(Clone, Debug, Default)]
pub struct BoardEvents(Arc<Lock<Option<BoardEvent>>>);

impl BoardEvents {
    /// Leaves an event, unless one waits.
    pub fn post(&self, event: BoardEvent) {
        self.0.lock().get_or_insert(event);
    }

    /// Takes the event that waits.
    pub fn take(&self) -> Option<BoardEvent> {
        self.0.lock().take()
    }
}

impl Saved for BoardEvents {
    type State = Option<BoardEvent>;

    fn save(&self) -> Option<BoardEvent> {
        *self.0.lock()
    }

    fn restore(&mut self, state: Option<BoardEvent>) -> Result<(), Unfit> {
        *self.0.lock() = state;
        Ok(())
    }
}
