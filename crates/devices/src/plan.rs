//! What a board is built from.

use crate::clock::GuestClock;

/// What a board is built from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BoardPlan {
    /// How many vCPUs there are, 1 to 255. vCPU `n` has APIC id `n`; vCPU 0 is the bootstrap processor.
    pub vcpu_count: u32,
    /// The guest's time.
    pub clock: GuestClock,
    /// Whether the debug-exit port is there.
    pub has_debug_exit: bool,
}
