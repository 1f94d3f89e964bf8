//! What a life's threads have in common: how they wait, are woken, stand still together, and show what they do.

pub(crate) mod alarm;
pub(crate) mod bell;
pub(crate) mod crew;
pub(crate) mod device_threads;
pub(crate) mod engine_limit;
pub(crate) mod exchange;
pub(crate) mod gate;
pub(crate) mod helper;
pub(crate) mod host_limit;
pub(crate) mod mailbox;
pub(crate) mod observe;
pub(crate) mod patience;
pub(crate) mod probing;
pub(crate) mod profiler;
pub(crate) mod quota;
pub(crate) mod time;
