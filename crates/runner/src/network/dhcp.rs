//! A DHCP server that has one address for each who asks (RFC 2131, RFC 2132).
//!
//! It keeps nothing: who is at which port of the switch has which address is decided before the guest runs, so an offer is a
//! promise already, and a lease ends with the port.

use std::net::Ipv4Addr;

use crate::frames::packet::HardwareAddress;

/// Ports of the server and of a client.
pub(super) const SERVER: u16 = 67;
pub(super) const CLIENT: u16 = 68;

/// The fixed part, and what options begin with.
const FIXED_BYTES: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// The smallest message that every client takes (RFC 951: 300 bytes).
const MESSAGE_BYTES_MIN: usize = 300;

/// `op`: a client asks, a server answers.
const ASKS: u8 = 1;
const ANSWERS: u8 = 2;

/// Options.
mod option {
    pub(super) const PAD: u8 = 0;
    pub(super) const MASK: u8 = 1;
    pub(super) const RESOLVER: u8 = 6;
    pub(super) const DOMAIN: u8 = 15;
    pub(super) const BROADCAST: u8 = 28;
    pub(super) const WANTED: u8 = 50;
    pub(super) const LEASE_TIME: u8 = 51;
    pub(super) const KIND: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const END: u8 = 255;
}

/// Kinds of messages.
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const INFORM: u8 = 8;

/// A lease without an end: it is the guest's for as long as it is on the network.
const FOR_EVER: [u8; 4] = [0xff; 4];

/// What a client is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lease<'a> {
    /// Its own address.
    pub(super) address: Ipv4Addr,
    /// The server's, and the resolver's.
    pub(super) server: Ipv4Addr,
    pub(super) mask: Ipv4Addr,
    pub(super) broadcast: Ipv4Addr,
    /// The name of the network.
    pub(super) domain: &'a str,
}

/// An answer, and the address it goes to: everybody's, for who has none yet and wants it so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    pub(super) message: Vec<u8>,
    pub(super) to: Ipv4Addr,
}

/// Answers a message of the client with this card, who has this lease; `None` for what needs no answer or is not such a message.
pub(super) fn answer(message: &[u8], card: HardwareAddress, lease: &Lease<'_>) -> Option<Answer> {
    let fixed = message.get(..FIXED_BYTES)?;
    // Ethernet, and the asking card's own address.
    let is_ours = fixed[..3] == [ASKS, 1, 6] && fixed[28..34] == card;
    let options = message.get(FIXED_BYTES..)?.strip_prefix(&COOKIE)?;
    let kind = *find(options, option::KIND)?.first().filter(|_| is_ours)?;
    let address_at =
        |at: usize| Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]);
    let own = address_at(12);
    let address_of = |code| find(options, code).and_then(|it| <[u8; 4]>::try_from(it).ok());
    let is_for_others = address_of(option::SERVER).is_some_and(|it| it != lease.server.octets());
    let wanted = address_of(option::WANTED).map_or(own, Ipv4Addr::from);
    let says = match kind {
        DISCOVER => OFFER,
        INFORM => ACK,
        REQUEST if is_for_others => return None,
        REQUEST if wanted == lease.address => ACK,
        REQUEST => NAK,
        // An address given back or declined is the guest's all the same.
        _ => return None,
    };
    let wants_broadcast = fixed[10] & 0x80 != 0;
    let to = match says {
        NAK => Ipv4Addr::BROADCAST,
        _ if !own.is_unspecified() => lease.address,
        _ if wants_broadcast => Ipv4Addr::BROADCAST,
        _ => lease.address,
    };
    let is_lease = kind != INFORM && says != NAK;
    let mut reply = vec![ANSWERS, 1, 6, 0];
    // Which exchange it is, and how it wants to be answered.
    reply.extend(&fixed[4..8]);
    reply.extend([0, 0]);
    reply.extend(&fixed[10..12]);
    reply.extend(if says == NAK { [0; 4] } else { own.octets() });
    let given = if is_lease {
        lease.address
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    reply.extend(given.octets());
    reply.extend([0; 8]);
    reply.extend(&fixed[28..44]);
    reply.resize(FIXED_BYTES, 0);
    reply.extend(COOKIE);
    reply.extend(options_of(says, is_lease, lease));
    reply.resize(reply.len().max(MESSAGE_BYTES_MIN), option::PAD);
    Some(Answer { message: reply, to })
}

fn options_of(says: u8, is_lease: bool, lease: &Lease<'_>) -> Vec<u8> {
    let mut options = Vec::new();
    let mut add = |code: u8, value: &[u8]| {
        options.extend([code, value.len() as u8]);
        options.extend(value);
    };
    add(option::KIND, &[says]);
    add(option::SERVER, &lease.server.octets());
    if is_lease {
        add(option::LEASE_TIME, &FOR_EVER);
    }
    if says != NAK {
        add(option::MASK, &lease.mask.octets());
        add(option::BROADCAST, &lease.broadcast.octets());
        add(option::RESOLVER, &lease.server.octets());
        // A name has at most 63 bytes.
        add(option::DOMAIN, lease.domain.as_bytes());
    }
    options.push(option::END);
    options
}

