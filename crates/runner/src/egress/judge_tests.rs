//! What passes, what does not, and what a guest gets to hear.

use machine::{AllowedName, AllowedNetwork};

use super::*;

const GUEST: [u8; 4] = [10, 0, 2, 15];

/// A frame between the guest and `other`.
fn frame(from: [u8; 4], to: [u8; 4], protocol: u8, segment: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    frame.extend((20 + segment.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend(from);
    frame.extend(to);
    frame.extend(segment);
    frame
}

fn tcp(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut segment = from.to_be_bytes().to_vec();
    segment.extend(to.to_be_bytes());
    segment.extend([0; 8]);
    segment.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    segment
}

fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let mut segment = from.to_be_bytes().to_vec();
    segment.extend(to.to_be_bytes());
    segment.extend((8 + payload.len() as u16).to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(payload);
    segment
}

const SYN: u8 = 2;
const ACK: u8 = 0x10;

fn judge() -> Judge {
    let network = |address: [u8; 4], bits, port| AllowedNetwork {
        address: address.into(),
        bits,
        port,
    };
    Judge::new(EgressPlan {
        networks: vec![
            network([192, 0, 2, 0], 24, Some(443)),
            network([198, 51, 100, 7], 32, None),
        ],
        names: vec![AllowedName {
            name: "deb.example.org".to_owned(),
            addresses: vec![[203, 0, 113, 9].into()],
            port: Some(80),
        }],
        served: vec![(Served::Tcp, 80), (Served::Udp, 5353)],
    })
}

/// What becomes of a frame, in a word.
fn said(judge: &mut Judge, frame: &[u8]) -> String {
    match judge.outward(frame, Instant::now()) {
        Verdict::Passes => "passes".to_owned(),
        Verdict::Ignored => "ignored".to_owned(),
        Verdict::Answered(_) => "answered".to_owned(),
        Verdict::Refused(refusal) => refusal.to,
    }
}

fn check(to: [u8; 4], protocol: u8, segment: &[u8], expected: &str) {
    let frame = frame(GUEST, to, protocol, segment);
    assert_eq!(said(&mut judge(), &frame), expected);
}

#[test]
fn what_is_listed_passes_and_nothing_else() {
    check([192, 0, 2, 77], TCP, &tcp(4000, 443, SYN), "passes");
    check([192, 0, 2, 77], UDP, &udp(4000, 443, &[]), "passes");
    check(
        [192, 0, 2, 77],
        TCP,
        &tcp(4000, 80, SYN),
        "TCP 192.0.2.77:80",
    );
    check(
        [192, 0, 3, 77],
        TCP,
        &tcp(4000, 443, SYN),
        "TCP 192.0.3.77:443",
    );
    check([192, 0, 2, 77], ICMP, &[8, 0, 0, 0], "ICMP 192.0.2.77");
    check([198, 51, 100, 7], ICMP, &[8, 0, 0, 0], "passes");
    check([198, 51, 100, 7], 47, &[], "passes");
    check([198, 51, 100, 8], 47, &[], "protocol 47 198.51.100.8");
    check([203, 0, 113, 9], TCP, &tcp(4000, 80, SYN), "passes");
    check(
        [203, 0, 113, 9],
        TCP,
        &tcp(4000, 81, SYN),
        "TCP 203.0.113.9:81",
    );
    check([10, 0, 2, 2], TCP, &tcp(4000, 22, SYN), "TCP 10.0.2.2:22");
    // An address of its own by DHCP, and what a wire with nobody on it carries to no one.
    check([255; 4], UDP, &udp(68, 67, &[]), "passes");
    check([10, 0, 2, 2], UDP, &udp(68, 67, &[]), "passes");
    check([192, 0, 3, 7], UDP, &udp(68, 67, &[]), "UDP 192.0.3.7:67");
    check([255; 4], UDP, &udp(68, 68, &[]), "ignored");
    check([224, 0, 0, 251], UDP, &udp(5353, 5353, &[]), "ignored");
    check([10, 0, 2, 255], UDP, &udp(137, 137, &[]), "ignored");
}

#[test]
fn a_packet_that_nobody_understands_goes_nowhere() {
    let whole = frame(GUEST, [198, 51, 100, 7], TCP, &tcp(4000, 443, SYN));
    let with = |at: usize, byte: u8| {
        let mut frame = whole.clone();
        frame[at] = byte;
        said(&mut judge(), &frame)
    };
    let unclear = "198.51.100.7, by a packet in pieces or without sense";
    // Version 6, a header of 16 bytes, one longer than the packet, a part of a packet, more to come.
    assert_eq!(with(14, 0x65), unclear);
    assert_eq!(with(14, 0x44), unclear);
    assert_eq!(with(14, 0x4f), unclear);
    assert_eq!(with(21, 1), unclear);
    assert_eq!(with(20, 0x20), unclear);
    assert_eq!(with(17, 200), unclear, "longer than what came");
    for len in 14..whole.len() {
        assert_ne!(said(&mut judge(), &whole[..len]), "passes", "{len}");
    }
    // IPv6, VLANs and the rest have nobody here.
    assert_eq!(with(12, 0x86), "ignored");
    assert_eq!(with(13, 0x06), "passes", "ARP");
}

#[test]
fn who_comes_in_is_answered_and_no_one_else() {
    let client = [192, 168, 7, 7];
    let other = [192, 168, 7, 8];
    let mut judge = judge();
    let now = Instant::now();
    let answer = frame(GUEST, client, TCP, &tcp(80, 50_000, SYN | ACK));
    let to_client = "TCP 192.168.7.7:50000";
    assert_eq!(said(&mut judge, &answer), to_client);
    judge.inward(&frame(client, GUEST, TCP, &tcp(50_000, 80, SYN)), now);
    assert_eq!(said(&mut judge, &answer), "passes");
    let opens = frame(GUEST, client, TCP, &tcp(80, 50_000, SYN));
    assert_eq!(said(&mut judge, &opens), to_client, "it opens one itself");
    let elsewhere = frame(GUEST, other, TCP, &tcp(80, 50_000, ACK));
    assert_eq!(said(&mut judge, &elsewhere), "TCP 192.168.7.8:50000");
    // A port that nothing leads to gives nobody leave.
    judge.inward(&frame(other, GUEST, TCP, &tcp(50_000, 22, SYN)), now);
    let answer = frame(GUEST, other, TCP, &tcp(22, 50_000, ACK));
    assert_eq!(said(&mut judge, &answer), "TCP 192.168.7.8:50000");
    // UDP has no end; its leave has one.
    judge.inward(&frame(other, GUEST, UDP, &udp(9, 5353, &[])), now);
    let answer = frame(GUEST, other, UDP, &udp(5353, 9, &[]));
    assert_eq!(said(&mut judge, &answer), "passes");
    let later = now + UDP_TIME;
    assert!(matches!(judge.outward(&answer, later), Verdict::Refused(_)));
}

#[test]
fn a_flood_from_outside_takes_no_more_than_its_room() {
    let mut judge = judge();
    let now = Instant::now();
    for n in 0..2 * PEERS_MAX {
        let [.., high, low] = (n as u32).to_be_bytes();
        let segment = tcp(50_000, 80, SYN);
        let at = now + Duration::from_millis(n as u64);
        judge.inward(&frame([192, 168, high, low], GUEST, TCP, &segment), at);
    }
    assert_eq!(judge.peers.len(), PEERS_MAX);
    let [.., high, low] = (2 * PEERS_MAX as u32 - 1).to_be_bytes();
    let last = frame(GUEST, [192, 168, high, low], TCP, &tcp(80, 50_000, ACK));
    assert_eq!(said(&mut judge, &last), "passes");
}

#[test]
fn a_refused_guest_is_told() {
    let mut judge = judge();
    let asked = frame(GUEST, [192, 0, 3, 1], TCP, &tcp(4000, 25, SYN));
    let Verdict::Refused(refusal) = judge.outward(&asked, Instant::now()) else {
        panic!("it is not listed");
    };
    let reply = refusal.reply.unwrap();
    assert_eq!((&reply[..6], &reply[6..12]), (&asked[6..12], &asked[..6]));
    assert_eq!(
        (&reply[26..30], &reply[30..34]),
        (&GATEWAY.octets()[..], &GUEST[..])
    );
    assert_eq!(reply[23], ICMP);
    assert_eq!(reply[34..36], [3, 13], "administratively prohibited");
    assert_eq!(reply[42..70], asked[14..42], "about which packet");
    // Both checksums are right: the sum over all is all ones (RFC 1071).
    let sum = |bytes: &[u8]| {
        let words = bytes
            .chunks(2)
            .map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])));
        let sum: u32 = words.sum();
        (sum & 0xffff) + (sum >> 16)
    };
    assert_eq!((sum(&reply[14..34]), sum(&reply[34..])), (0xffff, 0xffff));
    // About a message of ICMP nothing is said.
    let unreachable = frame(GUEST, [192, 0, 3, 1], ICMP, &[3, 1, 0, 0]);
    let Verdict::Refused(refusal) = judge.outward(&unreachable, Instant::now()) else {
        panic!("it is not listed");
    };
    assert_eq!(refusal.reply, None);
}

