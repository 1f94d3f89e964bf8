//! A guest on its way from this process to another one, or from another one to this.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fleet::LogWriter;
use machine::{Giver, HANDED_FORMAT, Handed};

use super::Early;
use super::asking::{self, Asking};
use crate::trouble::{RunError, causes};
use crate::wire::{Channel, FromVm, ToVm};

/// Gives the guest away, on a thread of its own: who brings the launcher's answers must not wait.
pub(super) fn give(giver: &Giver, channel: &Arc<Channel>) {
    giver.may_go();
    let giving = giver.clone();
    let to = Arc::clone(channel);
    let give = move || match giving.give() {
        Ok((handed, since)) => {
            let descriptors = handed.into_descriptors();
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            let rested_us = micros(since.elapsed());
            if let Err(error) = to.send(&FromVm::Gives { rested_us }, &descriptors) {
                tracing::warn!(%error, "the guest could not be given away");
                giving.stays();
            }
        }
        Err(error) => {
            let why = paging_words(&error);
            // A launcher that is gone is heard of elsewhere.
            let _ = to.send(&FromVm::Keeps { why }, &[]);
        }
    };
    let thread = thread::Builder::new().name("giving".to_owned());
    if let Err(error) = thread.spawn(give) {
        giver.stays();
        let why = format!("the host gives no thread: {error}");
        let _ = channel.send(&FromVm::Keeps { why }, &[]);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// An error and its causes in one line.
fn paging_words(error: &dyn std::error::Error) -> String {
    let mut words = vec![error.to_string()];
    words.extend(causes(error));
    words.join(": ")
}

/// Refuses to go on with a guest of whose process this one would not understand a word.
pub(super) fn check_format(name: &str, format: u32) -> Result<(), RunError> {
    if format == HANDED_FORMAT {
        return Ok(());
    }
    Err(RunError::Handed {
        name: name.to_owned(),
        found: format,
        ours: HANDED_FORMAT,
    })
}

/// Waits for the guest that another process gives away, and for where its log goes on. What comes first is put to `early`.
pub(super) fn wait(
    name: &str,
    channel: &Channel,
    asking: &Arc<Asking>,
    early: &mut Early,
) -> Result<(LogWriter, Handed), RunError> {
    let failed = |act| move |source| RunError::Process { act, source };
    let format = HANDED_FORMAT;
    let said = channel.send(&FromVm::Ready { format }, &[]);
    said.map_err(failed("hear from"))?;
    while let Some(came) = channel.receive::<ToVm>().map_err(failed("hear from"))? {
        match came {
            (ToVm::GoOn { log_bytes }, descriptors) => {
                let went_on =
                    sorted(descriptors).ok_or(io::Error::from(io::ErrorKind::InvalidData));
                let (log, handed) = went_on.map_err(failed("give a guest to"))?;
                let log = LogWriter::new(log, asking::turn_log(asking)).with_written(log_bytes);
                return Ok((log, handed));
            }
            other => early.push(other),
        }
    }
    Err(RunError::Lost {
        name: name.to_owned(),
        what: "its launcher is gone".to_owned(),
    })
}

/// The log, and the guest.
fn sorted(mut descriptors: Vec<OwnedFd>) -> Option<(File, Handed)> {
    if descriptors.is_empty() {
        return None;
    }
    let log = File::from(descriptors.remove(0));
    Some((log, Handed::of_descriptors(descriptors)?))
}
