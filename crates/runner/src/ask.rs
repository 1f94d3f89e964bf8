//! What a signal asks of a VM, as a value: the client, the launcher and the VM's process all take the same.
//!
//! SIGTERM is how a service manager, a container runtime or a host that shuts down asks for an end, so the first one
//! presses the guest's power button as `mother stop` does, and the guest has [`GRACE`]. Every other one, and a second
//! SIGTERM, ends the guest at once. Once that was asked for, the next signal does not wait for anything.

use std::time::Duration;

use machine::StopCause;
use signal_hook::consts::SIGTERM;

/// How long a guest may take that is asked to power off.
pub const GRACE: Duration = Duration::from_secs(30);

/// What the first SIGTERM means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTerm {
    /// The guest is a user's: it is asked to end.
    PowerButton,
    /// The guest is Mother's own, and nothing of it is worth waiting for.
    End,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Press the power button; the guest has [`GRACE`].
    PowerOff,
    /// End the guest at once.
    Stop(StopCause),
    /// Wait for nothing.
    Die,
}

/// The signals so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    term: OnTerm,
    last: Option<i32>,
    is_stopped: bool,
}

impl Asked {
    /// None yet.
    pub fn new(term: OnTerm) -> Asked {
        Asked {
            term,
            last: None,
            is_stopped: false,
        }
    }

    /// The last signal, if there was one.
    pub fn last(&self) -> Option<i32> {
        self.last
    }

    /// Takes one more.
    pub fn take(&mut self, signal: i32) -> Ask {
        let is_first = self.last.replace(signal).is_none();
        if self.is_stopped {
            return Ask::Die;
        }
        if is_first && signal == SIGTERM && self.term == OnTerm::PowerButton {
            return Ask::PowerOff;
        }
        self.is_stopped = true;
        Ask::Stop(StopCause::Signal(signal))
    }
}

#[cfg(test)]
mod tests {
    use signal_hook::consts::{SIGHUP, SIGINT};

    use super::*;

    #[test]
    fn each_signal_asks_for_more_than_the_one_before() {
        let check = |term, signals: &[i32], expected: &[Ask]| {
            let mut asked = Asked::new(term);
            let asks: Vec<Ask> = signals.iter().map(|&signal| asked.take(signal)).collect();
            assert_eq!(asks, expected, "{term:?} {signals:?}");
            assert_eq!(asked.last(), signals.last().copied());
        };
        let stop = |signal| Ask::Stop(StopCause::Signal(signal));
        let button = OnTerm::PowerButton;
        check(button, &[], &[]);
        check(button, &[SIGTERM], &[Ask::PowerOff]);
        check(
            button,
            &[SIGTERM, SIGTERM, SIGTERM],
            &[Ask::PowerOff, stop(SIGTERM), Ask::Die],
        );
        check(button, &[SIGTERM, SIGINT], &[Ask::PowerOff, stop(SIGINT)]);
        check(button, &[SIGINT, SIGTERM], &[stop(SIGINT), Ask::Die]);
        check(button, &[SIGHUP], &[stop(SIGHUP)]);
        check(OnTerm::End, &[SIGTERM, SIGTERM], &[stop(SIGTERM), Ask::Die]);
    }
}
