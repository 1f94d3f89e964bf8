//! The attendant: the thread that looks after a life while its vCPUs run.
//!
//! It wakes when the board has a deadline, when input arrives, when a request is made, and when the time is up;
//! between those it sleeps, so an idle guest costs next to nothing. What it does next is told by
//! [`MachineControl::next`]; how, stands here.

use devices::{Board, Nanos};

use crate::control::{MachineControl, Phase, Step};
use crate::life::{End, Life, VcpuMaker, saved};
use crate::run::switch;
use crate::threads::bell::Bell;

/// Looks after `life` until it is over.
pub(crate) fn attend(life: &Life, control: &MachineControl, maker: &VcpuMaker) {
    loop {
        if life.threads.has_panicked() {
            life.call_off();
        }
        if life.output.has_failed() {
            life.end(End::ConsoleLost);
        }
        if life.is_over() {
            // A thread that waits for a page would not come to its end.
            if let Some(pager) = control.paging().pager() {
                pager.let_all_in();
            }
            return;
        }
        let look = life.look_at_quota();
        match control.next() {
            Step::End(ending) => {
                control.ends(&ending);
                life.end(End::Ending(ending));
            }
            // The guest stands still as a whole until there is room for its pages.
            Step::Hold => {
                hold(life);
                control.reached(Phase::Held);
            }
            Step::Pause if pause(life, control) => control.reached(Phase::Paused),
            Step::Pause => {}
            Step::Flow | Step::Resume => {
                control.reached(Phase::Running);
                go_on(life);
            }
            Step::Switch(kind, ticket) => {
                let before = control.engine();
                let switched = switch::switch(life, before, kind, maker, control.paging());
                control.switched(kind, ticket, switched);
            }
            Step::Save(ticket) => control.saved(ticket, saved::take(life)),
            Step::HandOver(ticket) => {
                if control.moves(ticket) && control.moved(ticket, saved::take(life)) {
                    // Nothing of the guest happens meanwhile, whoever asks for it: what runs it is here, and waits.
                    control.wait_until_it_stays();
                }
            }
            Step::PressPower => {
                visit(life, Board::press_power_button);
                control.pressed();
            }
            Step::SendNmi => {
                visit(life, |board, _| board.send_nmi());
                control.sent_nmi();
            }
            Step::Attend { until } => {
                visit(life, |_, _| ());
                life.alarm
                    .wait(&life.time, until.into_iter().chain(look).min());
            }
            Step::Wait { until } => life.alarm.wait_for_call(until),
        }
    }
}

/// Brings the board up to now, and does something to it.
fn visit(life: &Life, act: impl FnOnce(&mut Board, Nanos)) {
    let mut room = life.room();
    let now = life.time.now();
    room.board.advance(now);
    act(&mut room.board, now);
    room.settle(life, now);
}

/// Has every thread of the guest come to rest and stops its time. Returns whether it is paused: not if that is not
/// wanted any more or the life ended meanwhile.
fn pause(life: &Life, control: &MachineControl) -> bool {
    let call = || life.bells.all().iter().for_each(Bell::ring_always);
    let goes_on = || control.next() == Step::Pause && !life.is_over();
    if !life.gate.close(call, goes_on) {
        life.gate.open();
        return false;
    }
    life.time.freeze();
    true
}

/// Has every thread of the guest that can come to rest do so, without waiting for those that wait for a page, and stops
/// its time.
fn hold(life: &Life) {
    life.gate.shut();
    life.bells.all().iter().for_each(Bell::ring_always);
    life.time.freeze();
}

/// Has time go on, then the threads.
pub(super) fn go_on(life: &Life) {
    life.time.thaw();
    life.gate.open();
}
