//! The local APIC's timer: one-shot, periodic and TSC-deadline (SDM vol. 3, 11.5.4).
//!
//! The timer counts a bus clock of 1 GHz, as KVM's does, so a tick is a nanosecond times the divisor. It is a
//! value: it says when it expires and is told the time.

use serde::{Deserialize, Serialize};

use crate::clock::Nanos;

/// Frequency of the bus clock that the timer divides.
pub const BUS_HZ: u64 = 1_000_000_000;

/// A periodic timer is not heard more often than this: a guest that asks for an interrupt per nanosecond would
/// otherwise buy host time with it. Linux asks for 1 ms at the least.
const PERIOD_MIN_NS: u64 = 20_000;

/// How the timer counts: bits 17 and 18 of its LVT entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TimerMode {
    /// Counts down once.
    OneShot,
    /// Counts down again and again.
    Periodic,
    /// Waits for a value of the TSC.
    TscDeadline,
}

impl TimerMode {
    /// From the LVT entry; the reserved encoding counts once.
    pub fn of_lvt(lvt: u32) -> TimerMode {
        match lvt >> 17 & 3 {
            1 => TimerMode::Periodic,
            2 => TimerMode::TscDeadline,
            _ => TimerMode::OneShot,
        }
    }
}

/// The timer's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ApicTimer {
    mode: TimerMode,
    /// Divide configuration register.
    divide: u32,
    initial_count: u32,
    /// The TSC value waited for, 0 if none.
    tsc_deadline: u64,
    /// When it next expires.
    expires: Option<Nanos>,
}

impl Default for ApicTimer {
    fn default() -> ApicTimer {
        ApicTimer {
            mode: TimerMode::OneShot,
            divide: 0,
            initial_count: 0,
            tsc_deadline: 0,
            expires: None,
        }
    }
}

impl ApicTimer {
    /// When the timer expires, if it runs.
    pub fn deadline(&self) -> Option<Nanos> {
        self.expires
    }

    /// Lets time pass; whether the timer expired. Expiries that nobody looked at in time count as one.
    pub fn advance(&mut self, now: Nanos) -> bool {
        let Some(expired) = self.expires.filter(|&at| at <= now) else {
            return false;
        };
        self.tsc_deadline = 0;
        self.expires = match self.mode {
            TimerMode::Periodic => {
                let period = self.period_ns().max(1);
                let missed = now.since(expired) / period;
                let next = expired.after(period.saturating_mul(missed + 1));
                Some(next.max(now.after(PERIOD_MIN_NS.min(next.0))))
            }
            TimerMode::OneShot | TimerMode::TscDeadline => None,
        };
        true
    }

    /// Changes the mode. To or from TSC-deadline disarms the timer (SDM vol. 3, 11.5.4.1).
    pub fn set_mode(&mut self, mode: TimerMode) {
        if (mode == TimerMode::TscDeadline) != (self.mode == TimerMode::TscDeadline) {
            self.expires = None;
            self.tsc_deadline = 0;
            self.initial_count = 0;
        }
        self.mode = mode;
    }

    /// Writes the initial count: starts the timer, 0 stops it. Ignored in TSC-deadline mode.
    pub fn set_initial_count(&mut self, now: Nanos, count: u32) {
        if self.mode == TimerMode::TscDeadline {
            return;
        }
        self.initial_count = count;
        self.expires = (count != 0).then(|| now.after(self.period_ns()));
    }

    /// Becomes a timer of which `left` of `initial` counts are left at `now`.
    pub fn restore(&mut self, now: Nanos, mode: TimerMode, divide: u32, initial: u32, left: u32) {
        *self = ApicTimer {
            mode,
            divide: divide & 0b1011,
            initial_count: initial,
            tsc_deadline: 0,
            expires: None,
        };
        let is_periodic = mode == TimerMode::Periodic && initial != 0;
        if mode != TimerMode::TscDeadline && (left != 0 || is_periodic) {
            self.expires = Some(now.after(u64::from(left) << self.shift()));
        }
    }

    /// The initial count register.
    pub fn initial_count(&self) -> u32 {
        self.initial_count
    }

    /// The current count register.
    pub fn current_count(&self, now: Nanos) -> u32 {
        match self.expires {
            Some(at) if self.mode != TimerMode::TscDeadline => {
                let ticks = at.since(now).div_ceil(1 << self.shift());
                u32::try_from(ticks)
                    .unwrap_or(u32::MAX)
                    .min(self.initial_count)
            }
            _ => 0,
        }
    }

    /// Writes the divide configuration; a running count goes on at the new speed.
    pub fn set_divide(&mut self, now: Nanos, divide: u32) {
        let left = u64::from(self.current_count(now));
        self.divide = divide & 0b1011;
        if self.mode != TimerMode::TscDeadline && self.expires.is_some() {
            self.expires = Some(now.after(left << self.shift()));
        }
    }

