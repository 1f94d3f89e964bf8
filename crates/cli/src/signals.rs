//! Signals while a guest runs: they end it in good order, with the terminal as it was.
//!
//! What each one asks for is [`runner::Asked`]'s to say; here it is handed on to the VM. When a signal has ended the guest,
//! this process dies of that same signal, so that a shell or a supervisor sees the truth. So it does of a SIGTERM that the
//! guest did not heed in time. Being suspended gives the terminal back and has the guest stand still; being resumed undoes
//! both.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::Instant;

use host::lock::Lock;
use runner::{Ask, Asked, GRACE, Handle, OnTerm};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::terminal;

/// The signals that were to end the guest.
#[derive(Clone)]
pub struct Received(Arc<Lock<Asked>>);

impl Received {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.0.lock()
    }

    /// Dies of the last of them, if there was one.
    pub fn die_of_it(&self) {
        let last = self.lock().last();
        if let Some(signal) = last {
            die_of(signal);
        }
    }

    /// Does what the signal asks for.
    fn take(&self, signal: i32, vm: &Handle) {
        let ask = self.lock().take(signal, Instant::now());
        match ask {
            Ask::PowerOff => {
                tracing::info!("asked by SIGTERM to end; the guest has {GRACE:?} to power off");
                vm.power_off(GRACE);
            }
            Ask::Stop(cause) => vm.stop(cause),
            Ask::Die => die_of(signal),
            Ask::Nothing => {}
        }
    }
}

/// Whether signals are a VM's affair now.
static IS_ATTENDED: AtomicBool = AtomicBool::new(false);

/// Says that the VM which took the signals has ended.
pub fn unattended() {
    IS_ATTENDED.store(false, Ordering::Release);
}

/// From now on a signal that ends this process leaves nothing that was not finished: downloads, images, folders of runs.
/// While a VM is attended to, it takes them.
pub fn leave_nothing() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT])?;
    let handle = move || {
        for signal in &mut signals {
            if !IS_ATTENDED.load(Ordering::Acquire) {
                die_of(signal);
            }
        }
    };
    let thread = thread::Builder::new().name("cancelled".to_owned());
    thread.spawn(handle).map(drop)
}

/// Dies of a signal, with the terminal as it was and nothing half made left.
pub fn die_of(signal: i32) {
    images::remove_unfinished();
    terminal::restore();
    let _ = emulate_default_handler(signal);
}

/// Tells the guest the size of the window, if there is one.
fn tell_size(vm: &Handle) {
    if let Some((rows, columns)) = terminal::size() {
        vm.resize(rows, columns);
    }
}

/// Hands on signals to `vm` from now on, for as long as the process lives.
pub fn listen(vm: Handle, term: OnTerm) -> io::Result<Received> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH])?;
    IS_ATTENDED.store(true, Ordering::Release);
    let received = Received(Arc::new(Lock::new(Asked::new(term))));
    let taken = received.clone();
    let listen = move || {
        let mut was_raw = false;
        for signal in &mut signals {
            match signal {
                SIGTSTP => {
                    was_raw = terminal::is_raw();
                    terminal::restore();
                    vm.suspend();
                    let _ = emulate_default_handler(SIGTSTP);
                }
                SIGCONT => {
                    // In the background the guest still runs; the keys come back with the foreground.
                    was_raw = was_raw && terminal::make_raw().is_err();
                    vm.go_on();
                }
                SIGWINCH => tell_size(&vm),
                _ => taken.take(signal, &vm),
            }
        }
    };
    let thread = thread::Builder::new().name("signals".to_owned());
    thread.spawn(listen)?;
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
