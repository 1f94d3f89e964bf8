//! The host's time-stamp counter and its frequency.

use std::arch::x86_64::_rdtsc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Reads the counter.
pub fn read() -> u64 {
    // SAFETY: RDTSC has no operands and no effect but its result; Linux lets ring 3 execute it.
    unsafe { _rdtsc() }
}

/// How long [`frequency_khz`] watches the clock at least.
const CALIBRATION: Duration = Duration::from_millis(10);

fn start() -> (Instant, u64) {
    static START: OnceLock<(Instant, u64)> = OnceLock::new();
    *START.get_or_init(|| (Instant::now(), read()))
}

/// Notes the time, so that a later [`frequency_khz`] measures over everything since and need not wait.
pub fn begin_calibration() {
    start();
}

/// Ticks per millisecond, measured once against the monotonic clock and rounded to 10 kHz.
pub fn frequency_khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(|| {
        let (instant, tsc) = start();
        let passed = instant.elapsed();
        if passed < CALIBRATION {
            std::thread::sleep(CALIBRATION - passed);
        }
        let (now, ticks) = (instant.elapsed(), read().wrapping_sub(tsc));
        let khz = u128::from(ticks) * 1_000_000 / now.as_nanos().max(1);
        ((khz + 5) / 10 * 10) as u64
    })
}
