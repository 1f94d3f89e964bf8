//! The VM's process: a plan and descriptors become a guest that lives, serves its control socket, and ends.
//!
//! ```text
//! Birth, Given --open, lock in, assemble--> Built ..> Serve --run--> Started ..., Ask ..> Answer, ... Ended ..> Recorded
//! ```
//!
//! It sees no path of the host's: what its guest stands on comes as descriptors, and what it wants later it asks of the
//! launcher. Before it assembles a guest it locks itself in ([`host::jail`]). When the
//! launcher hangs up, nobody is left who could write down an end, so the guest is ended in order, and the process five
//! seconds later whatever its threads do.

mod asking;
mod connect;
mod ends;
mod giving;
pub(crate) mod input;
mod orders;
mod outlet;
mod over;
mod program;
mod text_seen;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use api::{Jail, JailWish};
use host::jail::{self, Inmate, Kind, Refused, Tier};
use machine::{
    Audit, Broker, ControlServer, Descriptors, Ending, Machine, MachineControl, MachineError,
    Opened, Report, VmPlan, open, open_beside, reserve_code,
};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::chdir;
use rustix::stdio::dup2_stderr;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use self::asking::Asking;
use self::connect::Talk;
use self::ends::Ends;
use self::orders::{Answers, Folder, Orders};
use self::over::IsOver;
use crate::ask::{Ask, Asked, GRACE, OnTerm};
use crate::ending;
use crate::own_log;
use crate::spawn;
use crate::trouble::{OUR_FAULT, RunError};
use crate::wire::{Birth, Channel, Ended, FromVm, Outcome, Sorted, ToVm};

/// How long the launcher may take to write down an end.
const RECORD_TIME: Duration = Duration::from_secs(10);

/// Lives; the exit status of the process, which says no more than whether it said everything else.
pub(crate) fn live(channel: Channel, birth: Birth, descriptors: Vec<OwnedFd>) -> u8 {
    // Measured beside everything that comes before the guest.
    host::tsc::begin_calibration();
    jail::settle_libc();
    own_log::is_raw(birth.is_raw);
    spawn::name_process(&format!("{}{}", spawn::CALLED, birth.plan.name));
    // Where it was started means nothing here, and is not kept from being unmounted.
    let _ = chdir("/");
    let channel = Arc::new(channel);
    let status = match born(&channel, birth, descriptors).and_then(Vm::run) {
        Ok(Over {
            ended,
            server,
            answers,
            held,
        }) => {
            let status = tell(&channel, &ended);
            answers.recorded(RECORD_TIME);
            server.finish(&ended.end);
            drop(held);
            status
        }
        Err(error) => tell(&channel, &ending::of_trouble(error.into())),
    };
    // Of the others the launcher has told.
    if let Some(refused) = jail::refused().filter(|refused| !refused.first.is_empty()) {
        let Refused { count, first } = refused;
        tracing::warn!("the VM's process was refused {count} system calls: {first:?}");
    }
    status
}

/// Tells the launcher how it ended.
fn tell(channel: &Channel, ended: &Ended) -> u8 {
    match channel.send(&FromVm::Ended(Box::new(ended.clone())), &[]) {
        Ok(()) => 0,
        // A launcher that is gone is told nothing; another trouble is one of ours.
        Err(error) => {
            tracing::warn!(%error, "the end could not be told");
            OUR_FAULT
        }
    }
}

/// Builds the machine and connects its console.
fn born(channel: &Arc<Channel>, birth: Birth, descriptors: Vec<OwnedFd>) -> Result<Vm, RunError> {
    let failed = |act| move |source| RunError::Process { act, source };
    let mut sorted =
        Sorted::new(&birth.given, descriptors).map_err(failed("give descriptors to"))?;
    let (answering, answers) = orders::answers();
    let asking = Asking::new(channel);
    if let Some(format) = birth.goes_on {
        giving::check_format(&birth.plan.name, format)?;
    }
    let goes_on = birth.goes_on.is_some();
    let ends = Ends::new(goes_on, birth.guest, &mut sorted, &asking)?;
    let name = birth.plan.name.clone();
    let wish = birth.plan.jail;
    let (descriptors, mut early) = given(channel, &birth.plan)?;
    let has_kvm = descriptors.has_kvm();
    let broker = Arc::clone(&asking) as Arc<dyn Broker>;
    let not_built = |source| {
        let name = name.clone();
        RunError::Build { name, source }
    };
    let open = if goes_on { open_beside } else { open };
    let opened = open(birth.plan, descriptors, &broker).map_err(not_built)?;
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT]).map_err(RunError::Thread)?;
    let inmate = Inmate {
        kind: Kind::Any,
        is_apart: birth.is_apart,
        has_kvm,
        is_heard: true,
    };
    let jail = lock_in(&name, wish, inmate, &opened, channel)?;
    let wait = || giving::wait(&name, channel, &asking, &mut early);
    let (machine, folder, talk) = ends.assemble(opened, wait)?;
    let machine = machine.map_err(not_built)?;
    are_spare(DESCRIPTORS_TO_COME).map_err(|source| RunError::Descriptors {
        name: name.clone(),
        source,
    })?;
    tracing::debug!("VM \"{name}\" is built");
    let control = machine.control();
    if let Some((rows, columns)) = birth.window {
        machine.devices().resize_window(rows, columns);
    }
    let over = IsOver::default();
    let orders = Orders {
        channel: Arc::clone(channel),
        control: control.clone(),
        devices: machine.devices(),
        over: over.clone(),
        answering,
        asking,
        folder: Arc::clone(&folder),
        giver: machine.giver(),
    };
    orders.listen(early).map_err(RunError::Thread)?;
    listen_to_signals(signals, control.clone(), over.clone()).map_err(RunError::Thread)?;
    Ok(Vm {
        channel: Arc::clone(channel),
        name,
        folder,
        jail,
        machine,
        control,
        talk,
        over,
        answers,
        messages: sorted.messages.map(File::from),
        held: sorted.held,
    })
}

