//! One program that the host has started: its streams over one connection, and its end.
//!
//! Input is sent ahead by no more than a window, so that a program that reads nothing keeps neither signals nor sizes from
//! arriving. Output needs no such thing: what the host does not take stays in the connection, then in the program's pipes, and the program
//! sleeps in write(2).
#![allow(
    unsafe_code,
    reason = "there is no safe form of kill(2) for a group of processes"
)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::fchown;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::users::User;
use super::{
    Agent, ERRORS, EXIT, INPUT, INPUT_ENDS, MESSAGE_BYTES_MAX, NOT_DONE, OUTPUT, SIGNAL, SIZE,
    Sink, TOOK, WINDOW, fail, receive, send,
};
use crate::warden::ground::{ENDED_BY_SIGNAL, NOT_EXECUTABLE, NOT_FOUND, QUIET};
use crate::warden::identity;
use crate::warden::terminal::{self, Terminal};
use crate::warden::wanted::Wanted;

/// Where programs are looked for if nothing was said.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `SIGHUP`.
const HANG_UP: i32 = 1;

unsafe extern "C" {
    fn kill(pid: i32, signal: i32) -> i32;
}

/// A program and this side of its streams.
struct Running {
    child: Child,
    input: Box<dyn Write + Send>,
    outputs: Vec<(u8, Box<dyn Read + Send>)>,
    terminal: Option<File>,
}

/// Starts what was asked for and stays until it has ended and the host has heard of that.
pub(super) fn run(agent: &Agent, request: &[u8], stream: File, sink: &Sink) -> io::Result<()> {
    let words = [&agent.defaults, request].concat();
    let running = match start(&words, agent) {
        Ok(running) => running,
        Err((status, error)) => return fail(sink, status, &error.to_string()),
    };
    let Running {
        child,
        input,
        outputs,
        terminal,
    } = running;
    let group = child.id().cast_signed();
    let (pieces, to_feed) = mpsc::channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let feeder = (Arc::clone(&waiting), Arc::clone(sink));
    thread::spawn(move || feed(&to_feed, input, &feeder.0, &feeder.1));
    let told = Arc::clone(sink);
    let has_ended = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&has_ended);
    thread::spawn(move || attend(child, outputs, &told, &ends));
    let heard = hear(stream, &pieces, &waiting, |kind, payload| {
        match (kind, payload, &terminal) {
            (SIGNAL, &[number], _) if !has_ended.load(Ordering::Acquire) => {
                signal(group, number.into());
            }
            (SIZE, &[r, rr, c, cc], Some(terminal)) => {
                let size = (u16::from_le_bytes([r, rr]), u16::from_le_bytes([c, cc]));
                // A terminal that has hung up needs none.
                let _ = terminal::resize(terminal, size);
            }
            _ => {}
        }
    });
    // Who has heard of the end goes; what the program has left behind runs on.
    if !has_ended.load(Ordering::Acquire) {
        signal(group, HANG_UP);
    }
    heard
}

type Refusal = (i32, io::Error);

/// What was asked for, and in which folder.
fn wanted(words: &[u8]) -> io::Result<(Wanted, String)> {
    let mut wanted = Wanted::read(words)?;
    if wanted.variable("PATH").is_none() {
        wanted
            .environment
            .push(("PATH".to_owned(), PATH.to_owned()));
    }
    let user = wanted.user.as_deref().map(User::find).transpose()?;
    let of_user = user.and_then(|user| {
        wanted.identity = user.identity;
        user.home
    });
    let known = wanted.variable("HOME").map(str::to_owned);
    let home = of_user.or(known).unwrap_or_else(|| "/root".to_owned());
    wanted.environment.push(("HOME".to_owned(), home.clone()));
    let at_home = Some(home).filter(|home| Path::new(home).is_dir());
    let folder = wanted.folder.clone().or(at_home);
    let folder = folder.unwrap_or_else(|| "/".to_owned());
    if !Path::new(&folder).is_dir() {
        return Err(io::Error::other(format!(
            "the guest has no folder {folder}"
        )));
    }
    Ok((wanted, folder))
}

