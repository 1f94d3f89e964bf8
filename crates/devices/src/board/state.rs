//! A board as a plain value: the states of all that it has, of one moment.
//!
//! Not in it are the guest's clock (whoever assembles the board anew gives it one that goes on at the saved time),
//! the console's two ends, and what engines and workers hold: local APICs of an engine are put into the board before
//! it is saved ([`Board::set_apics`]), and queues belong to their workers.

use serde::{Deserialize, Serialize};

use super::Board;
use crate::controllers::ControllersState;
use crate::event::BoardEvent;
use crate::fixed::FixedState;
use crate::irq::Edges;
use crate::kvmclock::SystemTime;
use crate::pci::PciState;
use crate::saved::{Saved, Unfit, ensure};

/// What a board is at a moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BoardState {
    devices: FixedState,
    controllers: ControllersState,
    lines: Edges,
    pci: PciState,
    /// What the guest asked of the VM and the machine has not taken yet.
    event: Option<BoardEvent>,
    /// The paravirtual clock of each vCPU.
    system_times: Vec<SystemTime>,
    wall_clock_msr: u64,
}

impl Saved for Board {
    type State = BoardState;

    fn save(&self) -> BoardState {
        BoardState {
            devices: self.pio.devices().save(),
            controllers: self.controllers.save(),
            lines: self.lines.save(),
            pci: self.pci.save(),
            event: self.events.save(),
            system_times: self.times.iter().map(|time| time.system_time).collect(),
            wall_clock_msr: self.wall_clock_msr,
        }
    }

    /// A board that refuses a state is half restored, unlike a single device: it is thrown away.
    fn restore(&mut self, state: BoardState) -> Result<(), Unfit> {
        let is_fit = state.system_times.len() == self.times.len();
        ensure(is_fit, "paravirtual clock", "another number of vCPUs")?;
        self.pio.devices_mut().restore(state.devices)?;
        self.controllers.restore(state.controllers)?;
        self.pci.restore(state.pci)?;
        self.lines.restore(state.lines)?;
        self.events.restore(state.event)?;
        for (time, system_time) in self.times.iter_mut().zip(state.system_times) {
            time.system_time = system_time;
        }
        self.wall_clock_msr = state.wall_clock_msr;
        self.lay_wires();
        Ok(())
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
