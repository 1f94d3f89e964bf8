//! What handlers share.

use std::sync::Arc;

use crate::daemon::Daemon;

/// The daemon, in every handler.
pub(crate) type App = Arc<Daemon>;
