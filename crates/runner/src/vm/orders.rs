//! What the launcher says: orders are carried out as they come, answers go to the thread that has asked.

use std::io;
use std::os::fd::OwnedFd;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use api::VmInfo;
use fleet::LogWriter;
use host::lock::Lock;
use host::rest::rest;
use machine::{Acceptor, Devices, Giver, MachineControl, StopCause};
use rustix::stdio::dup2_stderr;
use signal_hook::consts::SIGTERM;

use super::asking::Asking;
use super::giving;
use super::over::IsOver;
use crate::trouble::OUR_FAULT;
use crate::wire::{Channel, FromVm, ToVm};

/// How long a process may still take whose launcher is gone.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Where answers come in.
pub(super) struct Answering {
    serve: Sender<(VmInfo, OwnedFd)>,
    recorded: Sender<()>,
}

/// Where answers are waited for.
pub(super) struct Answers {
    serve: Lock<Receiver<(VmInfo, OwnedFd)>>,
    recorded: Lock<Receiver<()>>,
}

/// Both ends.
pub(super) fn answers() -> (Answering, Answers) {
    let (serve, to_serve) = mpsc::channel();
    let (recorded, is_recorded) = mpsc::channel();
    let answering = Answering { serve, recorded };
    let answers = Answers {
        serve: Lock::new(to_serve),
        recorded: Lock::new(is_recorded),
    };
    (answering, answers)
}

impl Answers {
    /// Waits for what to say of the VM, and for the control socket's listener; `None` if the launcher is gone.
    pub(super) fn serve(&self) -> Option<(VmInfo, OwnedFd)> {
        self.serve.lock().recv().ok()
    }

    /// Waits until the end is written down, or the launcher is gone.
    pub(super) fn recorded(&self, patience: Duration) {
        // Waiters are told all the same: they have waited for the end, not for its record.
        let _ = self.recorded.lock().recv_timeout(patience);
    }
}

/// Presses the power button and ends the guest after `grace`; at once, if there is nothing in it that could hear it.
pub(super) fn power_off(control: &MachineControl, over: &IsOver, grace: Duration) {
    if over.is_set() {
        control.stop_because(StopCause::Signal(SIGTERM));
    } else {
        control.stop_gracefully(grace);
    }
}

/// Carries out what the launcher says.
pub(super) struct Orders {
    pub(super) channel: Arc<Channel>,
    pub(super) control: MachineControl,
    pub(super) devices: Devices,
    pub(super) over: IsOver,
    pub(super) answering: Answering,
    pub(super) asking: Arc<Asking>,
    pub(super) folder: Arc<Folder>,
    pub(super) giver: Giver,
}

/// What of this process lies in the VM's folder, for when that is made anew.
#[derive(Default)]
pub(super) struct Folder {
    /// Where listeners come in, once there is a server.
    pub(super) acceptor: OnceLock<Acceptor>,
    /// Has the log go on in its next file.
    log_is_stale: Arc<AtomicBool>,
    /// Locks of the name.
    held: Lock<Vec<OwnedFd>>,
}

impl Folder {
    /// Of the process that writes this log.
    pub(super) fn of_log(log: &LogWriter) -> Folder {
        Folder {
            log_is_stale: log.staleness(),
            ..Folder::default()
        }
    }

    /// The lock of the name, a listener and where to log, in this order.
    fn renew(&self, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let mut descriptors = descriptors.into_iter();
        self.held.lock().extend(descriptors.next());
        self.log_is_stale.store(true, Ordering::Relaxed);
        if let (Some(listener), Some(acceptor)) = (descriptors.next(), self.acceptor.get()) {
            acceptor.serve(listener.into())?;
        }
        if let Some(messages) = descriptors.next() {
            dup2_stderr(&messages)?;
        }
        Ok(())
    }
}

impl Orders {
    /// Listens from now on, first to what came while nobody did.
    ///
    /// # Errors
    /// If the host gives no thread.
    pub(super) fn listen(self, early: Vec<(ToVm, Vec<OwnedFd>)>) -> io::Result<()> {
        let listen = move || {
            for (order, descriptors) in early {
                self.take(order, descriptors);
            }
            while let Ok(Some((order, descriptors))) = self.channel.receive::<ToVm>() {
                self.take(order, descriptors);
            }
            // Nobody is left who would say that another process has the guest.
            self.giver.stays();
            self.control.stop_because(StopCause::Left);
            // Threads that wait for an answer hear that none comes.
            self.asking.give_up();
            drop(self);
            rest(LAST_WORDS);
            // Whatever its other threads do: nobody is left who would end it.
            process::exit(i32::from(OUR_FAULT));
        };
        let thread = thread::Builder::new().name("launcher".to_owned());
        thread.spawn(listen).map(drop)
    }

    fn take(&self, order: ToVm, descriptors: Vec<OwnedFd>) {
        if order == ToVm::Renewed {
            if let Err(error) = self.folder.renew(descriptors) {
                tracing::warn!("the VM's new folder is not used: {error}");
            }
            return;
        }
        let descriptor = descriptors.into_iter().next();
        // An answer that nobody waits for any more is dropped.
        match order {
            ToVm::Serve { info } => {
                if let Some(listener) = descriptor {
                    let _ = self.answering.serve.send((info, listener));
                }
            }
            ToVm::Answer { number, refusal } => self.asking.answer(number, refusal, descriptor),
            // All of it was there before anything was built.
            ToVm::Given { .. } | ToVm::Renewed | ToVm::GoOn { .. } => {}
            ToVm::GiveAway => giving::give(&self.giver, &self.channel),
            ToVm::LetNobodyIn => {
                self.giver.lets_nobody_in();
                // A launcher that is gone is heard of elsewhere.
                let _ = self.channel.send(&FromVm::LetsNobodyIn, &[]);
            }
            ToVm::Stays => self.giver.stays(),
            ToVm::CallsRefused { count } => host::jail::note_refused(count),
            ToVm::Refused { count } => self.devices.count_refused(count),
            ToVm::Network => {
                let plugged = descriptor.map(|it| self.devices.plug_network(it.into()));
                if let Some(Err(error)) = plugged {
                    tracing::warn!("the network could not be plugged in again: {error}");
                }
            }
            ToVm::Recorded => drop(self.answering.recorded.send(())),
            ToVm::Stop(cause) => self.control.stop_because(cause),
            ToVm::PowerOff { grace_ms } => {
                let grace = Duration::from_millis(grace_ms);
                power_off(&self.control, &self.over, grace);
            }
            ToVm::Resize { rows, columns } => self.devices.resize_window(rows, columns),
        }
    }
}
