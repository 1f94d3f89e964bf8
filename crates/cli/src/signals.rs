//! Signals while a guest runs: they end it in good order, with the terminal as it was.
//!
//! SIGTERM is how a service manager, a container runtime or a host that shuts down asks for an end, so it presses the
//! guest's power button as `mother stop` does, and the guest has [`GRACE`] to end by itself: then the exit status is
//! that of its end. Any other signal that would have ended us, and a second SIGTERM, stops the guest at once; the process
//! then dies of that same signal, so that a shell or a supervisor sees the truth. So it does of a SIGTERM that the guest
//! did not heed in time. The next signal does not wait for anything. Being suspended gives the terminal back and being
//! resumed takes it again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use machine::{Devices, Ending, Machine, MachineControl, Report, StopCause};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::failure::Failure;
use crate::terminal;

/// How long a guest may take that is asked to power off.
pub const GRACE: Duration = Duration::from_secs(30);

/// Which signal is to end the guest, if one is.
#[derive(Clone, Default)]
pub struct Received {
    signal: Arc<AtomicI32>,
    /// There is nothing in the guest any more that could be asked to end.
    is_over: Arc<AtomicBool>,
}

impl Received {
    /// Dies of the signal that ended the guest, if one did: not if the guest ended by itself when it was asked to.
    pub fn die_if_ended_by_it(&self, ended: &Result<Report, Failure>) {
        let Ok(report) = ended else { return };
        let by_signal = [StopCause::Signal(self.signal()), StopCause::GraceOver];
        if matches!(&report.ending, Ending::Stopped(cause) if by_signal.contains(cause)) {
            self.die_of_it();
        }
    }

    /// Dies of the signal, if there was one.
    pub fn die_of_it(&self) {
        let signal = self.signal();
        if signal != 0 {
            terminal::restore();
            let _ = emulate_default_handler(signal);
        }
    }

    /// What the guest was for is done: from now on every signal ends it at once.
    pub fn end_at_once(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    fn signal(&self) -> i32 {
        self.signal.load(Ordering::Acquire)
    }

    /// Does what the signal asks for.
    fn take(&self, signal: i32, control: &MachineControl, term: OnTerm) {
        let is_asked = term == OnTerm::PowerButton && !self.is_over.load(Ordering::Acquire);
        let before = self.signal.swap(signal, Ordering::AcqRel);
        if control.stop_cause().is_some() {
            self.die_of_it();
        } else if (before, signal, is_asked) == (0, SIGTERM, true) {
            tracing::info!("asked by SIGTERM to end; the guest has {GRACE:?} to power off");
            control.stop_gracefully(GRACE);
        } else {
            control.stop_because(StopCause::Signal(signal));
        }
    }
}

/// What the first SIGTERM means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTerm {
    /// The guest is somebody's: it is asked to end.
    PowerButton,
    /// The guest is ours, and nothing of it is worth waiting for.
    End,
}

/// Tells the guest the size of the window, if there is one.
fn tell_size(devices: &Devices) {
    if let Some((rows, columns)) = terminal::size() {
        devices.resize_window(rows, columns);
    }
}

/// Listens for signals to `machine` from now on, for as long as the process lives.
pub fn listen(machine: &Machine, term: OnTerm) -> io::Result<Received> {
    let (control, devices) = (machine.control(), machine.devices());
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH])?;
    tell_size(&devices);
    let received = Received::default();
    let first = received.clone();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut was_raw = false;
            for signal in &mut signals {
                match signal {
                    SIGTSTP => {
                        was_raw = terminal::is_raw();
                        terminal::restore();
                        let _ = emulate_default_handler(SIGTSTP);
                    }
                    SIGCONT if was_raw => {
                        // In the background the guest still runs; the keys come back with the foreground.
                        was_raw = terminal::make_raw().is_err();
                    }
                    SIGCONT => {}
                    SIGWINCH => tell_size(&devices),
                    _ => first.take(signal, &control, term),
                }
            }
        })?;
    Ok(received)
}

/// Has signals leave the terminal as it was before they end the process, and `resize` called when it has another size.
pub fn leave_in_order(resize: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH])?;
    let handle = move || {
        let mut was_raw = false;
        for signal in &mut signals {
            match signal {
                SIGWINCH => resize(),
                SIGCONT if was_raw => {
                    // In the background there is nothing to take yet.
                    was_raw = terminal::make_raw().is_err();
                }
                SIGCONT => {}
                other => {
                    was_raw = other == SIGTSTP && terminal::is_raw();
                    terminal::restore();
                    let _ = emulate_default_handler(other);
                }
            }
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(handle)
        .map(drop)
}
