//! The real-time clock with its memory (Motorola MC146818A datasheet; PC/AT technical reference for the memory).
//!
//! The time is the host's wall time plus what the guest has set it off by; nothing ticks unless the guest wants
//! interrupts. Alarm, update-ended and periodic interrupts all work.

use serde::{Deserialize, Serialize};

use crate::bus::PioDevice;
use crate::clock::{GuestClock, NANOS_PER_SECOND, Nanos};
use crate::irq::IrqLine;
use crate::saved::{Saved, Unfit, ensure};

mod calendar;

use calendar::Calendar;

const SECONDS: usize = 0x00;
const SECONDS_ALARM: usize = 0x01;
const MINUTES: usize = 0x02;
const MINUTES_ALARM: usize = 0x03;
const HOURS: usize = 0x04;
const HOURS_ALARM: usize = 0x05;
const WEEKDAY: usize = 0x06;
const DAY: usize = 0x07;
const MONTH: usize = 0x08;
const YEAR: usize = 0x09;
const A: usize = 0x0a;
const B: usize = 0x0b;
const C: usize = 0x0c;
const D: usize = 0x0d;
/// Where the FADT says the century is.
pub const CENTURY: u8 = 0x32;
const CENTURY_AT: usize = CENTURY as usize;

const A_UPDATING: u8 = 0x80;
const B_SET: u8 = 0x80;
const B_PERIODIC: u8 = 0x40;
const B_ALARM: u8 = 0x20;
const B_UPDATED: u8 = 0x10;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;
const C_PENDING: u8 = 0x80;
const D_VALID: u8 = 0x80;
/// Alarm bytes from here on match everything.
const ANY: u8 = 0xc0;
/// Hours in 12-hour mode: afternoon.
const PM: u8 = 0x80;

/// The update flag warns this long before a second ends (MC146818A, table 6).
const UPDATE_WARNING_NS: u64 = 244_000;
/// Alarms are looked for in this many seconds at most when nobody looked for longer.
const ALARM_LOOK_BACK_S: u64 = 86_400;
/// Further than this from wall time no guest can set the clock: the calendar has the years 0 to 9999.
const OFFSET_LIMIT_S: u64 = 2 * 10_000 * 366 * 86_400;

/// What a clock is at a moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RtcState {
    #[serde(with = "crate::saved::bytes")]
    memory: [u8; 128],
    /// The register that the next access to the data port is for, below 128.
    index: usize,
    /// Seconds that the guest's clock is ahead of wall time.
    offset_s: i64,
    /// The time registers while the guest sets them.
    held: Option<Calendar>,
    now: Nanos,
}

/// The clock and its 128 bytes of memory.
pub struct Rtc {
    state: RtcState,
    clock: GuestClock,
    line: IrqLine,
}

impl Saved for Rtc {
    type State = RtcState;

    fn save(&self) -> RtcState {
        self.state.clone()
    }

    fn restore(&mut self, state: RtcState) -> Result<(), Unfit> {
        let has_index = state.index < state.memory.len();
        ensure(has_index, "clock", "a register that is not there")?;
        let has_offset = state.offset_s.unsigned_abs() < OFFSET_LIMIT_S;
        ensure(
            has_offset,
            "clock",
            "an offset of more than ten thousand years",
        )?;
        self.state = state;
        Ok(())
    }
}

/// What firmware stores about the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamSizes {
    /// RAM from 0 to the hole below 4 GiB.
    pub low_bytes: u64,
    /// RAM above 4 GiB.
    pub high_bytes: u64,
}

