//! The process's work on real sockets, on a thread of the test and without a jail.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use api::VmName;
use fleet::{Inventory, NetworkDoor};
use machine::MacAddress;

use super::*;
use crate::frames::packet::Ends;

const TCP: u8 = 6;

/// A network that is carried by a thread, as long as somebody is on it.
struct Lab {
    _vms: tempfile::TempDir,
    door: NetworkDoor,
    carried: JoinHandle<io::Result<()>>,
    starter: Option<Channel>,
}

fn lab() -> Lab {
    let vms = tempfile::tempdir().unwrap();
    let door = Inventory::at(vms.path()).network(VmName::new("lab").unwrap());
    let lock = door.lock().unwrap();
    let mut hall = Hall {
        switch: Switch::new("lab"),
        members: BTreeMap::new(),
        newcomers: Vec::new(),
        listener: door.listen().unwrap(),
    };
    drop(lock);
    let (starter, started) = Channel::pair().unwrap();
    Lab {
        _vms: vms,
        door,
        carried: thread::spawn(move || hall.carry(started)),
        starter: Some(starter),
    }
}

/// A VM's launcher, and its guest's card.
struct Vm {
    channel: Channel,
    card: OwnedFd,
    mac: [u8; 6],
    address: Ipv4Addr,
    incoming: Incoming,
}

impl Lab {
    fn ask(&self, name: &str, mac: [u8; 6]) -> (Channel, UnixStream, FromNetwork) {
        let channel = Channel::accepted(self.door.connect().unwrap().unwrap());
        let (ours, theirs) = UnixStream::pair().unwrap();
        let join = Join {
            vm: VmName::new(name).unwrap(),
            card: MacAddress(mac),
            had: None,
        };
        channel.send(&join, &[theirs.as_fd()]).unwrap();
        let (said, _) = channel.receive().unwrap().unwrap();
        (channel, ours, said)
    }

    fn join(&self, name: &str, last: u8) -> Vm {
        let mac = [0x52, 0, 0, 0, 0, last];
        let (channel, card, said) = self.ask(name, mac);
        let FromNetwork::Joined(address) = said else {
            panic!("{said:?}");
        };
        card.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Vm {
            channel,
            card: card.into(),
            mac,
            address,
            incoming: Incoming::default(),
        }
    }
}

impl Vm {
    /// A frame to `other` with these bytes in it.
    fn frame_to(&self, other: &Vm, bytes: &[u8]) -> Vec<u8> {
        let ends = Ends {
            from_card: self.mac,
            to_card: other.mac,
            from: self.address,
            to: other.address,
        };
        let segment = [&[0; 12][..], &[0x50, 0x10, 0, 0, 0, 0, 0, 0], bytes].concat();
        ends.frame(TCP, &segment)
    }

    fn send(&self, frame: &[u8]) {
        let bytes = [&(frame.len() as u32).to_be_bytes()[..], frame].concat();
        let mut left = &bytes[..];
        while !left.is_empty() {
            left = &left[rustix::io::write(&self.card, left).unwrap()..];
        }
    }

    /// The next frame that comes.
    fn hear(&mut self) -> Vec<u8> {
        loop {
            if let Some(whole) = self.incoming.next_frame().unwrap() {
                let frame = self.incoming.frame(&whole).to_vec();
                self.incoming.forget();
                return frame;
            }
            assert!(
                self.incoming.fill(&self.card).unwrap(),
                "the card is unplugged"
            );
        }
    }
}

#[test]
fn frames_go_between_vms_until_the_last_one_leaves() {
    let mut lab = lab();
    let mut web = lab.join("web", 1);
    let mut db = lab.join("db", 2);
    for (number, len) in [(1, 0), (2, 1000), (3, 65_000)] {
        let asked = web.frame_to(&db, &vec![number; len]);
        web.send(&asked);
        assert_eq!(db.hear(), asked);
        let answered = db.frame_to(&web, &vec![number; len]);
        db.send(&answered);
        assert_eq!(web.hear(), answered);
    }
    drop(lab.starter.take());
    drop(web);
    // Somebody is still there, and who comes again is taken in.
    let again = lab.join("web", 1);
    db.send(&db.frame_to(&again, &[4]));
    drop((again, db));
    lab.carried.join().unwrap().unwrap();
    assert!(
        lab.door.connect().unwrap().is_none(),
        "nobody listens any more"
    );
}

#[test]
fn a_network_that_nobody_comes_to_ends_with_who_started_it() {
    let lab = lab();
    drop(lab.starter);
    lab.carried.join().unwrap().unwrap();
}

#[test]
fn who_does_not_read_loses_what_is_its_own_and_nothing_of_others() {
    let lab = lab();
    let web = lab.join("web", 1);
    let mut db = lab.join("db", 2);
    let mut deaf = lab.join("deaf", 3);
    let for_deaf = web.frame_to(&deaf, &[7; 60_000]);
    let for_db = web.frame_to(&db, &[8; 100]);
    for _ in 0..400 {
        web.send(&for_deaf);
        web.send(&for_db);
        assert_eq!(db.hear(), for_db);
    }
    // It hears the first of them, and that is not all.
    let mut heard = 0;
    web.send(&web.frame_to(&db, &[9]));
    db.hear();
    while let Ok(true) = deaf.incoming.fill(&deaf.card) {
        while let Some(whole) = deaf.incoming.next_frame().unwrap() {
            assert_eq!(deaf.incoming.frame(&whole), for_deaf);
            heard += 1;
        }
        deaf.incoming.forget();
        if heard > 0 && deaf.incoming.left() == 0 {
            break;
        }
    }
    assert!((1..400).contains(&heard), "{heard}");
}

#[test]
fn what_a_guest_may_not_send_is_told_to_its_launcher() {
    let lab = lab();
    let web = lab.join("web", 1);
    let mut db = lab.join("db", 2);
    let mut forged = web.frame_to(&db, &[1]);
    forged[6..12].copy_from_slice(&db.mac);
    web.send(&forged);
    web.send(&forged);
    let honest = web.frame_to(&db, &[2]);
    web.send(&honest);
    assert_eq!(db.hear(), honest);
    let mut counted = 0;
    let mut reasons = Vec::new();
    while counted < 2 {
        let (said, _) = web.channel.receive().unwrap().unwrap();
        let FromNetwork::Refused { count, why } = said else {
            panic!("{said:?}");
        };
        counted += count;
        reasons.extend(why);
    }
    assert_eq!(counted, 2);
    assert_eq!(reasons, ["from another card's address than its own"]);
}

#[test]
fn who_speaks_nonsense_is_let_go_and_the_others_stay() {
    let lab = lab();
    let web = lab.join("web", 1);
    let db = lab.join("db", 2);
    rustix::io::write(&web.card, &u32::MAX.to_be_bytes()).unwrap();
    assert!(
        web.channel.receive::<FromNetwork>().unwrap().is_none(),
        "its launcher hears of it"
    );
    let (channel, _card, said) = lab.ask("db2", db.mac);
    assert!(matches!(said, FromNetwork::NoRoom(_)), "{said:?}");
    drop(channel);
    // A launcher that says something else.
    let stranger = Channel::accepted(lab.door.connect().unwrap().unwrap());
    stranger.send(&"what is this?", &[]).unwrap();
    assert!(stranger.receive::<FromNetwork>().unwrap().is_none());
    let mut web = lab.join("web", 1);
    let frame = db.frame_to(&web, &[3]);
    db.send(&frame);
    assert_eq!(web.hear(), frame);
}