#[test]
fn a_name_is_answered_whoever_was_asked() {
    let question = |name: &str| {
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend(label.bytes());
        }
        message.extend([0, 0, 1, 0, 1]);
        message
    };
    let asked = |to, name: &str| frame(GUEST, to, UDP, &udp(4000, 53, &question(name)));
    let mut judge = judge();
    let listed = asked([8, 8, 8, 8], "deb.example.org");
    let Verdict::Answered(reply) = judge.outward(&listed, Instant::now()) else {
        panic!("its name is listed");
    };
    assert_eq!(
        (&reply[26..30], &reply[30..34]),
        (&[8, 8, 8, 8][..], &GUEST[..])
    );
    assert_eq!(reply[34..38], [0, 53, 0x0f, 0xa0], "the ports");
    assert_eq!(reply[reply.len() - 4..], [203, 0, 113, 9]);
    let secret = asked([10, 0, 2, 3], "my-secret.evil.example");
    assert_eq!(
        said(&mut judge, &secret),
        "the name \"my-secret.evil.example\""
    );
    let by_tcp = frame(GUEST, [8, 8, 8, 8], TCP, &tcp(4000, 53, SYN));
    assert_eq!(said(&mut judge, &by_tcp), "TCP 8.8.8.8:53");
    // A resolver on the list is asked itself.
    let of_its_own = asked([198, 51, 100, 7], "anything");
    assert_eq!(said(&mut judge, &of_its_own), "passes");
}

