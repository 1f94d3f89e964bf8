//! Threads that bring the launcher what happens. At most so much waits to be taken: who says more is read later.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use host::jail::Child;
use host::peer::Peer;
use machine::{
    AttachError, BuildError, Descriptors, EgressPlan, Kept, NetworkStarter, RunningNetwork, VmPlan,
};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{SocketFlags, accept_with};
use rustix::process::geteuid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use super::refusals;
use super::state::{Event, Gone};
use crate::egress::{self, Keeper};
use crate::network::{self, Member, Wanted};
use crate::sharing::{self, FolderServer};
use crate::trouble::{OUR_FAULT, RunError, Trouble};
use crate::wire::{Channel, FromClient, FromVm, ToLauncher, Upgrade};

/// Events that wait, at most: a process that has been broken out of fills no memory but its own.
const WAITING_MAX: usize = 64;

/// What a thread brings.
pub(super) enum Heard {
    /// What there is to be done is the state's to say.
    Event(Event),
    /// The process of this number says something, or is gone.
    Process(u64, Said),
    /// A command at the launcher's own socket wants something, and waits there for what comes of it.
    Order(Channel, Upgrade, OwnedFd),
    /// What the guest stands on is there, or cannot be had.
    Collected(Box<Result<Collected, BuildError>>),
    /// The process behind the user-mode network has ended.
    NetworkGone,
    /// It was started again, or cannot be.
    Network(Box<Result<Network, AttachError>>),
    /// System calls of the VM's process were refused: how many, and what is new about it.
    CallsRefused(u64, Option<String>),
    /// Packets of the guest's were refused: how many, and what is new about it, in sentences.
    Refused(u64, Vec<String>),
}

/// What comes of a process that was started for the VM.
pub(super) enum Said {
    /// It says something.
    Words(FromVm, Vec<OwnedFd>),
    /// What it says is not understood.
    Strange(Trouble),
    /// It is gone, and all that it said has been heard.
    Gone(Gone),
}

/// What a guest stands on, and what of it stays here: what is between it and its network, and who serves the folders that it shares.
#[derive(Debug)]
pub(super) struct Collected {
    pub(super) descriptors: Descriptors,
    pub(super) kept: Kept,
    pub(super) between: Between,
    pub(super) servers: Vec<FolderServer>,
}

/// The guest's socket to a network that was started again or is carried again, and what is between.
pub(super) type Network = (Option<RunningNetwork>, UnixStream, Between);

/// What a VM has between its card and its network.
#[derive(Debug, Default)]
pub(super) struct Between {
    /// Who keeps where its guest may send to, as long as this is there.
    _keeper: Option<Keeper>,
    /// Its place on a network between VMs.
    pub(super) member: Option<Member>,
}

impl Between {
    fn keeper(keeper: Option<Keeper>) -> Between {
        Between {
            _keeper: keeper,
            member: None,
        }
    }

    fn member(member: Member) -> Between {
        Between {
            _keeper: None,
            member: Some(member),
        }
    }
}

/// Brings every event of these, and of signals to this process.
pub(super) fn hear(
    client: &Arc<Channel>,
    vm: &Arc<Channel>,
    child: Child,
) -> io::Result<(SyncSender<Heard>, Receiver<Heard>)> {
    let (events, heard) = mpsc::sync_channel(WAITING_MAX);
    let thread = |name: &str| thread::Builder::new().name(name.to_owned());
    let from = Arc::clone(client);
    let to = events.clone();
    thread("client").spawn(move || hear_client(&from, &to))?;
    hear_process(0, vm, child, &events)?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT])?;
    let to = events.clone();
    thread("signals").spawn(move || {
        for signal in &mut signals {
            if !tell(&to, Event::Signal(signal)) {
                return;
            }
        }
    })?;
    Ok((events, heard))
}

/// Brings what the process of this number says, then how it ended.
pub(super) fn hear_process(
    number: u64,
    vm: &Arc<Channel>,
    child: Child,
    events: &SyncSender<Heard>,
) -> io::Result<()> {
    let from = Arc::clone(vm);
    let to = events.clone();
    let thread = thread::Builder::new().name("vm".to_owned());
    thread
        .spawn(move || hear_vm(number, &from, &child, &to))
        .map(drop)
}

