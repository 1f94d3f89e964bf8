//! Where guest memory lies: below the board's windows first, the rest above 4 GiB, as the board lays it out.

use devices::layout::{HIGH_RAM_START, LOW_RAM_LIMIT, RESERVED};
use mem::Slots;
use x86::Gpa;

use super::memory_map::{Range, RangeKind, memory_map};

/// Bytes of low memory of a guest with `memory_bytes`.
pub(crate) fn low_bytes(memory_bytes: u64) -> u64 {
    memory_bytes.min(LOW_RAM_LIMIT.0)
}

/// The memslots of a guest with `memory_bytes`.
pub(crate) fn slots(memory_bytes: u64) -> Slots {
    let mut slots = Slots::default();
    let low = low_bytes(memory_bytes);
    slots.push(Gpa(0), low);
    if memory_bytes > low {
        slots.push(HIGH_RAM_START, memory_bytes - low);
    }
    slots
}

/// The memory map that a guest with these slots is told.
pub(crate) fn guest_map(slots: &Slots) -> Vec<Range> {
    let reserved = RESERVED.map(|range| Range {
        start: range.start.0,
        len_bytes: range.len_bytes,
        kind: RangeKind::Reserved,
    });
    memory_map(slots, &reserved)
}
