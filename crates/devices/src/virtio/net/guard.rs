//! What a guest behind the user-mode backend may not send.
//!
//! The backend turns a guest's packets into sockets of the host, so a packet *to* the host's loopback, which no
//! router would carry, becomes a connection there: `--no-map-gw` of passt takes away the gateway's second meaning and
//! nothing else. These destinations are refused here, where every frame passes:
//!
//! - this host and loopback (RFC 1122, 3.2.1.3: `0.0.0.0/8`, `127.0.0.0/8`; RFC 4291, 2.5.2, 2.5.3 and the mapped
//!   IPv4 addresses of 2.5.5, as sockets understand them);
//! - IPv4 link-local (RFC 3927, 2.7: not to be forwarded), where clouds serve the host's credentials.

/// Whether a frame may leave. Frames that are no IP may: the backend knows ARP and drops the rest.
pub(super) fn may_leave(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(30..34).is_some_and(is_routable_v4),
        Some([0x86, 0xdd]) => frame.get(38..54).is_some_and(is_routable_v6),
        _ => true,
    }
}

fn is_routable_v4(address: &[u8]) -> bool {
    !matches!(address, [0 | 127, ..] | [169, 254, ..])
}

fn is_routable_v6(address: &[u8]) -> bool {
    let is_mapped = address[..10] == [0; 10] && address[10..12] == [0xff; 2];
    let is_low = address[..12] == [0; 12];
    !is_mapped && !is_low
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_guest_cannot_address_the_hosts_own_side() {
        let check = |destination: &str, expected| {
            let frame = match destination.parse::<IpAddr>().unwrap() {
                IpAddr::V4(address) => {
                    [&[0; 12][..], &[8, 0], &[0; 16], &address.octets()].concat()
                }
                IpAddr::V6(address) => {
                    [&[0; 12][..], &[0x86, 0xdd], &[0; 24], &address.octets()].concat()
                }
            };
            assert_eq!(may_leave(&frame), expected, "{destination}");
            assert!(
                !may_leave(&frame[..frame.len() - 1]),
                "a frame cut before its destination ends"
            );
        };
        check("10.0.2.2", true);
        check("255.255.255.255", true);
        check("192.0.2.1", true);
        check("2001:db8::1", true);
        check("ff02::1", true);
        check("127.0.0.1", false);
        check("127.200.1.1", false);
        check("0.0.0.0", false);
        check("0.1.2.3", false);
        check("169.254.169.254", false);
        check("::1", false);
        check("::", false);
        check("::127.0.0.1", false);
        check("::ffff:127.0.0.1", false);
        check("::ffff:10.0.0.1", false);
    }

    #[test]
    fn arp_may_leave() {
        assert!(may_leave(&[&[0xff; 12][..], &[8, 6], &[0; 28]].concat()));
    }
}
