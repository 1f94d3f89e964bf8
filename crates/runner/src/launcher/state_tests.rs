//! What a launcher does, as a table of what happens to it.

use super::*;

fn ended(kind: EndKind) -> Ended {
    let mut ended = ending::of_trouble(trouble("it did not work"));
    ended.end.kind = kind;
    ended.end.ended_at = None;
    ended
}

fn trouble(text: &str) -> Trouble {
    Trouble {
        message: text.to_owned(),
        causes: Vec::new(),
        help: None,
        status: 1,
        is_closed_pipe: false,
    }
}

fn said(kind: EndKind) -> Event {
    Event::Vm(FromVm::Ended(Box::new(ended(kind))))
}

fn ask(number: u64, wish: Wish) -> Event {
    Event::Vm(FromVm::Ask { number, wish })
}

/// What was done, in a word each.
fn words_of(acts: &[Act]) -> Vec<String> {
    let word = |act: &Act| match act {
        Act::Serve(_) => "serve".to_owned(),
        Act::TellVm(ToVm::Stop(cause)) => format!("stop {cause:?}"),
        Act::TellVm(ToVm::PowerOff { grace_ms }) => format!("power off in {grace_ms}"),
        Act::TellVm(ToVm::Resize { rows, columns }) => format!("resize {rows}x{columns}"),
        Act::TellVm(other) => format!("vm {other:?}").to_lowercase(),
        Act::TellClient(ToClient::Ended(ended)) => format!("client ended: {}", ended.end.message),
        Act::TellClient(ToClient::Failed(trouble)) => format!("client failed: {}", trouble.text()),
        Act::TellClient(other) => format!("client {other:?}").to_lowercase(),
        Act::Record(ended, IsKept::Yes) => format!("keep {:?}", ended.end.kind),
        Act::Record(ended, IsKept::No) => format!("forget {:?}", ended.end.kind),
        Act::Grant(number, wish) => format!("grant {number} {wish:?}"),
        other => format!("{other:?}")
            .split('(')
            .next()
            .unwrap()
            .to_lowercase(),
    };
    acts.iter().map(word).collect()
}

/// Everything that is done while these things happen, one each second.
fn check(mut state: State, events: &[Event], expected: &[&str]) {
    let mut now = Instant::now();
    let mut done = Vec::new();
    for event in events {
        done.extend(words_of(&state.take(event.clone(), now)));
        now += Duration::from_secs(1);
    }
    assert_eq!(done, expected, "{events:?}");
}

fn attended() -> State {
    State::new("web", false, false)
}

fn detached() -> State {
    State::new("web", true, true)
}

const BUILT: Event = Event::Vm(FromVm::Built { jail: NO_JAIL });
const NO_JAIL: Jail = Jail {
    tier: String::new(),
    landlock_abi: 0,
    missing: Vec::new(),
};
const STARTED: Event = Event::Vm(FromVm::Started);
const GONE: Event = Event::VmGone(Gone::Exited(0));
const KILLED: Event = Event::VmGone(Gone::Killed(9));
const LOST: &str = "its process vanished without a word: it was ended by signal 9: killed from outside (kill -9), or the \
                    host ran out of memory";

#[test]
fn a_vm_that_ends_well_is_recorded_before_the_client_hears_of_it() {
    check(
        attended(),
        &[
            BUILT,
            STARTED,
            ask(7, Wish::NextLog),
            said(EndKind::PoweredOff),
            GONE,
        ],
        &[
            "serve",
            "client started",
            "grant 7 NextLog",
            "forget PoweredOff",
            "vm recorded",
            "client ended: Mother failed",
            "leave",
        ],
    );
    check(
        detached(),
        &[
            BUILT,
            STARTED,
            Event::ClientGone,
            said(EndKind::PoweredOff),
            GONE,
        ],
        &[
            "serve",
            "letgo",
            "client started",
            "keep PoweredOff",
            "vm recorded",
            "say",
            "leave",
        ],
    );
    check(
        attended(),
        &[BUILT, STARTED, said(EndKind::Crashed), GONE],
        &[
            "serve",
            "client started",
            "keep Crashed",
            "vm recorded",
            "client ended: Mother failed",
            "leave",
        ],
    );
}

