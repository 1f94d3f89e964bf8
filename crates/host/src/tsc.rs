//! The host's time-stamp counter and its frequency.

use std::arch::x86_64::_rdtsc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Reads the counter.
pub fn read() -> u64 {
    // SAFETY: RDTSC has no operands and no effect but its result; Linux lets ring 3 execute it.
    unsafe { _rdtsc() }
}

/// What is known about whether the counter is one clock, on all processors and at all times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stability {
    /// The kernel would keep time by it.
    Stable,
    /// The kernel has found out that it is not, or was never sure.
    Unstable,
    /// The kernel does not say, and the processor promises that it runs at one speed in all its states (APM vol. 3,
    /// function 8000_0007h).
    Promised,
    /// Neither says.
    Unknown,
}

/// Asks the kernel, which watches the counter all the time, and the processor.
pub fn stability() -> Stability {
    let clocks = std::fs::read_to_string(
        "/sys/devices/system/clocksource/clocksource0/available_clocksource",
    );
    let has_leaf = crate::cpu::cpuid(0x8000_0000, 0)[0] >= 0x8000_0007;
    judge(
        clocks.ok().as_deref(),
        has_leaf && crate::cpu::cpuid(0x8000_0007, 0)[3] & 1 << 8 != 0,
    )
}

/// `clocks` are those that the kernel would use: a counter found to be unstable is not among them any more.
fn judge(clocks: Option<&str>, is_invariant: bool) -> Stability {
    match clocks {
        Some(clocks) if clocks.split_whitespace().any(|clock| clock == "tsc") => Stability::Stable,
        Some(_) => Stability::Unstable,
        None if is_invariant => Stability::Promised,
        None => Stability::Unknown,
    }
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
            crate::rest::rest(CALIBRATION - passed);
        }
        let now = instant.elapsed();
        let ticks = read().wrapping_sub(tsc);
        let khz = u128::from(ticks) * 1_000_000 / now.as_nanos().max(1);
        ((khz + 5) / 10 * 10) as u64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_word_counts_before_the_processors() {
        let check = |clocks, is_invariant, expected| {
            assert_eq!(judge(clocks, is_invariant), expected, "{clocks:?}")
        };
        check(Some("tsc hpet acpi_pm \n"), false, Stability::Stable);
        check(Some("kvm-clock tsc acpi_pm \n"), true, Stability::Stable);
        check(Some("hpet acpi_pm \n"), true, Stability::Unstable);
        check(None, true, Stability::Promised);
        check(None, false, Stability::Unknown);
    }
}
