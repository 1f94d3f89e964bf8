//! What becomes of a guest's frame: where it may go is a list.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use machine::{EgressPlan, GATEWAY, Served};

use crate::frames::names;
use crate::frames::packet::{self, Carries, ETHERNET_BYTES, ICMP, Packet, TCP, UDP};

/// Ports of a DHCP server and of a resolver.
const DHCP: u16 = 67;
const DNS: u16 = 53;

/// ICMP's question whether somebody is there.
const ECHO: u8 = 8;

/// The last address of the guest's own network.
const OWN_BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 255);

/// Who has come in from outside and may be answered: so many, and for so long after the last word.
const PEERS_MAX: usize = 4096;
const UDP_TIME: Duration = Duration::from_secs(300);
const TCP_TIME: Duration = Duration::from_secs(24 * 3600);

/// What becomes of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It goes on.
    Passes,
    /// It is for nobody here: what a wire with nobody else on it would carry to no one.
    Ignored,
    /// It goes no further, and this comes back in its destination's name.
    Answered(Vec<u8>),
    /// It is not on the list.
    Refused(Refusal),
}

/// A frame that is not on the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    /// Where it was to go, in words without anything of the guest's that could harm a terminal.
    pub(super) to: String,
    /// What the guest gets to hear, if there is a way to say it.
    pub(super) reply: Option<Vec<u8>>,
}

/// Somebody outside who speaks with a port of the guest: protocol, address, port, and the guest's port.
type Peer = (u8, Ipv4Addr, u16, u16);

/// See the module.
#[derive(Debug)]
pub(super) struct Judge {
    plan: EgressPlan,
    peers: HashMap<Peer, Instant>,
}

impl Judge {
    pub(super) fn new(plan: EgressPlan) -> Judge {
        Judge {
            plan,
            peers: HashMap::new(),
        }
    }

    /// What becomes of a frame of the guest's.
    pub(super) fn outward(&mut self, frame: &[u8], now: Instant) -> Verdict {
        let packet = match packet::read(frame) {
            Carries::Arp => return Verdict::Passes,
            Carries::Other => return Verdict::Ignored,
            Carries::Unclear(to) if to.is_multicast() => return Verdict::Ignored,
            Carries::Unclear(to) => {
                return Verdict::Refused(Refusal {
                    to: format!("{to}, by a packet in pieces or without sense"),
                    reply: None,
                });
            }
            Carries::Ip(packet) => packet,
        };
        let is_to_all = packet.to.is_broadcast() || packet.to == OWN_BROADCAST;
        let asks_for_address = packet.protocol == UDP
            && packet.ports.is_some_and(|(_, to)| to == DHCP)
            && (is_to_all || packet.to == GATEWAY);
        if asks_for_address || self.is_listed(&packet) || self.is_answer(&packet, now) {
            return Verdict::Passes;
        }
        if is_to_all || packet.to.is_multicast() {
            return Verdict::Ignored;
        }
        if packet.protocol == UDP && packet.ports.is_some_and(|(_, to)| to == DNS) {
            return self.name(frame, &packet);
        }
        let (to, is_said) = match (packet.protocol, packet.ports) {
            (TCP, Some((_, port))) => (format!("TCP {}:{port}", packet.to), true),
            (UDP, Some((_, port))) => (format!("UDP {}:{port}", packet.to), true),
            (ICMP, _) => {
                let kind = frame.get(ETHERNET_BYTES + usize::from(frame[ETHERNET_BYTES] & 15) * 4);
                // Nothing is said about a message that says something itself (RFC 1122, 3.2.2).
                (format!("ICMP {}", packet.to), kind == Some(&ECHO))
            }
            (protocol, _) => (format!("protocol {protocol} {}", packet.to), true),
        };
        let reply = is_said.then(|| packet::prohibited(frame, &packet, GATEWAY));
        Verdict::Refused(Refusal { to, reply })
    }

    /// Notes who speaks with a port of the guest that is open to them.
    pub(super) fn inward(&mut self, frame: &[u8], now: Instant) {
        if self.plan.served.is_empty() {
            return;
        }
        let Carries::Ip(packet) = packet::read(frame) else {
            return;
        };
        let Some((from, to)) = packet.ports.filter(|(_, to)| self.serves(&packet, *to)) else {
            return;
        };
        let peer = (packet.protocol, packet.from, from, to);
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            let oldest = self.peers.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.peers.remove(&oldest);
            }
        }
        self.peers.insert(peer, now);
    }

    fn serves(&self, packet: &Packet<'_>, port: u16) -> bool {
        let served = match packet.protocol {
            TCP => Served::Tcp,
            UDP => Served::Udp,
            _ => return false,
        };
        self.plan.served.contains(&(served, port))
    }

    fn is_listed(&self, packet: &Packet<'_>) -> bool {
        let is_port = |wanted: Option<u16>| {
            wanted.is_none_or(|wanted| packet.ports.is_some_and(|(_, to)| to == wanted))
        };
        let networks = self.plan.networks.iter();
        let mut names = self.plan.names.iter();
        networks
            .clone()
            .any(|it| is_port(it.port) && it.has(packet.to))
            || names.any(|it| is_port(it.port) && it.addresses.contains(&packet.to))
    }

    /// Whether it answers somebody who came in.
    fn is_answer(&self, packet: &Packet<'_>, now: Instant) -> bool {
        let Some((from, to)) = packet.ports.filter(|_| !packet.opens) else {
            return false;
        };
        let kept = if packet.protocol == TCP {
            TCP_TIME
        } else {
            UDP_TIME
        };
        let last = self.peers.get(&(packet.protocol, packet.to, to, from));
        last.is_some_and(|last| now.saturating_duration_since(*last) < kept)
    }

    /// Answers a question for a name, whichever resolver it was for.
    fn name(&self, frame: &[u8], packet: &Packet<'_>) -> Verdict {
        let Some(answer) = names::answer(packet.payload, &self.plan.names) else {
            return Verdict::Refused(Refusal {
                to: format!("UDP {}:{DNS}", packet.to),
                reply: None,
            });
        };
        let reply = packet::answer(frame, packet, &answer.message);
        match answer.refused {
            None => Verdict::Answered(reply),
            Some(name) => Verdict::Refused(Refusal {
                to: format!("the name \"{name}\""),
                reply: Some(reply),
            }),
        }
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
