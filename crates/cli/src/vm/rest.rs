//! A guest that stands still while somebody reads what it is.
//!
//! It is asked for on a connection of its own, and lasts as long as that: however the one ends who asked, the guest goes
//! on.

use std::time::{Duration, Instant};

use api::Command;
use fleet::{Client, ClientError};

/// The guest stands still until this is ended, or dropped.
pub(super) struct Rest {
    client: Client,
    since: Instant,
}

impl Rest {
    /// Has the VM at the other end of `client` rest.
    pub(super) fn begin(mut client: Client) -> Result<Rest, ClientError> {
        client.order(Command::Rest)?;
        Ok(Rest {
            client,
            since: Instant::now(),
        })
    }

    /// For how long it has stood still.
    pub(super) fn so_far(&self) -> Duration {
        self.since.elapsed()
    }

    /// How long it stood still, if it did so to the end.
    pub(super) fn end(mut self) -> Result<Duration, ClientError> {
        let rested = self.so_far();
        self.client.order(Command::Release)?;
        Ok(rested)
    }
}
