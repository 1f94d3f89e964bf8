//! Networks between VMs, by a name: `--net net:NAME`.
//!
//! # Problem
//!
//! Several VMs are to reach each other, and nobody else: not this host, not the Internet, not VMs of another network. A bridge
//! with taps would do, and needs root. Somebody has to carry frames between processes that know nothing of each other, are
//! started and ended in any order, and may each have been taken over by a guest.
//!
//! # How
//!
//! ```text
//! guest ─ card, in the VM's process ── socket ─┐
//! guest ─ card, in the VM's process ── socket ─┤ mother: network NAME      switch: frames, ARP, DHCP, names
//! guest ─ card, in the VM's process ── socket ─┘  │
//!                                                 └ a connection for each launcher: joins, hears what was refused
//! ```
//!
//! One process carries one network of one user: this program again, in a jail ([`host::jail::Kind::Switch`]), with a listener and
//! what comes over it. It has no socket to anywhere, so nothing leads anywhere. What becomes of a frame is said by a value without
//! sockets ([`switch`]): who may send what, which card has which address, what names mean. Sockets to cards speak as passt's do, so
//! a card does not know what it is plugged into.
//!
//! **Nobody is believed.** What a port is was said by its launcher before its guest ran: one card, one address. A frame from another
//! one is dropped and counted. No answer of a guest's about addresses (ARP, DHCP) reaches another guest: the switch gives all of
//! them. Frames for who does not read are lost, and only those. What is not IPv4 or ARP is carried to nobody.
//!
//! **Comings and goings.** A launcher comes by a path below the user's runtime folder ([`fleet::NetworkDoor`]). It holds a lock from
//! before it looks for the process until its VM is on the network or is not, so two that come at once start one process. The process
//! ends by itself when the last launcher has hung up; one that comes in that moment finds its connection closed, and starts the next.
//! It is nobody's child to wait for: it outlives who started it.
//!
//! **When it is killed**, every launcher hears that, as it hears of a passt that has ended, and comes again after the same waits; the
//! first one starts the next process. Guests see their link go down and up and keep their addresses: an address is made of the
//! names of network and VM where it can be, a launcher says which one its guest had, and who starts a process tells it of those of
//! all VMs that run.

mod arp;
mod dhcp;
mod perform;
mod subnet;
mod switch;

use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use api::{JailWish, VmName};
use fleet::{Inventory, InventoryError, NetworkDoor};
use host::deep_socket;
use host::jail::{Apart, Tier};
use machine::MacAddress;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, shutdown};
use rustix::process::Pid;
use thiserror::Error;

pub(crate) use self::perform::perform;
use crate::own_log::LogWish;
use crate::spawn;
use crate::wire::{Channel, FromNetwork, Join, NetworkPlan, Role};

/// What the sockets hold, as passt's: more than a guest's TCP lets be on the way.
const SOCKET_BYTES: u32 = 16 << 20;

/// How often the process may end in the moment in which somebody comes.
const TRIES: u32 = 5;

/// How long the process may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a VM is not on a network.
#[derive(Debug, Error)]
pub(crate) enum NetworkError {
    /// There is no place where networks are reached.
    #[error("the network \"{network}\" cannot be reached")]
    Place {
        /// Which one.
        network: VmName,
        /// Why.
        source: InventoryError,
    },
    /// The host refuses something.
    #[error("cannot {act} the network \"{network}\"")]
    Host {
        /// Which one.
        network: VmName,
        /// The verb.
        act: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// It has no jail, and one is required.
    #[error(
        "the network \"{network}\" is carried by a process whose jail is of the tier \"{tier}\" only, and `--jail require` wants more"
    )]
    Jail {
        /// Which one.
        network: VmName,
        /// The tier.
        tier: String,
    },
    /// It takes the VM not.
    #[error("the network \"{network}\" does not take the VM: {why}")]
    NoRoom {
        /// Which one.
        network: VmName,
        /// Why, in a sentence.
        why: String,
    },
}

/// A VM that wants to be on a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    /// The network.
    pub(crate) network: VmName,
    /// The VM.
    pub(crate) vm: VmName,
    /// The address of its card.
    pub(crate) card: MacAddress,
    /// The address that its guest has, if it was there before.
    pub(crate) had: Option<Ipv4Addr>,
    /// How strong a jail the process must have, if this VM starts it.
    pub(crate) jail: JailWish,
}

/// A VM that is on a network, until this is dropped.
#[derive(Debug)]
pub(crate) struct Member {
    channel: Arc<Channel>,
    /// The address of the guest.
    pub(crate) address: Ipv4Addr,
    /// The process that carries the network, if it was started for this VM: a child that nobody has to wait for.
    pub(crate) carrier: Option<Pid>,
}

impl Drop for Member {
    fn drop(&mut self) {
        // The thread that listens holds it too.
        let _ = shutdown(self.channel.as_fd(), Shutdown::Both);
    }
}

/// What is heard of a network that a VM is on.
pub(crate) enum Heard {
    /// So many of the guest's frames were refused since the last time, and why, where that is new.
    Refused(u64, Vec<String>),
    /// It is carried no more.
    Gone,
}

