//! Guests are looked into by a process in a jail.
//!
//! # Problem
//!
//! Who reads a guest's memory reads what the guest likes: lists that lead in circles, lengths that are lies. A mistake in that
//! reading, and the guest has the process that does it, which had all rights of the user who wants to know something.
//!
//! # Idea
//!
//! The command splits in two before the first byte. What was typed is carried out by this very program, started again without
//! environment, in namespaces of its own, with an empty root, Landlock, no capabilities, and the calls that reading takes
//! ([`host::jail::Kind::Observer`]). What remains here reads nothing of a guest: it opens what the other may have, by a closed
//! list of requests that the command line checks against what was typed, and hands descriptors over.
//!
//! ```text
//! here: the user's rights                     the observer: no rights
//! words, standard output, standard error ───> locks itself in
//!                               <── Asks ──── what has a name: a VM, an entry of the cache, a file that was typed
//! answer, descriptors ──────────────────────> reads, judges, prints
//!                               <── end ───── exit status
//! ```
//!
//! # Terminals
//!
//! A descriptor of a terminal gives what is typed there, and lets things be typed (`TIOCSTI`); so the observer has none. What it
//! says goes through a pipe and is copied as it is. A file or a pipe that can only be written it gets itself, so that whoever
//! waits for the end of output, or has closed it, is heard of where that matters.
//!
//! # Signals
//!
//! The first process of a namespace ignores what it does not handle, so Ctrl-C is this process's: when it ends, the kernel ends
//! the observer. When it is stopped it stops the observer before, and has it go on after.

mod output;
mod perform;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use api::{Jail, JailWish};
use host::MemFd;
use host::jail::{Apart, Child, Tier};
use rustix::process::{Signal, pidfd_send_signal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use signal_hook::consts::{SIGCONT, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use self::output::Output;
pub(crate) use self::perform::begin;
pub use self::perform::{Observing, tell_refused};
use crate::own_log::LogWish;
use crate::spawn;
use crate::trouble::RunError;
use crate::wire::{Channel, FromObserver, Look, Role, Size, ToObserver};

/// Longest text that is said in a message; the message has the text in quotes.
const HERE_BYTES: usize = 48 << 10;
/// Longest text at all.
const TEXT_BYTES_MAX: u64 = 64 << 20;

/// A process that looks into guests, seen from the one that has the rights. It ends with this.
#[derive(Debug)]
pub struct Observer {
    child: Child,
    channel: Channel,
    output: Output,
}

/// How it has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ObserverEnd {
    /// With this exit status.
    Status(u8),
    /// By its jail: it tried what only somebody does who has taken it over.
    ByJail,
    /// By a signal.
    Signal(i32),
}

impl Observer {
    /// Starts one to carry out `words`, which is told `about` what stands around it. With [`JailWish::Require`] it has namespaces
    /// of its own, or there is none.
    ///
    /// # Errors
    /// If there is no process for it, or the host does not give the jail that is required.
    pub fn start(words: Vec<Vec<u8>>, about: String, wish: JailWish) -> Result<Observer, RunError> {
        Observer::start_with(Output::prepare(), words, about, wish)
    }

    /// The same of one that has nothing to print: what it says goes nowhere, but for what goes wrong.
    ///
    /// # Errors
    /// As [`Observer::start`].
    pub fn start_mute(about: String, wish: JailWish) -> Result<Observer, RunError> {
        Observer::start_with(Output::mute(), vec![b"mother".to_vec()], about, wish)
    }

    fn start_with(
        output: io::Result<(Output, [OwnedFd; 2])>,
        words: Vec<Vec<u8>>,
        about: String,
        wish: JailWish,
    ) -> Result<Observer, RunError> {
        let failed = |act| move |source| RunError::Process { act, source };
        let (output, streams) = output.map_err(failed("speak for"))?;
        let started = spawn::start_apart("observer", Apart::Namespaces).map_err(failed("start"))?;
        let (child, channel, apart) = started;
        let observer = Observer {
            child,
            channel,
            output,
        };
        let role = Role::Observer(Box::new(Look {
            log: LogWish::of_environment(),
            is_apart: apart == Apart::Namespaces,
            words,
            about,
        }));
        let given: Vec<BorrowedFd<'_>> = streams.iter().map(AsFd::as_fd).collect();
        let told = observer.channel.send(&role, &given);
        told.map_err(failed("speak to"))?;
        drop(streams);
        let jail = match observer.channel.receive() {
            Ok(Some((FromObserver::Jailed(jail), _))) => jail,
            Ok(_) => return Err(observer.gone()),
            Err(source) => return Err(failed("hear from")(source)),
        };
        if jail.tier != Tier::Namespaces.word() {
            let Jail { tier, missing, .. } = &jail;
            tracing::info!("the jail of what looks into guests is of the tier {tier}: {missing:?}");
            if wish == JailWish::Require {
                return Err(RunError::ObserverJail {
                    tier: tier.clone(),
                    missing: missing.clone(),
                });
            }
        }
        observer.stop_with_us().map_err(failed("stop"))?;
        Ok(observer)
    }

    /// Answers what it asks until it has ended; how it did.
    ///
    /// # Errors
    /// If what it says is no request: whoever has taken it over speaks so.
    pub fn serve<Q: DeserializeOwned, A: Serialize>(
        mut self,
        mut answer: impl FnMut(Q, Vec<OwnedFd>) -> (A, Vec<OwnedFd>),
    ) -> Result<ObserverEnd, RunError> {
        let failed = |source| RunError::Process {
            act: "hear from",
            source,
        };
        while let Some((said, mut descriptors)) = self.channel.receive().map_err(failed)? {
            let FromObserver::Asks(text) = said else {
                return Err(failed(senseless()));
            };
            let asked = read(text, &mut descriptors).map_err(failed)?;
            let (answer, descriptors) = answer(asked, descriptors);
            let told = say(&self.channel, &answer, &descriptors, ToObserver);
            match told {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                told => told.map_err(failed)?,
            }
        }
        let end = self.end();
        self.output.finish();
        Ok(end)
    }

    fn end(&self) -> ObserverEnd {
        match self.child.wait() {
            Ok(status) => match (status.terminating_signal(), status.exit_status()) {
                (Some(SIGSYS), _) => ObserverEnd::ByJail,
                (Some(signal), _) => ObserverEnd::Signal(signal),
                (None, status) => {
                    let status = status.and_then(|status| u8::try_from(status).ok());
                    ObserverEnd::Status(status.unwrap_or(crate::OUR_FAULT))
                }
            },
            Err(_) => ObserverEnd::Status(crate::OUR_FAULT),
        }
    }

    fn gone(&self) -> RunError {
        let how = match self.end() {
            ObserverEnd::Status(status) => format!("it ended with status {status}"),
            end => end.words(),
        };
        RunError::Observer { how }
    }

    /// Whoever stops this process stops the observer.
    fn stop_with_us(&self) -> io::Result<()> {
        let process = self.child.process()?;
        let mut signals = Signals::new([SIGTSTP, SIGCONT])?;
        let hand_on = move || {
            for signal in &mut signals {
                // One that has ended needs no telling.
                if signal == SIGTSTP {
                    let _ = pidfd_send_signal(&process, Signal::STOP);
                    let _ = emulate_default_handler(SIGTSTP);
                }
                let _ = pidfd_send_signal(&process, Signal::CONT);
            }
        };
        let thread = thread::Builder::new().name("signals".to_owned());
        thread.spawn(hand_on).map(drop)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        // It keeps nothing that would have to be put in order.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl ObserverEnd {
    /// In words.
    pub fn words(self) -> String {
        match self {
            ObserverEnd::Status(status) => format!("it has ended with status {status}"),
            ObserverEnd::ByJail => {
                "it was ended by its jail: it tried what only a process does that was taken over"
                    .to_owned()
            }
            ObserverEnd::Signal(signal) => format!("it was ended by signal {signal}"),
        }
    }
}

/// `SIGSYS` (signal(7)), which a filter ends a process with.
const SIGSYS: i32 = 31;

fn senseless() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "it says what makes no sense now",
    )
}

