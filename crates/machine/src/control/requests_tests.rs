//! The table of requests, and stories of a VM whose attendant does what it is told.

use std::sync::mpsc::{Receiver, channel};

use super::*;

const PHASES: [Phase; 5] = [
    Phase::Built,
    Phase::Running,
    Phase::Held,
    Phase::Paused,
    Phase::Ended,
];

/// A VM without a guest: its requests, and an attendant that takes a step at a time.
struct Vm {
    requests: Requests,
    state: State,
    now: Instant,
    /// What changes of engine come to.
    switch_fails: bool,
}

impl Vm {
    fn new(phase: Phase) -> Vm {
        let stalled = (phase == Phase::Held).then(|| "the store is full".to_owned());
        Vm {
            requests: Requests::new(None),
            state: State { phase, stalled },
            now: Instant::now(),
            switch_fails: false,
        }
    }

    fn ask<E>(&mut self, request: impl FnOnce(Answer<E>) -> Request) -> Asked<E> {
        let (answer, answers) = channel();
        let ticket = self.requests.ask(request(answer), &self.state, self.now);
        Asked { ticket, answers }
    }

    fn pause(&mut self) -> Asked<PauseError> {
        self.ask(Request::Pause)
    }

    fn rest(&mut self) -> Asked<PauseError> {
        self.ask(Request::Rest)
    }

    fn release(&mut self, rest: &Asked<PauseError>) -> bool {
        self.requests.release(rest.ticket, &self.state)
    }

    fn resume(&mut self) -> Asked<PauseError> {
        self.ask(Request::Resume)
    }

    fn switch(&mut self, kind: EngineKind) -> Asked<SwitchError> {
        self.ask(|answer| Request::Switch(kind, answer))
    }

    fn save(&mut self) -> Asked<SwitchError> {
        self.ask(Request::Save)
    }

    fn hand_over(&mut self) -> Asked<SwitchError> {
        self.ask(Request::HandOver)
    }

    fn stop(&mut self, grace: Duration) -> Asked<PauseError> {
        self.ask(|answer| Request::Stop(grace, answer))
    }

    fn end(&mut self, cause: StopCause) -> Asked<PauseError> {
        self.ask(|answer| Request::End(cause, answer))
    }

    fn is_stalled(&mut self, why: Option<&str>) {
        self.state.stalled = why.map(str::to_owned);
        self.requests.settle(&self.state);
    }

    /// One step of the attendant, in a word.
    fn step(&mut self) -> String {
        let step = self.requests.next(&self.state, self.now);
        let (word, phase) = match step {
            Step::End(ending) => {
                self.requests.ends(&ending);
                (format!("end {ending:?}"), Phase::Ended)
            }
            Step::Hold => ("hold".to_owned(), Phase::Held),
            Step::Flow => ("flow".to_owned(), Phase::Running),
            Step::Pause => ("pause".to_owned(), Phase::Paused),
            Step::Resume => ("resume".to_owned(), Phase::Running),
            Step::Switch(kind, ticket) => {
                let result = if self.switch_fails {
                    Err(SwitchError::Features)
                } else {
                    Ok(())
                };
                self.requests.worked(ticket, result);
                (format!("switch {kind}"), self.state.phase)
            }
            Step::Save(ticket) => {
                self.requests.worked(ticket, Ok(()));
                ("save".to_owned(), self.state.phase)
            }
            // Who takes it says at once that it stays.
            Step::HandOver(ticket) => {
                assert!(self.requests.moves(ticket) && self.requests.moved(ticket, Ok(())));
                self.requests.stays();
                ("hand over".to_owned(), self.state.phase)
            }
            Step::PressPower => {
                self.requests.pressed(self.now);
                ("press".to_owned(), self.state.phase)
            }
            Step::SendNmi => {
                self.requests.sent_nmi();
                ("nmi".to_owned(), self.state.phase)
            }
            Step::Attend { .. } => ("attend".to_owned(), self.state.phase),
            Step::Wait { .. } => ("wait".to_owned(), self.state.phase),
        };
        self.state.phase = phase;
        self.requests.settle(&self.state);
        word
    }

    /// Steps until there is nothing to do but to attend or to wait.
    fn steps(&mut self) -> Vec<String> {
        let mut steps = Vec::new();
        while self.state.phase != Phase::Ended {
            let step = self.step();
            if step == "attend" || step == "wait" {
                break;
            }
            steps.push(step);
        }
        steps
    }
}

