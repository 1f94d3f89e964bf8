//! Every message comes as it was sent.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use api::{EndKind, OnNetwork, VmSpec};
use machine::{EngineFinding, EngineKind, HostFindings};
use serde::de::DeserializeOwned;

use super::*;
use crate::ending;

/// Through a channel and back.
fn sent<T: Serialize + DeserializeOwned>(message: &T) -> T {
    let (one, other) = Channel::pair().unwrap();
    one.send(message, &[]).unwrap();
    other.receive().unwrap().unwrap().0
}

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(messages: &[T]) {
    for message in messages {
        assert_eq!(&sent(message), message);
    }
}

fn name() -> VmName {
    VmName::new("web").unwrap()
}

fn jail() -> Jail {
    Jail {
        tier: "landlock".to_owned(),
        landlock_abi: 7,
        missing: vec!["an empty root".to_owned()],
    }
}

fn ended() -> Box<Ended> {
    let mut ended = ending::of_vanished("web", "a \u{1b}[2J, a \0 and an \u{e4}");
    ended.end.kind = EndKind::Died;
    Box::new(ended)
}

#[test]
fn what_is_said_arrives_as_it_was_said() {
    check(&[
        FromClient::Stop(StopCause::Signal(15)),
        FromClient::PowerOff { grace_ms: u64::MAX },
        FromClient::Resize {
            rows: 24,
            columns: 80,
        },
        FromClient::Suspend,
        FromClient::GoOn,
    ]);
    check(&[
        ToClient::Serving { name: name() },
        ToClient::Started,
        ToClient::Ended(ended()),
    ]);
    let info = VmInfo {
        name: name(),
        pid: 7,
        mother: "1".to_owned(),
        engine: "soft".to_owned(),
        vcpus: 2,
        memory_given_bytes: 1 << 40,
        started_at: 1_795_961_376.002_156_3, // A time whose last digit a fast reader of numbers loses.
        detached: true,
        program: false,
        jail: Some(jail()),
        network: Some(OnNetwork {
            name: name(),
            address: [10, 64, 0, 10].into(),
        }),
    };
    check(&[
        ToVm::Serve { info },
        ToVm::Stop(StopCause::GraceOver),
        ToVm::PowerOff { grace_ms: 0 },
        ToVm::Resize {
            rows: 0,
            columns: u16::MAX,
        },
        ToVm::Given {
            labels: vec![Label::Kernel, Label::Base],
            node: None,
        },
        ToVm::Answer {
            number: u64::MAX,
            refusal: Some(111),
        },
        ToVm::Refused { count: u64::MAX },
        ToVm::Network,
        ToVm::Renewed,
        ToVm::Recorded,
    ]);
    check(&[
        FromVm::Built { jail: jail() },
        FromVm::Started,
        FromVm::Asked {
            what: "kill".to_owned(),
        },
        FromVm::Ask {
            number: 0,
            wish: Wish::NextLog,
        },
        FromVm::Ask {
            number: u64::MAX,
            wish: Wish::VsockPort(u32::MAX),
        },
        FromVm::Ended(ended()),
    ]);
}

#[test]
fn what_is_said_of_a_network_arrives_as_it_was_said() {
    let address = [10, 64, 0, 10].into();
    check(&[Join {
        vm: name(),
        card: machine::MacAddress([0x52, 1, 2, 3, 4, 5]),
        had: Some(address),
    }]);
    check(&[NetworkPlan {
        name: name(),
        reserved: vec![(name(), address)],
    }]);
    check(&[
        FromNetwork::Ready(jail()),
        FromNetwork::Joined(address),
        FromNetwork::NoRoom("it is full".to_owned()),
        FromNetwork::Refused {
            count: 1,
            why: vec!["in pieces".to_owned()],
        },
    ]);
}

#[test]
fn a_plan_and_its_paths_arrive_whatever_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join(OsStr::from_bytes(b"k\xffrnel"));
    // A multiboot header (specification 3.1) with nothing behind it but HLT.
    let header: [u32; 8] = [
        0x1bad_b002,
        1 << 16,
        0xe451_4ffe,
        0x10_0000,
        0x10_0000,
        0x10_0021,
        0x10_0021,
        0x10_0020,
    ];
    let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.push(0xf4);
    fs::write(&kernel, bytes).unwrap();
    let spec = VmSpec {
        kernel: Some(kernel.clone()),
        memory: Some("32M".parse().unwrap()),
        ..VmSpec::default()
    };
    let host = HostFindings {
        engines: vec![EngineFinding {
            kind: EngineKind::Soft,
            usable: true,
            why: "it works everywhere".to_owned(),
            help: None,
        }],
        paging: None,
        file_bytes_max: None,
    };
    let plan = machine::plan(&spec, &host).unwrap();
    let launch = Launch {
        name: Some(name()),
        is_kept: true,
        is_detached: false,
        plan: plan.clone(),
        guest: Guest::Commands {
            after: Some("ready".to_owned()),
        },
        window: Some((24, 80)),
        is_raw: false,
        report: Some(kernel.clone()),
        symbols: None,
        origin: None,
        remove: vec![HostPath(kernel.clone())],
        given: vec![Given::Input, Given::Hold],
    };
    let Role::Launcher(came) = sent(&Role::Launcher(Box::new(launch))) else {
        panic!("it was a launcher's");
    };
    assert_eq!(came.plan, plan);
    assert_eq!(came.plan.kernel.path, kernel);
    assert_eq!(
        (came.report.as_ref(), &came.remove[0].0),
        (Some(&kernel), &kernel)
    );
    assert_eq!(came.given, [Given::Input, Given::Hold]);
}
