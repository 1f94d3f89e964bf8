//! What a signal asks of a VM, as a value: the client, the launcher and the VM's process all take the same.
//!
//! SIGTERM is how a service manager, a container runtime or a host that shuts down asks for an end, so the first one
//! presses the guest's power button as `mother stop` does, and the guest has [`GRACE`]. Every other one, and a second
//! SIGTERM, ends the guest at once. Once that was asked for, the next signal does not wait for anything.
//!
//! Whoever counts signals has to know one saying from two: coreutils' `timeout` sends its signal to the program and then to
//! the program's process group, in which the program is, and a kernel hands out two of a kind that wait as one. So
//! whether such a program is told once or twice is chance, and an [`Echo`] is none the wiser.

use std::time::{Duration, Instant};

use machine::StopCause;
use signal_hook::consts::SIGTERM;

/// How long a guest may take that is asked to power off.
pub const GRACE: Duration = Duration::from_secs(30);

/// How soon the same signal is no second asking: far longer than a sender takes between two calls on a busy host, and
/// shorter than who sees nothing happen takes to say it again.
const ECHO: Duration = Duration::from_millis(500);

/// Tells a signal that somebody sent again from one that one sender sent twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    last: Option<(i32, Instant)>,
}

impl Echo {
    /// Whether this signal is the one before once more.
    pub fn is(&mut self, signal: i32, now: Instant) -> bool {
        let is_echo = self.last.is_some_and(|(last, since)| {
            last == signal && now.saturating_duration_since(since) < ECHO
        });
        if !is_echo {
            self.last = Some((signal, now));
        }
        is_echo
    }
}

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
    /// Nothing that was not asked before.
    Nothing,
}

/// The signals so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    term: OnTerm,
    last: Option<i32>,
    echo: Echo,
    is_stopped: bool,
}

impl Asked {
    /// None yet.
    pub fn new(term: OnTerm) -> Asked {
        Asked {
            term,
            last: None,
            echo: Echo::default(),
            is_stopped: false,
        }
    }

    /// The last signal, if there was one.
    pub fn last(&self) -> Option<i32> {
        self.last
    }

    /// Takes one more.
    pub fn take(&mut self, signal: i32, now: Instant) -> Ask {
        if self.echo.is(signal, now) {
            return Ask::Nothing;
        }
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
        let check = |term, signals: &[(i32, u64)], expected: &[Ask]| {
            let mut asked = Asked::new(term);
            let start = Instant::now();
            let asks: Vec<Ask> = signals
                .iter()
                .map(|&(signal, at)| asked.take(signal, start + Duration::from_millis(at)))
                .collect();
            assert_eq!(asks, expected, "{term:?} {signals:?}");
            assert_eq!(asked.last(), signals.last().map(|&(signal, _)| signal));
        };
        let stop = |signal| Ask::Stop(StopCause::Signal(signal));
        let button = OnTerm::PowerButton;
        check(button, &[], &[]);
        check(button, &[(SIGTERM, 0)], &[Ask::PowerOff]);
        let thrice = [(SIGTERM, 0), (SIGTERM, 600), (SIGTERM, 1200)];
        check(button, &thrice, &[Ask::PowerOff, stop(SIGTERM), Ask::Die]);
        // As `timeout` sends it, to the process and to its group; and again later.
        let by_timeout = [(SIGTERM, 0), (SIGTERM, 1), (SIGTERM, 600), (SIGTERM, 601)];
        let one_each = [Ask::PowerOff, Ask::Nothing, stop(SIGTERM), Ask::Nothing];
        check(button, &by_timeout, &one_each);
        let one_each = [stop(SIGTERM), Ask::Nothing, Ask::Die, Ask::Nothing];
        check(OnTerm::End, &by_timeout, &one_each);
        // Another signal is another asking, however soon.
        let two = [(SIGTERM, 0), (SIGINT, 1)];
        check(button, &two, &[Ask::PowerOff, stop(SIGINT)]);
        let two = [(SIGINT, 0), (SIGTERM, 1)];
        check(button, &two, &[stop(SIGINT), Ask::Die]);
        check(button, &[(SIGHUP, 0)], &[stop(SIGHUP)]);
    }
}
