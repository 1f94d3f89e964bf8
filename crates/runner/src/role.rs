//! What a process that was started for a VM is: looked at before anything else is.
//!
//! A role cannot be typed. The process is called `mother: ...` and has no arguments, and its standard input is one end of a
//! [`Channel`], whose first message says the rest. A person who calls the command so has no such socket, and gets the command line.

use std::env;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::panic;
use std::process::ExitCode;

use rustix::stdio::dup2_stdin;

use crate::observer::Observing;
use crate::own_log::{self, LogWish};
use crate::spawn::CALLED;
use crate::trouble::OUR_FAULT;
use crate::wire::{Channel, Look, Role};
use crate::{egress, launcher, network, observer, reader, sharing, starter, trial, vm};

/// What became of the role of a process.
pub enum Taken {
    /// It has been carried out.
    Over(ExitCode),
    /// It is to carry out what was typed elsewhere, in a jail, which it is in.
    Observes(Box<Observing>),
}

/// Carries out the role of this process, if it has one.
pub fn take() -> Option<Taken> {
    let mut words = env::args_os();
    let name = words.next()?;
    let is_named = name.as_bytes().starts_with(CALLED.as_bytes());
    if !is_named || words.next().is_some() {
        return None;
    }
    let channel = Channel::of(io::stdin().as_fd().try_clone_to_owned().ok()?)?;
    // A panic has printed itself; to the process that waits it is Mother's failure like any other.
    let status = if name == starter::NAME {
        panic::catch_unwind(|| Done::Status(start(&channel)))
    } else {
        panic::catch_unwind(|| perform(channel))
    };
    Some(match status.unwrap_or(Done::Status(OUR_FAULT)) {
        Done::Status(status) => Taken::Over(ExitCode::from(status)),
        Done::Observes(observing) => Taken::Observes(observing),
    })
}

/// What comes of a role.
enum Done {
    Status(u8),
    Observes(Box<Observing>),
}

/// Starts a command for somebody, whom a service manager has connected.
fn start(channel: &Channel) -> u8 {
    own_log::begin(&LogWish::of_environment());
    match close_stdin() {
        Ok(()) => starter::perform(channel),
        Err(error) => {
            tracing::error!(%error, "a command cannot be started");
            OUR_FAULT
        }
    }
}

/// What is started from here must not hold the channel open.
fn close_stdin() -> io::Result<()> {
    host::inherit::nothing().and_then(|nothing| Ok(dup2_stdin(&nothing)?))
}

fn perform(channel: Channel) -> Done {
    let closed = close_stdin();
    let role = closed.and_then(|()| {
        let came = channel.receive::<Role>()?;
        came.ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof))
    });
    let status = match role {
        Ok((Role::Observer(look), streams)) => return observe(channel, *look, streams),
        Ok((Role::Launcher(launch), descriptors)) => {
            own_log::begin(&LogWish::of_environment());
            launcher::launch(channel, *launch, descriptors)
        }
        Ok((Role::Vm(birth), descriptors)) => {
            own_log::begin(&birth.log);
            vm::live(channel, *birth, descriptors)
        }
        Ok((Role::Trial { log, is_apart }, descriptors)) => {
            own_log::begin(&log);
            trial::perform(&channel, is_apart, descriptors)
        }
        Ok((
            Role::Egress {
                log,
                is_apart,
                plan,
            },
            sockets,
        )) => {
            own_log::begin(&log);
            egress::perform(&channel, is_apart, plan, sockets)
        }
        Ok((
            Role::Network {
                log,
                is_apart,
                plan,
            },
            listener,
        )) => {
            own_log::begin(&log);
            network::perform(channel, is_apart, &plan, listener)
        }
        Ok((
            Role::Sharing {
                log,
                name,
                is_read_only,
                jail,
            },
            descriptors,
        )) => {
            own_log::begin(&log);
            sharing::perform(channel, &name, is_read_only, jail, descriptors)
        }
        Ok((Role::Reader { log, is_apart }, _)) => {
            own_log::begin(&log);
            reader::perform(channel, is_apart)
        }
        // The process that started this one is gone already, and nothing has been begun.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => OUR_FAULT,
        Err(error) => {
            own_log::begin(&LogWish::of_environment());
            tracing::error!(%error, "a process of a VM was not told what it is");
            OUR_FAULT
        }
    };
    Done::Status(status)
}

/// Locks itself in, and leaves what was typed to the command line.
fn observe(channel: Channel, look: Look, streams: Vec<OwnedFd>) -> Done {
    own_log::begin(&look.log);
    match observer::begin(channel, look, streams) {
        Ok(observing) => Done::Observes(Box::new(observing)),
        Err(error) => {
            tracing::error!(%error, "what looks into guests has no place to do it");
            Done::Status(OUR_FAULT)
        }
    }
}
