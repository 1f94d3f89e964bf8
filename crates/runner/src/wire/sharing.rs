//! What a process that serves a folder says to the launcher.

use serde::{Deserialize, Serialize};

/// From the server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum FromSharing {
    /// It serves: nothing more is said here.
    Ready,
    /// It does not.
    Refused {
        /// Why not, as a sentence without its end.
        why: String,
    },
}
