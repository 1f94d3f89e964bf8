//! What becomes of a frame on a network between VMs: a value, which is told who is there and what they send.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use machine::AllowedName;

use super::arp;
use super::dhcp;
use super::subnet::{HOSTS_MAX, Subnet};
use crate::frames::names;
use crate::frames::packet::{
    self, Carries, ETHERNET_BYTES, Ends, HardwareAddress, ICMP, Packet, UDP,
};

/// The switch's own card, locally administered.
pub(super) const OWN_CARD: HardwareAddress = [0x52, 0x4d, 0, 0, 0, 1];
const EVERYBODY: HardwareAddress = [0xff; 6];

/// Where names are asked for.
const DNS: u16 = 53;

/// ICMP's question whether somebody is there.
const ECHO: u8 = 8;

/// A VM that is on the network, for as long as it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct PortId(u64);

/// What becomes of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It goes to this one.
    To(PortId),
    /// It goes to all but who sent it.
    ToOthers,
    /// It was for the switch, and this comes back.
    Answered(Vec<u8>),
    /// It is for nobody here, as on a wire.
    Ignored,
    /// It is none that this guest may send.
    Refused(Refusal),
}

/// A frame that goes no further, and is counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    /// What comes behind "a frame", in words.
    pub(super) why: &'static str,
    /// What the guest gets to hear, if there is a way to say it.
    pub(super) reply: Option<Vec<u8>>,
}

/// Why a VM cannot be on the network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NoRoom(pub(super) String);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Port {
    vm: String,
    card: HardwareAddress,
    address: Ipv4Addr,
}

/// An address that a VM has, or had when it was here last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lease {
    address: Ipv4Addr,
    /// Grows with each that comes and goes.
    last: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Switch {
    name: String,
    subnet: Subnet,
    ports: BTreeMap<PortId, Port>,
    by_card: BTreeMap<HardwareAddress, PortId>,
    /// By the name of the VM.
    leases: BTreeMap<String, Lease>,
    /// What is answered of names.
    names: Vec<AllowedName>,
    /// How often somebody has come or gone.
    turns: u64,
}

fn refused(why: &'static str, reply: Option<Vec<u8>>) -> Verdict {
    Verdict::Refused(Refusal { why, reply })
}

impl Switch {
    /// Of a network with nobody on it.
    pub(super) fn new(name: &str) -> Switch {
        Switch {
            name: name.to_owned(),
            subnet: Subnet::of(name),
            ports: BTreeMap::new(),
            by_card: BTreeMap::new(),
            leases: BTreeMap::new(),
            names: Vec::new(),
            turns: 0,
        }
    }

    /// Keeps an address for a VM that had it before this switch was there.
    pub(super) fn reserve(&mut self, vm: &str, address: Ipv4Addr) {
        let is_free = self.leases.values().all(|lease| lease.address != address);
        if is_free && self.subnet.is_host(address) && !self.leases.contains_key(vm) {
            self.turns += 1;
            let last = self.turns;
            self.leases.insert(vm.to_owned(), Lease { address, last });
        }
    }

    /// Takes a VM with this card in; its port and its address.
    pub(super) fn join(
        &mut self,
        vm: &str,
        card: HardwareAddress,
    ) -> Result<(PortId, Ipv4Addr), NoRoom> {
        let other = self.by_card.get(&card).and_then(|id| self.ports.get(id));
        if let Some(other) = other {
            return Err(NoRoom(format!(
                "the card of VM \"{}\" there has the same address",
                other.vm
            )));
        }
        if card == OWN_CARD || card[0] & 1 != 0 {
            return Err(NoRoom("the card's address is the network's own".to_owned()));
        }
        let names = self.names_of(vm);
        if let Some(name) = names
            .iter()
            .find(|it| self.names.iter().any(|has| has.name == **it))
        {
            return Err(NoRoom(format!(
                "another VM answers to the name \"{name}\" there"
            )));
        }
        let Some(address) = self.address_for(vm) else {
            return Err(NoRoom(format!("{HOSTS_MAX} VMs are on it already")));
        };
        self.turns += 1;
        let id = PortId(self.turns);
        let vm = vm.to_owned();
        let last = self.turns;
        self.leases.insert(vm.clone(), Lease { address, last });
        self.names.extend(names.into_iter().map(|name| AllowedName {
            name,
            addresses: vec![address],
            port: None,
        }));
        self.by_card.insert(card, id);
        self.ports.insert(id, Port { vm, card, address });
        Ok((id, address))
    }

    /// Lets a VM go. Its address stays its own as long as there are others.
    pub(super) fn leave(&mut self, id: PortId) {
        let Some(port) = self.ports.remove(&id) else {
            return;
        };
        self.by_card.remove(&port.card);
        self.names
            .retain(|it| !it.addresses.contains(&port.address));
        self.turns += 1;
        if let Some(lease) = self.leases.get_mut(&port.vm) {
            lease.last = self.turns;
        }
    }

    /// What a VM is called: by itself, and with the network's name. Names are without case.
    fn names_of(&self, vm: &str) -> [String; 2] {
        let short = vm.to_ascii_lowercase();
        let long = format!("{short}.{}", self.name.to_ascii_lowercase());
        [short, long]
    }