struct Asked<E> {
    ticket: Ticket,
    answers: Receiver<Result<(), E>>,
}

impl<E: std::fmt::Display> Asked<E> {
    /// The answer in words; "open" if there is none yet.
    fn answer(&self) -> String {
        match self.answers.try_recv() {
            Ok(Ok(())) => "done".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "open".to_owned(),
        }
    }
}

const ENDED: &str = "the VM has ended";
const STALLED: &str = "the guest waits for room for its pages (the store is full); it can be \
                       paused when there is some: raise its limit or its page memory";
const NO_SWITCH: &str = "the guest waits for room for its pages (the store is full); raise its \
                         limit or its page memory first";

#[test]
fn every_request_in_every_state_is_received_as_the_table_says() {
    // The answer at once, and the attendant's steps: in each phase, in the order of `PHASES`.
    let check = |kind: Kind, expected: [(&str, &[&str]); 5]| {
        for (phase, (answer, steps)) in PHASES.into_iter().zip(expected) {
            let mut vm = Vm::new(phase);
            if phase == Phase::Paused {
                vm.state.phase = Phase::Running;
                vm.pause();
                vm.steps();
            }
            let got = match kind {
                Kind::Pause => vm.pause().answer(),
                Kind::Rest => vm.rest().answer(),
                Kind::Resume => vm.resume().answer(),
                Kind::Switch => vm.switch(EngineKind::Soft).answer(),
                Kind::Save => vm.save().answer(),
                Kind::HandOver => {
                    vm.requests.may_move();
                    vm.hand_over().answer()
                }
                Kind::PressPower => vm.ask(Request::PressPower).answer(),
                Kind::Nmi => vm.ask(Request::Nmi).answer(),
                Kind::Stop => vm.stop(Duration::from_secs(60)).answer(),
                Kind::End => vm.end(StopCause::Killed).answer(),
            };
            assert_eq!(
                (got.as_str(), vm.state.phase),
                (answer, phase),
                "{kind:?} in {phase:?}"
            );
            if phase == Phase::Built {
                vm.state.phase = Phase::Running;
            }
            assert_eq!(vm.steps(), steps, "{kind:?} in {phase:?}");
        }
    };
    let done = "done";
    let open = "open";
    let killed: &[&str] = &["end Stopped(Killed)"];
    check(
        Kind::Pause,
        [
            (open, &["pause"]),
            (open, &["pause"]),
            (STALLED, &[]),
            (done, &[]),
            (ENDED, &[]),
        ],
    );
    check(
        Kind::Rest,
        [
            (open, &["pause"]),
            (open, &["pause"]),
            (STALLED, &[]),
            (done, &[]),
            (ENDED, &[]),
        ],
    );
    check(
        Kind::Resume,
        [
            (open, &[]),
            (done, &[]),
            (done, &[]),
            (open, &["resume"]),
            (ENDED, &[]),
        ],
    );
    let switch: &[&str] = &["pause", "switch soft", "resume"];
    check(
        Kind::Switch,
        [
            (open, switch),
            (open, switch),
            (NO_SWITCH, &[]),
            (open, &["switch soft"]),
            (ENDED, &[]),
        ],
    );
    let hand_over: &[&str] = &["pause", "hand over", "resume"];
    check(
        Kind::HandOver,
        [
            (open, hand_over),
            (open, hand_over),
            (NO_SWITCH, &[]),
            (open, &["hand over"]),
            (ENDED, &[]),
        ],
    );
    let save: &[&str] = &["pause", "save", "resume"];
    check(
        Kind::Save,
        [
            (open, save),
            (open, save),
            (NO_SWITCH, &[]),
            (open, &["save"]),
            (ENDED, &[]),
        ],
    );
    check(
        Kind::PressPower,
        [
            (done, &["press"]),
            (done, &["press"]),
            (done, &[]),
            (done, &[]),
            (done, &[]),
        ],
    );
    check(
        Kind::Nmi,
        [
            (done, &["nmi"]),
            (done, &["nmi"]),
            (done, &[]),
            (done, &[]),
            (ENDED, &[]),
        ],
    );
    check(
        Kind::Stop,
        [
            (done, &["press"]),
            (done, &["press"]),
            (done, &[]),
            (done, &["resume", "press"]),
            (done, &[]),
        ],
    );
    check(
        Kind::End,
        [
            (done, killed),
            (done, killed),
            (done, killed),
            (done, killed),
            (done, &[]),
        ],
    );
}