#[test]
fn a_vm_that_was_never_built_leaves_nothing_and_says_why() {
    check(
        attended(),
        &[said(EndKind::Failed), GONE],
        &[
            "discard",
            "vm recorded",
            "client failed: error: it did not work",
            "leave",
        ],
    );
    check(
        detached(),
        &[KILLED],
        &[
            "discard",
            &format!("client failed: error: VM \"web\" died\n  {LOST}"),
            "leave",
        ],
    );
    check(
        detached(),
        &[BUILT, Event::Refused(trouble("no room")), KILLED],
        &[
            "serve",
            "killvm",
            "discard",
            "client failed: error: no room",
            "leave",
        ],
    );
}

#[test]
fn a_process_that_is_killed_leaves_its_end() {
    check(
        attended(),
        &[BUILT, STARTED, KILLED],
        &[
            "serve",
            "client started",
            "keep Died",
            &format!("client ended: {LOST}"),
            "leave",
        ],
    );
    check(
        detached(),
        &[BUILT, STARTED, Event::ClientGone, KILLED],
        &[
            "serve",
            "letgo",
            "client started",
            "keep Died",
            "say",
            "leave",
        ],
    );
    let broken = Event::VmGone(Gone::Exited(1));
    check(
        attended(),
        &[BUILT, STARTED, broken],
        &[
            "serve",
            "client started",
            "keep Failed",
            "client ended: Mother failed",
            "leave",
        ],
    );
}

#[test]
fn a_vm_ends_with_its_client_unless_it_was_let_go() {
    check(
        attended(),
        &[
            BUILT,
            STARTED,
            Event::ClientGone,
            said(EndKind::Stopped),
            GONE,
        ],
        &[
            "serve",
            "client started",
            "stop Left",
            "keep Stopped",
            "vm recorded",
            "leave",
        ],
    );
    // Before its guest runs, it is nobody's yet.
    check(
        detached(),
        &[BUILT, Event::ClientGone, said(EndKind::Stopped), GONE],
        &["serve", "stop Left", "keep Stopped", "vm recorded", "leave"],
    );
    check(
        attended(),
        &[BUILT, Event::ClientGone, said(EndKind::Stopped), GONE],
        &[
            "serve",
            "stop Left",
            "forget Stopped",
            "vm recorded",
            "leave",
        ],
    );
    // One that does not end is killed.
    check(
        attended(),
        &[BUILT, STARTED, Event::ClientGone, Event::TimeUp, KILLED],
        &[
            "serve",
            "client started",
            "stop Left",
            "killvm",
            "keep Died",
            "leave",
        ],
    );
}

#[test]
fn signals_to_the_launcher_mean_what_they_mean_to_the_client() {
    let term = Event::Signal(15);
    let int = Event::Signal(2);
    check(
        detached(),
        &[BUILT, STARTED, term.clone(), term.clone(), term.clone()],
        &[
            "serve",
            "letgo",
            "client started",
            "power off in 30000",
            "stop Signal(15)",
            "killvm",
        ],
    );
    check(attended(), &[BUILT, int], &["serve", "stop Signal(2)"]);
}

#[test]
fn a_suspended_vm_goes_on_before_it_is_asked_for_anything() {
    let client = Event::Client;
    check(
        attended(),
        &[
            client(FromClient::Suspend),
            client(FromClient::GoOn),
            client(FromClient::GoOn),
        ],
        &["suspendvm", "continuevm"],
    );
    check(
        attended(),
        &[
            client(FromClient::Suspend),
            client(FromClient::Stop(StopCause::Left)),
        ],
        &["suspendvm", "continuevm", "stop Left"],
    );
    check(
        attended(),
        &[client(FromClient::Suspend), Event::ClientGone],
        &["suspendvm", "continuevm", "stop Left"],
    );
    let size = FromClient::Resize {
        rows: 24,
        columns: 80,
    };
    check(attended(), &[client(size)], &["resize 24x80"]);
}

#[test]
fn what_is_said_twice_is_done_once() {
    check(
        attended(),
        &[
            BUILT,
            BUILT,
            STARTED,
            said(EndKind::PoweredOff),
            said(EndKind::PoweredOff),
            BUILT,
        ],
        &[
            "serve",
            "client started",
            "forget PoweredOff",
            "vm recorded",
        ],
    );
    check(attended(), &[STARTED], &[]);
}

#[test]
fn a_deadline_is_there_only_for_a_vm_that_is_to_end() {
    let now = Instant::now();
    let mut state = attended();
    state.take(BUILT, now);
    assert_eq!(state.deadline(), None);
    state.take(Event::ClientGone, now);
    assert_eq!(state.deadline(), Some(now + PATIENCE));
    state.take(Event::TimeUp, now + PATIENCE);
    assert_eq!(state.deadline(), None);
}