/// Says a text, however long.
fn say<M: Serialize>(
    channel: &Channel,
    what: &impl Serialize,
    descriptors: &[OwnedFd],
    message: impl FnOnce(Size) -> M,
) -> io::Result<()> {
    let text = serde_json::to_string(what)?;
    let mut given: Vec<BorrowedFd<'_>> = Vec::new();
    if text.len() <= HERE_BYTES {
        given.extend(descriptors.iter().map(AsFd::as_fd));
        return channel.send(&message(Size::Here(text)), &given);
    }
    let memory = MemFd::new(c"said", 0)?;
    memory.file().write_all(text.as_bytes())?;
    given.push(memory.file().as_fd());
    given.extend(descriptors.iter().map(AsFd::as_fd));
    channel.send(&message(Size::There), &given)
}

/// The text, and what is left of the descriptors.
fn read<T: DeserializeOwned>(text: Size, descriptors: &mut Vec<OwnedFd>) -> io::Result<T> {
    match text {
        Size::Here(text) => Ok(serde_json::from_str(&text)?),
        Size::There if descriptors.is_empty() => Err(senseless()),
        Size::There => {
            let file = File::from(descriptors.remove(0));
            // What is no file of memory may make whoever reads it wait.
            let len_bytes = file.metadata().ok().filter(|it| it.is_file());
            let len_bytes = len_bytes.ok_or_else(senseless)?.len().min(TEXT_BYTES_MAX);
            let mut bytes = vec![0; usize::try_from(len_bytes).unwrap_or(0)];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0)?;
            Ok(serde_json::from_slice(&bytes)?)
        }
    }
}