#[test]
fn the_table_has_a_row_for_each_kind_in_order() {
    for (place, (kind, row)) in RECEPTIONS.into_iter().enumerate() {
        assert_eq!(kind as usize, place);
        for (phase, expected) in PHASES.into_iter().zip(row) {
            assert_eq!(reception(kind, phase), expected, "{kind:?} in {phase:?}");
        }
    }
}

#[test]
fn a_pause_is_answered_when_the_guest_is_at_rest_and_not_before() {
    let mut vm = Vm::new(Phase::Built);
    let first = vm.pause();
    let second = vm.pause();
    assert_eq!(vm.step(), "wait");
    assert_eq!(first.answer(), "open");
    vm.state.phase = Phase::Running;
    assert_eq!(vm.steps(), ["pause"]);
    assert_eq!(
        (first.answer(), second.answer()),
        ("done".into(), "done".into())
    );
    let resumed = vm.resume();
    assert_eq!(resumed.answer(), "open");
    assert_eq!(vm.steps(), ["resume"]);
    assert_eq!(resumed.answer(), "done");
}

#[test]
fn of_two_opposite_requests_the_later_counts_and_the_earlier_is_told() {
    let overruled = PauseError::Overruled.to_string();
    let mut vm = Vm::new(Phase::Running);
    let paused = vm.pause();
    let resumed = vm.resume();
    assert_eq!(
        (paused.answer(), resumed.answer()),
        (overruled.clone(), "done".into())
    );
    assert_eq!(vm.steps(), [""; 0]);
    vm.pause();
    vm.steps();
    let resumed = vm.resume();
    let paused = vm.pause();
    assert_eq!(
        (resumed.answer(), paused.answer()),
        (overruled.clone(), "done".into())
    );
    assert_eq!(vm.steps(), [""; 0]);
    vm.resume();
    vm.steps();
    let paused = vm.pause();
    vm.stop(Duration::from_secs(1));
    assert_eq!(paused.answer(), overruled);
    assert_eq!(vm.steps(), ["press"]);
}

#[test]
fn a_pause_that_is_taken_back_is_not_made_unless_another_wants_it() {
    let mut vm = Vm::new(Phase::Running);
    let first = vm.pause();
    let second = vm.pause();
    vm.requests.take_back(first.ticket, &vm.state);
    assert_eq!(vm.requests.next(&vm.state, vm.now), Step::Pause);
    vm.requests.take_back(second.ticket, &vm.state);
    assert_eq!(vm.steps(), [""; 0]);
    // What has come true is not taken back.
    let third = vm.pause();
    vm.steps();
    vm.requests.take_back(third.ticket, &vm.state);
    assert_eq!((vm.steps(), vm.state.phase), (vec![], Phase::Paused));
}

#[test]
fn a_guest_rests_as_long_as_anybody_needs_it_and_is_then_as_it_was() {
    let mut vm = Vm::new(Phase::Running);
    let first = vm.rest();
    let second = vm.rest();
    assert_eq!(vm.steps(), ["pause"]);
    assert_eq!(
        (first.answer(), second.answer()),
        ("done".into(), "done".into())
    );
    assert!(vm.release(&first) && !vm.release(&first));
    assert_eq!(vm.steps(), [""; 0]);
    assert!(vm.release(&second));
    assert_eq!(vm.steps(), ["resume"]);
    // One that was paused stays so, one that is paused meanwhile too.
    for is_before in [true, false] {
        let mut vm = Vm::new(Phase::Running);
        let paused = is_before.then(|| vm.pause());
        vm.steps();
        let rest = vm.rest();
        vm.steps();
        let paused = paused.unwrap_or_else(|| vm.pause());
        assert_eq!(
            (paused.answer(), rest.answer()),
            ("done".into(), "done".into())
        );
        assert!(vm.release(&rest));
        assert_eq!((vm.steps(), vm.state.phase), (vec![], Phase::Paused));
    }
}