fn start(words: &[u8], agent: &Agent) -> Result<Running, Refusal> {
    let not_done = |error| (NOT_DONE, error);
    let (wanted, folder) = wanted(words).map_err(not_done)?;
    let mut command = wanted.command(&folder).map_err(not_done)?;
    let identity = wanted.identity();
    let not_started = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => (NOT_FOUND, error),
        _ => (NOT_EXECUTABLE, error),
    };
    if let Some(door) = agent.groups.door() {
        identity::enter_group(&mut command, door);
    }
    if let Some(size) = wanted.size {
        let Terminal { master, slave } = Terminal::open(size).map_err(not_done)?;
        let clone = |file: &File| file.try_clone().map_err(not_done);
        if let Some(identity) = &identity {
            fchown(slave.as_fd(), Some(identity.uid), None).map_err(not_done)?;
        }
        command
            .stdin(clone(&slave)?)
            .stdout(clone(&slave)?)
            .stderr(slave);
        let child = identity::spawn(&mut command, identity, true).map_err(not_started)?;
        return Ok(Running {
            child,
            input: Box::new(clone(&master)?),
            outputs: vec![(OUTPUT, Box::new(clone(&master)?))],
            terminal: Some(master),
        });
    }
    let (its_input, to_program) = io::pipe().map_err(not_done)?;
    let (from_program, its_output) = io::pipe().map_err(not_done)?;
    let (complaints, its_errors) = io::pipe().map_err(not_done)?;
    if let Some(identity) = &identity {
        // Its own, so that it may open them again as /dev/stdin, /dev/stdout and /dev/stderr.
        for pipe in [its_input.as_fd(), its_output.as_fd(), its_errors.as_fd()] {
            fchown(pipe, Some(identity.uid), Some(identity.gid)).map_err(not_done)?;
        }
    }
    command
        .stdin(its_input)
        .stdout(its_output)
        .stderr(its_errors);
    command.process_group(0);
    let child = identity::spawn(&mut command, identity, false).map_err(not_started)?;
    Ok(Running {
        child,
        input: Box::new(to_program),
        outputs: vec![
            (OUTPUT, Box::new(from_program)),
            (ERRORS, Box::new(complaints)),
        ],
        terminal: None,
    })
}

/// Takes what the host says until it has gone.
fn hear(
    mut stream: File,
    pieces: &Sender<Vec<u8>>,
    waiting: &AtomicUsize,
    other: impl Fn(u8, &[u8]),
) -> io::Result<()> {
    loop {
        let (kind, payload) = receive(&mut stream)?;
        match kind {
            INPUT if payload.is_empty() => {}
            INPUT => {
                let before = waiting.fetch_add(payload.len(), Ordering::AcqRel);
                if before + payload.len() > WINDOW {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                // A feeder that is gone has nobody to feed.
                let _ = pieces.send(payload);
            }
            // Nothing is the end.
            INPUT_ENDS => drop(pieces.send(Vec::new())),
            _ => other(kind, &payload),
        }
    }
}

/// Gives pieces to the program until their end. What a program does not read any more is taken and thrown away.
fn feed(
    pieces: &Receiver<Vec<u8>>,
    input: Box<dyn Write + Send>,
    waiting: &AtomicUsize,
    sink: &Sink,
) {
    let mut input = Some(input);
    while let Ok(piece) = pieces.recv() {
        if piece.is_empty()
            || input
                .as_mut()
                .is_some_and(|it| it.write_all(&piece).is_err())
        {
            input = None;
        }
        waiting.fetch_sub(piece.len(), Ordering::AcqRel);
        // A host that has gone asks for no more.
        let _ = send(sink, TOOK, &(piece.len() as u32).to_le_bytes());
    }
}

/// Carries what the program prints, waits for its end, and tells of that when all of it is under way.
fn attend(
    mut child: Child,
    outputs: Vec<(u8, Box<dyn Read + Send>)>,
    sink: &Sink,
    has_ended: &AtomicBool,
) {
    let carried = Arc::new(AtomicU64::new(0));
    let carriers: Vec<_> = outputs
        .into_iter()
        .map(|(kind, from)| {
            let sink = Arc::clone(sink);
            let carried = Arc::clone(&carried);
            thread::spawn(move || carry(kind, from, &sink, &carried))
        })
        .collect();
    let status = child.wait();
    has_ended.store(true, Ordering::Release);
    // What the program left behind may hold its pipes for ever; then nothing new for a while is the end.
    let mut seen = (carried.load(Ordering::Acquire), Instant::now());
    while !carriers.iter().all(thread::JoinHandle::is_finished) {
        let now = carried.load(Ordering::Acquire);
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        if seen.1.elapsed() > QUIET {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let status = status.map_or(NOT_DONE, |status| {
        let by_signal = ENDED_BY_SIGNAL + status.signal().unwrap_or(0);
        status.code().unwrap_or(by_signal)
    });
    // A host that has gone does not ask.
    let _ = send(sink, EXIT, &status.to_le_bytes());
}

/// The count goes up when bytes have come and when they have gone, so it stands still only for a program that is silent.
fn carry(kind: u8, mut from: Box<dyn Read + Send>, sink: &Sink, carried: &AtomicU64) {
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        carried.fetch_add(1, Ordering::AcqRel);
        if send(sink, kind, &buffer[..count]).is_err() {
            return;
        }
        carried.fetch_add(1, Ordering::AcqRel);
    }
}

fn signal(group: i32, number: i32) {
    // SAFETY: it takes numbers and touches no memory. A group that is gone hears nothing.
    unsafe { kill(-group, number) };
}
