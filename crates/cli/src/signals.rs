//! Signals while a guest runs: they end it in good order, with the terminal as it was.
//!
//! A signal that would have ended us stops the guest first; the process then dies of that same signal, so that a
//! shell or a supervisor sees the truth. A second one does not wait. Being suspended gives the terminal back and
//! being resumed takes it again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use machine::{MachineControl, StopCause};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::terminal;

/// Which signal ended the guest, if one did.
#[derive(Clone, Default)]
pub struct Received(Arc<AtomicI32>);

impl Received {
    /// Dies of the signal that ended the guest, if one did.
    pub fn die_of_it(&self) {
        let signal = self.0.load(Ordering::Acquire);
        if signal != 0 {
            terminal::restore();
            let _ = emulate_default_handler(signal);
        }
    }
}

/// Tells the guest the size of the window, if there is one.
fn tell_size(control: &MachineControl) {
    if let Some((rows, columns)) = terminal::size() {
        control.resize_window(rows, columns);
    }
}

/// Listens for signals from now on, for as long as the process lives.
pub fn listen(control: MachineControl) -> io::Result<Received> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH])?;
    tell_size(&control);
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
                    SIGWINCH => tell_size(&control),
                    _ => {
                        if first.0.swap(signal, Ordering::AcqRel) != 0 {
                            first.die_of_it();
                        }
                        control.stop_because(StopCause::Signal(signal));
                    }
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
