//! The observer's side: it locks itself in before it has anything to read.

use std::io;
use std::os::fd::OwnedFd;

use api::Jail;
use host::jail::{self, Kind, Refused};
use host::lock::Lock;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::stdio::{dup2_stderr, dup2_stdout};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{read, say, senseless};
use crate::spawn;
use crate::vm::lock;
use crate::wire::{Channel, FromObserver, Look, ToObserver};

/// An observer that is locked in, and what it may ask through.
#[derive(Debug)]
pub struct Observing {
    /// What was typed, the command's name first, as bytes.
    pub words: Vec<Vec<u8>>,
    /// What it is told of its surroundings.
    pub about: String,
    channel: Lock<Channel>,
}

impl Observing {
    /// Asks for something that has a name; the answer, and the descriptors with it.
    ///
    /// # Errors
    /// If who started this process is gone, or what it says makes no sense.
    pub fn ask<A: DeserializeOwned>(
        &self,
        what: &impl Serialize,
        descriptors: &[OwnedFd],
    ) -> io::Result<(A, Vec<OwnedFd>)> {
        // One question at a time: the answers come in order.
        let channel = self.channel.lock();
        say(&channel, what, descriptors, FromObserver::Asks)?;
        let (ToObserver(text), mut descriptors) =
            channel.receive()?.ok_or(io::ErrorKind::BrokenPipe)?;
        let answer = read(text, &mut descriptors)?;
        Ok((answer, descriptors))
    }
}

/// Takes the streams, and locks this process in.
pub(crate) fn begin(channel: Channel, look: Look, streams: Vec<OwnedFd>) -> io::Result<Observing> {
    // Who waits for it may be ended at any moment; nobody else wants what it says.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let [stdout, stderr] = <[OwnedFd; 2]>::try_from(streams).map_err(|_| senseless())?;
    dup2_stdout(&stdout)?;
    dup2_stderr(&stderr)?;
    drop((stdout, stderr));
    spawn::name_process("mother: observer");
    jail::settle_libc();
    let jailed: Jail = lock(Kind::Observer, look.is_apart);
    channel.send(&FromObserver::Jailed(jailed), &[])?;
    Ok(Observing {
        words: look.words,
        about: look.about,
        channel: Lock::new(channel),
    })
}

/// Says which calls were refused, which is none or a fault of ours. To be called when everything is done.
pub fn tell_refused() {
    if let Some(refused) = jail::refused().filter(|refused| refused.count > 0) {
        let Refused { count, first } = refused;
        tracing::warn!("what looks into guests was refused {count} system calls: {first:?}");
    }
}
