//! Frames in, and what becomes of them.

use super::*;

const WEB: HardwareAddress = [0x52, 0, 0, 0, 0, 1];
const DB: HardwareAddress = [0x52, 0, 0, 0, 0, 2];
const STRANGER: HardwareAddress = [0x52, 0, 0, 0, 0, 9];

const TCP: u8 = 6;
const IGMP: u8 = 2;
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// A network with two VMs on it.
struct Lab {
    switch: Switch,
    web: PortId,
    db: PortId,
    web_at: Ipv4Addr,
    db_at: Ipv4Addr,
    server: Ipv4Addr,
    all: Ipv4Addr,
}

fn lab() -> Lab {
    let mut switch = Switch::new("lab");
    let (web, web_at) = switch.join("web", WEB).unwrap();
    let (db, db_at) = switch.join("db", DB).unwrap();
    let subnet = Subnet::of("lab");
    Lab {
        switch,
        web,
        db,
        web_at,
        db_at,
        server: subnet.server(),
        all: subnet.broadcast(),
    }
}

fn ends(
    from_card: HardwareAddress,
    to_card: HardwareAddress,
    from: Ipv4Addr,
    to: Ipv4Addr,
) -> Ends {
    Ends {
        from_card,
        to_card,
        from,
        to,
    }
}

/// What becomes of a frame of web's, in a word.
fn word(lab: &Lab, frame: &[u8]) -> String {
    match lab.switch.frame(lab.web, frame) {
        Verdict::To(id) if id == lab.db => "to db".to_owned(),
        Verdict::To(_) => "to itself".to_owned(),
        Verdict::ToOthers => "to all".to_owned(),
        Verdict::Answered(_) => "answered".to_owned(),
        Verdict::Ignored => "ignored".to_owned(),
        Verdict::Refused(refusal) => {
            let said = if refusal.reply.is_some() {
                ", said"
            } else {
                ""
            };
            format!("refused{said}: {}", refusal.why)
        }
    }
}

/// A question or an answer for the card of an address.
fn arp_frame(
    is_request: bool,
    from_card: HardwareAddress,
    from: Ipv4Addr,
    about: Ipv4Addr,
) -> Vec<u8> {
    let mut frame = [&EVERYBODY[..], &WEB, &[8, 6, 0, 1, 8, 0, 6, 4, 0]].concat();
    frame.push(if is_request { 1 } else { 2 });
    frame.extend(from_card);
    frame.extend(from.octets());
    frame.extend([0; 6]);
    frame.extend(about.octets());
    frame
}

fn tcp() -> Vec<u8> {
    let mut segment = vec![0x30, 0x39, 0, 80];
    segment.extend([0; 8]);
    segment.extend([0x50, 2, 0, 0, 0, 0, 0, 0]);
    segment
}

#[test]
fn a_frame_goes_to_whose_card_it_names_and_to_nobody_else() {
    let lab = lab();
    let check = |to_card, to, expected: &str| {
        let frame = ends(WEB, to_card, lab.web_at, to).frame(TCP, &tcp());
        assert_eq!(word(&lab, &frame), expected, "{to}");
    };
    check(DB, lab.db_at, "to db");
    check(STRANGER, lab.db_at, "ignored");
    check(EVERYBODY, lab.db_at, "ignored");
    check(EVERYBODY, Ipv4Addr::BROADCAST, "to all");
    check(EVERYBODY, lab.all, "to all");
    check([1, 0, 0x5e, 0, 0, 0xfb], [224, 0, 0, 251].into(), "to all");
}

#[test]
fn a_guest_sends_as_itself_or_not_at_all() {
    let lab = lab();
    let check = |from_card, from: Ipv4Addr, expected: &str| {
        let frame = ends(from_card, DB, from, lab.db_at).frame(TCP, &tcp());
        assert_eq!(word(&lab, &frame), expected, "{from}");
    };
    let other_card = "refused: from another card's address than its own";
    let other_address = "refused: from an address that is not its own";
    check(WEB, lab.web_at, "to db");
    check(DB, lab.web_at, other_card);
    check(STRANGER, lab.web_at, other_card);
    check(OWN_CARD, lab.server, other_card);
    check(WEB, lab.db_at, other_address);
    check(WEB, lab.server, other_address);
    check(WEB, OUTSIDE, other_address);
    check(WEB, NOBODY, "ignored");
    // Before it has an address a guest says which groups it listens to.
    let group = [224, 0, 0, 22].into();
    let report = ends(WEB, [1, 0, 0x5e, 0, 0, 0x16], NOBODY, group).frame(IGMP, &[0x22, 0, 0, 0]);
    assert_eq!(word(&lab, &report), "ignored");
}