/// Descriptors that a VM may want after its start: a bell for each queue of its devices, some for clients. Where they cannot be
/// had, a guest would come up with devices that do not answer.
const DESCRIPTORS_TO_COME: usize = 40;

/// Whether this process can have so many more descriptors.
fn are_spare(count: usize) -> io::Result<()> {
    let flags = EventfdFlags::CLOEXEC;
    let taken: io::Result<Vec<OwnedFd>> = (0..count).map(|_| Ok(eventfd(0, flags)?)).collect();
    taken.map(drop)
}

/// Tells the launcher who asks for what: this process sees no other's number, nor its user's.
fn audit(channel: &Arc<Channel>) -> Box<Audit> {
    let channel = Arc::clone(channel);
    Box::new(move |client, what| {
        let what = what.to_owned();
        // A launcher that is gone, or does not read, is no reason to leave a client waiting.
        let _ = channel.send_now(&FromVm::Asked { what }, &[client]);
    })
}

/// What came of the launcher that is not for now.
type Early = Vec<(ToVm, Vec<OwnedFd>)>;

/// Waits for what the guest stands on.
fn given(channel: &Channel, plan: &VmPlan) -> Result<(Descriptors, Early), RunError> {
    let failed = |act| move |source| RunError::Process { act, source };
    let mut labelled = Vec::new();
    let mut early = Vec::new();
    while let Some(came) = channel.receive::<ToVm>().map_err(failed("hear from"))? {
        match came {
            (ToVm::Given { labels, node }, descriptors) => {
                labelled.extend(labels.into_iter().zip(descriptors));
                if let Some(node) = node {
                    let descriptors = Descriptors::of_labelled(plan, labelled, node);
                    let descriptors = descriptors.map_err(failed("give descriptors to"))?;
                    return Ok((descriptors, early));
                }
            }
            other => early.push(other),
        }
    }
    Err(RunError::Lost {
        name: plan.name.clone(),
        what: "its launcher is gone".to_owned(),
    })
}

/// Everything is open: from here on nothing more can be. What stands around this process now.
fn lock_in(
    name: &str,
    wish: JailWish,
    inmate: Inmate,
    opened: &Opened,
    channel: &Channel,
) -> Result<Jail, RunError> {
    if wish == JailWish::Off {
        tracing::warn!(
            "VM \"{name}\" runs without a jail: whoever breaks out of it has all that this user has"
        );
        return Ok(Jail {
            tier: Tier::None.word().to_owned(),
            landlock_abi: 0,
            missing: Vec::new(),
        });
    }
    reserve_code().map_err(|source| RunError::Process {
        act: "get memory for code in",
        source,
    })?;
    let (jail, listener) = lock_with(inmate, &|| opened.have_threads(jail::enter_early));
    if let Some(listener) = listener {
        // Nobody in here keeps it: who has it could let calls through.
        let heard = channel.send(&FromVm::Refusals, &[listener.as_fd()]);
        let act = "be heard by";
        heard.map_err(|source| RunError::Process { act, source })?;
    }
    if jail.tier != Tier::Namespaces.word() {
        tracing::warn!(
            "the jail of VM \"{name}\" is of the tier \"{}\": `mother doctor` says what the host lacks",
            jail.tier
        );
    }
    if wish == JailWish::Require && jail.tier != Tier::Namespaces.word() {
        let name = name.to_owned();
        let Jail { tier, missing, .. } = jail;
        return Err(RunError::Jail {
            name,
            tier,
            missing,
        });
    }
    Ok(jail)
}

/// Locks this process in, which has one thread and is of one kind; what stands around it now.
pub(crate) fn lock(kind: Kind, is_apart: bool) -> Jail {
    let inmate = Inmate {
        kind,
        is_apart,
        has_kvm: false,
        is_heard: false,
    };
    lock_with(inmate, &|| ()).0
}

