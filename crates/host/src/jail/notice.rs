//! Calls that are refused, heard of outside of the process that made them (seccomp_unotify(2)).
//!
//! A process that notes its own refusals can be made to note nothing: whoever has taken it over has its handlers too. So the kernel
//! holds a thread that makes such a call until somebody else has answered, who has the other end: the answer is always that it is
//! not permitted. It is asked for with the filter ([`super::lock_in`]) and given away before the first guest instruction: who has it
//! could let calls through.
//!
//! Where the host gives none (before Linux 5.7, or under a filter of somebody who listens himself), refusals are noted by a signal
//! in the process itself. So are those of a call that its process may make, but not this thread: a thread's own filter has nobody
//! who hears.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::calls;

/// `SECCOMP_IOCTL_NOTIF_RECV` and `SECCOMP_IOCTL_NOTIF_SEND` (`include/uapi/linux/seccomp.h`).
const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;

/// Where refusals of a process come in.
#[derive(Debug)]
pub struct Refusals(OwnedFd);

/// A call that was refused.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Refusal {
    /// The thread that made it, by the number that it has for whoever hears of it.
    pub thread: u32,
    /// The call, by name where it is known.
    pub call: String,
}

/// What came of waiting for a refusal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// This one.
    Refused(Refusal),
    /// None, for as long as was waited.
    Nothing,
    /// No process is left that could make one.
    Over,
}

impl Refusals {
    /// Those that come in through `listener`, as [`super::lock_in`] gives it.
    pub fn of(listener: OwnedFd) -> Refusals {
        Refusals(listener)
    }

    /// Waits for the next one, for so long if that is said, and refuses it.
    ///
    /// # Errors
    /// What the kernel says, of a descriptor that is no such listener.
    pub fn next(&self, patience: Option<Duration>) -> io::Result<Next> {
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        loop {
            let mut files = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut files, patience.as_ref()) {
                Err(Errno::INTR) => continue,
                Ok(0) => return Ok(Next::Nothing),
                waited => waited?,
            };
            if !files[0].revents().contains(PollFlags::IN) {
                return Ok(Next::Over);
            }
            match self.answer() {
                // The thread is gone, or was called away and asks again.
                Err(error) if is_withdrawn(&error) => {}
                refusal => return refusal.map(Next::Refused),
            }
        }
    }

    fn answer(&self) -> io::Result<Refusal> {
        let listener = self.0.as_raw_fd();
        // SAFETY: an all-zero notification is valid, and what the call asks for.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the number says how long the struct is, and the kernel writes no more than that.
        if unsafe { libc::ioctl(listener, RECEIVE, &raw mut asked) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let answer = libc::seccomp_notif_resp {
            id: asked.id,
            val: 0,
            error: -libc::EPERM,
            flags: 0,
        };
        // SAFETY: the same; the kernel reads the struct.
        if unsafe { libc::ioctl(listener, SEND, &raw const answer) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Refusal {
            thread: asked.pid,
            call: calls::name(i64::from(asked.data.nr)),
        })
    }
}

fn is_withdrawn(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::EINTR | libc::EINPROGRESS)
    )
}