#[test]
fn who_needs_rest_is_told_when_others_have_the_guest_go_on() {
    let check = |act: fn(&mut Vm), steps: &[&str]| {
        let mut vm = Vm::new(Phase::Running);
        let rest = vm.rest();
        vm.steps();
        assert_eq!(rest.answer(), "done");
        act(&mut vm);
        assert_eq!(vm.steps(), steps);
        assert!(!vm.release(&rest));
        assert_eq!(vm.steps(), [""; 0]);
    };
    check(|vm| drop(vm.resume()), &["resume"]);
    check(
        |vm| drop(vm.stop(Duration::from_secs(60))),
        &["resume", "press"],
    );
    check(
        |vm| drop(vm.end(StopCause::Killed)),
        &["end Stopped(Killed)"],
    );
    // What has not come true yet is refused.
    let mut vm = Vm::new(Phase::Running);
    let rest = vm.rest();
    vm.resume();
    assert_eq!(rest.answer(), PauseError::Overruled.to_string());
    assert_eq!(vm.steps(), [""; 0]);
    let late = vm.rest();
    vm.requests.take_back(late.ticket, &vm.state);
    assert_eq!(vm.steps(), [""; 0]);
    // Nothing more is wanted by who gave up.
    let rest = vm.rest();
    vm.is_stalled(Some("the store is full"));
    assert_eq!(rest.answer(), STALLED);
    assert_eq!(vm.steps(), ["hold"]);
}

#[test]
fn a_stall_refuses_what_waits_for_rest_and_holds_the_guest_until_there_is_room() {
    let mut vm = Vm::new(Phase::Running);
    let paused = vm.pause();
    let switched = vm.switch(EngineKind::Kvm);
    vm.is_stalled(Some("the store is full"));
    assert_eq!(
        (paused.answer(), switched.answer()),
        (STALLED.into(), NO_SWITCH.into())
    );
    assert_eq!(vm.steps(), ["hold"]);
    vm.ask(Request::PressPower);
    assert_eq!(vm.step(), "wait");
    vm.is_stalled(None);
    assert_eq!(vm.steps(), ["flow", "press"]);
    // A guest that is at rest already stays there.
    vm.pause();
    vm.steps();
    vm.is_stalled(Some("the store is full"));
    assert_eq!((vm.pause().answer(), vm.steps()), ("done".into(), vec![]));
    vm.resume();
    assert_eq!(vm.steps(), ["resume", "hold"]);
}

#[test]
fn a_change_of_engine_is_answered_when_the_guest_is_as_before() {
    let mut vm = Vm::new(Phase::Running);
    let switched = vm.switch(EngineKind::Kvm);
    assert_eq!(
        (vm.step(), vm.step()),
        ("pause".into(), "switch kvm".into())
    );
    assert_eq!(switched.answer(), "open");
    assert_eq!(
        (vm.step(), switched.answer()),
        ("resume".into(), "done".into())
    );
    // Of a paused VM: it stays so. Two in a row wait for each other.
    vm.pause();
    vm.steps();
    vm.switch_fails = true;
    let first = vm.switch(EngineKind::Soft);
    let second = vm.switch(EngineKind::Kvm);
    assert_eq!(vm.steps(), ["switch soft", "switch kvm"]);
    let refused = SwitchError::Features.to_string();
    assert_eq!(
        (first.answer(), second.answer()),
        (refused.clone(), refused)
    );
    assert_eq!(vm.state.phase, Phase::Paused);
}

#[test]
fn a_resume_during_a_change_of_engine_waits_for_it() {
    let mut vm = Vm::new(Phase::Running);
    let switched = vm.switch(EngineKind::Kvm);
    assert_eq!(vm.step(), "pause");
    let paused = vm.pause();
    let resumed = vm.resume();
    assert_eq!(
        (paused.answer(), resumed.answer()),
        ("done".into(), "open".into())
    );
    assert_eq!(vm.steps(), ["switch kvm", "resume"]);
    assert_eq!(
        (switched.answer(), resumed.answer()),
        ("done".into(), "done".into())
    );
}

#[test]
fn a_change_of_engine_that_was_taken_back_has_no_answer_and_leaves_nothing_behind() {
    let mut vm = Vm::new(Phase::Paused);
    let switched = vm.switch(EngineKind::Kvm);
    let Step::Switch(_, ticket) = vm.requests.next(&vm.state, vm.now) else {
        panic!("it is due");
    };
    vm.requests.take_back(switched.ticket, &vm.state);
    vm.requests.worked(ticket, Ok(()));
    assert_eq!(
        (vm.steps(), switched.answer()),
        (vec!["resume".to_owned()], "open".into())
    );
}

