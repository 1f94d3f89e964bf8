//! What a broker gives and keeps, and what it does not.

use std::fs;
use std::io::Write;
use std::path::Path;

use std::os::unix::fs::FileExt;

use host::MemFd;
use insight::kept::KEPT_BYTES_MAX;

use watch::foreign::{ProcessText, QmpCommand};

use super::super::requests::OfTheirs;
use super::*;

fn name(name: &str) -> VmName {
    VmName::new(name).unwrap()
}

/// A broker for who looks into `web`, in a folder in which `db` is too.
fn broker(folder: &Path) -> Broker {
    for vm in ["web", "db"] {
        fs::create_dir_all(folder.join(vm)).unwrap();
    }
    let vms = Vms::Named([name("web"), name("gone")].into());
    let profiles = folder.join("profiles");
    Broker::new(Inventory::at(folder), vms, Some(profiles))
}

fn memory(bytes: &[u8]) -> OwnedFd {
    let memory = MemFd::new(c"test", 0).unwrap();
    memory.file().write_all(bytes).unwrap();
    memory.file().try_clone().unwrap().into()
}

const PERM: Answered = Answered::Refused(1);
const DIGEST: [u8; 32] = [7; 32];

#[test]
fn what_is_not_the_commands_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(folder.path());
    let web = || Place::Vm(name("web"));
    let check = |asked: Asked, expected: Answered| {
        let words = format!("{asked:?}");
        let (answered, files) = broker.answer(asked, vec![memory(b"bytes")]);
        assert_eq!(answered, expected, "{words}");
        assert!(files.is_empty(), "{words}");
    };
    check(Asked::Known(Some(name("db"))), PERM);
    check(Asked::Connect(name("db")), PERM);
    check(Asked::Open(Place::Vm(name("db")), Entry::Head), PERM);
    check(Asked::Put(Place::Vm(name("db")), Entry::Head), PERM);
    check(Asked::Remove(Place::Vm(name("db")), Entry::Asked), PERM);
    // Each entry in its own place alone.
    check(Asked::Open(web(), Entry::Profile(DIGEST)), PERM);
    check(Asked::Open(Place::Profiles, Entry::Text), PERM);
    // A profile is what its kernel file says, and not what an observer does.
    check(Asked::Put(Place::Profiles, Entry::Profile(DIGEST)), PERM);
    check(Asked::Put(Place::Profiles, Entry::Code(DIGEST)), PERM);
    check(Asked::Make(DIGEST), Answered::Refused(22));
    check(Asked::Remove(Place::Profiles, Entry::Code(DIGEST)), PERM);
    check(Asked::Remove(web(), Entry::Head), PERM);
    check(Asked::Kernel, PERM);
    // Nobody was typed that somebody else runs, no file of memory, and nothing that is written.
    for asked in [
        OfTheirs::Found,
        OfTheirs::Text(ProcessText::Maps),
        OfTheirs::Memory,
        OfTheirs::Threads,
        OfTheirs::Costs,
        OfTheirs::Connect,
        OfTheirs::Line,
        OfTheirs::Say(QmpCommand::Status),
        OfTheirs::Container,
    ] {
        check(Asked::Theirs(asked), PERM);
    }
    for asked in [Asked::Image, Asked::Output, Asked::KeepOutput, Asked::Keys] {
        check(asked, PERM);
    }
    // What is not there is not made.
    check(
        Asked::Put(Place::Vm(name("gone")), Entry::Head),
        Answered::Refused(5),
    );
    check(Asked::Connect(name("web")), Answered::Refused(2));
    assert!(!folder.path().join("profiles").exists() && !folder.path().join("gone").exists());
}

#[test]
fn what_is_the_commands_is_given_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(folder.path());
    let web = || Place::Vm(name("web"));
    let known = |asked: Asked| match broker.answer(asked, Vec::new()).0 {
        Answered::Known(known) => known.into_iter().map(|it| it.name).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(known(Asked::Known(Some(name("web")))), [name("web")]);
    assert_eq!(
        known(Asked::Known(None)),
        [name("web")],
        "and none of others"
    );
    assert_eq!(known(Asked::Known(Some(name("gone")))), []);
    let (answered, _) = broker.answer(Asked::Put(web(), Entry::Head), vec![memory(b"seen")]);
    assert_eq!(answered, Answered::Done);
    let kept = folder.path().join("web/integrity.head");
    assert_eq!(fs::read(kept).unwrap(), b"seen");
    let (_, files) = broker.answer(Asked::Open(web(), Entry::Head), Vec::new());
    let file = File::from(files.into_iter().next().unwrap());
    assert_eq!(contents(&file).unwrap(), b"seen");
    assert!(file.write_at(b"else", 0).is_err(), "to read");
    // The text has one user at a time.
    let first = broker.answer(Asked::Open(web(), Entry::Text), Vec::new());
    let again = broker.answer(Asked::Open(web(), Entry::Text), Vec::new());
    assert_eq!((first.1.len(), again.0), (1, Answered::Refused(11)));
    drop(first.1);
    let (answered, _) = broker.answer(Asked::Open(web(), Entry::Text), Vec::new());
    assert_eq!(answered, Answered::Done);
}

#[test]
fn what_is_too_long_or_no_file_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(folder.path());
    let check = |file: Vec<OwnedFd>, number: i32| {
        let asked = Asked::Put(Place::Vm(name("web")), Entry::Head);
        let (answered, _) = broker.answer(asked, file);
        assert_eq!(answered, Answered::Refused(number));
    };
    check(Vec::new(), 1);
    check(vec![io::pipe().unwrap().0.into()], 1);
    let long = MemFd::new(c"long", KEPT_BYTES_MAX + 1).unwrap();
    check(vec![long.file().try_clone().unwrap().into()], 27);
    assert!(!folder.path().join("web/integrity.head").exists());
}

#[test]
fn an_odd_digest_is_no_request() {
    let text = |digest: &str| format!("{{\"Open\":[\"Profiles\",{{\"Profile\":{digest}}}]}}");
    let whole = format!("[{}]", ["7"; 32].join(","));
    let read = |text: &str| serde_json::from_str::<Asked>(text);
    let entry = Entry::Profile(DIGEST);
    assert_eq!(
        read(&text(&whole)).unwrap(),
        Asked::Open(Place::Profiles, entry)
    );
    for odd in [
        "[7]",
        "[]",
        "\"../../../etc/passwd\"",
        &whole.replacen('7', "700", 1),
    ] {
        assert!(read(&text(odd)).is_err(), "{odd}");
    }
    assert!(
        read("{\"Connect\":\"../web\"}").is_err(),
        "a name leads nowhere"
    );
}

#[test]
fn of_a_snapshot_its_memory_and_what_says_how_much_that_is_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["snapshot.json", "memory"].map(|name| {
        let path = folder.path().join(name);
        fs::write(&path, name).unwrap();
        File::open(path).unwrap()
    });
    let broker = broker(folder.path()).with_image(files.into());
    let (answered, files) = broker.answer(Asked::Image, Vec::new());
    assert_eq!(answered, Answered::Done);
    let said = files.into_iter().map(File::from).map(|file| {
        assert!(file.write_at(b"else", 0).is_err(), "to read");
        contents(&file).unwrap()
    });
    assert_eq!(
        said.collect::<Vec<_>>(),
        [b"snapshot.json".to_vec(), b"memory".to_vec()]
    );
}
