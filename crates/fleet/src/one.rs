//! One VM that is meant itself, and not whichever has its name.
//!
//! A name is used again: by the same VM, started anew, or by another one. Who watches a VM for long, and has its memory
//! open, must not be connected to the next one of that name in its place.

use std::io;

use crate::client::{Client, ClientError};
use crate::record::Record;

/// A VM by its process.
#[derive(Clone, PartialEq, Debug)]
pub struct OneVm {
    record: Record,
    pid: u32,
    started_at: f64,
}

impl OneVm {
    /// Connects to the VM that has this record now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(record: Record) -> Result<(OneVm, Client), ClientError> {
        let mut client = Client::connect(&record)?;
        let info = client.status()?.info;
        let one = OneVm {
            record,
            pid: info.pid,
            started_at: info.started_at,
        };
        Ok((one, client))
    }

    /// Another connection to the same VM.
    ///
    /// # Errors
    /// [`ClientError::Connection`] if it has ended, even if another one has its name.
    pub fn again(&self) -> Result<Client, ClientError> {
        let mut client = Client::connect(&self.record)?;
        let info = client.status()?.info;
        if (info.pid, info.started_at) == (self.pid, self.started_at) {
            return Ok(client);
        }
        let ended = "the VM has ended, and another one has its name";
        Err(ClientError::Connection(io::Error::new(
            io::ErrorKind::NotConnected,
            ended,
        )))
    }

    /// Its folder.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What no other VM has, as a text.
    pub fn id(&self) -> String {
        format!("{} {}", self.pid, self.started_at)
    }
}
