//! The VM's process: a plan and descriptors become a guest that lives, serves its control socket, and ends.
//!
//! ```text
//! Birth --build--> Built ..> Serve --run--> Started ..., TurnLog ..> Log, ... Ended ..> Recorded
//! ```
//!
//! It has no path to its own folder: what it wants there, it asks of the launcher. When the launcher hangs up, nobody is
//! left who could write down an end, so the guest is ended in order, and the process five seconds later whatever its
//! threads do.

mod connect;
pub(crate) mod input;
mod orders;
mod outlet;
mod over;
mod program;
mod text_seen;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fleet::LogWriter;
use machine::{ControlServer, Ending, Machine, MachineControl, MachineError, Report, build};
use rustix::stdio::dup2_stderr;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use self::connect::Talk;
use self::orders::{Answers, Orders};
use self::over::IsOver;
use self::program::Ours;
use crate::ask::{Ask, Asked, GRACE, OnTerm};
use crate::ending;
use crate::own_log;
use crate::spawn;
use crate::trouble::{OUR_FAULT, RunError};
use crate::wire::{Birth, Channel, Ended, FromVm, Sorted};

/// How long the launcher may take to write down an end.
const RECORD_TIME: Duration = Duration::from_secs(10);

/// Lives; the exit status of the process, which says no more than whether it said everything else.
pub(crate) fn live(channel: Channel, birth: Birth, descriptors: Vec<OwnedFd>) -> u8 {
    // Measured beside everything that comes before the guest.
    host::tsc::begin_calibration();
    own_log::is_raw(birth.is_raw);
    spawn::name_process(&format!("{}{}", spawn::CALLED, birth.plan.name));
    let channel = Arc::new(channel);
    match born(&channel, birth, descriptors).and_then(Vm::run) {
        Ok(Over {
            ended,
            server,
            answers,
            held,
        }) => {
            let status = tell(&channel, &ended);
            answers.recorded(RECORD_TIME);
            server.finish(&ended.end);
            drop(held);
            status
        }
        Err(error) => tell(&channel, &ending::of_trouble(error.into())),
    }
}

/// Tells the launcher how it ended.
fn tell(channel: &Channel, ended: &Ended) -> u8 {
    match channel.send(&FromVm::Ended(Box::new(ended.clone())), &[]) {
        Ok(()) => 0,
        // A launcher that is gone is told nothing; another trouble is one of ours.
        Err(error) => {
            tracing::warn!(%error, "the end could not be told");
            OUR_FAULT
        }
    }
}

/// Builds the machine and connects its console.
fn born(channel: &Arc<Channel>, birth: Birth, descriptors: Vec<OwnedFd>) -> Result<Vm, RunError> {
    let failed = |act| move |source| RunError::Process { act, source };
    let sorted = Sorted::new(&birth.given, descriptors).map_err(failed("give descriptors to"))?;
    let (answering, answers) = orders::answers();
    let answers = Arc::new(answers);
    let log = sorted.log.ok_or(io::Error::from(io::ErrorKind::NotFound));
    let log = log.map_err(failed("give a log to"))?;
    let log = LogWriter::new(log.into(), orders::turn_log(channel, &answers));
    let ours = Ours {
        input: sorted.input.map(File::from),
        output: sorted.output.map(File::from),
        errors: sorted.errors.map(File::from),
    };
    let (console, talk) = connect::connect(birth.guest, ours, log).map_err(failed("connect"))?;
    let name = birth.plan.name.clone();
    let machine = build(birth.plan, console).map_err(|source| {
        let name = name.clone();
        RunError::Build { name, source }
    })?;
    tracing::debug!("VM \"{name}\" is built");
    let control = machine.control();
    if let Some((rows, columns)) = birth.window {
        machine.devices().resize_window(rows, columns);
    }
    let over = IsOver::default();
    let orders = Orders {
        channel: Arc::clone(channel),
        control: control.clone(),
        devices: machine.devices(),
        over: over.clone(),
        answering,
    };
    orders.listen().map_err(RunError::Thread)?;
    listen_to_signals(control.clone(), over.clone()).map_err(RunError::Thread)?;
    Ok(Vm {
        channel: Arc::clone(channel),
        name,
        machine,
        control,
        talk,
        over,
        answers,
        messages: sorted.messages.map(File::from),
        held: sorted.held,
    })
}

