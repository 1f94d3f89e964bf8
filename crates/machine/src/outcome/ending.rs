//! Why a VM ended.

use serde::{Deserialize, Serialize};

use crate::outcome::crash::Crash;

/// Why a VM was stopped from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StopCause {
    /// Whoever started it wants no more.
    Left,
    /// The process got this signal.
    Signal(i32),
    /// It was to be ended at once.
    Killed,
    /// The guest did not power off within its grace time.
    GraceOver,
}

/// Why a VM ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The guest powered itself off, or reset itself where a reset ends it.
    PoweredOff,
    /// The guest ended itself through the debug-exit port, with this exit status.
    DebugExit(u8),
    /// A triple fault, or something that no engine could carry out.
    Crashed(Box<Crash>),
    /// The time was up.
    TimedOut,
    /// Somebody stopped it.
    Stopped(StopCause),
}
