//! Why the daemon cannot begin, or go on.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use fleet::InventoryError;
use thiserror::Error;

use crate::store::StoreError;

/// Why there is no daemon.
#[derive(Debug, Error)]
pub enum ServeError {
    /// What it must not forget has no place.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// VMs have no place.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// Another one is there.
    #[error("another `mother serve` answers at {}", .0.display())]
    Taken(PathBuf),
    /// The socket for its own user.
    #[error("cannot {act} the socket {}", .path.display())]
    Socket {
        /// The verb.
        act: &'static str,
        /// Which one.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The address for others.
    #[error("cannot listen at {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the host said.
        source: io::Error,
    },
    /// The certificate, or its key.
    #[error("cannot {act} the certificate {}", .path.display())]
    Certificate {
        /// The verb.
        act: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Threads, signals, clocks.
    #[error("cannot {0}")]
    Host(&'static str, #[source] io::Error),
}