#[test]
fn what_is_not_whole_goes_nowhere() {
    let lab = lab();
    let whole = ends(WEB, DB, lab.web_at, lab.db_at).frame(TCP, &tcp());
    let mut first_piece = whole.clone();
    first_piece[20] |= 0x20;
    assert_eq!(
        word(&lab, &first_piece),
        "refused: in pieces or without sense"
    );
    for len in 12..whole.len() {
        let seen = word(&lab, &whole[..len]);
        assert!(
            seen == "ignored" || seen.starts_with("refused"),
            "{len}: {seen}"
        );
    }
    for len in 0..12 {
        assert!(word(&lab, &whole[..len]).starts_with("refused"), "{len}");
    }
    for kind in [[0x86, 0xdd], [0x81, 0], [0x88, 0xcc]] {
        let mut other = whole.clone();
        other[12..14].copy_from_slice(&kind);
        assert_eq!(word(&lab, &other), "ignored", "{kind:x?}");
    }
}

#[test]
fn the_switch_alone_says_which_card_has_an_address() {
    let lab = lab();
    let check = |frame: &[u8], expected: &str| assert_eq!(word(&lab, frame), expected);
    let claims = "refused: that claims another's address (ARP)";
    let answered = |about, card: Option<HardwareAddress>| {
        let frame = arp_frame(true, WEB, lab.web_at, about);
        let got = match lab.switch.frame(lab.web, &frame) {
            Verdict::Answered(frame) => {
                assert_eq!(frame[..6], WEB);
                assert_eq!(
                    frame[6..12],
                    frame[22..28],
                    "who sends it is who it is about"
                );
                assert_eq!(frame[28..32], about.octets());
                Some(frame[22..28].try_into().unwrap())
            }
            other => {
                assert_eq!(other, Verdict::Ignored);
                None
            }
        };
        assert_eq!(got, card, "{about}");
    };
    answered(lab.db_at, Some(DB));
    answered(lab.server, Some(OWN_CARD));
    answered(OUTSIDE, None);
    answered(lab.all, None);
    // Whether its own address is free: it is its own.
    answered(lab.web_at, None);
    check(&arp_frame(true, WEB, NOBODY, lab.web_at), "ignored");
    check(&arp_frame(true, WEB, NOBODY, lab.db_at), "answered");
    check(&arp_frame(true, WEB, lab.db_at, lab.db_at), claims);
    check(&arp_frame(true, DB, lab.web_at, lab.db_at), claims);
    check(&arp_frame(false, WEB, lab.server, lab.db_at), claims);
    check(&arp_frame(false, STRANGER, lab.db_at, lab.web_at), claims);
    check(&arp_frame(false, WEB, lab.web_at, lab.db_at), "ignored");
    check(
        &arp_frame(true, WEB, lab.web_at, lab.db_at)[..40],
        "ignored",
    );
}

/// A message of a DHCP client with this card.
fn discover(card: HardwareAddress) -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0, 1, 2, 3, 4];
    message.resize(28, 0);
    message.extend(card);
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    message
}

#[test]
fn addresses_come_from_the_switch_alone() {
    let lab = lab();
    let from_nobody = |card| {
        let ends = ends(WEB, EVERYBODY, NOBODY, Ipv4Addr::BROADCAST);
        ends.udp(68, 67, &discover(card))
    };
    let Verdict::Answered(offer) = lab.switch.frame(lab.web, &from_nobody(WEB)) else {
        panic!("no offer");
    };
    assert_eq!(offer[..12], [&WEB[..], &OWN_CARD].concat());
    assert_eq!(offer[26..30], lab.server.octets());
    assert_eq!(offer[34..38], [0, 67, 0, 68]);
    assert_eq!(
        offer[42 + 16..42 + 20],
        lab.web_at.octets(),
        "the address it is given"
    );
    // For somebody else's card it gets nothing, and nobody hears that it asked.
    assert_eq!(word(&lab, &from_nobody(DB)), "ignored");
    let renewal = ends(WEB, OWN_CARD, lab.web_at, lab.server).udp(68, 67, &discover(WEB));
    assert_eq!(word(&lab, &renewal), "answered");
    let gives = "refused: that gives out addresses (DHCP)";
    for to_card in [DB, EVERYBODY] {
        let offer = ends(WEB, to_card, lab.web_at, Ipv4Addr::BROADCAST).udp(67, 68, &[2]);
        assert_eq!(word(&lab, &offer), gives);
    }
    let as_switch = ends(WEB, DB, lab.server, lab.db_at).udp(67, 68, &[2]);
    assert_eq!(
        word(&lab, &as_switch),
        "refused: from an address that is not its own"
    );
}

