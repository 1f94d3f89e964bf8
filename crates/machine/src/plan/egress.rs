//! Where a guest on the user network may send to: the list as it was written, with its names looked up.
//!
//! A name is looked up once, by this host's resolver, when the VM is planned, and the guest is told the same addresses. What a
//! name means later, or to somebody else, makes no hole.

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};

use api::{EgressPlace, EgressSpec, Forward, NetSpec, Transport, VmSpec};
use serde::{Deserialize, Serialize};

use super::{Complaints, Stage, Trouble, trouble};

/// Addresses of one name that are kept.
const ADDRESSES_MAX: usize = 64;

/// What a guest may send to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressPlan {
    /// Networks.
    pub networks: Vec<AllowedNetwork>,
    /// Names, and what they were when the VM was planned.
    pub names: Vec<AllowedName>,
    /// Ports of the guest that connections from outside lead to, by TCP and by UDP: it may answer them.
    pub served: Vec<(Served, u16)>,
}

/// What a port of the guest serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the protocols' own names")]
pub enum Served {
    Tcp,
    Udp,
}

/// A network of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowedNetwork {
    /// Its address.
    pub address: Ipv4Addr,
    /// How many of its bits count.
    pub bits: u8,
    /// TCP and UDP port; all of IP if there is none.
    pub port: Option<u16>,
}

impl AllowedNetwork {
    /// Whether it has this address.
    pub fn has(&self, address: Ipv4Addr) -> bool {
        EgressPlace::Network(self.address, self.bits).has(address)
    }
}

/// A name of the list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowedName {
    /// In small letters, without a last dot.
    pub name: String,
    /// What it was looked up as.
    pub addresses: Vec<Ipv4Addr>,
    /// TCP and UDP port; all of IP if there is none.
    pub port: Option<u16>,
}

/// Checks the list, and looks its names up where that is final; `forwards` are a user-mode network's, and behind a tap there
/// are none.
pub(super) fn egress(
    spec: &VmSpec,
    forwards: Option<&[Forward]>,
    stage: Stage,
    complaints: &mut Complaints,
) -> Option<EgressPlan> {
    let asked = spec.egress.as_ref()?;
    let Some(forwards) = forwards else {
        let what = match spec.net {
            Some(NetSpec::Named(_)) => "a network between VMs leads nowhere else as it is",
            _ => "what a tap carries is for the bridge or router behind it to decide",
        };
        let refused: Result<(), Trouble> =
            trouble(what, "write `--net user`, or leave `--egress` out");
        complaints.take("egress", refused);
        return None;
    };
    let mut plan = EgressPlan::default();
    for forward in forwards {
        let served = match forward.transport {
            Transport::Tcp => Served::Tcp,
            Transport::Udp => Served::Udp,
        };
        plan.served.push((served, forward.guest_port));
    }
    for name in resolve(asked, &mut plan) {
        if stage == Stage::Draft {
            continue;
        }
        let found = look_up(&name.name);
        if let Some(addresses) = complaints.take("egress", found) {
            plan.names.push(AllowedName { addresses, ..name });
        }
    }
    Some(plan)
}

/// Puts the networks into the plan; the names, which nobody has looked up yet.
fn resolve(asked: &EgressSpec, plan: &mut EgressPlan) -> Vec<AllowedName> {
    let mut names = Vec::new();
    for rule in &asked.rules {
        let port = rule.port;
        match &rule.to {
            EgressPlace::Network(address, bits) => plan.networks.push(AllowedNetwork {
                address: *address,
                bits: *bits,
                port,
            }),
            EgressPlace::Name(name) => names.push(AllowedName {
                name: name.clone(),
                addresses: Vec::new(),
                port,
            }),
        }
    }
    names
}

fn look_up(name: &str) -> Result<Vec<Ipv4Addr>, Trouble> {
    let found = (name, 0).to_socket_addrs().map_err(|error| Trouble {
        what: format!("this host does not know {name}: {error}"),
        help: "check the name and this host's resolver, or write an address".to_owned(),
    })?;
    let mut addresses: Vec<Ipv4Addr> = found
        .filter_map(|found| match found.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    if addresses.is_empty() {
        return trouble(
            format!("{name} has no IPv4 address, and the user network has no IPv6"),
            "leave it out",
        );
    }
    let out_of_reach = |address: &Ipv4Addr| {
        address.is_loopback() || address.is_link_local() || address.is_unspecified()
    };
    if let Some(address) = addresses.iter().find(|address| out_of_reach(address)) {
        return trouble(
            format!("{name} is {address} to this host, which no guest reaches"),
            "leave it out; `--net user,host` has the gateway 10.0.2.2 lead to this host's own services",
        );
    }
    Ok(addresses)
}
