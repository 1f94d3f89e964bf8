//! What jail a VM would have here: tried with a process that locks itself in and says what came of it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use api::Jail;
use host::jail::Apart;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::own_log::LogWish;
use crate::spawn;
use crate::trouble::{OUR_FAULT, RunError};
use crate::vm::lock;
use crate::wire::{Channel, Role};

/// How long a process may take to lock itself in.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tries it.
///
/// # Errors
/// If there is no process for it, or it does not answer.
pub fn jail_here() -> Result<Jail, RunError> {
    let failed = |act| move |source| RunError::Process { act, source };
    let started = spawn::start_apart("trial", Apart::Namespaces).map_err(failed("start"))?;
    let (child, channel, apart) = started;
    let trial = Role::Trial {
        log: LogWish::of_environment(),
        is_apart: apart == Apart::Namespaces,
    };
    channel.send(&trial, &[]).map_err(failed("speak to"))?;
    let start = Instant::now();
    let mut answer = [PollFd::new(&channel, PollFlags::IN)];
    let patience = Timespec::try_from(PATIENCE).ok();
    while poll(&mut answer, patience.as_ref()) == Err(rustix::io::Errno::INTR)
        && start.elapsed() < PATIENCE
    {}
    if answer[0].revents().is_empty() {
        let _ = child.kill();
    }
    let said = channel.receive::<Jail>();
    let _ = child.wait();
    let lost = || RunError::Lost {
        name: "trial".to_owned(),
        what: "a process that locks itself in does not say what came of it".to_owned(),
    };
    let (jail, _) = said.map_err(failed("hear from"))?.ok_or_else(lost)?;
    Ok(jail)
}

/// Locks this process in, and says so.
pub(crate) fn perform(channel: &Channel, is_apart: bool, _nothing: Vec<OwnedFd>) -> u8 {
    host::jail::settle_libc();
    let jail = lock(host::jail::Kind::Any, is_apart);
    channel.send(&jail, &[]).map_or(OUR_FAULT, |()| 0)
}