/// A machine that is built, and what is connected to it.
struct Vm {
    channel: Arc<Channel>,
    name: String,
    machine: Machine,
    control: MachineControl,
    talk: Talk,
    over: IsOver,
    answers: Arc<Answers>,
    messages: Option<File>,
    /// Locks, for as long as the process lives.
    held: Vec<OwnedFd>,
}

/// A run that is over, and the server that has not told its clients yet.
struct Over {
    ended: Ended,
    server: ControlServer,
    answers: Arc<Answers>,
    /// Locks, until the process ends.
    held: Vec<OwnedFd>,
}

impl Vm {
    /// Serves and runs to the end.
    fn run(mut self) -> Result<Over, RunError> {
        self.say(&FromVm::Built)?;
        let (info, listener) = self.answers.serve().ok_or_else(|| RunError::Lost {
            name: self.name.clone(),
            what: "its launcher is gone".to_owned(),
        })?;
        let listener = UnixListener::from(listener);
        let server =
            ControlServer::start(listener, &self.machine, info).map_err(RunError::Control)?;
        self.talk
            .begin(&self.control, &self.over)
            .map_err(RunError::Thread)?;
        let started = self.tell_of_start().map_err(RunError::Thread)?;
        let ran = self.machine.run();
        // The start is heard of before the end.
        let _ = started.join();
        let ended = ended(self.name, ran, &self.talk, &self.control)
            .unwrap_or_else(|error| ending::of_trouble(error.into()));
        Ok(Over {
            ended,
            server,
            answers: self.answers,
            held: self.held,
        })
    }

    fn say(&self, what: &FromVm) -> Result<(), RunError> {
        let act = "hear from";
        let said = self.channel.send(what, &[]);
        said.map_err(|source| RunError::Process { act, source })
    }

    /// Tells when the guest runs. What this process says from then on goes to the VM's folder, if it is detached.
    fn tell_of_start(&self) -> io::Result<JoinHandle<()>> {
        let channel = Arc::clone(&self.channel);
        let control = self.control.clone();
        let messages = self.messages.as_ref().map(File::try_clone).transpose()?;
        let wait = move || {
            if !control.wait_until_started() {
                return;
            }
            if let Some(messages) = messages {
                own_log::limit();
                if let Err(error) = dup2_stderr(&messages) {
                    tracing::warn!(%error, "standard error stays where it was");
                }
            }
            // A launcher that is gone is heard of elsewhere.
            let _ = channel.send(&FromVm::Started, &[]);
        };
        thread::Builder::new().name("start".to_owned()).spawn(wait)
    }
}

/// What is said of a run that is over, once a program's last bytes are where they should be.
fn ended(
    name: String,
    ran: Result<Report, MachineError>,
    talk: &Talk,
    control: &MachineControl,
) -> Result<Ended, RunError> {
    // A VM that ran out of time, or is stopped from outside, waits for no reader.
    let is_patient = matches!(&ran, Ok(report) if report.ending != Ending::TimedOut);
    let program = talk.end(|| is_patient && control.stop_cause().is_none());
    let report = ran.map_err(|source| RunError::Machine { name, source })?;
    match program {
        Some((_, Some(error))) => Err(RunError::Output(error)),
        Some((end, None)) => Ok(ending::of_report(&report, Some(end))),
        None => Ok(ending::of_report(&report, None)),
    }
}

/// Signals to this very process mean what they mean to the client.
fn listen_to_signals(control: MachineControl, over: IsOver) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT])?;
    let listen = move || {
        let mut asked = Asked::new(OnTerm::PowerButton);
        for signal in &mut signals {
            match asked.take(signal) {
                Ask::PowerOff => {
                    tracing::info!("asked by SIGTERM to end; the guest has {GRACE:?} to power off");
                    orders::power_off(&control, &over, GRACE);
                }
                Ask::Stop(cause) => control.stop_because(cause),
                Ask::Die => process::exit(128 + signal),
            }
        }
    };
    let thread = thread::Builder::new().name("signals".to_owned());
    thread.spawn(listen).map(drop)
}