#[test]
fn no_byte_of_a_packet_opens_what_is_not_listed() {
    let mut judge = judge();
    let now = Instant::now();
    let segments = [tcp(4000, 443, SYN), udp(4000, 53, &[0; 40])];
    let wholes = segments.iter().flat_map(|segment| {
        [TCP, UDP, ICMP].map(|protocol| frame(GUEST, [192, 0, 3, 7], protocol, segment))
    });
    for whole in wholes {
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut changed = whole.clone();
                changed[at] = byte;
                let to: [u8; 4] = changed[30..34].try_into().unwrap();
                let is_listed = to[..3] == [192, 0, 2] || to == [192, 0, 3, 7] && at == 13;
                let passes = judge.outward(&changed, now) == Verdict::Passes;
                assert!(!passes || is_listed, "{at} {byte}");
                judge.inward(&changed, now);
            }
        }
    }
}

/// Frames with bytes exchanged, cut and added: none may end the process, whatever is made of it, and none that is let out may
/// lead where nothing is listed.
#[test]
fn frames_that_somebody_has_changed_are_judged_like_others() {
    let name = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03deb\x07example\x03org\0\0\x01\0\x01";
    let seeds = [
        frame(GUEST, [192, 0, 2, 77], TCP, &tcp(4000, 443, SYN)),
        frame(GUEST, [203, 0, 113, 9], UDP, &udp(4000, 80, &[7; 40])),
        frame(GUEST, [10, 0, 2, 3], UDP, &udp(4000, 53, name)),
        frame(GUEST, [192, 0, 3, 7], ICMP, &[8, 0, 0, 0, 1, 2, 3, 4]),
    ];
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 11) as usize % below
    };
    let mut judge = judge();
    let mut passed = 0;
    for n in 0..200_000 {
        let mut frame = seeds[n % seeds.len()].clone();
        for _ in 0..1 + random(4) {
            let at = random(frame.len());
            match random(4) {
                0 => frame.truncate(at.max(1)),
                1 => frame.insert(at, random(256) as u8),
                2 => frame[at] = [0, 1, 0x7f, 0x80, 0xff][random(5)],
                _ => frame[at] ^= 1 << random(8),
            }
        }
        judge.inward(&frame, Instant::now());
        if said(&mut judge, &frame) == "passes" {
            passed += 1;
            let is_arp = frame.get(12..14) == Some(&[8, 6]);
            assert!(is_arp || frame.len() >= ETHERNET_BYTES + 20, "{frame:?}");
        }
    }
    assert!(passed > 1000, "{passed} passed: some are what they were");
}