impl Rtc {
    /// A clock that shows the host's time, in BCD and 24 hours.
    pub fn new(now: Nanos, clock: GuestClock, ram: RamSizes, line: IrqLine) -> Rtc {
        let mut memory = [0; 128];
        // 32768 Hz, periodic rate 1024 Hz.
        memory[A] = 0x26;
        memory[B] = B_24_HOURS;
        memory[D] = D_VALID;
        // FPU and PS/2 mouse present.
        memory[0x14] = 0x06;
        let mut store = |at: usize, value: u64, most: u64, bytes: usize| {
            let value = value.min(most).to_le_bytes();
            memory[at..at + bytes].copy_from_slice(&value[..bytes]);
        };
        let above = |start: u64, unit: u64| ram.low_bytes.saturating_sub(start) / unit;
        store(0x15, 640, 0xffff, 2);
        store(0x17, above(1 << 20, 1 << 10), 0xfc00, 2);
        store(0x30, above(1 << 20, 1 << 10), 0xfc00, 2);
        store(0x34, above(16 << 20, 1 << 16), 0xffff, 2);
        store(0x5b, ram.high_bytes >> 16, 0xff_ffff, 3);
        let state = RtcState {
            memory,
            index: 0,
            offset_s: 0,
            held: None,
            now,
        };
        Rtc { state, clock, line }
    }

    /// Seconds since 1970 on the guest's clock.
    fn seconds(&self, at: Nanos) -> i64 {
        (self.clock.wall_ns(at) / NANOS_PER_SECOND) as i64 + self.state.offset_s
    }

    fn calendar(&self) -> Calendar {
        self.state
            .held
            .unwrap_or_else(|| Calendar::of_seconds(self.seconds(self.state.now)))
    }

