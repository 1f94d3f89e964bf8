//! The attendant: the thread that looks after a life while its vCPUs run.
//!
//! It wakes when the board has a deadline, when input arrives, when somebody asks for something, and when the time
//! is up; between those it sleeps, so an idle guest costs next to nothing. It also is the one that pauses and resumes.

use std::time::Instant;

use crate::control::{MachineControl, Phase};
use crate::life::{End, Life, VcpuMaker};
use crate::outcome::ending::Ending;
use crate::outcome::ending::StopCause;
use crate::run::switch;
use crate::threads::bell::Bell;

/// Looks after `life` until it is over. `time_up` is when the VM's time is.
pub(crate) fn attend(
    life: &Life,
    control: &MachineControl,
    maker: &VcpuMaker,
    time_up: Option<Instant>,
) {
    let (mut is_paused, mut is_held) = (false, false);
    loop {
        end_if_due(life, control, time_up);
        if life.threads.has_panicked() {
            life.call_off();
        }
        if life.is_over() {
            // Who waits for a page would not come to its end.
            if let Some(pager) = control.paging().pager() {
                pager.let_all_in();
            }
            return;
        }
        let latest = time_up.into_iter().chain(control.stop_at()).min();
        // A guest that waits for room for its pages stands still as a whole, its time too, until there is some.
        if !is_paused && control.stalled().is_some() != is_held {
            is_held = if is_held { resume(life) } else { hold(life) };
            continue;
        }
        if is_held {
            life.alarm.wait_for_call(latest);
            continue;
        }
        if control.is_pause_wanted() != is_paused {
            is_paused = if is_paused {
                resume(life)
            } else {
                pause(life, control)
            };
            control.set_phase(if is_paused {
                Phase::Paused
            } else {
                Phase::Running
            });
            continue;
        }
        if is_paused && let Some(kind) = control.switch_wanted() {
            control.switched(switch::switch(life, kind, maker));
            continue;
        }
        if is_paused {
            life.alarm.wait_for_call(latest);
            continue;
        }
        let latest = latest.into_iter().chain(control.press_at()).min();
        let mut room = life.room();
        let now = life.time.now();
        room.board.advance(now);
        if control.take_power_button() {
            room.board.press_power_button(now);
        }
        room.settle(life, now);
        drop(room);
        life.alarm.wait(&life.time, latest);
    }
}

fn end_if_due(life: &Life, control: &MachineControl, time_up: Option<Instant>) {
    let is_over = |at: Option<Instant>| at.is_some_and(|at| Instant::now() >= at);
    if is_over(control.stop_at()) {
        control.stop_because(StopCause::GraceOver);
    }
    if let Some(cause) = control.stop_cause().filter(|_| control.is_stopped()) {
        life.end(End::Ending(Ending::Stopped(cause)));
    } else if life.output.has_failed() {
        life.end(End::ConsoleLost);
    } else if is_over(time_up) {
        life.end(End::Ending(Ending::TimedOut));
    }
}

/// Has every thread of the guest come to rest and stops its time. Returns whether it is paused: not if the request
/// was taken back or the life ended meanwhile.
fn pause(life: &Life, control: &MachineControl) -> bool {
    let call = || life.bells.all().iter().for_each(Bell::ring_always);
    let goes_on = || control.is_pause_wanted() && !control.is_stopped() && !life.is_over();
    if !life.gate.close(call, goes_on) {
        life.gate.open();
        return false;
    }
    life.time.freeze();
    true
}

/// Has every thread of the guest that can come to rest do so, without waiting for those that wait for a page, and stops
/// its time. Returns that it is held.
fn hold(life: &Life) -> bool {
    life.gate.shut();
    life.bells.all().iter().for_each(Bell::ring_always);
    life.time.freeze();
    true
}

/// Has time go on, then the threads. Returns that it is not paused.
fn resume(life: &Life) -> bool {
    life.time.thaw();
    life.gate.open();
    false
}
