//! Where a guest on the user network may send to, kept by a process between its card and passt.
//!
//! # Problem
//!
//! A list of places that a guest may reach is worth what keeps it. The process that runs the guest is what a guest breaks out
//! into; from there it has the socket to passt, and passt connects to whatever this host reaches. So the list is not kept there.
//!
//! # How
//!
//! ```text
//! guest ─ card, in the VM's process ── socket ── this process ── socket ── passt ── the host's network
//!                                                  │ refused: counted, told to the launcher, ICMP to the guest
//!                                                  └ names: answered here, to whichever resolver they went
//! ```
//!
//! It is this program again, in a jail like a VM's (`host::jail::Kind::Wire`), with the two sockets and a channel to the launcher.
//! What leaves the guest is whole IPv4 packets whose destination is on the list ([`judge`]); fragments, which have no ports, and
//! whatever contradicts itself are refused, as passt drops them too. It keeps no connections: a packet stands for itself, but for
//! answers to who came in by a forwarded port, who is remembered. Names of the list were looked up when the VM was planned, and
//! the guest is told the same addresses ([`crate::frames::names`]); every other question is refused, for a resolver that asks others carries
//! whatever a guest writes into a name.
//!
//! It ends when either side does. Then the launcher starts passt again, and another of these before it.

mod judge;
mod perform;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

use host::deep_socket;
use host::jail::{Apart, Child};
use machine::EgressPlan;

pub(crate) use self::perform::perform;
use crate::own_log::LogWish;
use crate::spawn;
use crate::wire::{Channel, FromEgress, Role};

/// What the sockets hold, as passt's: more than a guest's TCP lets be on the way.
const SOCKET_BYTES: u32 = 16 << 20;

/// The process that keeps a list. It ends with this.
#[derive(Debug)]
pub(crate) struct Keeper {
    child: Child,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // It keeps nothing that would have to be put in order.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Puts a keeper of `plan` before `network`, a socket to passt; the guest's socket. What it refuses is told to `refused`: how many
/// packets since the last time, and where to that had not been tried before. That of a detached VM says what it has to say
/// to `messages`, and holds nothing of who started it.
///
/// # Errors
/// If there is no process for it, or it does not lock itself in.
pub(crate) fn keep(
    plan: &EgressPlan,
    network: &UnixStream,
    messages: Option<&File>,
    refused: impl Fn(u64, Vec<String>) + Send + 'static,
) -> io::Result<(Keeper, UnixStream)> {
    let (ours, theirs) = deep_socket::pair(SOCKET_BYTES)?;
    let (child, channel, apart) = spawn::start_apart("egress", Apart::Namespaces)?;
    let keeper = Keeper { child };
    let role = Role::Egress {
        log: LogWish::of_environment(),
        is_apart: apart == Apart::Namespaces,
        plan: plan.clone(),
    };
    let mut descriptors = vec![theirs.as_fd(), network.as_fd()];
    descriptors.extend(messages.map(AsFd::as_fd));
    channel.send(&role, &descriptors)?;
    match channel.receive()? {
        Some((FromEgress::Ready(jail), _)) => {
            tracing::debug!(
                "what may leave is kept in a jail of the tier \"{}\"",
                jail.tier
            );
        }
        _ => return Err(io::Error::other("what keeps its list does not begin")),
    }
    let hear = move || listen(&channel, refused);
    thread::Builder::new()
        .name("egress".to_owned())
        .spawn(hear)?;
    Ok((keeper, ours))
}

fn listen(channel: &Channel, refused: impl Fn(u64, Vec<String>)) {
    while let Ok(Some((said, _))) = channel.receive::<FromEgress>() {
        if let FromEgress::Refused { count, to } = said {
            refused(count, to);
        }
    }
}
