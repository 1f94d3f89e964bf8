//! What launchers and the process that carries a network between VMs say to each other.
//!
//! Over the channel that it was started with the process says no more than that it is ready. A launcher speaks over a connection
//! of its own, for which its VM is on the network as long as it lasts.

use std::net::Ipv4Addr;

use api::{Jail, VmName};
use machine::MacAddress;
use serde::{Deserialize, Serialize};

/// From a launcher, once, with one end of the socket that carries its guest's frames.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Join {
    /// The VM.
    pub(crate) vm: VmName,
    /// The address of its card.
    pub(crate) card: MacAddress,
    /// The address that its guest has, if it was on the network before.
    pub(crate) had: Option<Ipv4Addr>,
}

/// What the process is told first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct NetworkPlan {
    /// The network.
    pub(crate) name: VmName,
    /// Addresses that VMs have who were on it before, and will come again.
    pub(crate) reserved: Vec<(VmName, Ipv4Addr)>,
}

/// From the process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum FromNetwork {
    /// It has locked itself in, and takes VMs.
    Ready(Jail),
    /// The VM is on the network, with this address for its guest.
    Joined(Ipv4Addr),
    /// It is not, and this is why.
    NoRoom(String),
    /// So many frames were refused since the last time; `why` are the reasons that are new.
    Refused {
        /// Frames.
        count: u64,
        /// In words.
        why: Vec<String>,
    },
}
