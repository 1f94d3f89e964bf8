//! One client: request by request until it goes, attaches to the console, or waits for the end.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use api::{Command, LINE_BYTES_MAX, Outcome, RefusalCode, Request};

use crate::control::MachineControl;
use crate::outcome::ending::StopCause;
use crate::outcome::refusal::{PauseError, SwitchError};
use crate::plan::{engine_memory_as_written, host_limit_as_written};
use crate::server::clients::{Place, STAYING_MAX};
use crate::server::lines::{Line, Lines, refusal, reply};
use crate::server::paging::LEAVE_TIME;
use crate::server::{Shared, console, observe, paging, probes};

/// How long a guest's threads may take to come to rest.
const PAUSE_TIME: Duration = Duration::from_secs(10);

/// How long each part of a change of engine may take: the pause, the change, going on.
const SWITCH_TIME: Duration = Duration::from_secs(25);

/// Serves a client until it is done.
pub(super) fn serve(shared: &Arc<Shared>, stream: UnixStream, place: &Place) {
    let mut lines = Lines::new(&stream);
    let mut asked = Vec::new();
    let mut only_looks = false;
    while let Some(line) = lines.next() {
        let request = match line {
            Line::Request(request) => request,
            Line::Wrong(code, message) => {
                if !reply(&stream, refusal(code, message)) {
                    return;
                }
                continue;
            }
        };
        let Request { command, .. } = request;
        audit(shared, &stream, &command, &mut asked);
        place.asks();
        only_looks |= command == Command::OnlyLook;
        if let Some(why) = refused(shared, &command, only_looks) {
            if !reply(&stream, refusal(RefusalCode::WrongState, why)) {
                return;
            }
            place.is_answered();
            continue;
        }
        match command {
            Command::Console { .. } | Command::Wait | Command::Rest | Command::Probe { .. }
                if !place.stays() =>
            {
                let why = format!("{STAYING_MAX} consoles and waiting clients are connected");
                if !reply(&stream, refusal(RefusalCode::Busy, why)) {
                    return;
                }
            }
            Command::Console {
                replay_bytes,
                types,
            } => {
                let rest = lines.into_rest();
                return console::attach(shared, stream, replay_bytes, types.then_some(rest));
            }
            Command::Connect { port } => {
                return connect(shared, &stream, port, &lines.into_rest());
            }
            Command::Wait => return wait(shared, &stream),
            Command::Probe { life, points } => {
                return probes::serve(shared, &stream, life, points);
            }
            Command::Rest => return rest(shared, &stream, lines.into_rest()),
            Command::State => {
                if !observe::state(shared, &stream) {
                    return;
                }
            }
            Command::View => {
                if !observe::view(shared, &stream) {
                    return;
                }
            }
            other => {
                if !reply(&stream, perform(shared, other)) {
                    return;
                }
            }
        }
        place.is_answered();
    }
}

/// Why a request is not for this connection, or for this VM.
fn refused(shared: &Shared, command: &Command, only_looks: bool) -> Option<&'static str> {
    if only_looks && !command.only_looks() {
        return Some("this connection was handed on to look at the guest, and does nothing else");
    }
    let is_console = matches!(command, Command::Console { .. });
    (is_console && shared.info.program)
        .then_some("the guest is one program: its input and output belong to whoever started it")
}

/// Has it noted that somebody asked for something: once for each client. Questions that every list asks are no news.
fn audit(shared: &Shared, stream: &UnixStream, command: &Command, asked: &mut Vec<&'static str>) {
    let what = what(command);
    if matches!(
        command,
        Command::Status | Command::Metrics | Command::OnlyLook
    ) || asked.contains(&what)
    {
        return;
    }
    asked.push(what);
    (shared.audit)(stream.as_fd(), what);
}

/// A request in the words of the command line.
fn what(command: &Command) -> &'static str {
    match command {
        Command::Stop { .. } => "stop",
        Command::Kill => "kill",
        Command::Pause => "pause",
        Command::Rest | Command::Release => "rest",
        Command::Resume => "resume",
        Command::Nmi => "nmi",
        Command::Switch { .. } => "switch",
        Command::Balloon { .. } => "balloon",
        Command::Link { .. } => "link",
        Command::Limit { .. } => "limit",
        Command::Console { .. } => "console",
        Command::Resize { .. } => "the console's size",
        Command::Connect { .. } => "a connection to a program in the guest",
        Command::Wait => "wait",
        Command::Status | Command::Metrics | Command::OnlyLook => "status",
        Command::View | Command::StoredPages { .. } | Command::WrittenPages { .. } => {
            "the guest's memory, to read"
        }
        Command::Probe { .. } => "what the guest's kernel does",
        Command::Registers => "the guest's registers",
        Command::State => "all that the guest is",
        Command::Books => "the host's books",
    }
}

