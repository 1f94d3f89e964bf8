//! The attendant: the thread that looks after a life while its vCPUs run.
//!
//! It wakes when the board has a deadline, when input arrives, when somebody asks to stop or presses the power
//! button, and when the time is up; between those it sleeps, so an idle guest costs next to nothing.

use std::time::Instant;

use crate::control::MachineControl;
use crate::life::{End, Life};
use crate::report::Ending;

/// Looks after `life` until it is over. `time_up` is when the VM's time is.
pub(crate) fn attend(life: &Life, control: &MachineControl, time_up: Option<Instant>) {
    loop {
        if control.is_stopped() {
            life.end(End::Ending(Ending::Stopped));
        } else if life.output.has_failed() {
            life.end(End::ConsoleLost);
        } else if time_up.is_some_and(|at| Instant::now() >= at) {
            life.end(End::Ending(Ending::TimedOut));
        }
        if life.is_over() {
            return;
        }
        let mut room = life.room();
        let now = life.time.now();
        room.board.advance(now);
        if control.take_power_button() {
            room.board.press_power_button(now);
        }
        room.settle(life, now);
        drop(room);
        life.alarm.wait(&life.time, time_up);
    }
}