    /// The one it had, or a free one, or that of the one who has been gone for the longest time.
    fn address_for(&mut self, vm: &str) -> Option<Ipv4Addr> {
        if let Some(lease) = self.leases.get(vm) {
            return Some(lease.address);
        }
        let is_free = |address: &Ipv4Addr| self.leases.values().all(|it| it.address != *address);
        if let Some(free) = self.subnet.hosts(vm).find(is_free) {
            return Some(free);
        }
        let is_here = |vm: &str| self.ports.values().any(|port| port.vm == vm);
        let gone = self.leases.iter().filter(|(vm, _)| !is_here(vm));
        let oldest = gone.min_by_key(|(_, lease)| lease.last);
        let oldest = oldest.map(|(vm, _)| vm.clone())?;
        self.leases.remove(&oldest).map(|lease| lease.address)
    }

    /// What becomes of a frame of this guest's.
    pub(super) fn frame(&self, from: PortId, frame: &[u8]) -> Verdict {
        let Some(port) = self.ports.get(&from) else {
            return Verdict::Ignored;
        };
        if frame.get(6..12) != Some(&port.card[..]) {
            return refused("from another card's address than its own", None);
        }
        match packet::read(frame) {
            Carries::Arp => self.arp(port, frame),
            Carries::Ip(packet) => self.ip(port, frame, &packet),
            Carries::Unclear(_) => refused("in pieces or without sense", None),
            Carries::Other => Verdict::Ignored,
        }
    }

    /// Answers for everybody, so that nobody's word about an address reaches anybody.
    fn arp(&self, port: &Port, frame: &[u8]) -> Verdict {
        let Some(asked) = arp::read(frame) else {
            return Verdict::Ignored;
        };
        let is_own = asked.from_card == port.card
            && (asked.from == port.address || asked.from.is_unspecified());
        if !is_own {
            return refused("that claims another's address (ARP)", None);
        }
        let card = if asked.about == self.subnet.server() {
            Some(OWN_CARD)
        } else {
            let mut others = self.ports.values().filter(|it| it.card != port.card);
            let found = others.find(|it| it.address == asked.about);
            found.map(|it| it.card)
        };
        match card.filter(|_| asked.is_request) {
            Some(card) => Verdict::Answered(arp::answer(&asked, card)),
            None => Verdict::Ignored,
        }
    }

    fn ip(&self, port: &Port, frame: &[u8], packet: &Packet<'_>) -> Verdict {
        let is_to_all = packet.to.is_broadcast() || packet.to == self.subnet.broadcast();
        let to_port = packet.ports.filter(|_| packet.protocol == UDP);
        let to_port = to_port.map(|(_, to)| to);
        if to_port == Some(dhcp::SERVER) && (is_to_all || packet.to == self.subnet.server()) {
            return self.dhcp(port, packet);
        }
        if packet.from.is_unspecified() {
            // Who has no address yet says which groups it listens to.
            return Verdict::Ignored;
        }
        if packet.from != port.address {
            return refused("from an address that is not its own", None);
        }
        if to_port == Some(dhcp::CLIENT) {
            return refused("that gives out addresses (DHCP)", None);
        }
        if frame[0] & 1 != 0 {
            // A packet for one alone in a frame for all is nobody's (RFC 1122, 3.3.6).
            let is_for_many = is_to_all || packet.to.is_multicast();
            return if is_for_many {
                Verdict::ToOthers
            } else {
                Verdict::Ignored
            };
        }
        if frame[..6] == OWN_CARD {
            return self.for_itself(frame, packet);
        }
        let to = frame[..6].try_into().ok();
        let to = to.and_then(|card: HardwareAddress| self.by_card.get(&card));
        to.map_or(Verdict::Ignored, |id| Verdict::To(*id))
    }

    /// A packet to the switch's card.
    fn for_itself(&self, frame: &[u8], packet: &Packet<'_>) -> Verdict {
        let is_own = packet.to == self.subnet.server();
        if let Some(reply) = packet::echoed(frame, packet).filter(|_| is_own) {
            return Verdict::Answered(reply);
        }
        let asks_for_name = packet.protocol == UDP && packet.ports.is_some_and(|(_, to)| to == DNS);
        if is_own && asks_for_name {
            let answer = names::answer(packet.payload, &self.names);
            return answer.map_or(Verdict::Ignored, |answer| {
                Verdict::Answered(packet::answer(frame, packet, &answer.message))
            });
        }
        let kind = frame.get(ETHERNET_BYTES + usize::from(frame[ETHERNET_BYTES] & 15) * 4);
        // Nothing is said about a message that says something itself (RFC 1122, 3.2.2).
        let is_said = packet.protocol != ICMP || kind == Some(&ECHO);
        let reply = is_said.then(|| packet::prohibited(frame, packet, self.subnet.server()));
        if is_own {
            refused("for a service that the network does not have", reply)
        } else {
            refused("for a place that the network does not lead to", reply)
        }
    }

    fn dhcp(&self, port: &Port, packet: &Packet<'_>) -> Verdict {
        let lease = dhcp::Lease {
            address: port.address,
            server: self.subnet.server(),
            mask: self.subnet.mask(),
            broadcast: self.subnet.broadcast(),
            domain: &self.name,
        };
        let Some(answer) = dhcp::answer(packet.payload, port.card, &lease) else {
            return Verdict::Ignored;
        };
        let to_all = answer.to.is_broadcast();
        let ends = Ends {
            from_card: OWN_CARD,
            to_card: if to_all { EVERYBODY } else { port.card },
            from: self.subnet.server(),
            to: answer.to,
        };
        Verdict::Answered(ends.udp(dhcp::SERVER, dhcp::CLIENT, &answer.message))
    }
}

#[cfg(test)]
#[path = "switch_tests.rs"]
mod tests;
