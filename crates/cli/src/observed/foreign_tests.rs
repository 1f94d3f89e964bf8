//! What of another's process is handed over, and what is not.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use fleet::foreign::Kind;

use super::*;

const PERM: i32 = 1;

/// This very process, as if it were somebody's VM.
fn process(qmp: Option<&Path>) -> Giver {
    let vm = Foreign {
        kind: Kind::Qemu,
        name: "theirs".to_owned(),
        runtime: None,
        pid: std::process::id(),
        uid: 0,
        engine: None,
        cpus: None,
        uptime_seconds: None,
        cpu_seconds: None,
        memory_believed_bytes: None,
        memory_held_bytes: None,
        memory_swapped_bytes: None,
        cgroup: None,
        qmp: qmp.into_iter().map(Path::to_owned).collect(),
    };
    Giver::new(Theirs::Process(Box::new(HostProcess::open(vm).unwrap())))
}

fn number(giver: &Giver, asked: OfTheirs) -> i32 {
    let error = giver.give(&asked).expect_err("it is refused");
    error.raw_os_error().unwrap_or(0)
}

#[test]
fn its_memory_is_read_and_not_written() {
    use std::os::unix::fs::FileExt;
    let giver = process(None);
    let (answered, files) = giver.give(&OfTheirs::Memory).unwrap();
    let [memory, pagemap] = <[OwnedFd; 2]>::try_from(files).unwrap().map(File::from);
    assert_eq!(answered, Answered::Done);
    let seen = [0x5a_u8; 8];
    let mut read = [0; 8];
    memory
        .read_exact_at(&mut read, seen.as_ptr() as u64)
        .unwrap();
    assert_eq!(read, seen);
    for file in [memory, pagemap] {
        assert!(file.write_at(&read, seen.as_ptr() as u64).is_err());
    }
    let (_, files) = giver.give(&OfTheirs::Text(ProcessText::Maps)).unwrap();
    let text = contents(&File::from(files.into_iter().next().unwrap())).unwrap();
    assert!(String::from_utf8(text).unwrap().contains("[stack]"));
    match giver.give(&OfTheirs::Found).unwrap().0 {
        Answered::Theirs(Told::Found(vm, false)) => assert_eq!(vm.pid, std::process::id()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_of_its_process_that_are_no_ram_are_not_handed_over() {
    let giver = process(None);
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 << 20).unwrap();
    use std::os::unix::fs::MetadataExt;
    // It is open, and there is no mapping of it; who asks says there is.
    let claimed = Mapping {
        start: 0x7000_0000,
        len_bytes: 64 << 20,
        is_shared: true,
        inode: file.metadata().unwrap().ino(),
        file_offset: 0,
    };
    assert!(giver.give(&OfTheirs::Behind(claimed)).is_err());
    assert_eq!(number(&giver, OfTheirs::Container), PERM);
}

#[test]
fn over_qmp_nothing_is_said_but_questions_and_to_nobody_but_qemu() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qmp");
    let check = |greeting: &'static str, is_qemu: bool| {
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            stream.get_mut().write_all(greeting.as_bytes()).unwrap();
            let mut heard = String::new();
            stream.read_line(&mut heard).unwrap();
            stream.read_to_string(&mut heard).unwrap();
            heard
        });
        let giver = process(Some(&path));
        // Before there is a connection, and before somebody has greeted.
        assert_ne!(number(&giver, OfTheirs::Line), 0);
        giver.give(&OfTheirs::Connect).unwrap();
        assert_eq!(number(&giver, OfTheirs::Say(QmpCommand::Begin)), PERM);
        let (line, _) = giver.give(&OfTheirs::Line).unwrap();
        let said = Answered::Theirs(Told::Line(greeting.as_bytes().to_vec()));
        assert_eq!(line, said, "as it is");
        for order in [QmpCommand::Stop, QmpCommand::Continue] {
            assert_eq!(number(&giver, OfTheirs::Say(order)), PERM);
        }
        let began = giver.give(&OfTheirs::Say(QmpCommand::Begin));
        assert_eq!(began.is_ok(), is_qemu, "{greeting}");
        drop(giver);
        let heard = server.join().unwrap();
        assert_eq!(heard.contains("qmp_capabilities"), is_qemu, "{heard}");
        std::fs::remove_file(&path).unwrap();
    };
    check("{\"QMP\": {\"version\": {}}}\n", true);
    check("{ \"QMP\" : {} }\n", true);
    check("220 mail\n", false);
    check("{\"greeting\": \"QMP\"}\n", false);
}
