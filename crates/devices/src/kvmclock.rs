//! The paravirtual clock that Linux knows as kvm-clock (Linux Documentation/virt/kvm/x86/msr.rst).
//!
//! A guest gives an address by MSR; the board writes there how to turn the TSC into time. Since the TSC is stable
//! and the same for all vCPUs, that is written once and stays true.

use mem::{GuestMemory, MemoryError};
use serde::{Deserialize, Serialize};
use x86::Gpa;

use crate::clock::{GuestClock, NANOS_PER_SECOND, Nanos};

/// Flag: all vCPUs' times are one time.
const TSC_STABLE: u8 = 1;
/// Flag: the guest was stopped, so that time went by in which it could not do what its watchdogs expect. The guest clears it
/// when it has seen it.
const STOPPED: u8 = 2;
/// Bit of the system-time MSR that switches the clock on.
const ENABLED: u64 = 1;

/// The clock of one vCPU, as its MSR says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SystemTime {
    msr: u64,
    version: u32,
}

impl SystemTime {
    /// RDMSR.
    pub fn msr(&self) -> u64 {
        self.msr
    }

    /// WRMSR: where to write the time. Where no memory is, nothing is written, and the guest has no clock.
    pub fn set_msr(&mut self, memory: &GuestMemory, clock: &GuestClock, now: Nanos, value: u64) {
        self.msr = value;
        self.update(memory, clock, now, false);
    }

    /// Writes the time anew; whether the guest was stopped meanwhile is told with it.
    pub fn update(
        &mut self,
        memory: &GuestMemory,
        clock: &GuestClock,
        now: Nanos,
        was_stopped: bool,
    ) {
        if self.msr & ENABLED == 0 {
            return;
        }
        // An odd version says "being written"; readers try again.
        self.version = self.version.wrapping_add(2) & !1;
        let _ = self.write(memory, clock, now, was_stopped);
    }

    fn write(
        &self,
        memory: &GuestMemory,
        clock: &GuestClock,
        now: Nanos,
        was_stopped: bool,
    ) -> Result<(), MemoryError> {
        let gpa = Gpa(self.msr & !ENABLED);
        let (multiplier, shift) = scale(clock.tsc_khz);
        // The pair must be exact: take the TSC first and the time it stands for.
        let tsc = clock.tsc(now);
        let mut time = [0; 32];
        time[0..4].copy_from_slice(&self.version.wrapping_sub(1).to_le_bytes());
        time[8..16].copy_from_slice(&tsc.to_le_bytes());
        time[16..24].copy_from_slice(&clock.now(tsc).0.to_le_bytes());
        time[24..28].copy_from_slice(&multiplier.to_le_bytes());
        time[28] = shift as u8;
        time[29] = TSC_STABLE | if was_stopped { STOPPED } else { 0 };
        memory.write(gpa, &time)?;
        memory.write(gpa, &self.version.to_le_bytes())
    }
}

/// Writes the wall clock's time at time zero to `gpa`.
pub fn write_wall_clock(memory: &GuestMemory, clock: &GuestClock, gpa: u64) {
    let seconds = clock.wall_at_start_ns / NANOS_PER_SECOND;
    let nanos = clock.wall_at_start_ns % NANOS_PER_SECOND;
    let mut time = [0; 12];
    time[0..4].copy_from_slice(&2_u32.to_le_bytes());
    time[4..8].copy_from_slice(&(seconds as u32).to_le_bytes());
    time[8..12].copy_from_slice(&(nanos as u32).to_le_bytes());
    // An address without memory is the guest's mistake; it gets no time.
    let _ = memory.write(Gpa(gpa), &time);
}

/// Multiplier and shift with which `(ticks << shift) * multiplier >> 32` is nanoseconds; the multiplier is as
/// large as 32 bits allow, for precision.
fn scale(tsc_khz: u64) -> (u32, i8) {
    let tsc_hz = u128::from(tsc_khz.max(1)) * 1000;
    let mut shift = 0_i8;
    let multiplier = |shift: i8| {
        let nanos = u128::from(NANOS_PER_SECOND) << 64;
        let shifted = if shift >= 0 {
            nanos >> shift
        } else {
            nanos << -shift
        };
        (shifted / tsc_hz) >> 32
    };
    while multiplier(shift) > u128::from(u32::MAX) {
        shift += 1;
    }
    while multiplier(shift) <= u128::from(u32::MAX) / 2 {
        shift -= 1;
    }
    (multiplier(shift) as u32, shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How Linux reads it (pvclock-abi.h).
    fn read(memory: &GuestMemory, gpa: u64, tsc: u64) -> u64 {
        let value = |at: u64, size| memory.read_value(Gpa(gpa + at), size).unwrap();
        assert_eq!(value(0, 4) % 2, 0);
        let delta = tsc - value(8, 8);
        let shift = value(28, 1) as i8;
        let delta = if shift < 0 {
            delta >> -shift
        } else {
            delta << shift
        };
        value(16, 8) + ((u128::from(delta) * u128::from(value(24, 4))) >> 32) as u64
    }

    #[test]
    fn a_guest_computes_the_board_s_time() {
        let memory = GuestMemory::flat(0x2000).unwrap();
        for tsc_khz in [1_000, 999_999, 1_000_000, 2_399_980, 5_000_000] {
            let clock = GuestClock {
                tsc_khz,
                tsc_at_start: 12_345,
                wall_at_start_ns: 0,
            };
            let mut time = SystemTime::default();
            time.set_msr(&memory, &clock, Nanos(3_000_000_001), 0x1001);
            for later in [0, 1_000_000, 100_000_000_000] {
                let tsc = clock.tsc(Nanos(3_000_000_001 + later));
                let seen = read(&memory, 0x1000, tsc);
                // A tick is up to a microsecond at 1 MHz; the multiplier is good to 2^-31.
                let slack = 2 + 2_000_000 / tsc_khz + later / (1 << 31);
                assert!(
                    seen.abs_diff(clock.now(tsc).0) <= slack,
                    "{tsc_khz} kHz after {later}: {seen}"
                );
            }
            assert_eq!(
                memory.read_value(Gpa(0x101d), 1).unwrap(),
                u64::from(TSC_STABLE)
            );
        }
    }

    #[test]
    fn wall_time_is_that_of_time_zero() {
        let memory = GuestMemory::flat(0x1000).unwrap();
        let clock = GuestClock {
            tsc_khz: 1,
            tsc_at_start: 0,
            wall_at_start_ns: 1_700_000_000_000_000_007,
        };
        write_wall_clock(&memory, &clock, 0x10);
        assert_eq!(memory.read_value(Gpa(0x14), 4).unwrap(), 1_700_000_000);
        assert_eq!(memory.read_value(Gpa(0x18), 4).unwrap(), 7);
    }

    #[test]
    fn addresses_without_memory_write_nothing_and_do_no_harm() {
        let memory = GuestMemory::flat(0x1000).unwrap();
        let clock = GuestClock {
            tsc_khz: 1_000_000,
            tsc_at_start: 0,
            wall_at_start_ns: 0,
        };
        for address in [0xfff, 0x1000, u64::MAX, u64::MAX - 8] {
            write_wall_clock(&memory, &clock, address);
            SystemTime::default().set_msr(&memory, &clock, Nanos(0), address | 1);
        }
        SystemTime::default().set_msr(&memory, &clock, Nanos(u64::MAX), 0x100);
        assert_eq!(memory.read_value(Gpa(0x108), 8).unwrap(), 0, "not enabled");
    }
}