/// A question for a name, and the addresses and the code of the answer.
fn ask(lab: &Lab, name: &str) -> (u8, Vec<Ipv4Addr>) {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    let frame = ends(WEB, OWN_CARD, lab.web_at, lab.server).udp(4000, 53, &message);
    let Verdict::Answered(answer) = lab.switch.frame(lab.web, &frame) else {
        panic!("{name}: no answer");
    };
    assert_eq!(answer[34..38], [0, 53, 0x0f, 0xa0]);
    let answer = &answer[42..];
    let rest = answer[message.len()..].chunks(16);
    let addresses = rest.map(|it| <[u8; 4]>::try_from(&it[12..16]).unwrap().into());
    (answer[3] & 15, addresses.collect())
}

#[test]
fn names_of_the_network_are_answered_and_no_others() {
    let mut lab = lab();
    const REFUSED: u8 = 5;
    assert_eq!(ask(&lab, "db"), (0, vec![lab.db_at]));
    assert_eq!(ask(&lab, "DB.lab"), (0, vec![lab.db_at]));
    assert_eq!(ask(&lab, "web"), (0, vec![lab.web_at]));
    for name in ["lab", "db.other", "a.db.lab", "example.org", "mail"] {
        assert_eq!(ask(&lab, name), (REFUSED, vec![]), "{name}");
    }
    lab.switch.leave(lab.db);
    assert_eq!(ask(&lab, "db"), (REFUSED, vec![]));
}

#[test]
fn the_network_leads_nowhere_else() {
    let lab = lab();
    let check = |to: Ipv4Addr, protocol, segment: &[u8], expected: &str| {
        let frame = ends(WEB, OWN_CARD, lab.web_at, to).frame(protocol, segment);
        assert_eq!(word(&lab, &frame), expected, "{to}");
    };
    let elsewhere = "refused, said: for a place that the network does not lead to";
    let no_service = "refused, said: for a service that the network does not have";
    let echo = [8, 0, 0, 0, 1, 2, 3, 4, 5];
    check(lab.server, ICMP, &echo, "answered");
    check(lab.server, TCP, &tcp(), no_service);
    check(OUTSIDE, TCP, &tcp(), elsewhere);
    check(OUTSIDE, ICMP, &echo, elsewhere);
    check([10, 0, 2, 2].into(), TCP, &tcp(), elsewhere);
    let report = [3, 1, 0, 0, 0, 0, 0, 0];
    check(lab.server, ICMP, &report, &no_service.replace(", said", ""));
    check(OUTSIDE, ICMP, &report, &elsewhere.replace(", said", ""));
    let asks_outside = ends(WEB, OWN_CARD, lab.web_at, OUTSIDE).udp(4000, 53, &[0; 12]);
    assert_eq!(word(&lab, &asks_outside), elsewhere);
}

#[test]
fn an_echo_comes_back_as_it_was_sent() {
    let lab = lab();
    let asked =
        ends(WEB, OWN_CARD, lab.web_at, lab.server).frame(ICMP, &[8, 0, 9, 9, 1, 2, 3, 4, 5]);
    let Verdict::Answered(echo) = lab.switch.frame(lab.web, &asked) else {
        panic!("no echo");
    };
    assert_eq!(echo[..12], [&WEB[..], &OWN_CARD].concat());
    assert_eq!(
        echo[26..34],
        [lab.server.octets(), lab.web_at.octets()].concat()
    );
    assert_eq!((echo[34], &echo[38..]), (0, &[1, 2, 3, 4, 5][..]));
}

