//! Where guest memory lies: low memory up to the hole that belongs to the board, the rest above 4 GiB.

use mem::Slots;
use x86::Gpa;

/// First address that never is low memory: the board's windows lie from here to 4 GiB.
pub(crate) const LOW_END_MAX: u64 = 3 << 30;
/// Where memory goes on.
pub(crate) const HIGH_START: u64 = 4 << 30;

/// Bytes of low memory of a guest with `memory_bytes`.
pub(crate) fn low_bytes(memory_bytes: u64) -> u64 {
    memory_bytes.min(LOW_END_MAX)
}

/// The memslots of a guest with `memory_bytes`.
pub(crate) fn slots(memory_bytes: u64) -> Slots {
    let mut slots = Slots::default();
    let low = low_bytes(memory_bytes);
    slots.push(Gpa(0), low);
    if memory_bytes > low {
        slots.push(Gpa(HIGH_START), memory_bytes - low);
    }
    slots
}
