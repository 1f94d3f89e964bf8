//! Declared VMs become what they are wanted to be: one step at a time, from plain values.
//!
//! A declaration counts how often something was *wanted* of it (that it runs, or that it does not) and which of these
//! wishes was *served*. A wish that was not served yet is served, whatever the restart policy says; after that the VM is
//! left alone while it lives, and when it ends by itself the policy decides. So a VM that somebody stops or starts by
//! hand is not fought over, and a daemon that was killed between a step and its note finds the VM as it is and writes
//! the note.
//!
//! Who fails is tried again after 1, 2, 4, ... up to [`DELAY_MAX`]; who has run for [`STEADY`] has not failed.

use std::time::Duration;

use crate::words::{Desired, Restart};

/// How long a VM has to run for its failures to be forgotten.
pub(crate) const STEADY: Duration = Duration::from_secs(10);
/// The longest time between two tries.
pub(crate) const DELAY_MAX: Duration = Duration::from_secs(60);

/// What is known of a declared VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Situation {
    /// Whether it shall run.
    pub(crate) desired: Desired,
    /// What follows when it ends.
    pub(crate) restart: Restart,
    /// Whether a wish has not been served yet.
    pub(crate) is_wish_open: bool,
    /// What is there.
    pub(crate) found: Found,
    /// How often in a row it ended early or could not be started.
    pub(crate) failures: u32,
    /// Since the last try; none if there was none.
    pub(crate) since_try: Option<Duration>,
}

/// What is there of a VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// A process.
    Alive,
    /// What it left; whether it ended badly.
    Ended {
        /// Its exit status was not 0, or its process vanished.
        badly: bool,
    },
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Nothing.
    Rest,
    /// The wish was served without us.
    NoteServed,
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Start it, but not yet.
    StartIn(Duration),
}

/// How long to wait after so many failures in a row.
pub(crate) fn delay(failures: u32) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let seconds = 1u64.checked_shl(failures - 1).unwrap_or(u64::MAX);
    Duration::from_secs(seconds).min(DELAY_MAX)
}

/// The next step.
pub(crate) fn decide(situation: &Situation) -> Step {
    let Situation {
        desired,
        restart,
        is_wish_open,
        found,
        ..
    } = *situation;
    let is_due = match (desired, found) {
        (Desired::Stopped, Found::Alive) => {
            return if is_wish_open { Step::Stop } else { Step::Rest };
        }
        (Desired::Running, Found::Alive) | (Desired::Stopped, _) => {
            return if is_wish_open {
                Step::NoteServed
            } else {
                Step::Rest
            };
        }
        (Desired::Running, _) if is_wish_open => true,
        (Desired::Running, Found::Nothing) => restart == Restart::Always,
        (Desired::Running, Found::Ended { badly }) => match restart {
            Restart::Never => false,
            Restart::OnFailure => badly,
            Restart::Always => true,
        },
    };
    if !is_due {
        return Step::Rest;
    }
    let wait = delay(situation.failures);
    match situation.since_try {
        Some(since) if since < wait => Step::StartIn(wait - since),
        _ => Step::Start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: [Found; 3] = [
        Found::Nothing,
        Found::Ended { badly: false },
        Found::Ended { badly: true },
    ];

    fn check(desired: Desired, restart: Restart, is_wish_open: bool, found: Found, expected: Step) {
        let situation = Situation {
            desired,
            restart,
            is_wish_open,
            found,
            failures: 0,
            since_try: None,
        };
        assert_eq!(decide(&situation), expected, "{situation:?}");
    }

    #[test]
    fn every_wish_in_every_state_has_its_step() {
        use Desired::{Running, Stopped};
        for restart in [Restart::Never, Restart::OnFailure, Restart::Always] {
            check(Running, restart, true, Found::Alive, Step::NoteServed);
            check(Running, restart, false, Found::Alive, Step::Rest);
            check(Stopped, restart, true, Found::Alive, Step::Stop);
            // Somebody has started it by hand.
            check(Stopped, restart, false, Found::Alive, Step::Rest);
            for found in LEFT {
                check(Running, restart, true, found, Step::Start);
                check(Stopped, restart, true, found, Step::NoteServed);
                check(Stopped, restart, false, found, Step::Rest);
            }
        }
        let ended = |badly| Found::Ended { badly };
        for (restart, gone, well, badly) in [
            (Restart::Never, Step::Rest, Step::Rest, Step::Rest),
            (Restart::OnFailure, Step::Rest, Step::Rest, Step::Start),
            (Restart::Always, Step::Start, Step::Start, Step::Start),
        ] {
            check(Running, restart, false, Found::Nothing, gone);
            check(Running, restart, false, ended(false), well);
            check(Running, restart, false, ended(true), badly);
        }
    }

    #[test]
    fn who_fails_again_and_again_is_tried_less_and_less_often() {
        let after = |failures: u32, since: u64| {
            decide(&Situation {
                desired: Desired::Running,
                restart: Restart::Always,
                is_wish_open: false,
                found: Found::Ended { badly: true },
                failures,
                since_try: Some(Duration::from_secs(since)),
            })
        };
        let wait = |seconds| Step::StartIn(Duration::from_secs(seconds));
        assert_eq!(after(0, 0), Step::Start);
        assert_eq!([after(1, 0), after(1, 1)], [wait(1), Step::Start]);
        assert_eq!([after(4, 3), after(4, 8)], [wait(5), Step::Start]);
        for failures in [7, 64, u32::MAX] {
            assert_eq!(after(failures, 0), wait(60));
            assert_eq!(after(failures, 60), Step::Start);
        }
    }
}
