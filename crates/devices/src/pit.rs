//! The 8254 interval timer with the gate and speaker port 0x61 (Intel 8254 datasheet; PC/AT technical reference).
//!
//! Channel 0 interrupts, channel 1 once refreshed memory, channel 2 drives the speaker and serves kernels as a
//! stopwatch: they gate it through port 0x61 and watch its output in bit 5 there. Outputs are computed from the
//! time, nothing is counted down.

use serde::{Deserialize, Serialize};

use crate::bus::PioDevice;
use crate::clock::Nanos;
use crate::irq::IrqLine;
use crate::saved::{Saved, Unfit, ensure};

/// Frequency of the timer's clock.
pub const PIT_HZ: u64 = 1_193_182;
/// Offset of port 0x61 behind the four ports of the timer itself.
const CONTROL_B: u16 = 4;
/// A periodic channel 0 is not heard more often than this; see the APIC timer.
const PERIOD_MIN_NS: u64 = 20_000;
/// How long one level of the refresh bit in port 0x61 lasts.
const REFRESH_NS: u64 = 15_085;

/// Which byte of a counter an access means next (8254, control word RW1 RW0).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Access {
    Low,
    High,
    LowThenHigh,
}

/// One of the three counters. Times are in ticks of the timer's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Channel {
    mode: u8,
    access: Access,
    is_bcd: bool,
    /// Ticks of one round, 1 to 65536.
    reload: u64,
    /// When the count was loaded or triggered; `None` while it does not count.
    start: Option<u64>,
    gate: bool,
    /// When the gate went low.
    paused: Option<u64>,
    /// The low byte, while the high byte is awaited.
    written_low: Option<u8>,
    reads_high: bool,
    latched: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    fn new(gate: bool) -> Channel {
        Channel {
            mode: 3,
            access: Access::LowThenHigh,
            is_bcd: false,
            reload: 0x1_0000,
            start: None,
            gate,
            paused: None,
            written_low: None,
            reads_high: false,
            latched: None,
            latched_status: None,
        }
    }

    /// Ticks since the start, with the pauses of the gate taken out.
    fn elapsed(&self, tick: u64) -> Option<u64> {
        Some(self.paused.unwrap_or(tick).saturating_sub(self.start?))
    }

    fn output(&self, tick: u64) -> bool {
        let Some(elapsed) = self.elapsed(tick) else {
            return self.mode != 0;
        };
        match self.mode {
            0 | 1 => elapsed >= self.reload,
            2 => {
                self.paused.is_some()
                    || elapsed % self.reload != self.reload - 1
                    || self.reload == 1
            }
            3 => self.paused.is_some() || elapsed % self.reload < self.reload.div_ceil(2),
            _ => elapsed != self.reload,
        }
    }

    /// The first tick after `tick` at which the output rises.
    fn next_rise(&self, tick: u64) -> Option<u64> {
        let start = self.start.filter(|_| self.paused.is_none())?;
        let once = |at: u64| (at > tick).then_some(at);
        match self.mode {
            0 | 1 => once(start + self.reload),
            2 | 3 => Some(start + (tick.saturating_sub(start) / self.reload + 1) * self.reload),
            _ => once(start + self.reload + 1),
        }
    }

    /// The counter as it would be read.
    fn count(&self, tick: u64) -> u16 {
        let round = if self.is_bcd { 10_000 } else { 0x1_0000 };
        let elapsed = self.elapsed(tick).unwrap_or(0);
        let count = match self.mode {
            2 => self.reload - elapsed % self.reload,
            3 => self.reload - 2 * elapsed % self.reload,
            _ => (self.reload + round - elapsed % round) % round,
        };
        if self.is_bcd {
            to_bcd(count % round)
        } else {
            count as u16
        }
    }

    fn write_control(&mut self, tick: u64, value: u8) {
        self.access = match value >> 4 & 3 {
            0 => {
                self.latched.get_or_insert(self.count(tick));
                return;
            }
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowThenHigh,
        };
        // Modes 6 and 7 are 2 and 3.
        self.mode = if value & 0b1000 != 0 && value & 0b0100 != 0 {
            value >> 1 & 3
        } else {
            value >> 1 & 7
        };
        self.is_bcd = value & 1 != 0;
        self.start = None;
        self.paused = None;
        self.written_low = None;
        self.reads_high = false;
        self.latched = None;
        self.latched_status = None;
    }

    fn write(&mut self, tick: u64, value: u8) {
        let value = u16::from(value);
        match (self.access, self.written_low.take()) {
            (Access::Low, _) => self.load(tick, value),
            (Access::High, _) => self.load(tick, value << 8),
            (Access::LowThenHigh, None) => self.written_low = Some(value as u8),
            (Access::LowThenHigh, Some(low)) => self.load(tick, value << 8 | u16::from(low)),
        }
    }

    fn load(&mut self, tick: u64, count: u16) {
        let (count, round) = if self.is_bcd {
            (of_bcd(count), 10_000)
        } else {
            (u64::from(count), 0x1_0000)
        };
        self.reload = if count == 0 { round } else { count };
        // Modes 1 and 5 wait for the gate to rise.
        if !matches!(self.mode, 1 | 5) {
            self.start = Some(tick);
            self.paused = (!self.gate).then_some(tick);
        }
    }

    fn set_gate(&mut self, tick: u64, gate: bool) {
        let was = std::mem::replace(&mut self.gate, gate);
        match (was, gate, self.mode) {
            (true, false, 0 | 2 | 3 | 4) if self.start.is_some() => self.paused = Some(tick),
            // A counter that paused goes on where it was.
            (false, true, 0 | 4) => {
                if let (Some(start), Some(paused)) = (self.start, self.paused.take()) {
                    self.start = Some(start + tick.saturating_sub(paused));
                }
            }
            (false, true, 2 | 3) if self.start.is_some() => {
                (self.start, self.paused) = (Some(tick), None)
            }
            (false, true, 1 | 5) => self.start = Some(tick),
            _ => {}
        }
    }

    fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let count = self.latched.unwrap_or_else(|| self.count(tick));
        let is_high = match self.access {
            Access::Low => false,
            Access::High => true,
            Access::LowThenHigh => {
                self.reads_high = !self.reads_high;
                !self.reads_high
            }
        };
        if is_high || self.access != Access::LowThenHigh {
            self.latched = None;
        }
        if is_high {
            (count >> 8) as u8
        } else {
            count as u8
        }
    }

    /// Status byte of the read-back command.
    fn status(&self, tick: u64) -> u8 {
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::LowThenHigh => 3,
        };
        let no_count = u8::from(self.start.is_none());
        u8::from(self.output(tick)) << 7
            | no_count << 6
            | access << 4
            | self.mode << 1
            | u8::from(self.is_bcd)
    }
}

