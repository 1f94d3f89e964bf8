//! What happened, told to whoever listens, and kept: an event has its number when it is on the disk.

use tokio::sync::broadcast;

use crate::store::{Store, StoreError};
use crate::words::{Event, Severity, now};

/// Events that a slow listener may be behind before it is told that it lost some.
const BEHIND_MAX: usize = 1024;

/// The log and its listeners.
#[derive(Debug)]
pub(crate) struct Events {
    listeners: broadcast::Sender<Event>,
}

impl Events {
    pub(crate) fn new() -> Events {
        Events {
            listeners: broadcast::Sender::new(BEHIND_MAX),
        }
    }

    /// Somebody who listens from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Event> {
        self.listeners.subscribe()
    }

    /// Keeps these, then tells them.
    pub(crate) fn add(&self, store: &Store, mut events: Vec<Event>) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        store.add_events(&mut events)?;
        for event in events {
            // Nobody has to listen.
            let _ = self.listeners.send(event);
        }
        Ok(())
    }
}

/// An event of a VM, without its number.
pub(crate) fn event(vm: &str, kind: &str, severity: Severity, text: String) -> Event {
    Event {
        id: 0,
        at: now(),
        vm: Some(vm.to_owned()),
        kind: kind.to_owned(),
        severity,
        text,
    }
}