fn lock_with(inmate: Inmate, others: &dyn Fn()) -> (Jail, Option<OwnedFd>) {
    let mut missing = Vec::new();
    let (walls, listener) = jail::lock_in(inmate, others, &mut |wall, error| {
        tracing::info!("the jail has not {wall}: {error}");
        missing.push(format!("{wall}: {error}"));
    });
    let jail = Jail {
        tier: walls.tier().word().to_owned(),
        landlock_abi: walls.landlock_abi,
        missing,
    };
    (jail, listener)
}

/// A machine that is built, and what is connected to it.
struct Vm {
    channel: Arc<Channel>,
    name: String,
    folder: Arc<Folder>,
    jail: Jail,
    machine: Machine,
    control: MachineControl,
    talk: Talk,
    over: IsOver,
    answers: Answers,
    messages: Option<File>,
    /// Locks, for as long as the process lives.
    held: Vec<OwnedFd>,
}

/// A run that is over, and the server that has not told its clients yet.
struct Over {
    ended: Ended,
    server: ControlServer,
    answers: Answers,
    /// Locks, until the process ends.
    held: Vec<OwnedFd>,
}

impl Vm {
    /// Serves and runs to the end.
    fn run(mut self) -> Result<Over, RunError> {
        let jail = self.jail.clone();
        self.say(&FromVm::Built { jail })?;
        let (info, listener) = self.answers.serve().ok_or_else(|| RunError::Lost {
            name: self.name.clone(),
            what: "its launcher is gone".to_owned(),
        })?;
        let listener = UnixListener::from(listener);
        let server = ControlServer::start(listener, &self.machine, info, audit(&self.channel))
            .map_err(RunError::Control)?;
        // There is no other server.
        let _ = self.folder.acceptor.set(server.acceptor());
        self.talk
            .begin(&self.control, &self.over)
            .map_err(RunError::Thread)?;
        let started = self.tell_of_start().map_err(RunError::Thread)?;
        let ran = self.machine.run();
        // The start is heard of before the end.
        let _ = started.join();
        let mut ended = ended(self.name, ran, &self.talk, &self.control)
            .unwrap_or_else(|error| ending::of_trouble(error.into()));
        if let Outcome::Ran(ran) = &mut ended.outcome {
            ran.report.jail = Some(self.jail);
        }
        Ok(Over {
            ended,
            server,
            answers: self.answers,
            held: self.held,
        })
    }

    fn say(&self, what: &FromVm) -> Result<(), RunError> {
        let act = "hear from";
        let said = self.channel.send(what, &[]);
        said.map_err(|source| RunError::Process { act, source })
    }

    /// Tells when the guest runs. What this process says from then on goes to the VM's folder, if it is detached.
    fn tell_of_start(&self) -> io::Result<JoinHandle<()>> {
        let channel = Arc::clone(&self.channel);
        let control = self.control.clone();
        let messages = self.messages.as_ref().map(File::try_clone).transpose()?;
        let wait = move || {
            if !control.wait_until_started() {
                return;
            }
            if let Some(messages) = messages {
                own_log::limit();
                if let Err(error) = dup2_stderr(&messages) {
                    tracing::warn!(%error, "standard error stays where it was");
                }
            }
            // A launcher that is gone is heard of elsewhere.
            let _ = channel.send(&FromVm::Started, &[]);
        };
        thread::Builder::new().name("start".to_owned()).spawn(wait)
    }
}

/// What is said of a run that is over, once a program's last bytes are where they should be.
fn ended(
    name: String,
    ran: Result<Report, MachineError>,
    talk: &Talk,
    control: &MachineControl,
) -> Result<Ended, RunError> {
    // A VM that ran out of time, or is stopped from outside, waits for no reader.
    let is_patient = matches!(&ran, Ok(report) if report.ending != Ending::TimedOut);
    let program = talk.end(|| is_patient && control.stop_cause().is_none());
    let report = ran.map_err(|source| RunError::Machine { name, source })?;
    match program {
        Some((_, Some(error))) => Err(RunError::Output(error)),
        Some((end, None)) => Ok(ending::of_report(&report, Some(end))),
        None => Ok(ending::of_report(&report, None)),
    }
}

/// Signals to this very process mean what they mean to the client.
fn listen_to_signals(
    mut signals: Signals,
    control: MachineControl,
    over: IsOver,
) -> io::Result<()> {
    let listen = move || {
        let mut asked = Asked::new(OnTerm::PowerButton);
        for signal in &mut signals {
            match asked.take(signal, Instant::now()) {
                Ask::PowerOff => {
                    tracing::info!("asked by SIGTERM to end; the guest has {GRACE:?} to power off");
                    orders::power_off(&control, &over, GRACE);
                }
                Ask::Stop(cause) => control.stop_because(cause),
                Ask::Die => process::exit(128 + signal),
                Ask::Nothing => {}
            }
        }
    };
    let thread = thread::Builder::new().name("signals".to_owned());
    thread.spawn(listen).map(drop)
}
