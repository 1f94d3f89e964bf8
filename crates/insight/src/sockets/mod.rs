//! Open sockets, as the kernel's own tables have them: TCP, UDP and Unix, of every network namespace, each with the
//! processes that hold it.
//!
//! [`tables`] walks the tables, [`inet`] and [`unix`] take one socket apart, [`owners`] finds out who holds it: a socket
//! does not know its processes, so open files are looked at, whose private data leads to the socket.

mod inet;
mod owners;
mod tables;
mod unix;

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::blind::Blind;
use crate::look::Look;
use crate::observed::Observed;

pub use unix::UnixAddress;

/// Most sockets of one kind that are read.
const MAX_SOCKETS: usize = 1 << 18;

/// TCP or UDP. Of both versions of IP: the addresses tell.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// A stream (RFC 9293).
    Tcp,
    /// Datagrams (RFC 768).
    Udp,
}

/// What a socket is doing, in TCP's words. Those of UDP and of Unix that have no peer are mostly closed to the kernel.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "RFC 9293 names them")]
pub enum SocketState {
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Closed,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

impl SocketState {
    /// From the kernel's number (include/net/tcp_states.h); the same in every kernel.
    fn new(number: u64) -> Result<SocketState, Blind> {
        Ok(match number {
            1 => SocketState::Established,
            2 => SocketState::SynSent,
            // 12 is the same before the kernel has made a whole socket of it.
            3 | 12 => SocketState::SynReceived,
            4 => SocketState::FinWait1,
            5 => SocketState::FinWait2,
            6 => SocketState::TimeWait,
            7 | 13 => SocketState::Closed,
            8 => SocketState::CloseWait,
            9 => SocketState::LastAck,
            10 => SocketState::Listen,
            11 => SocketState::Closing,
            _ => {
                return Err(Blind::nonsense(format!(
                    "socket has the impossible state {number}"
                )));
            }
        })
    }
}

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize)]
pub struct Owner {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub comm: String,
}

/// A TCP or UDP socket.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct InetSocket {
    /// Which protocol.
    pub protocol: Protocol,
    /// What it is doing.
    pub state: SocketState,
    /// Its own address.
    pub local: SocketAddr,
    /// Whom it talks to; all zero if to nobody.
    pub remote: SocketAddr,
    /// The number of its inode, 0 if no file belongs to it any more, or not yet.
    pub inode: u64,
    /// The user who made it. Absent for what is no whole socket: half-open and closing connections.
    pub uid: Option<u32>,
    /// The number of its network namespace.
    pub net_namespace: u32,
    /// Processes that hold it. None: the kernel's own, or not accepted, or closed and lingering.
    pub owners: Vec<Owner>,
    /// Where its `struct sock` is.
    pub address: u64,
}

/// A Unix socket.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct UnixSocket {
    /// `stream`, `datagram` or `seqpacket`.
    pub kind: String,
    /// What it is doing.
    pub state: SocketState,
    /// Its name, if it was given one.
    pub name: Option<UnixAddress>,
    /// The number of its inode, 0 if no file belongs to it.
    pub inode: u64,
    /// The number of its peer's inode, if it has one.
    pub peer_inode: Option<u64>,
    /// The user who made it.
    pub uid: u32,
    /// The number of its network namespace.
    pub net_namespace: u32,
    /// Processes that hold it.
    pub owners: Vec<Owner>,
    /// Where its `struct sock` is.
    pub address: u64,
}

/// Every socket.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
pub struct Sockets {
    /// TCP and UDP.
    pub inet: Vec<InetSocket>,
    /// Unix; a kernel may have the whole family as a module, whose tables are not found.
    pub unix: Vec<UnixSocket>,
    /// What could not be read, and why.
    pub missing: Vec<String>,
}

impl Look<'_> {
    /// Every TCP, UDP and Unix socket of every network namespace, and who holds it.
    pub fn sockets(&self) -> Observed<Sockets> {
        self.observed(self.read_sockets())
    }

    fn read_sockets(&self) -> Result<Sockets, Blind> {
        let mut sockets = Sockets::default();
        let owners = match self.socket_owners() {
            Ok(owners) => owners,
            Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
            Err(blind) => {
                sockets.missing.push(format!("who holds sockets: {blind}"));
                owners::Owners::default()
            }
        };
        let nets = self.net_namespaces()?;
        let mut part = |what: &str, result: Result<(), Blind>| match result {
            Err(Blind::OverBudget(what)) => Err(Blind::OverBudget(what)),
            Err(blind) => {
                sockets.missing.push(format!("{what}: {blind}"));
                Ok(())
            }
            Ok(()) => Ok(()),
        };
        let mut inet = Vec::new();
        let mut unix = Vec::new();
        part("TCP", self.tcp(&nets, &owners, &mut inet))?;
        part("UDP", self.udp(&nets, &owners, &mut inet))?;
        part("Unix", self.unix(&nets, &owners, &mut unix))?;
        (sockets.inet, sockets.unix) = (inet, unix);
        Ok(sockets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_named_as_the_guest_names_them() {
        let check = |number, expected: Option<SocketState>| {
            assert_eq!(SocketState::new(number).ok(), expected, "{number}");
        };
        check(1, Some(SocketState::Established));
        check(3, Some(SocketState::SynReceived));
        check(12, Some(SocketState::SynReceived));
        check(6, Some(SocketState::TimeWait));
        check(10, Some(SocketState::Listen));
        check(0, None);
        check(14, None);
        check(u64::MAX, None);
    }
}