    /// The divide configuration register.
    pub fn divide(&self) -> u32 {
        self.divide
    }

    /// Arms TSC-deadline mode for a TSC value that is reached at `at`; 0 disarms. Ignored in other modes.
    pub fn set_tsc_deadline(&mut self, tsc: u64, at: Nanos) {
        if self.mode == TimerMode::TscDeadline {
            self.tsc_deadline = tsc;
            self.expires = (tsc != 0).then_some(at);
        }
    }

    /// The TSC value waited for, 0 if none.
    pub fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    /// Log2 of the divisor: the register's value 0b1011 is 1, 0b0000 is 2, and so on to 0b1010, which is 128.
    fn shift(&self) -> u32 {
        let value = (self.divide & 3) | (self.divide >> 1 & 4);
        (value + 1) & 7
    }

    fn period_ns(&self) -> u64 {
        u64::from(self.initial_count) << self.shift()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(mode: TimerMode, divide: u32, count: u32) -> ApicTimer {
        let mut timer = ApicTimer::default();
        timer.set_mode(mode);
        timer.set_divide(Nanos(0), divide);
        timer.set_initial_count(Nanos(1000), count);
        timer
    }

    #[test]
    fn the_divisor_slows_the_count() {
        let check = |divide, expected: u64| {
            let timer = started(TimerMode::OneShot, divide, 100_000);
            assert_eq!(
                timer.deadline(),
                Some(Nanos(1000 + expected * 100_000)),
                "divide {divide:#b}"
            );
            assert_eq!(timer.current_count(Nanos(1000)), 100_000);
            assert_eq!(timer.current_count(Nanos(1000 + expected * 40_000)), 60_000);
        };
        check(0b1011, 1);
        check(0b0000, 2);
        check(0b0001, 4);
        check(0b0010, 8);
        check(0b0011, 16);
        check(0b1000, 32);
        check(0b1001, 64);
        check(0b1010, 128);
    }

    #[test]
    fn one_shot_expires_once() {
        let mut timer = started(TimerMode::OneShot, 0b1011, 500);
        assert!(!timer.advance(Nanos(1499)));
        assert!(timer.advance(Nanos(1500)));
        assert_eq!(
            (timer.deadline(), timer.current_count(Nanos(1500))),
            (None, 0)
        );
        assert!(!timer.advance(Nanos(9999)));
    }

    #[test]
    fn periodic_keeps_its_phase_when_somebody_was_late() {
        let mut timer = started(TimerMode::Periodic, 0b1011, 1_000_000);
        assert!(timer.advance(Nanos(1_001_000)));
        assert_eq!(timer.deadline(), Some(Nanos(2_001_000)));
        assert!(timer.advance(Nanos(5_101_000)));
        assert_eq!(timer.deadline(), Some(Nanos(6_001_000)));
    }

    #[test]
    fn a_period_of_a_nanosecond_does_not_buy_host_time() {
        let mut timer = started(TimerMode::Periodic, 0b1011, 1);
        assert!(timer.advance(Nanos(2000)));
        assert!(timer.deadline().unwrap() >= Nanos(2000));
        let mut now = Nanos(1_000_000);
        let mut fired = 0;
        while now < Nanos(2_000_000) {
            fired += u64::from(timer.advance(now));
            now = timer.deadline().unwrap();
        }
        assert!(fired <= 1 + 1_000_000 / PERIOD_MIN_NS, "{fired}");
    }

    #[test]
    fn tsc_deadline_disarms_itself_and_other_modes_ignore_it() {
        let mut timer = started(TimerMode::TscDeadline, 0, 100);
        assert_eq!(
            timer.deadline(),
            None,
            "the initial count means nothing in this mode"
        );
        timer.set_tsc_deadline(777, Nanos(50));
        assert_eq!(
            (timer.tsc_deadline(), timer.deadline()),
            (777, Some(Nanos(50)))
        );
        assert!(timer.advance(Nanos(50)));
        assert_eq!((timer.tsc_deadline(), timer.deadline()), (0, None));
        timer.set_tsc_deadline(888, Nanos(60));
        timer.set_mode(TimerMode::OneShot);
        assert_eq!((timer.tsc_deadline(), timer.deadline()), (0, None));
        timer.set_tsc_deadline(999, Nanos(70));
        assert_eq!((timer.tsc_deadline(), timer.deadline()), (0, None));
    }

    #[test]
    fn numbers_at_the_edge_do_not_overflow() {
        let mut timer = started(TimerMode::Periodic, 0b1010, u32::MAX);
        timer.set_initial_count(Nanos(u64::MAX - 1), u32::MAX);
        assert_eq!(timer.deadline(), Some(Nanos(u64::MAX)));
        assert!(timer.advance(Nanos(u64::MAX)));
        timer.set_divide(Nanos(u64::MAX), u32::MAX);
    }
}
