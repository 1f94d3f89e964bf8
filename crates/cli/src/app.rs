//! A guest that is one program: its three streams are ours, and so is its exit status.
//!
//! The warden in the guest (`guests/warden`) speaks in frames over the console. Whatever comes before its greeting is
//! the kernel's and is kept for the case that the greeting never comes.

use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use machine::{Console, ConsoleInput, Ending, MachineControl, StopCause, VmPlan, build};

use crate::arguments::RunArguments;
use crate::ending::{finish, say_ending};
use crate::failure::Failure;
use crate::registration::Registration;
use crate::{detach, signals};

/// Kinds of frames to the guest.
const INPUT: u8 = 0;
const END_OF_INPUT: u8 = 1;

/// Kinds of frames from the guest.
const OUTPUT: u8 = 1;
const ERRORS: u8 = 2;
const EXIT: u8 = 3;

/// A frame's kind and length.
const HEAD_BYTES: usize = 5;

/// Longest frame that we take; the warden's are shorter.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// How much of what nobody understands is kept, to be shown when something is wrong.
const LOG_BYTES: usize = 16 * 1024;

/// Runs the program; its exit status.
pub fn run(
    plan: VmPlan,
    registration: Registration,
    arguments: &RunArguments,
) -> Result<u8, Failure> {
    let name = plan.name.clone();
    let heard = Arc::new(Heard::default());
    let (greeted, ready) = mpsc::channel();
    let streams = Streams {
        log: Box::new(registration.log()?),
        is_detached: arguments.detach,
    };
    let console = Console::new(Box::new(Frames::new(heard.clone(), greeted, streams)));
    let input = console.input();
    let machine = build(plan, console).map_err(|source| Failure::Build {
        name: name.clone(),
        source,
    })?;
    // Nobody has set it before: the frames begin with the run.
    let _ = heard.control.set(machine.control());
    let received = signals::listen(machine.control(), signals::OnTerm::PowerButton)
        .map_err(Failure::Signals)?;
    let registration = registration.of_program().serve(&machine)?;
    send_input(input, ready).map_err(Failure::Input)?;
    let started = detach::let_go_if_asked(arguments, &machine, &registration)?;
    let ended = finish(machine, &name, arguments.report.as_deref());
    started.wait();
    let status = *lock(&heard.status);
    registration.leave(&ended, status)?;
    received.die_if_ended_by_it(&ended);
    let report = ended?;
    if let Some(status) = status {
        return Ok(status);
    }
    let log = String::from_utf8_lossy(&lock(&heard.log)).into_owned();
    eprint!(
        "{log}{}",
        if log.is_empty() || log.ends_with('\n') {
            ""
        } else {
            "\n"
        }
    );
    let status = say_ending(&report);
    if matches!(
        report.ending,
        Ending::PoweredOff | Ending::Stopped(StopCause::Left)
    ) {
        eprintln!("error: the guest ended before the program in it did");
        return Ok(crate::failure::OUR_FAULT);
    }
    Ok(status)
}

/// Where the program's output goes: to the log, and to our own streams unless nobody is there any more.
struct Streams {
    log: Box<dyn Write + Send>,
    is_detached: bool,
}

impl Streams {
    fn output(&mut self, payload: &[u8]) -> io::Result<()> {
        self.log.write_all(payload)?;
        if self.is_detached {
            Ok(())
        } else {
            write_all(&mut io::stdout().lock(), payload)
        }
    }

    fn errors(&mut self, payload: &[u8]) -> io::Result<()> {
        self.log.write_all(payload)?;
        // Whoever closed standard error wants to hear no more; the program is not told.
        if self.is_detached {
            Ok(())
        } else {
            write_all(&mut io::stderr().lock(), payload).or(Ok(()))
        }
    }
}

/// What the guest has told.
#[derive(Default)]
struct Heard {
    status: Mutex<Option<u8>>,
    log: Mutex<Vec<u8>>,
    control: OnceLock<MachineControl>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The warden has not said anything.
    Greeting,
    /// Frames come.
    Frames,
    /// The program has ended, or the guest talks nonsense; nothing that comes now means anything.
    Over,
}

/// Where the guest's console goes.
struct Frames {
    heard: Arc<Heard>,
    state: State,
    /// Not understood yet.
    bytes: Vec<u8>,
    /// Told once that the warden listens.
    greeted: Sender<()>,
    streams: Streams,
}

impl Frames {
    fn new(heard: Arc<Heard>, greeted: Sender<()>, streams: Streams) -> Frames {
        Frames {
            heard,
            state: State::Greeting,
            bytes: Vec::new(),
            greeted,
            streams,
        }
    }