#[test]
fn a_guest_that_is_to_stop_hears_its_power_button_until_its_grace_time_is_over() {
    let mut vm = Vm::new(Phase::Running);
    let until = |vm: &Vm| match vm.requests.next(&vm.state, vm.now) {
        Step::Attend { until } => until.map(|until| until - vm.now),
        other => panic!("{other:?}"),
    };
    assert_eq!(until(&vm), None);
    vm.stop(Duration::from_secs(8));
    assert_eq!(vm.steps(), ["press"]);
    assert_eq!(until(&vm), Some(PRESS_AGAIN));
    vm.now += PRESS_AGAIN;
    assert_eq!(vm.steps(), ["press"]);
    // Asked again: the earlier end counts, and the button is pressed at once.
    vm.stop(Duration::from_secs(60));
    assert_eq!(vm.steps(), ["press"]);
    vm.now += PRESS_AGAIN;
    assert_eq!(vm.steps(), ["press"]);
    assert_eq!(until(&vm), Some(Duration::from_secs(2)));
    vm.now += Duration::from_secs(2);
    assert_eq!(vm.requests.stop_cause(), None);
    assert_eq!(vm.steps(), ["end Stopped(GraceOver)"]);
    assert_eq!(vm.requests.stop_cause(), Some(StopCause::GraceOver));
}

#[test]
fn a_grace_time_beyond_all_clocks_is_no_end() {
    let mut vm = Vm::new(Phase::Running);
    vm.stop(Duration::MAX);
    assert_eq!(vm.steps(), ["press"]);
}

#[test]
fn the_first_reason_to_end_counts_and_an_order_comes_before_a_clock() {
    let mut vm = Vm::new(Phase::Held);
    vm.requests = Requests::new(Some(vm.now));
    assert_eq!(
        vm.requests.next(&vm.state, vm.now),
        Step::End(Ending::TimedOut)
    );
    vm.end(StopCause::Signal(15));
    vm.end(StopCause::Killed);
    let ending = Ending::Stopped(StopCause::Signal(15));
    assert_eq!(vm.requests.next(&vm.state, vm.now), Step::End(ending));
}

#[test]
fn whatever_is_open_when_the_vm_ends_is_refused() {
    let mut vm = Vm::new(Phase::Running);
    let paused = vm.pause();
    let switched = vm.switch(EngineKind::Kvm);
    vm.end(StopCause::Left);
    vm.steps();
    assert_eq!(
        (paused.answer(), switched.answer()),
        (ENDED.into(), ENDED.into())
    );
    let mut vm = Vm::new(Phase::Built);
    let resumed = vm.resume();
    vm.end(StopCause::Left);
    vm.steps();
    assert_eq!(resumed.answer(), ENDED);
}

const MOVES: &str = "the VM moves to another process just now; ask again in a moment";

#[test]
fn a_guest_whose_state_is_given_away_does_nothing_until_it_is_to_stay() {
    let mut vm = Vm::new(Phase::Running);
    let early = vm.hand_over();
    assert!(
        early
            .answer()
            .starts_with("the VM moves to another process"),
        "nobody is ready for it"
    );
    vm.requests.may_move();
    let given = vm.hand_over();
    assert_eq!(vm.step(), "pause");
    let Step::HandOver(ticket) = vm.requests.next(&vm.state, vm.now) else {
        panic!("it rests to be given away");
    };
    assert!(vm.requests.moves(ticket) && vm.requests.moved(ticket, Ok(())));
    assert_eq!(given.answer(), "done", "at once, while it rests");
    assert!(vm.requests.is_moving());
    // Nothing is noted that would be lost, and who asks hears it.
    assert_eq!(vm.end(StopCause::Killed).answer(), MOVES);
    assert_eq!(vm.stop(Duration::ZERO).answer(), MOVES);
    assert_eq!(vm.pause().answer(), MOVES);
    assert_eq!(vm.rest().answer(), MOVES);
    assert!(vm.save().answer().starts_with("the VM moves"));
    vm.requests.stays();
    assert!(!vm.requests.is_moving());
    assert_eq!(vm.steps(), ["resume"], "what was refused is forgotten");
    assert_eq!(vm.end(StopCause::Killed).answer(), "done");
}

#[test]
fn what_is_called_off_before_is_not_given_away() {
    let mut vm = Vm::new(Phase::Running);
    vm.requests.may_move();
    let given = vm.hand_over();
    assert_eq!(vm.step(), "pause");
    vm.requests.stays();
    assert!(given.answer().contains("called off"));
    assert_eq!(vm.steps(), ["resume"]);
    // An end comes first.
    vm.requests.may_move();
    let given = vm.hand_over();
    vm.end(StopCause::Killed);
    assert_eq!(vm.steps(), ["end Stopped(Killed)"]);
    assert_eq!(given.answer(), ENDED);
}