    /// A number as the registers show it: BCD unless register B says binary.
    fn encode(&self, value: u8) -> u8 {
        if self.state.memory[B] & B_BINARY != 0 {
            value
        } else {
            ((value / 10 % 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.state.memory[B] & B_BINARY != 0 {
            value
        } else {
            (value >> 4) * 10 + (value & 0xf)
        }
    }

    fn encode_hours(&self, hours: u8) -> u8 {
        if self.state.memory[B] & B_24_HOURS != 0 {
            return self.encode(hours);
        }
        let afternoon = if hours >= 12 { PM } else { 0 };
        self.encode((hours + 11) % 12 + 1) | afternoon
    }

    fn decode_hours(&self, value: u8) -> u8 {
        if self.state.memory[B] & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let hours = self.decode(value & !PM) % 12;
        if value & PM != 0 { hours + 12 } else { hours }
    }

    fn read_register(&mut self) -> u8 {
        let calendar = self.calendar();
        match self.state.index {
            SECONDS => self.encode(calendar.second),
            MINUTES => self.encode(calendar.minute),
            HOURS => self.encode_hours(calendar.hour),
            WEEKDAY => self.encode(calendar.weekday()),
            DAY => self.encode(calendar.day),
            MONTH => self.encode(calendar.month),
            YEAR => self.encode((calendar.year % 100) as u8),
            CENTURY_AT => self.encode((calendar.year / 100) as u8),
            A => self.state.memory[A] | if self.is_updating() { A_UPDATING } else { 0 },
            C => {
                self.line.lower();
                std::mem::take(&mut self.state.memory[C])
            }
            index => self.state.memory[index],
        }
    }

    fn is_updating(&self) -> bool {
        let into_second = self.clock.wall_ns(self.state.now) % NANOS_PER_SECOND;
        self.state.memory[B] & B_SET == 0 && into_second >= NANOS_PER_SECOND - UPDATE_WARNING_NS
    }

    fn write_register(&mut self, value: u8) {
        match self.state.index {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY_AT => {
                self.set_time(value)
            }
            A => self.state.memory[A] = value & !A_UPDATING,
            B => self.write_b(value),
            C | D => {}
            index => self.state.memory[index] = value,
        }
    }

    fn write_b(&mut self, value: u8) {
        // Held registers keep their meaning when the mode changes under them.
        let calendar = self.calendar();
        self.state.memory[B] = value;
        if value & B_SET != 0 {
            // Setting stops the clock and its update-ended interrupt (MC146818A, register B).
            self.state.memory[B] &= !B_UPDATED;
            self.state.held = Some(calendar);
        } else if let Some(held) = self.state.held.take() {
            self.state.offset_s += held.seconds() - self.seconds(self.state.now);
        }
        self.update_line();
    }

    fn set_time(&mut self, value: u8) {
        let mut calendar = self.calendar();
        let number = self.decode(value);
        match self.state.index {
            SECONDS => calendar.second = number,
            MINUTES => calendar.minute = number,
            HOURS => calendar.hour = self.decode_hours(value),
            DAY => calendar.day = number,
            MONTH => calendar.month = number,
            YEAR => calendar.year = calendar.year / 100 * 100 + u16::from(number % 100),
            CENTURY_AT => calendar.year = u16::from(number) * 100 + calendar.year % 100,
            // The weekday follows from the date.
            _ => {}
        }
        if self.state.memory[B] & B_SET != 0 {
            self.state.held = Some(calendar);
        } else {
            self.state.offset_s += calendar.seconds() - self.seconds(self.state.now);
        }
    }

    /// Length of the periodic interrupt's period, if the rate is one (MC146818A, table 5).
    fn period_ns(&self) -> Option<u64> {
        let rate = match self.state.memory[A] & 0x0f {
            0 => return None,
            // The two fastest settings repeat slower ones with this crystal.
            fast @ (1 | 2) => fast + 7,
            rate => rate,
        };
        Some((NANOS_PER_SECOND << (rate - 1)) / 32_768)
    }

    fn matches_alarm(&self, seconds: i64) -> bool {
        let Calendar {
            hour,
            minute,
            second,
            ..
        } = Calendar::of_seconds(seconds);
        let is = |register: usize, value: u8| {
            self.state.memory[register] >= ANY || self.state.memory[register] == value
        };
        // In 12-hour mode an afternoon hour looks like "any" only from 0xc0 on, so one test does for both.
        is(SECONDS_ALARM, self.encode(second))
            && is(MINUTES_ALARM, self.encode(minute))
            && is(HOURS_ALARM, self.encode_hours(hour))
    }

    fn update_line(&mut self) {
        let enabled = B_PERIODIC | B_ALARM | B_UPDATED;
        let is_pending = self.state.memory[C] & self.state.memory[B] & enabled != 0;
        self.state.memory[C] =
            self.state.memory[C] & !C_PENDING | if is_pending { C_PENDING } else { 0 };
        self.line.set(is_pending);
    }

    /// Start of the second after `now` on the wall clock.
    fn next_second(&self) -> Nanos {
        let into_second = self.clock.wall_ns(self.state.now) % NANOS_PER_SECOND;
        self.state.now.after(NANOS_PER_SECOND - into_second)
    }
}

impl PioDevice for Rtc {
    fn read(&mut self, offset: u16, _size: u8) -> u32 {
        // The index cannot be read back on a PC.
        u32::from(if offset == 0 {
            0xff
        } else {
            self.read_register()
        })
    }

    fn write(&mut self, offset: u16, _size: u8, value: u32) {
        if offset == 0 {
            // Bit 7 masks NMIs on a PC; there are none to mask.
            self.state.index = (value & 0x7f) as usize;
        } else {
            self.write_register(value as u8);
        }
    }

    fn advance(&mut self, now: Nanos) {
        let last = self.state.now;
        self.state.now = last.max(now);
        if let Some(period) = self.period_ns()
            && last.0 / period != self.state.now.0 / period
        {
            self.state.memory[C] |= B_PERIODIC;
        }
        let before = self.seconds(last);
        let after = self.seconds(self.state.now);
        if before != after && self.state.memory[B] & B_SET == 0 {
            self.state.memory[C] |= B_UPDATED;
            let looked_at = (after - before).clamp(0, ALARM_LOOK_BACK_S as i64);
            if self.state.memory[B] & B_ALARM != 0
                && (after - looked_at + 1..=after).any(|second| self.matches_alarm(second))
            {
                self.state.memory[C] |= B_ALARM;
            }
        }
        self.update_line();
    }

    fn deadline(&self) -> Option<Nanos> {
        // Once asserted the line stays so until register C is read.
        if self.state.memory[C] & C_PENDING != 0 {
            return None;
        }
        let b = self.state.memory[B];
        let next_second = self.next_second();
        let by_second = (b & (B_ALARM | B_UPDATED) != 0 && b & B_SET == 0).then_some(next_second);
        let period = self.period_ns().filter(|_| b & B_PERIODIC != 0);
        let periodic =
            period.map(|period| Nanos((self.state.now.0 / period + 1).saturating_mul(period)));
        by_second.into_iter().chain(periodic).min()
    }
}

#[cfg(test)]
mod tests;