    /// Takes one greeting or frame; whether there was one.
    fn step(&mut self) -> io::Result<bool> {
        if self.state == State::Greeting {
            return Ok(self.greeting());
        }
        let Some(head) = self.bytes.first_chunk::<HEAD_BYTES>() else {
            return Ok(false);
        };
        let kind = head[0];
        let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if !matches!(kind, OUTPUT | ERRORS | EXIT) || len > FRAME_BYTES_MAX {
            self.state = State::Over;
            return Ok(true);
        }
        if self.bytes.len() < HEAD_BYTES + len {
            return Ok(false);
        }
        let rest = self.bytes.split_off(HEAD_BYTES + len);
        let frame = std::mem::replace(&mut self.bytes, rest);
        self.take(kind, &frame[HEAD_BYTES..])?;
        Ok(true)
    }

    fn greeting(&mut self) -> bool {
        let greeting = images::GREETING;
        let found = self
            .bytes
            .windows(greeting.len())
            .position(|window| window == greeting);
        let Some(at) = found else { return false };
        self.bytes.drain(..at + greeting.len());
        lock(&self.heard.log).clear();
        self.state = State::Frames;
        // Nobody listening is as good as told.
        let _ = self.greeted.send(());
        true
    }

    fn take(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        match kind {
            OUTPUT => self.streams.output(payload),
            ERRORS => self.streams.errors(payload),
            _ => {
                let status = payload
                    .first_chunk::<4>()
                    .map_or(0, |bytes| i32::from_le_bytes(*bytes));
                *lock(&self.heard.status) = Some((status & 0xff) as u8);
                self.state = State::Over;
                if let Some(control) = self.heard.control.get() {
                    control.stop();
                }
                Ok(())
            }
        }
    }

    /// Keeps the end of what nobody understands.
    fn log(&mut self) {
        let keep = if self.state == State::Greeting {
            images::GREETING.len()
        } else {
            0
        };
        let known = self.bytes.len().saturating_sub(keep);
        let mut log = lock(&self.heard.log);
        log.extend(self.bytes.drain(..known));
        let excess = log.len().saturating_sub(LOG_BYTES);
        log.drain(..excess);
    }
}

fn write_all(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

impl Write for Frames {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        while self.state != State::Over && self.step()? {}
        if self.state != State::Frames {
            self.log();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends standard input to the program until its end, once the warden listens: what is sent before is lost.
fn send_input(input: ConsoleInput, ready: Receiver<()>) -> io::Result<()> {
    let send = move || {
        if ready.recv().is_err() {
            return;
        }
        let mut stdin = io::stdin().lock();
        let mut buffer = [0; 4096];
        loop {
            let count = match stdin.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(count) => count,
                Err(_) => 0,
            };
            let kind = if count == 0 { END_OF_INPUT } else { INPUT };
            if input.send(&frame(kind, &buffer[..count])).is_err() || count == 0 {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("program-input".to_owned())
        .spawn(send)
        .map(drop)
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend((payload.len() as u32).to_le_bytes());
    frame.extend(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams() -> Streams {
        Streams {
            log: Box::new(io::sink()),
            is_detached: false,
        }
    }

    /// Feeds the bytes in pieces; the status and what was not understood.
    fn check(bytes: &[u8], status: Option<u8>, log: &str) {
        for piece in [1, 3, bytes.len()] {
            let heard = Arc::new(Heard::default());
            let mut frames = Frames::new(heard.clone(), mpsc::channel().0, streams());
            for bytes in bytes.chunks(piece) {
                frames.write_all(bytes).unwrap();
            }
            assert_eq!(*lock(&heard.status), status);
            let mut rest = lock(&heard.log).clone();
            rest.extend(&frames.bytes);
            assert_eq!(String::from_utf8_lossy(&rest), log);
        }
    }

    #[test]
    fn the_exit_status_is_heard_however_the_console_cuts_it() {
        let exit = frame(EXIT, &42_i32.to_le_bytes());
        check(
            &[
                b"[0.1] boot\r\n",
                images::GREETING,
                &frame(ERRORS, b""),
                &exit,
            ]
            .concat(),
            Some(42),
            "",
        );
        check(
            &[images::GREETING, &frame(EXIT, &256_i32.to_le_bytes())].concat(),
            Some(0),
            "",
        );
    }

    #[test]
    fn a_guest_that_dies_leaves_its_last_words() {
        check(b"no init found\n", None, "no init found\n");
        check(
            &[images::GREETING, b"[9.9] Kernel panic"].concat(),
            None,
            "[9.9] Kernel panic",
        );
        check(
            &[images::GREETING, &[OUTPUT, 255, 255, 255, 255], b"x"].concat(),
            None,
            "\u{1}\u{fffd}\u{fffd}\u{fffd}\u{fffd}x",
        );
    }
}