fn perform(shared: &Shared, command: Command) -> Outcome {
    let control = &shared.control;
    match command {
        Command::Status => Outcome::Status {
            status: Box::new(shared.status()),
        },
        Command::Stop { grace_ms } => paused(control.order_stop(Duration::from_millis(grace_ms))),
        Command::Kill => paused(control.order_end(StopCause::Killed)),
        Command::Balloon { target_bytes } => balloon(shared, target_bytes),
        Command::Link { up } => match shared.devices.set_link(up) {
            true => Outcome::Done,
            false => refusal(RefusalCode::WrongState, "the guest has no network"),
        },
        Command::Pause => paused(control.pause(PAUSE_TIME)),
        Command::Resume => paused(control.resume(PAUSE_TIME)),
        Command::Nmi => paused(control.send_nmi(PAUSE_TIME)),
        Command::Switch { engine } => switched(control.switch(&engine, SWITCH_TIME)),
        Command::Resize { rows, columns } => {
            shared.devices.resize_window(rows, columns);
            Outcome::Done
        }
        // What that means is kept where the connection is.
        Command::OnlyLook => Outcome::Done,
        Command::Registers => observe::registers(shared),
        Command::Books => observe::books(shared),
        Command::Metrics => Outcome::Metrics {
            metrics: shared.metrics(),
        },
        limits @ Command::Limit { .. } => limit(shared, limits),
        Command::StoredPages { life, file_pages } => {
            paging::stored_pages(shared, life, &file_pages)
        }
        Command::WrittenPages { stretches } => paging::written_pages(shared, &stretches),
        Command::Release => refusal(RefusalCode::WrongState, "nothing rests for this client"),
        Command::Console { .. }
        | Command::Connect { .. }
        | Command::Wait
        | Command::Rest
        | Command::View
        | Command::State
        | Command::Probe { .. } => {
            unreachable!("these need the connection itself")
        }
    }
}

/// Changes limits.
fn limit(shared: &Shared, limits: Command) -> Outcome {
    let Command::Limit {
        resident,
        page_memory,
        engine_memory,
        host_limit,
        rates,
    } = limits
    else {
        unreachable!("it is asked to limit something");
    };
    let control = &shared.control;
    let memory_bytes = shared.info.memory_given_bytes;
    let stored = match control.paging().asked() {
        (_, true) => 0,
        (_, false) => control.stored_bytes(),
    };
    let whole = host_limit
        .map(|text| host_limit_as_written(&text, memory_bytes, shared.info.vcpus, stored))
        .transpose();
    let whole = match whole {
        Ok(whole) => whole,
        Err(trouble) => {
            let why = format!("{}; {}", trouble.what, trouble.help);
            return refusal(RefusalCode::BadRequest, why);
        }
    };
    if let (Some(Some(_)), Err(why)) = (whole, control.paging().can_be_limited()) {
        let why = format!("guest memory cannot be paged here: {why}");
        return refusal(RefusalCode::WrongState, why);
    }
    let engine = engine_memory
        .map(|text| engine_memory_as_written(&text, shared.info.vcpus))
        .transpose();
    let engine = match engine {
        Ok(engine) => engine,
        Err(trouble) => {
            let why = format!("{}; {}", trouble.what, trouble.help);
            return refusal(RefusalCode::BadRequest, why);
        }
    };
    if let Some(Err(error)) = rates.cpu_weight.map(|weight| control.weigh(weight)) {
        let why = format!(
            "the host does not give the VM this weight: {error}; `mother doctor` says what weights it keeps"
        );
        return refusal(RefusalCode::WrongState, why);
    }
    control.set_rates(&rates);
    if let Some(bytes) = whole {
        control.limit_host(bytes);
    }
    if let Some(bytes) = engine {
        control.limit_engine(bytes);
    }
    let paged = match (&resident, &page_memory) {
        (None, None) => Outcome::Done,
        _ => paging::limit(shared, resident, page_memory),
    };
    match (paged, whole) {
        (Outcome::Done, Some(Some(_))) => whole_is_kept(control),
        (paged, _) => paged,
    }
}

