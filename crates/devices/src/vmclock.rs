//! VMClock: a page that tells a guest that its time was disrupted (`include/uapi/linux/vmclock-abi.h`).
//!
//! A machine that goes on from a snapshot has lost seconds or years, and what it knew about how fast its time stamp
//! counter runs may be wrong. Two numbers in the page are others from then on; programs can map the page (`/dev/vmclock0`) and
//! see it without a system call, and the guest's kernel tells those that wait (poll(2)). Linux has the driver from 6.13 on, and
//! waiting from 7.0 on, where it was built (`ptp_vmclock`).
//!
//! The page says no more: neither the time nor the counter's rate, for which a guest has the paravirtual clock. The page is RAM
//! of the guest, which may spoil it and then misleads itself alone.

use mem::GuestMemory;

use crate::layout;

/// "VCLK".
const MAGIC: u32 = 0x4b4c_4356;
const VERSION: u16 = 1;
/// `VMCLOCK_COUNTER_INVALID`: the page relates no counter to time.
const NO_COUNTER: u8 = 0xff;
/// `VMCLOCK_FLAG_VM_GEN_COUNTER_PRESENT`, `VMCLOCK_FLAG_NOTIFICATION_PRESENT`.
const FLAGS: u64 = 1 << 8 | 1 << 9;
/// Bytes of `struct vmclock_abi`.
const BYTES: usize = 112;
/// Where its fields lie.
const SEQUENCE: usize = 12;
const DISRUPTION: usize = 16;
const GENERATION: usize = 104;

/// Says that the machine is another from now on, whose number is `marker`. No vCPU may run meanwhile: all of the page is written
/// anew.
pub(crate) fn write(memory: &GuestMemory, marker: u64) {
    let mut before = [0; 4];
    let sequence = layout::VMCLOCK.0 + SEQUENCE as u64;
    // A machine too small for the page has none.
    if memory.read(x86::Gpa(sequence), &mut before).is_err() {
        return;
    }
    let _ = memory.write(layout::VMCLOCK, &page(u32::from_le_bytes(before), marker));
}

/// The page after the one whose sequence was `before`. An odd sequence would say that it is being written.
fn page(before: u32, marker: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &MAGIC.to_le_bytes());
    put(4, &(layout::VMCLOCK_BYTES as u32).to_le_bytes());
    put(8, &VERSION.to_le_bytes());
    put(10, &[NO_COUNTER]);
    put(SEQUENCE, &(before & !1).wrapping_add(2).to_le_bytes());
    put(DISRUPTION, &marker.to_le_bytes());
    put(24, &FLAGS.to_le_bytes());
    put(GENERATION, &marker.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_an_even_sequence_that_is_another_and_both_numbers() {
        for (before, after) in [(0, 2), (2, 4), (3, 4), (u32::MAX, 0)] {
            let bytes = page(before, 0x1122_3344_5566_7788);
            assert_eq!(&bytes[..4], b"VCLK");
            assert_eq!(bytes[4..12], [0, 0x10, 0, 0, 1, 0, 0xff, 0]);
            assert_eq!(bytes[SEQUENCE..DISRUPTION], u32::to_le_bytes(after));
            for at in [DISRUPTION, GENERATION] {
                assert_eq!(bytes[at], 0x88, "{at}");
                assert_eq!(bytes[at + 7], 0x11, "{at}");
            }
            assert_eq!(bytes[24..32], [0, 3, 0, 0, 0, 0, 0, 0]);
            assert_eq!(bytes[32..GENERATION], [0; 72]);
        }
    }
}