fn to_bcd(value: u64) -> u16 {
    [1000, 100, 10, 1]
        .iter()
        .fold(0, |bcd, place| bcd << 4 | (value / place % 10) as u16)
}

/// Digits above nine count as what they are, as the chip's adders do.
fn of_bcd(bcd: u16) -> u64 {
    [12, 8, 4, 0]
        .iter()
        .fold(0, |value, shift| value * 10 + u64::from(bcd >> shift & 0xf))
}

/// What a timer is at a moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PitState {
    channels: [Channel; 3],
    /// Bits 0 and 1 of port 0x61: gate of channel 2, speaker.
    control_b: u8,
    now: Nanos,
}

/// The timer.
#[derive(Debug)]
pub struct Pit {
    state: PitState,
    line: IrqLine,
}

impl Saved for Pit {
    type State = PitState;

    fn save(&self) -> PitState {
        self.state.clone()
    }

    fn restore(&mut self, state: PitState) -> Result<(), Unfit> {
        let tick = state.now.ticks(PIT_HZ);
        for channel in &state.channels {
            let has_count = (1..=0x1_0000).contains(&channel.reload) && channel.mode <= 5;
            ensure(has_count, "timer", "a channel without a count")?;
            let moments = channel.start.into_iter().chain(channel.paused);
            let is_past = moments.into_iter().all(|moment| moment <= tick);
            ensure(is_past, "timer", "a count that starts in the future")?;
        }
        self.state = state;
        Ok(())
    }
}

impl Pit {
    /// A timer as firmware leaves it: channel 0 at 18.2 Hz.
    pub fn new(now: Nanos, line: IrqLine) -> Pit {
        let mut channels = [Channel::new(true), Channel::new(true), Channel::new(false)];
        channels[0].load(now.ticks(PIT_HZ), 0);
        let state = PitState {
            channels,
            control_b: 0,
            now,
        };
        Pit { state, line }
    }

    fn tick(&self) -> u64 {
        self.state.now.ticks(PIT_HZ)
    }

    fn write_control(&mut self, value: u8) {
        let tick = self.tick();
        let channel = usize::from(value >> 6);
        if channel < 3 {
            self.state.channels[channel].write_control(tick, value);
            return;
        }
        // Read-back (8254, figure 8): bits 1 to 3 choose channels, bits 4 and 5 switch latching off.
        for (number, channel) in self.state.channels.iter_mut().enumerate() {
            if value & 2 << number == 0 {
                continue;
            }
            if value & 0x20 == 0 && channel.latched.is_none() {
                channel.latched = Some(channel.count(tick));
            }
            if value & 0x10 == 0 && channel.latched_status.is_none() {
                channel.latched_status = Some(channel.status(tick));
            }
        }
    }
}

impl PioDevice for Pit {
    fn read(&mut self, offset: u16, _size: u8) -> u32 {
        let tick = self.tick();
        let value = match offset {
            0..=2 => self.state.channels[usize::from(offset)].read(tick),
            CONTROL_B => {
                let refresh = (self.state.now.0 / REFRESH_NS) as u8 & 1;
                self.state.control_b
                    | refresh << 4
                    | u8::from(self.state.channels[2].output(tick)) << 5
            }
            _ => 0,
        };
        u32::from(value)
    }

    fn write(&mut self, offset: u16, _size: u8, value: u32) {
        let tick = self.tick();
        let value = value as u8;
        match offset {
            0..=2 => self.state.channels[usize::from(offset)].write(tick, value),
            CONTROL_B => {
                self.state.control_b = value & 3;
                self.state.channels[2].set_gate(tick, value & 1 != 0);
            }
            _ => self.write_control(value),
        }
        self.line.set(self.state.channels[0].output(tick));
    }

    fn advance(&mut self, now: Nanos) {
        let last = self.tick();
        self.state.now = self.state.now.max(now);
        let tick = self.tick();
        if tick == last {
            return;
        }
        if self.state.channels[0]
            .next_rise(last)
            .is_some_and(|rise| rise <= tick)
        {
            self.line.lower();
            self.line.raise();
        }
        self.line.set(self.state.channels[0].output(tick));
    }

    fn deadline(&self) -> Option<Nanos> {
        let rise = Nanos::of_ticks(self.state.channels[0].next_rise(self.tick())?, PIT_HZ);
        let is_periodic = matches!(self.state.channels[0].mode, 2 | 3);
        Some(if is_periodic {
            rise.max(self.state.now.after(PERIOD_MIN_NS))
        } else {
            rise
        })
    }
}

#[cfg(test)]
#[path = "pit_tests.rs"]
mod tests;