/// Waits until a limit of the whole VM that was just set is kept.
fn whole_is_kept(control: &MachineControl) -> Outcome {
    let Err(cost) = control.limits().host.wait_until_kept(LEAVE_TIME) else {
        return Outcome::Done;
    };
    let Some(cost) = cost else {
        let why = "the limit is set, what the VM costs is not known yet";
        return refusal(RefusalCode::TimedOut, why);
    };
    let why = control.stalled().unwrap_or_else(|| {
        let least = cost.least_bytes.div_ceil(1 << 20);
        match cost.least_bytes > cost.limit_bytes {
            true => format!("as things are it costs {least} MiB at least"),
            false => "pages are still leaving".to_owned(),
        }
    });
    let total = cost.total_bytes.div_ceil(1 << 20);
    refusal(
        RefusalCode::TimedOut,
        format!("the limit is set, the VM still costs the host {total} MiB: {why}"),
    )
}

fn balloon(shared: &Shared, target_bytes: u64) -> Outcome {
    if target_bytes > shared.info.memory_given_bytes {
        return refusal(
            RefusalCode::BadRequest,
            "that is more than the guest's memory",
        );
    }
    if shared.devices.set_balloon_target(target_bytes) {
        Outcome::Done
    } else {
        refusal(
            RefusalCode::WrongState,
            "the guest has no driver for its balloon, or has not loaded it yet",
        )
    }
}

fn paused(result: Result<(), PauseError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(
            error @ (PauseError::Ended
            | PauseError::Stalled(_)
            | PauseError::Overruled
            | PauseError::Moving),
        ) => refusal(RefusalCode::WrongState, error.to_string()),
        Err(error @ PauseError::TimedOut) => refusal(RefusalCode::TimedOut, error.to_string()),
    }
}

fn switched(result: Result<(), SwitchError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(SwitchError::NoEngine { what, help }) => {
            refusal(RefusalCode::WrongState, format!("{what}; {help}"))
        }
        Err(SwitchError::TimedOut) => {
            refusal(RefusalCode::TimedOut, SwitchError::TimedOut.to_string())
        }
        Err(error) => refusal(RefusalCode::WrongState, ::paging::with_causes(&error)),
    }
}

/// Puts the client among those who hear of the end, until it goes away.
fn wait(shared: &Shared, stream: &UnixStream) {
    let Ok(told) = stream.try_clone() else { return };
    let id = {
        let mut waiters = shared.waiters();
        if let Some(end) = waiters.end.clone() {
            drop(waiters);
            reply(stream, Outcome::Ended { end });
            return;
        }
        waiters.next_id += 1;
        let id = waiters.next_id;
        waiters.streams.push((id, told));
        id
    };
    // Nothing more is to come from it but its end.
    let _ = stream.set_read_timeout(None);
    let mut byte = [0];
    while matches!((&mut &*stream).read(&mut byte), Ok(1)) {}
    shared.waiters().streams.retain(|(other, _)| *other != id);
}

/// Hands the client over to the guest's socket device; from then on nothing of it is seen here.
fn connect(shared: &Shared, stream: &UnixStream, port: u32, said: &[u8]) {
    let refused = |code, why: &str| {
        reply(stream, refusal(code, why));
    };
    if !shared.devices.has_vsock() {
        let why = "the guest has no socket device";
        return refused(RefusalCode::NotHere, why);
    }
    if !said.is_empty() {
        let why = "something was said before the answer was there";
        return refused(RefusalCode::BadRequest, why);
    }
    let Ok(handed) = stream.try_clone() else {
        return refused(RefusalCode::Busy, "the VM has no descriptor left");
    };
    // Before it is handed over: what the guest says comes behind it.
    if !shared.devices.is_vsock_served() {
        let why = "the guest has no driver for its socket device, or has not loaded it yet";
        return refused(RefusalCode::WrongState, why);
    }
    if reply(stream, Outcome::Done) {
        // Whoever comes between a driver's going and now, or with too many others, finds the stream closed.
        let _ = shared.devices.connect(handed, port);
    }
}

/// Has the guest rest until the client says that it may go on, or goes away: whoever dies lets go of it.
fn rest(shared: &Shared, stream: &UnixStream, mut said: Vec<u8>) {
    let resting = match shared.control.rest(PAUSE_TIME) {
        Ok(resting) => resting,
        Err(error) => {
            reply(stream, paused(Err(error)));
            return;
        }
    };
    if !reply(stream, Outcome::Done) || stream.set_read_timeout(None).is_err() {
        return;
    }
    let mut bytes = [0; 256];
    while !said.contains(&b'\n') {
        match (&mut &*stream).read(&mut bytes) {
            Ok(count @ 1..) if said.len() < LINE_BYTES_MAX => said.extend(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
    // Whatever it says: on this connection there is but one thing to say.
    let outcome = if resting.release() {
        Outcome::Done
    } else {
        refusal(
            RefusalCode::WrongState,
            "somebody else had the guest go on meanwhile",
        )
    };
    reply(stream, outcome);
}