/// How long a command may take for its order.
const ORDER_TIME: Duration = Duration::from_secs(5);

/// Brings orders of commands of this user, until the socket is replaced or this process ends.
pub(super) fn hear_orders(listener: OwnedFd, events: &SyncSender<Heard>) -> io::Result<()> {
    let to = events.clone();
    let hear = move || {
        loop {
            let accepted = accept_with(&listener, SocketFlags::CLOEXEC);
            let Ok(accepted) = accepted else {
                // Out of descriptors, say: later there may be some again.
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            let order = order(accepted);
            if let Some((client, upgrade, program)) = order
                && to.send(Heard::Order(client, upgrade, program)).is_err()
            {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("orders".to_owned());
    thread.spawn(hear).map(drop)
}

/// What a command wants. Whoever else comes is not answered: what it brings would be run with all that this user has.
fn order(accepted: OwnedFd) -> Option<(Channel, Upgrade, OwnedFd)> {
    let peer = host::peer::of(&accepted).ok()?;
    if peer.user != geteuid().as_raw() {
        return None;
    }
    set_socket_timeout(&accepted, Timeout::Recv, Some(ORDER_TIME)).ok()?;
    let client = Channel::accepted(accepted);
    let (ToLauncher::Upgrade(upgrade), descriptors) = client.receive().ok()??;
    let program = descriptors.into_iter().next()?;
    Some((client, upgrade, program))
}

/// Collects what `plan` names; beside the start of the VM's process, and a client that may change its mind.
pub(super) fn collect(
    plan: VmPlan,
    wanted: Option<Wanted>,
    messages: Option<&File>,
    events: SyncSender<Heard>,
) -> Result<JoinHandle<()>, RunError> {
    let messages = messages.and_then(|it| it.try_clone().ok());
    let collect = move || {
        let gone = events.clone();
        let network_gone: Arc<dyn Fn() + Send + Sync> =
            Arc::new(move || drop(gone.send(Heard::NetworkGone)));
        let collected = machine::collect(&plan, &network_gone);
        let egress = plan.network.as_ref().and_then(|it| it.egress.as_ref());
        let collected = collected.and_then(|(mut descriptors, kept)| {
            let servers = descriptors.share(&plan, |folder, opened| {
                sharing::serve(folder, &opened, plan.jail, messages.as_ref())
                    .map(|(server, socket)| (socket, server))
            })?;
            let between = if let Some(wanted) = &wanted {
                let joined = join(wanted, &events).map_err(BuildError::Attach)?;
                let (member, socket) = joined;
                descriptors.plug_in(socket);
                Between::member(member)
            } else {
                let keep = |socket| with_keeper(egress, socket, messages.as_ref(), &events);
                let keeper = descriptors.exchange_stream(keep)?;
                Between::keeper(keeper.flatten())
            };
            Ok(Collected {
                descriptors,
                kept,
                between,
                servers,
            })
        });
        // Where nobody is any more, what was opened, started and bound goes again.
        let _ = events.send(Heard::Collected(Box::new(collected)));
    };
    let thread = thread::Builder::new().name("collect".to_owned());
    thread.spawn(collect).map_err(RunError::Thread)
}

/// Starts a user-mode network again, after a while.
pub(super) fn start_network(
    starter: NetworkStarter,
    egress: Option<EgressPlan>,
    messages: Option<File>,
    after: Duration,
    events: SyncSender<Heard>,
) -> io::Result<()> {
    let start = move || {
        thread::sleep(after);
        let started = starter.start().and_then(|(running, socket)| {
            let kept = with_keeper(egress.as_ref(), socket, messages.as_ref(), &events);
            let (socket, keeper) = kept.map_err(AttachError::of_network)?;
            Ok((Some(running), socket, Between::keeper(keeper)))
        });
        // Where nobody is any more, it ends again.
        let _ = events.send(Heard::Network(Box::new(started)));
    };
    let thread = thread::Builder::new().name("network".to_owned());
    thread.spawn(start).map(drop)
}

/// Comes to a network between VMs again, after a while.
pub(super) fn come_again(
    wanted: Wanted,
    after: Duration,
    events: SyncSender<Heard>,
) -> io::Result<()> {
    let come = move || {
        thread::sleep(after);
        let joined = join(&wanted, &events);
        let joined = joined.map(|(member, socket)| (None, socket, Between::member(member)));
        let _ = events.send(Heard::Network(Box::new(joined)));
    };
    let thread = thread::Builder::new().name("network".to_owned());
    thread.spawn(come).map(drop)
}

fn join(wanted: &Wanted, events: &SyncSender<Heard>) -> Result<(Member, UnixStream), AttachError> {
    let events = events.clone();
    let name = wanted.network.clone();
    let hear = move |heard| {
        let heard = match heard {
            network::Heard::Refused(count, why) => {
                let words =
                    |why| format!("the network \"{name}\" dropped a frame of the guest's {why}");
                Heard::Refused(count, why.into_iter().map(words).collect())
            }
            network::Heard::Gone => Heard::NetworkGone,
        };
        let _ = events.send(heard);
    };
    network::join(wanted, hear).map_err(AttachError::of_network)
}

/// Puts a keeper before the socket of a user-mode network, if there is a list to keep.
fn with_keeper(
    egress: Option<&EgressPlan>,
    socket: UnixStream,
    messages: Option<&File>,
    events: &SyncSender<Heard>,
) -> io::Result<(UnixStream, Option<Keeper>)> {
    let Some(plan) = egress else {
        return Ok((socket, None));
    };
    let events = events.clone();
    let refused = move |count, to: Vec<String>| {
        let words = |to| format!("the guest was kept from {to}, which is not on its egress list");
        let _ = events.send(Heard::Refused(count, to.into_iter().map(words).collect()));
    };
    let (keeper, socket) = egress::keep(plan, &socket, messages, refused)?;
    Ok((socket, Some(keeper)))
}

/// Whether anybody takes it.
fn tell(events: &SyncSender<Heard>, event: Event) -> bool {
    events.send(Heard::Event(event)).is_ok()
}

fn hear_client(client: &Channel, events: &SyncSender<Heard>) {
    while let Ok(Some((said, _))) = client.receive::<FromClient>() {
        if !tell(events, Event::Client(said)) {
            return;
        }
    }
    tell(events, Event::ClientGone);
}

/// Letters of what a client asked for that are told.
const WORDS_MAX: usize = 32;

/// Writes into the VM's log who else than its user, which can be root alone, asked for what.
fn note(what: &str, client: &[OwnedFd]) {
    let Some(Ok(peer)) = client.first().map(host::peer::of) else {
        return;
    };
    if peer.user == geteuid().as_raw() {
        return;
    }
    // Who has broken out of a guest writes here too: words, and not what a terminal obeys.
    let is_plain = |letter: &char| letter.is_ascii_alphanumeric() || " '-".contains(*letter);
    let what: String = what.chars().filter(is_plain).take(WORDS_MAX).collect();
    let Peer { process, user } = peer;
    tracing::warn!("audit: user {user} (process {process}) asked for: {what}");
}

/// First all that the process says, then how it ended.
fn hear_vm(number: u64, vm: &Channel, child: &Child, events: &SyncSender<Heard>) {
    let tell = |said| events.send(Heard::Process(number, said)).is_ok();
    let mut is_heard = false;
    loop {
        let said = match vm.receive::<FromVm>() {
            Ok(Some((FromVm::Asked { what }, client))) => {
                note(&what, &client);
                continue;
            }
            Ok(Some((FromVm::Refusals, listener))) => {
                if let Some(listener) = listener.into_iter().next()
                    && !std::mem::replace(&mut is_heard, true)
                {
                    let events = events.clone();
                    let tell =
                        move |count, what| events.send(Heard::CallsRefused(count, what)).is_ok();
                    refusals::hear(listener, tell);
                }
                continue;
            }
            Ok(Some((said, descriptors))) => Said::Words(said, descriptors),
            Ok(None) => break,
            Err(source) => {
                let act = "understand";
                Said::Strange(RunError::Process { act, source }.into())
            }
        };
        if !tell(said) {
            return;
        }
    }
    let gone = match child.wait() {
        Ok(status) => status.terminating_signal().map_or_else(
            || Gone::Exited(status.exit_status().unwrap_or_default()),
            Gone::Killed,
        ),
        Err(_) => Gone::Exited(i32::from(OUR_FAULT)),
    };
    tell(Said::Gone(gone));
}