/// The value of an option; of one that is given in several parts the first.
fn find(mut options: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        let (&code, rest) = options.split_first()?;
        match code {
            option::END => return None,
            option::PAD => options = rest,
            _ => {
                let (&len, rest) = rest.split_first()?;
                let (value, rest) = rest.split_at_checked(usize::from(len))?;
                if code == wanted {
                    return Some(value);
                }
                options = rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: HardwareAddress = [0x52, 1, 2, 3, 4, 5];

    fn lease() -> Lease<'static> {
        Lease {
            address: [10, 77, 7, 20].into(),
            server: [10, 77, 7, 1].into(),
            mask: [255, 255, 255, 0].into(),
            broadcast: [10, 77, 7, 255].into(),
            domain: "lab",
        }
    }

    /// A message as clients send it.
    fn asks(kind: u8, own: [u8; 4], more: &[u8]) -> Vec<u8> {
        let mut message = vec![ASKS, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0];
        message.extend(own);
        message.extend([0; 12]);
        message.extend(CARD);
        message.resize(FIXED_BYTES, 0);
        message.extend(COOKIE);
        message.extend([option::PAD, option::KIND, 1, kind]);
        message.extend(more);
        message.push(option::END);
        message
    }

    /// The kind of the answer, what it gives, and whom it is sent to.
    fn check(message: &[u8], expected: Option<(u8, [u8; 4], [u8; 4])>) {
        let got = answer(message, CARD, &lease());
        let seen = got.as_ref().map(|got| {
            let options = &got.message[FIXED_BYTES + 4..];
            let kind = find(options, option::KIND).unwrap()[0];
            (
                kind,
                got.message[16..20].try_into().unwrap(),
                got.to.octets(),
            )
        });
        assert_eq!(seen, expected);
        if let Some(got) = got {
            assert_eq!(got.message[4..8], [0xde, 0xad, 0xbe, 0xef]);
            assert_eq!(got.message[28..34], CARD);
            assert!(got.message.len() >= MESSAGE_BYTES_MIN);
        }
    }

    #[test]
    fn a_client_gets_the_address_that_is_its_own_and_no_other() {
        let own = [10, 77, 7, 20];
        let everybody = [255; 4];
        check(&asks(DISCOVER, [0; 4], &[]), Some((OFFER, own, own)));
        let mut loud = asks(DISCOVER, [0; 4], &[]);
        loud[10] = 0x80;
        check(&loud, Some((OFFER, own, everybody)));
        let wants = |address: [u8; 4], server: u8| {
            let mut more = vec![option::WANTED, 4];
            more.extend(address);
            more.extend([option::SERVER, 4, 10, 77, 7, server]);
            asks(REQUEST, [0; 4], &more)
        };
        check(&wants(own, 1), Some((ACK, own, own)));
        check(&wants([10, 77, 7, 21], 1), Some((NAK, [0; 4], everybody)));
        check(&wants(own, 9), None);
        // One that renews.
        check(&asks(REQUEST, own, &[]), Some((ACK, own, own)));
        check(
            &asks(REQUEST, [10, 0, 2, 15], &[]),
            Some((NAK, [0; 4], everybody)),
        );
        check(&asks(INFORM, own, &[]), Some((ACK, [0; 4], own)));
        // Declined, given back.
        check(&asks(4, own, &[]), None);
        check(&asks(7, own, &[]), None);
    }

    #[test]
    fn a_lease_says_all_that_a_guest_needs_and_no_way_out() {
        let got = answer(&asks(DISCOVER, [0; 4], &[]), CARD, &lease()).unwrap();
        let options = &got.message[FIXED_BYTES + 4..];
        let check = |code, expected: &[u8]| assert_eq!(find(options, code), Some(expected));
        check(option::MASK, &[255, 255, 255, 0]);
        check(option::RESOLVER, &[10, 77, 7, 1]);
        check(option::SERVER, &[10, 77, 7, 1]);
        check(option::DOMAIN, b"lab");
        check(option::LEASE_TIME, &FOR_EVER);
        // A router.
        assert_eq!(find(options, 3), None);
    }

    #[test]
    fn what_is_no_question_of_this_client_is_not_answered() {
        let whole = asks(DISCOVER, [0; 4], &[]);
        for len in 0..whole.len() - 2 {
            assert_eq!(answer(&whole[..len], CARD, &lease()), None, "{len}");
        }
        let mut other_card = whole.clone();
        other_card[33] ^= 1;
        assert_eq!(answer(&other_card, CARD, &lease()), None);
        let mut an_answer = whole.clone();
        an_answer[0] = ANSWERS;
        assert_eq!(answer(&an_answer, CARD, &lease()), None);
        let mut cut = whole[..FIXED_BYTES + 4].to_vec();
        cut.extend([option::WANTED, 200, 1]);
        assert_eq!(answer(&cut, CARD, &lease()), None);
    }
}
