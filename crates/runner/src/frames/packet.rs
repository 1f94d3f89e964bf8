//! The few fields of a frame that decide where it goes, and the answers that a guest gets in place of its destination.
//!
//! Sources: RFC 791 (IPv4), RFC 768 (UDP), RFC 9293 (TCP), RFC 792 and RFC 1812, 5.2.7.1 (ICMP), RFC 1071 (the checksum).

use std::net::Ipv4Addr;

/// Ethernet header without a tag; nothing on this wire has one.
pub(crate) const ETHERNET_BYTES: usize = 14;
/// IPv4 header without options.
const IP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;

/// Protocol numbers.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Carries<'a> {
    /// ARP, which leads no further than this wire.
    Arp,
    /// An IPv4 packet.
    Ip(Packet<'a>),
    /// An IPv4 packet that contradicts itself, or a part of one: nobody can say where it goes.
    Unclear(Ipv4Addr),
    /// Anything else.
    Other,
}

/// A whole IPv4 packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
    pub(crate) protocol: u8,
    /// Ports of TCP and UDP: from and to.
    pub(crate) ports: Option<(u16, u16)>,
    /// It opens a connection of TCP.
    pub(crate) opens: bool,
    /// What UDP carries.
    pub(crate) payload: &'a [u8],
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

/// What a frame carries.
pub(crate) fn read(frame: &[u8]) -> Carries<'_> {
    match frame.get(12..ETHERNET_BYTES) {
        Some([0x08, 0x06]) => Carries::Arp,
        Some([0x08, 0x00]) => {
            let packet = &frame[ETHERNET_BYTES..];
            let unclear = || Carries::Unclear(address(packet, 16).unwrap_or(Ipv4Addr::UNSPECIFIED));
            ip(packet).map_or_else(unclear, Carries::Ip)
        }
        _ => Carries::Other,
    }
}

fn ip(packet: &[u8]) -> Option<Packet<'_>> {
    let first = *packet.first()?;
    let header_bytes = usize::from(first & 15) * 4;
    let total_bytes = usize::from(word(packet, 2)?);
    // "More fragments", and where this one belongs.
    let fragment = word(packet, 6)? & 0x3fff;
    if first >> 4 != 4 || header_bytes < IP_BYTES || fragment != 0 {
        return None;
    }
    let segment = packet.get(header_bytes..total_bytes)?;
    let protocol = packet[9];
    let mut read = Packet {
        from: address(packet, 12)?,
        to: address(packet, 16)?,
        protocol,
        ports: None,
        opens: false,
        payload: &[],
    };
    match protocol {
        TCP => {
            read.ports = Some((word(segment, 0)?, word(segment, 2)?));
            let flags = *segment.get(13)?;
            // SYN without ACK.
            read.opens = flags & 0x12 == 0x02;
        }
        UDP => {
            read.ports = Some((word(segment, 0)?, word(segment, 2)?));
            let len_bytes = usize::from(word(segment, 4)?);
            read.payload = segment.get(UDP_BYTES..len_bytes)?;
        }
        _ => {}
    }
    Some(read)
}

/// The checksum of these bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// An address of a card on the wire.
pub(crate) type HardwareAddress = [u8; 6];

/// Who sends and who is meant, of a card and of IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    pub(crate) from_card: HardwareAddress,
    pub(crate) to_card: HardwareAddress,
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
}

impl Ends {
    /// Back to where `frame` came from, from `from` to `to`.
    fn back(frame: &[u8], from: Ipv4Addr, to: Ipv4Addr) -> Ends {
        let card = |at: usize| {
            let bytes = frame.get(at..at + 6);
            bytes.and_then(|it| it.try_into().ok()).unwrap_or_default()
        };
        Ends {
            from_card: card(0),
            to_card: card(6),
            from,
            to,
        }
    }

    /// A frame between them with a packet of `protocol`.
    pub(crate) fn frame(&self, protocol: u8, segment: &[u8]) -> Vec<u8> {
        let mut header = vec![0x45, 0];
        header.extend(((IP_BYTES + segment.len()) as u16).to_be_bytes());
        // No identification, for it is not cut; 64 hops.
        header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        header.extend(self.from.octets());
        header.extend(self.to.octets());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        let ethernet = [&self.to_card[..], &self.from_card, &[8, 0]].concat();
        [&ethernet, &header[..], segment].concat()
    }

    /// A frame between them with a packet of UDP.
    pub(crate) fn udp(&self, from_port: u16, to_port: u16, payload: &[u8]) -> Vec<u8> {
        let mut segment = from_port.to_be_bytes().to_vec();
        segment.extend(to_port.to_be_bytes());
        segment.extend(((UDP_BYTES + payload.len()) as u16).to_be_bytes());
        // Over IPv4 a packet may be without a checksum (RFC 768).
        segment.extend([0, 0]);
        segment.extend(payload);
        self.frame(UDP, &segment)
    }
}

/// Says that a packet was refused: "communication administratively prohibited" (RFC 1812, 5.2.7.1), from `from`.
pub(crate) fn prohibited(frame: &[u8], packet: &Packet<'_>, from: Ipv4Addr) -> Vec<u8> {
    let quoted = &frame[ETHERNET_BYTES..];
    let header_bytes = usize::from(quoted[0] & 15) * 4;
    let mut message = vec![3, 13, 0, 0, 0, 0, 0, 0];
    message.extend(&quoted[..quoted.len().min(header_bytes + 8)]);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    Ends::back(frame, from, packet.from).frame(ICMP, &message)
}

/// Answers a packet of UDP in its destination's name.
pub(crate) fn answer(frame: &[u8], packet: &Packet<'_>, payload: &[u8]) -> Vec<u8> {
    let (from_port, to_port) = packet.ports.unwrap_or_default();
    Ends::back(frame, packet.to, packet.from).udp(to_port, from_port, payload)
}

/// Answers an ICMP echo request in its destination's name (RFC 792); `None` for any other message.
pub(crate) fn echoed(frame: &[u8], packet: &Packet<'_>) -> Option<Vec<u8>> {
    let bytes = frame.get(ETHERNET_BYTES..)?;
    let header_bytes = usize::from(bytes.first()? & 15) * 4;
    let mut message = bytes
        .get(header_bytes..usize::from(word(bytes, 2)?))?
        .to_vec();
    if packet.protocol != ICMP || message.len() < 8 || message[..2] != [8, 0] {
        return None;
    }
    message[0] = 0;
    message[2..4].fill(0);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    Some(Ends::back(frame, packet.to, packet.from).frame(ICMP, &message))
}
