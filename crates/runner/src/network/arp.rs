//! Questions for the card of an address (RFC 826), which the switch answers itself.

use std::net::Ipv4Addr;

use crate::frames::packet::{ETHERNET_BYTES, HardwareAddress};

/// Ethernet and IPv4, with addresses of 6 and 4 bytes.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// A message for Ethernet and IPv4.
const MESSAGE_BYTES: usize = 28;

/// Operations.
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// What a guest says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Message {
    pub(super) is_request: bool,
    pub(super) from_card: HardwareAddress,
    pub(super) from: Ipv4Addr,
    pub(super) about: Ipv4Addr,
}

/// Reads a frame that carries ARP; `None` for what is none between Ethernet and IPv4.
pub(super) fn read(frame: &[u8]) -> Option<Message> {
    let message = frame.get(ETHERNET_BYTES..ETHERNET_BYTES + MESSAGE_BYTES)?;
    let operation = u16::from_be_bytes([message[6], message[7]]);
    let address = |at: usize| {
        Ipv4Addr::new(
            message[at],
            message[at + 1],
            message[at + 2],
            message[at + 3],
        )
    };
    let is_known = message[..6] == KIND && [REQUEST, REPLY].contains(&operation);
    is_known.then(|| Message {
        is_request: operation == REQUEST,
        from_card: message[8..14].try_into().unwrap_or_default(),
        from: address(14),
        about: address(24),
    })
}

/// The answer to `asked`: that address is at `card`, as if `card` said it.
pub(super) fn answer(asked: &Message, card: HardwareAddress) -> Vec<u8> {
    let mut frame = [&asked.from_card[..], &card, &[8, 6], &KIND].concat();
    frame.extend(REPLY.to_be_bytes());
    frame.extend(card);
    frame.extend(asked.about.octets());
    frame.extend(asked.from_card);
    frame.extend(asked.from.octets());
    frame
}
