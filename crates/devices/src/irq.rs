//! Interrupt lines: wires from devices to the interrupt controllers.
//!
//! A device holds its [`IrqLine`] and sets a level, nothing more. The levels are bits in one shared word; after
//! every visit the board looks at what changed ([`IrqLines::take_edges`]) and tells the controllers. So devices
//! know no controller, no lock is held across devices, and a line that went up and down again within one access
//! still counts as an edge.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use crate::saved::{Saved, Unfit, ensure};

/// How many lines the board has: as many as IOAPIC pins.
pub const LINE_COUNT: u8 = 24;

/// Who wants to know when a vCPU has something to do: an interrupt, an NMI, a startup request.
pub trait IrqSink: Send + Sync {
    /// Something became pending for this vCPU: wake it, or make it come back from the engine.
    fn notify(&self, vcpu_id: u32);
}

/// The state of all lines.
#[derive(Debug, Default)]
struct Levels {
    high: AtomicU32,
    rose: AtomicU32,
}

/// All interrupt lines of a board.
#[derive(Clone, Debug, Default)]
pub struct IrqLines(Arc<Levels>);

/// The device's end of one interrupt line. A line has one device.
#[derive(Clone, Debug)]
pub struct IrqLine {
    levels: Arc<Levels>,
    bit: u32,
}

/// What happened on the lines since last asked, one bit per line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Edges {
    /// Lines that went from low to high, whatever they are now.
    pub rose: u32,
    /// Lines that are high now.
    pub high: u32,
}

impl IrqLines {
    /// The device's end of a line.
    ///
    /// # Panics
    /// If the board's layout names a line that does not exist.
    pub fn line(&self, irq: u8) -> IrqLine {
        assert!(irq < LINE_COUNT, "the board has {LINE_COUNT} lines");
        IrqLine {
            levels: Arc::clone(&self.0),
            bit: 1 << irq,
        }
    }

    /// What happened since the last call.
    pub fn take_edges(&self) -> Edges {
        let rose = self.0.rose.swap(0, Ordering::AcqRel);
        Edges {
            rose,
            high: self.0.high.load(Ordering::Acquire),
        }
    }
}

impl Saved for IrqLines {
    type State = Edges;

    fn save(&self) -> Edges {
        Edges {
            rose: self.0.rose.load(Ordering::Acquire),
            high: self.0.high.load(Ordering::Acquire),
        }
    }

    fn restore(&mut self, state: Edges) -> Result<(), Unfit> {
        let is_fit = (state.rose | state.high) >> LINE_COUNT == 0;
        ensure(is_fit, "interrupt lines", "a line that is not there")?;
        self.0.rose.store(state.rose, Ordering::Release);
        self.0.high.store(state.high, Ordering::Release);
        Ok(())
    }
}

impl IrqLine {
    /// Asserts the line.
    pub fn raise(&self) {
        let before = self.levels.high.fetch_or(self.bit, Ordering::AcqRel);
        if before & self.bit == 0 {
            self.levels.rose.fetch_or(self.bit, Ordering::AcqRel);
        }
    }

    /// Deasserts the line.
    pub fn lower(&self) {
        self.levels.high.fetch_and(!self.bit, Ordering::AcqRel);
    }

    /// Asserts or deasserts the line.
    pub fn set(&self, high: bool) {
        if high { self.raise() } else { self.lower() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_went_up_and_down_is_an_edge() {
        let check = |name: &str, act: fn(&IrqLine), expected| {
            let lines = IrqLines::default();
            lines.line(3).raise();
            lines.take_edges();
            act(&lines.line(3));
            assert_eq!(lines.take_edges(), expected, "{name}");
            assert_eq!(lines.take_edges().rose, 0, "{name}: taken once");
        };
        check("raise again", IrqLine::raise, Edges { rose: 0, high: 8 });
        check("lower", IrqLine::lower, Edges { rose: 0, high: 0 });
        let pulse = |line: &IrqLine| {
            line.lower();
            line.raise();
            line.lower();
        };
        check("lower, raise, lower", pulse, Edges { rose: 8, high: 0 });
        let lower_raise = |line: &IrqLine| {
            line.lower();
            line.raise();
        };
        check("lower, raise", lower_raise, Edges { rose: 8, high: 8 });
    }
}