#[test]
fn who_comes_gets_a_place_or_hears_why_not() {
    let mut lab = lab();
    let mut check = |vm: &str, card, expected: Option<&str>| {
        let got = lab.switch.join(vm, card).err();
        assert_eq!(got.map(|it| it.0).as_deref(), expected, "{vm}");
    };
    check(
        "more",
        DB,
        Some("the card of VM \"db\" there has the same address"),
    );
    check(
        "more",
        OWN_CARD,
        Some("the card's address is the network's own"),
    );
    check(
        "WEB",
        STRANGER,
        Some("another VM answers to the name \"web\" there"),
    );
    check(
        "db.lab",
        STRANGER,
        Some("another VM answers to the name \"db.lab\" there"),
    );
    check("more", STRANGER, None);
}

/// A card for each number.
fn card(number: u16) -> HardwareAddress {
    let [a, b] = number.to_be_bytes();
    [0x52, 1, 0, 0, a, b]
}

#[test]
fn a_network_takes_as_many_as_it_has_addresses() {
    let mut switch = Switch::new("lab");
    let mut ids = Vec::new();
    let mut addresses = std::collections::BTreeSet::new();
    for number in 0..u16::from(HOSTS_MAX) {
        let (id, address) = switch.join(&format!("vm{number}"), card(number)).unwrap();
        ids.push(id);
        assert!(addresses.insert(address), "{address} is given twice");
    }
    let full = switch.join("one-more", card(999)).unwrap_err();
    assert_eq!(full.0, "240 VMs are on it already");
    // Of those who have gone the first one's address is taken.
    let first = switch.ports[&ids[7]].address;
    switch.leave(ids[7]);
    switch.leave(ids[3]);
    assert_eq!(switch.join("one-more", card(999)).unwrap().1, first);
    assert!(switch.join("vm7", card(7)).is_ok(), "there is vm3's place");
    assert!(switch.join("vm3", card(3)).is_err());
}

#[test]
fn an_address_is_the_same_for_who_comes_again() {
    let mut lab = lab();
    lab.switch.leave(lab.web);
    for number in 0..50 {
        lab.switch
            .join(&format!("vm{number}"), card(number))
            .unwrap();
    }
    assert_eq!(lab.switch.join("web", WEB).unwrap().1, lab.web_at);
}

#[test]
fn a_new_switch_gives_nobody_the_address_of_who_was_there_before() {
    let mut switch = Switch::new("lab");
    let subnet = Subnet::of("lab");
    let liked = subnet.hosts("web").next().unwrap();
    switch.reserve("db", liked);
    // Neither one that is taken, nor one of another network.
    switch.reserve("other", liked);
    switch.reserve("strange", [10, 0, 2, 15].into());
    assert_ne!(switch.join("web", WEB).unwrap().1, liked);
    assert_eq!(switch.join("db", DB).unwrap().1, liked);
    assert!(subnet.is_host(switch.join("strange", STRANGER).unwrap().1));
}

#[test]
fn frames_changed_at_random_do_no_harm() {
    let lab = lab();
    let ask = ends(WEB, OWN_CARD, lab.web_at, lab.server);
    let seeds = [
        ends(WEB, DB, lab.web_at, lab.db_at).frame(TCP, &tcp()),
        arp_frame(true, WEB, lab.web_at, lab.db_at),
        ask.udp(
            4000,
            53,
            &[
                1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, b'd', b'b', 0, 0, 1, 0, 1,
            ],
        ),
        ends(WEB, EVERYBODY, NOBODY, Ipv4Addr::BROADCAST).udp(68, 67, &discover(WEB)),
        ask.frame(ICMP, &[8, 0, 0, 0, 1, 2, 3, 4]),
    ];
    // A generator of Knuth's (MMIX): the same frames each time.
    let mut state = 1_u64;
    let mut random = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for round in 0..200_000 {
        let mut frame = seeds[round % seeds.len()].clone();
        for _ in 0..=random(4) {
            let at = random(frame.len());
            frame[at] = random(256) as u8;
        }
        frame.truncate(14 + random(frame.len()));
        let verdict = lab.switch.frame(lab.web, &frame);
        if let Verdict::To(_) | Verdict::ToOthers = verdict {
            assert_eq!(frame[6..12], WEB);
            assert_eq!(frame[12..14], [8, 0]);
            assert_eq!(frame[26..30], lab.web_at.octets());
        }
    }
}