/// Puts a VM on a network; with the guest's socket. What happens there is told to `hear`.
///
/// # Errors
/// [`NetworkError`].
pub(crate) fn join(
    wanted: &Wanted,
    hear: impl Fn(Heard) + Send + 'static,
) -> Result<(Member, UnixStream), NetworkError> {
    let network = &wanted.network;
    let failed = |act| {
        let network = network.clone();
        move |source| NetworkError::Host {
            network,
            act,
            source,
        }
    };
    let place = |source| NetworkError::Place {
        network: network.clone(),
        source,
    };
    let inventory = Inventory::of_user().map_err(place)?;
    let door = inventory.network(network.clone());
    let (ours, theirs) = deep_socket::pair(SOCKET_BYTES).map_err(failed("make a socket for"))?;
    let _lock = door.lock().map_err(failed("lock"))?;
    let mut carrier = None;
    for _ in 0..TRIES {
        let connected = door.connect().map_err(failed("connect to"))?;
        let answer = connected.map(|socket| ask(socket, wanted, &theirs));
        match answer.transpose().map_err(failed("ask"))?.flatten() {
            Some((channel, FromNetwork::Joined(address))) => {
                let channel = Arc::new(channel);
                let from = Arc::clone(&channel);
                let thread = thread::Builder::new().name("network".to_owned());
                let listening = thread.spawn(move || listen(&from, hear));
                listening.map_err(failed("listen to"))?;
                let member = Member {
                    channel,
                    address,
                    carrier: carrier.map(|started: Started| started.pid),
                };
                return Ok((member, ours));
            }
            Some((_, FromNetwork::NoRoom(why))) => {
                let network = network.clone();
                return Err(NetworkError::NoRoom { network, why });
            }
            Some(_) => return Err(failed("understand")(ErrorKind::InvalidData.into())),
            None => carrier = Some(start(&inventory, &door, wanted)?),
        }
    }
    Err(failed("reach")(ErrorKind::ConnectionAborted.into()))
}

/// What the process says to somebody who wants to be on its network; `None` if it ends just now.
fn ask(
    socket: OwnedFd,
    wanted: &Wanted,
    card: &UnixStream,
) -> io::Result<Option<(Channel, FromNetwork)>> {
    let channel = Channel::accepted(socket);
    let join = Join {
        vm: wanted.vm.clone(),
        card: wanted.card,
        had: wanted.had,
    };
    match channel.send(&join, &[card.as_fd()]) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(None),
        sent => sent?,
    }
    let answer = answer(&channel)?;
    Ok(answer.map(|answer| (channel, answer)))
}

/// The next thing that the process says, if it does not end.
fn answer(channel: &Channel) -> io::Result<Option<FromNetwork>> {
    let start = Instant::now();
    let mut end = [PollFd::new(channel, PollFlags::IN)];
    let patience = Timespec::try_from(PATIENCE).ok();
    while poll(&mut end, patience.as_ref()) == Err(rustix::io::Errno::INTR)
        && start.elapsed() < PATIENCE
    {}
    if end[0].revents().is_empty() {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(channel.receive()?.map(|(said, _)| said))
}

/// A process that was started, and waits for somebody to come as long as this is kept.
struct Started {
    pid: Pid,
    _channel: Channel,
}

fn start(
    inventory: &Inventory,
    door: &NetworkDoor,
    wanted: &Wanted,
) -> Result<Started, NetworkError> {
    let failed = |source| NetworkError::Host {
        network: wanted.network.clone(),
        act: "start",
        source,
    };
    let listener = door.listen().map_err(failed)?;
    let name = format!("network {}", wanted.network);
    let apart = if wanted.jail == JailWish::Off {
        Apart::No
    } else {
        Apart::Namespaces
    };
    let (child, channel, apart) = spawn::start_apart(&name, apart).map_err(failed)?;
    let pid = child.pid();
    // It ends before this process or after it; then it is to be heard of by nobody but the kernel.
    let wait = move || drop(child.wait());
    let thread = thread::Builder::new().name("carrier".to_owned());
    thread.spawn(wait).map_err(failed)?;
    let role = Role::Network {
        log: LogWish::of_environment(),
        is_apart: apart == Apart::Namespaces,
        plan: NetworkPlan {
            name: wanted.network.clone(),
            reserved: reserved(inventory, &wanted.network),
        },
    };
    channel.send(&role, &[listener.as_fd()]).map_err(failed)?;
    let jail = match answer(&channel).map_err(failed)? {
        Some(FromNetwork::Ready(jail)) => jail,
        _ => return Err(failed(io::Error::other("its process does not begin"))),
    };
    if wanted.jail == JailWish::Require && jail.tier != Tier::Namespaces.word() {
        let network = wanted.network.clone();
        let tier = jail.tier;
        return Err(NetworkError::Jail { network, tier });
    }
    Ok(Started {
        pid,
        _channel: channel,
    })
}

/// The addresses of the VMs that run on this network, as they said when they came.
fn reserved(inventory: &Inventory, network: &VmName) -> Vec<(VmName, Ipv4Addr)> {
    let known = inventory.running().unwrap_or_default();
    let on_it = known.into_iter().filter_map(|(vm, info)| {
        let network = info?.network.filter(|it| it.name == *network)?;
        Some((vm, network.address))
    });
    on_it.collect()
}

fn listen(channel: &Channel, hear: impl Fn(Heard)) {
    while let Ok(Some((said, _))) = channel.receive::<FromNetwork>() {
        if let FromNetwork::Refused { count, why } = said {
            hear(Heard::Refused(count, why));
        }
    }
    hear(Heard::Gone);
}
