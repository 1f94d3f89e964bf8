//! What a process that keeps a guest's list of places says to the launcher.

use api::Jail;
use serde::{Deserialize, Serialize};

/// From the keeper.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum FromEgress {
    /// It has locked itself in, and frames pass.
    Ready(Jail),
    /// So many packets were refused since the last time; `to` are those of their destinations that are new.
    Refused {
        /// Packets.
        count: u64,
        /// In words.
        to: Vec<String>,
    },
}
