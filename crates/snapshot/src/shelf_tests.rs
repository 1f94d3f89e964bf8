//! What is on a shelf: named whole or not at all, whatever dies, and removed only when nobody needs it.
//!
//! What has to die is this test program again, which does what [`CHILD`] says in the folder that it names.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::manifest::{Disk, DiskHow, ImageRole, Kind, MANIFEST_FORMAT, Manifest, fresh_id};
use crate::{
    CHUNK_BYTES, Draft, Freed, Held, MemoryParts, MemoryWriter, PAGE_BYTES, Prune, Shelf, Snapshot,
    SnapshotError,
};

/// What a child does, and where.
const CHILD: &str = "SNAPSHOT_TEST_CHILD";
const FOLDER: &str = "SNAPSHOT_TEST_FOLDER";

/// Pages of the guest.
const PAGES: u64 = 40;

const STATE: &[u8] = b"{\"vcpus\":[{\"rip\":4096}],\"board\":{}}";

fn shelf() -> (tempfile::TempDir, Shelf) {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::at(folder.path().join("snapshots"));
    (folder, shelf)
}

/// A chunk that no codec makes smaller.
fn noise() -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..CHUNK_BYTES).map(|_| next()).collect()
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Writes everything that belongs into a snapshot but the manifest, which is returned.
fn fill(draft: &mut Draft, vm: &str) -> Result<Manifest, SnapshotError> {
    let failed = crate::error::error("write", Path::new("memory"));
    let state = draft.write_part("state", STATE)?;
    let write = |draft: &mut Draft| {
        let mut writer = MemoryWriter::new(draft.file("memory")?, PAGES)?;
        writer.put(0, &noise())?;
        writer.put(2, &[9; 8 * PAGE_BYTES])?;
        writer.finish()
    };
    let memory = write(draft).map_err(failed)?.part();
    let kernel = draft.add_image(ImageRole::Kernel, "vmlinuz", &file_of(&[3; 5000]))?;
    let initrd = draft.add_image(ImageRole::Module, "initrd", &file_of(&[4; 300_000]))?;
    let path = draft.path().join("disk0");
    let disk = draft
        .file("disk0")
        .map_err(crate::error::error("create", &path))?;
    disk.set_len(1 << 20)
        .map_err(crate::error::error("write", &path))?;
    Ok(Manifest {
        format: MANIFEST_FORMAT,
        made_by: "0.1.0".to_owned(),
        made_at: 1_780_000_000.5,
        id: fresh_id().unwrap(),
        kind: Kind::Snapshot,
        vm: vm.to_owned(),
        memory_bytes: PAGES * PAGE_BYTES as u64,
        vcpu_count: 1,
        engine: "soft".to_owned(),
        limit_bytes: None,
        spec: json!({ "name": vm, "memory": "160K" }),
        state,
        memory,
        images: vec![kernel, initrd],
        disks: vec![
            Disk {
                slot: 0,
                how: DiskHow::Copy,
                format: "raw".to_owned(),
                virtual_bytes: 1 << 20,
                file: Some("disk0".to_owned()),
                file_bytes: Some(1 << 20),
                fingerprint: None,
                read_only: false,
            },
            Disk {
                slot: 1,
                how: DiskHow::Own,
                format: "raw".to_owned(),
                virtual_bytes: 1 << 20,
                file: None,
                file_bytes: None,
                fingerprint: Some("inode 7, 2026-11-30".to_owned()),
                read_only: true,
            },
        ],
    })
}

fn make(shelf: &Shelf, name: &str) -> Result<Snapshot, SnapshotError> {
    let mut draft = shelf.begin(name)?;
    let manifest = fill(&mut draft, "web")?;
    draft.commit(manifest)
}

fn check_whole(snapshot: &Snapshot) {
    let mut last = 0;
    let go_on = &mut |done| {
        last = done;
        ControlFlow::Continue(())
    };
    snapshot.verify(go_on).unwrap();
    assert_eq!(last, snapshot.verify_steps());
    assert_eq!(snapshot.read_part("state").unwrap(), STATE);
    let memory = snapshot.memory().unwrap();
    let mut chunk = vec![1; CHUNK_BYTES];
    memory.read(1, &mut chunk).unwrap();
    assert!(chunk.iter().all(|byte| *byte == 0));
    memory.read(2, &mut chunk[..8 * PAGE_BYTES]).unwrap();
    assert!(chunk[..8 * PAGE_BYTES].iter().all(|byte| *byte == 9));
    assert!(snapshot.checked_file("module0").is_ok());
    assert!(snapshot.file("disk0").is_ok());
}

/// Names of all that is beside the snapshots, hidden or not.
fn names(shelf: &Shelf) -> Vec<String> {
    let entries = fs::read_dir(shelf.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// This program again, to do `what` at `shelf`, by a shell that runs `before` first.
fn child(what: &str, shelf: &Shelf, before: &str) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{before}exec \"$0\" \"$@\"")]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "shelf_tests::what_a_child_does", "--nocapture"]);
    command.env(CHILD, what).env(FOLDER, shelf.path());
    command.stdout(Stdio::piped()).spawn().unwrap()
}

/// Waits until a child says so.
fn await_word(child: &mut Child, word: &str) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.ends_with(word)));
}

#[test]
fn what_a_child_does() {
    let (Ok(what), Ok(folder)) = (std::env::var(CHILD), std::env::var(FOLDER)) else {
        return;
    };
    let shelf = Shelf::at(folder);
    match what.as_str() {
        "die" => {
            let mut draft = shelf.begin("half").unwrap();
            fill(&mut draft, "web").unwrap();
            println!("\nready");
            std::thread::sleep(Duration::from_secs(600));
        }
        "pass" => {
            let mut draft = shelf.begin("fork-1").unwrap();
            let manifest = fill(&mut draft, "web").unwrap();
            let unnamed = draft.complete_unnamed(manifest).unwrap();
            println!("\nready");
            std::thread::sleep(Duration::from_secs(600));
            drop(unnamed);
        }
        "hold" => {
            let held = shelf.open("base").unwrap().hold().unwrap();
            println!("\nready");
            std::thread::sleep(Duration::from_secs(600));
            drop(held);
        }
        "make" => {
            println!("\nready");
            for number in 0..100_000 {
                let name = format!("s{}-{number}", std::process::id());
                make(&shelf, &name).unwrap();
                if number % 2 == 1 {
                    shelf.remove(&name, false).unwrap();
                }
            }
        }
        _ => {
            let error = make(&shelf, "big").map(drop).unwrap_err();
            println!("\nsaid {error}: {:?}, {:?}", error.help(), names(&shelf));
        }
    }
}

#[test]
fn a_snapshot_gets_its_name_when_it_is_whole() {
    let (_folder, shelf) = shelf();
    let mut draft = shelf.begin("base").unwrap();
    let manifest = fill(&mut draft, "web").unwrap();
    assert!(draft.free_bytes().unwrap() > 0);
    assert!(shelf.list().is_empty(), "it is not there before it is done");
    assert!(draft.path().exists(), "a list leaves living drafts alone");
    let made = draft.commit(manifest.clone()).unwrap();
    assert_eq!(made.manifest(), &manifest);
    assert_eq!(names(&shelf), [".blobs", ".lock", "base"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(shelf.path()), 0o700);
    assert_eq!(mode(made.path()), 0o700);
    for entry in fs::read_dir(made.path()).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    check_whole(&shelf.open("base").unwrap());
    check_whole(&shelf.open(made.path().to_str().unwrap()).unwrap());
    let list = shelf.list();
    let [listed] = &list[..] else {
        panic!("{list:?}")
    };
    assert_eq!(listed.name, "base");
    assert_eq!(listed.manifest.as_ref().unwrap(), &manifest);
    assert!(!listed.in_use && listed.disk_bytes > 300_000);
}

#[test]
fn a_draft_that_is_given_up_leaves_nothing() {
    let (_folder, shelf) = shelf();
    let mut draft = shelf.begin("base").unwrap();
    let mut manifest = fill(&mut draft, "web").unwrap();
    drop(draft);
    assert!(shelf.list().is_empty());
    assert_eq!(
        fs::read_dir(shelf.path().join(".blobs")).unwrap().count(),
        0
    );
    let mut draft = shelf.begin("base").unwrap();
    manifest.state = fill(&mut draft, "web").unwrap().state;
    manifest.memory.bytes += 1;
    let error = draft.commit(manifest).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the part \"memory\" of snapshot \"base\"")
    );
    assert_eq!(names(&shelf), [".blobs", ".lock"]);
}

#[test]
fn a_name_is_given_once() {
    let (_folder, shelf) = shelf();
    let check = |name: &str, expected: &str| {
        let error = shelf.begin(name).map(drop).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(error.help().is_some());
    };
    check("../base", "\"../base\" cannot be a snapshot's name");
    check(".hidden", "\".hidden\" cannot be a snapshot's name");
    let mut draft = shelf.begin("base").unwrap();
    let writing = format!(
        "a snapshot \"base\" is being written by process {}",
        std::process::id()
    );
    check("base", &writing);
    let mut other = shelf.begin("base.1").unwrap();
    let manifest = fill(&mut draft, "web").unwrap();
    // Somebody who asks nobody.
    fs::create_dir(shelf.path().join("base")).unwrap();
    let error = draft.commit(manifest).map(drop).unwrap_err();
    assert!(matches!(error, SnapshotError::Taken(_)), "{error}");
    check("base", "there is a snapshot \"base\" already");
    let manifest = fill(&mut other, "web").unwrap();
    check_whole(&other.commit(manifest).unwrap());
    assert_eq!(names(&shelf), [".blobs", ".lock", "base", "base.1"]);
}

#[test]
fn a_writer_that_is_killed_leaves_nothing() {
    let (_folder, shelf) = shelf();
    let mut child = child("die", &shelf, "");
    await_word(&mut child, "ready");
    let error = shelf.begin("half").map(drop).unwrap_err();
    let expected = format!(
        "a snapshot \"half\" is being written by process {}",
        child.id()
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(names(&shelf).len(), 3, "draft, blobs, lock");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(shelf.list().is_empty());
    assert_eq!(names(&shelf), [".blobs", ".lock"]);
    check_whole(&make(&shelf, "half").unwrap());
}

#[test]
fn a_snapshot_without_a_name_goes_with_whoever_made_it() {
    let (_folder, shelf) = shelf();
    let mut draft = shelf.begin("fork-1").unwrap();
    let manifest = fill(&mut draft, "web").unwrap();
    let unnamed = draft.complete_unnamed(manifest).unwrap();
    check_whole(unnamed.snapshot());
    let held = unnamed.snapshot().hold().unwrap();
    assert!(shelf.list().is_empty(), "nobody else finds it");
    assert_eq!(names(&shelf).len(), 3, "and it is not swept away");
    drop(unnamed);
    assert_eq!(names(&shelf), [".blobs", ".lock"]);
    drop(held);
    let mut child = child("pass", &shelf, "");
    await_word(&mut child, "ready");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(shelf.list().is_empty());
    assert_eq!(names(&shelf), [".blobs", ".lock"]);
}

#[test]
fn whenever_a_writer_is_killed_what_has_a_name_is_whole() {
    let (_folder, shelf) = shelf();
    let mut named = 0;
    // Later and later, until some were finished before, however slow this host is.
    for round in 0.. {
        let mut child = child("make", &shelf, "");
        await_word(&mut child, "ready");
        std::thread::sleep(Duration::from_millis(3 + 7 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        for listed in shelf.list() {
            check_whole(&shelf.open(&listed.name).unwrap());
            named += 1;
        }
        let left = names(&shelf).into_iter();
        let left: Vec<String> = left.filter(|name| name.starts_with('.')).collect();
        // Who is killed at once has not come to the blobs.
        let is_known = |name: &String| [".blobs", ".lock"].contains(&name.as_str());
        assert!(left.iter().all(is_known), "{left:?}");
        if round >= 12 && named > 0 {
            break;
        }
        assert!(round < 200, "none was finished");
    }
}

#[test]
fn a_disk_that_is_full_leaves_nothing_and_says_what_to_do() {
    let check = |before: &str, expected: &str| {
        let (_folder, shelf) = shelf();
        fs::create_dir(shelf.path()).unwrap();
        let before = before.replace("FOLDER", shelf.path().to_str().unwrap());
        let output = child("fill", &shelf, &before).wait_with_output().unwrap();
        if output.status.code() == Some(77) {
            eprintln!("skipped: this host lets nobody mount");
            return;
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let line = said.lines().find(|line| line.starts_with("said"));
        assert!(line.is_some_and(|line| line.contains(expected)), "{said}");
        let is_clean = |line: &str| !line.contains(".tmp\"") && line.ends_with("\".lock\"]");
        assert!(line.is_some_and(is_clean), "{said}");
    };
    // A limit of 64 KiB for each file, whose signal is ignored.
    check(
        "trap '' XFSZ; ulimit -f 128; ",
        "said cannot write memory: None",
    );
    // A file system that has room for the memory and not for the images. It is gone with the child.
    let mounted = "test \"$MOUNTED\" || MOUNTED=1 exec unshare -rm sh -c 'mount -t tmpfs -o size=128k none FOLDER || exit 77; \
                   exec \"$0\" \"$@\"' \"$0\" \"$@\" || exit 77; ";
    check(mounted, "make room there");
}

#[test]
fn what_somebody_runs_on_is_not_removed() {
    let (_folder, shelf) = shelf();
    make(&shelf, "base").unwrap();
    let mut child = child("hold", &shelf, "");
    await_word(&mut child, "ready");
    let list = shelf.list();
    assert!(list[0].in_use);
    assert_eq!(list[0].processes, [child.id()]);
    let error = shelf.remove("base", false).unwrap_err();
    let expected = format!("snapshot \"base\" is in use by process {}", child.id());
    assert_eq!(error.to_string(), expected);
    assert!(shelf.prune(Prune::default()).names.is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    let freed = shelf.remove("base", false).unwrap();
    assert_eq!(freed.names, ["base"]);
    assert!(freed.bytes > 300_000, "its images too: {}", freed.bytes);
    assert_eq!(names(&shelf), [".blobs", ".lock"]);
}

#[test]
fn what_is_held_can_be_handed_over_and_what_is_gone_cannot_be_held() {
    let (_folder, shelf) = shelf();
    let snapshot = make(&shelf, "base").unwrap();
    let held: Held = snapshot.hold().unwrap();
    let second: OwnedFd = snapshot.hold().unwrap().into();
    drop(held);
    assert!(shelf.remove("base", false).is_err());
    let memory = snapshot.memory().unwrap();
    shelf.remove("base", true).unwrap();
    memory.read(0, &mut vec![0; CHUNK_BYTES]).unwrap();
    drop(second);
    let error = snapshot.hold().map(drop).unwrap_err();
    assert_eq!(error.to_string(), "there is no snapshot \"base\"");
    assert!(shelf.remove("base", true).is_err());
    assert!(shelf.open("base").is_err() && shelf.open("a b").is_err());
}

#[test]
fn equal_images_are_kept_once() {
    let (_folder, shelf) = shelf();
    let links = |name: &str| fs::metadata(shelf.path().join(name)).unwrap().nlink();
    make(&shelf, "a").unwrap();
    make(&shelf, "b").unwrap();
    assert_eq!(links("a/module0"), 3);
    // What was changed where it lies is damaged in both, and no third one takes it over.
    fs::write(shelf.path().join("a/kernel"), [5; 5000]).unwrap();
    let damaged = shelf.open("b").unwrap();
    let error = damaged.checked_file("kernel").unwrap_err();
    assert!(error.is_bad_input());
    check_whole(&make(&shelf, "c").unwrap());
    assert_eq!(links("c/kernel"), 2);
    let bytes = |freed: Freed| freed.bytes;
    let first = bytes(shelf.remove("a", false).unwrap());
    let second = bytes(shelf.remove("b", false).unwrap());
    let last = bytes(shelf.remove("c", false).unwrap());
    assert!(
        last > first + 250_000 && last > second,
        "{first} {second} {last}"
    );
    assert_eq!(
        fs::read_dir(shelf.path().join(".blobs")).unwrap().count(),
        0
    );
}

#[test]
fn what_is_damaged_is_listed_with_what_is_wrong() {
    let check = |part: &str, change: &dyn Fn(&Path), expected: &str| {
        let (_folder, shelf) = shelf();
        make(&shelf, "base").unwrap();
        change(&shelf.path().join("base").join(part));
        let list = shelf.list();
        let error = list[0].manifest.as_ref().unwrap_err();
        let cause = std::error::Error::source(error).unwrap();
        assert_eq!(
            format!("{error}: {cause}"),
            format!("the part {part:?} of snapshot \"base\" is damaged: {expected}")
        );
        assert!(shelf.open("base").is_err());
        assert!(shelf.prune(Prune::default()).names.is_empty());
        shelf.remove("base", false).unwrap();
    };
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    check("snapshot.json", &remove, "it is missing");
    check("memory", &remove, "it is missing");
    check("disk0", &remove, "it is missing");
    check(
        "kernel",
        &|path| {
            remove(path);
            fs::create_dir(path).unwrap();
        },
        "it is not a plain file",
    );
    check(
        "state",
        &|path| {
            remove(path);
            std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
        },
        "it is not a plain file",
    );
    check(
        "state",
        &|path| {
            remove(path);
            let made = Command::new("mkfifo").arg(path).status().unwrap();
            assert!(made.success());
        },
        "it is not a plain file",
    );
    check(
        "kernel",
        &|path| {
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(7)
                .unwrap()
        },
        "it has 7 bytes where 5000 were written",
    );
    let cut = |path: &Path| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(512).unwrap();
    };
    check("disk0", &cut, "it has 512 bytes where 1048576 were written");
    let of_another = |path: &Path| {
        let length = fs::metadata(path).unwrap().len();
        let file = File::create(path).unwrap();
        let mut writer = MemoryWriter::new(file.try_clone().unwrap(), PAGES).unwrap();
        writer.put(1, &noise()).unwrap();
        writer.put(2, &[9; 8 * PAGE_BYTES]).unwrap();
        assert_eq!(writer.finish().unwrap().file_bytes, length);
    };
    check(
        "memory",
        &of_another,
        "its header is not as it was written: its checksum differs",
    );
    let edited = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, text.replace("\"soft\"", "\"kvm0\"")).unwrap();
    };
    check(
        "snapshot.json",
        &edited,
        "what stands in it is not as it was written: its checksum differs",
    );
    check(
        "snapshot.json",
        &|path| fs::write(path, "{").unwrap(),
        "it cannot be understood",
    );
}

#[test]
fn every_byte_of_a_snapshot_that_is_changed_is_noticed() {
    let (_folder, shelf) = shelf();
    make(&shelf, "base").unwrap();
    for part in ["snapshot.json", "state", "kernel"] {
        let path = shelf.path().join("base").join(part);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            fs::write(&path, &changed).unwrap();
            let opened = shelf.open("base");
            let used = opened.and_then(|it| it.verify(&mut |_| ControlFlow::Continue(())));
            let error = used.err();
            // The end of the manifest's line is nobody's.
            let is_last = part == "snapshot.json" && at + 1 == whole.len();
            assert!(
                is_last || error.is_some_and(|it| it.is_bad_input()),
                "{part} {at}"
            );
        }
        fs::write(&path, &whole).unwrap();
    }
    check_whole(&shelf.open("base").unwrap());
}

#[test]
fn another_format_is_told_by_its_number() {
    let (_folder, shelf) = shelf();
    let made = make(&shelf, "base").unwrap();
    let mut later = serde_json::to_value(made.manifest()).unwrap();
    later["format"] = json!(2);
    later["colour"] = json!("red");
    let check = |manifest: &serde_json::Value, expected: &str| {
        let text = manifest.to_string();
        let sum = crate::digest::sha256(text.as_bytes());
        let text = format!("{{\"sha256\":\"{sum}\",\"manifest\":{text}}}");
        fs::write(shelf.path().join("base/snapshot.json"), text).unwrap();
        let error = shelf.open("base").unwrap_err();
        let cause = std::error::Error::source(&error);
        let inner = cause.and_then(|cause| cause.source());
        let said = [
            Some(error.to_string()),
            inner.map(|inner| inner.to_string()),
        ];
        let said = said.map(Option::unwrap_or_default).join("|");
        assert!(said.contains(expected), "{said}");
        error.help().unwrap()
    };
    let help = check(
        &later,
        "the part \"snapshot.json\" of snapshot \"base\" has format 2, and this version of Mother reads format 1",
    );
    assert!(help.starts_with("use the Mother that made it, or a newer one"));
    later["format"] = json!(1);
    check(&later, "unknown field `colour`");
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    let (_folder, shelf) = shelf();
    let good = make(&shelf, "base").unwrap().manifest().clone();
    let check = |change: &dyn Fn(&mut Manifest), expected: &str| {
        let mut manifest = good.clone();
        change(&mut manifest);
        assert_eq!(manifest.contradiction().as_deref(), Some(expected));
        let error = Manifest::read(manifest.to_text().as_bytes()).unwrap_err();
        assert!(error.is_bad_input());
    };
    check(&|it| it.memory_bytes += 1, "memory of 163841 bytes");
    check(&|it| it.memory_bytes = 0, "memory of 0 bytes");
    check(&|it| it.vcpu_count = 0, "a guest without a vCPU");
    check(&|it| it.made_at = -1.0, "a time that is none");
    check(
        &|it| it.vm = "\u{1b}[2J".to_owned(),
        "\"\\u{1b}[2J\" as the name of a VM",
    );
    check(&|it| it.id.push('0'), "an id that is none");
    check(
        &|it| it.disks[0].file = Some("../../home".to_owned()),
        "\"../../home\" as the name of a part",
    );
    check(
        &|it| it.images[0].file = "snapshot.json".to_owned(),
        "\"snapshot.json\" as the name of a part",
    );
    check(
        &|it| it.images[1].file = "memory".to_owned(),
        "\"memory\" twice",
    );
    check(&|it| it.state.sha256 = None, "a part without a checksum");
    check(
        &|it| it.images[1].part.sha256 = Some("/etc".to_owned()),
        "a SHA-256 of \"module0\" that is none",
    );
    let many = |it: &mut Manifest| it.disks = vec![it.disks[1].clone(); 1025];
    check(&many, "more than 1024 parts");
    check(&|it| it.disks[1].slot = 0, "a disk 0 that cannot be found");
    check(
        &|it| it.disks[1].fingerprint = None,
        "a disk 1 that cannot be found",
    );
    check(
        &|it| it.disks[0].file = None,
        "a disk 0 that cannot be found",
    );
}

#[test]
fn pruning_keeps_what_is_young_the_newest_and_suspended_vms() {
    let (_folder, shelf) = shelf();
    let good = make(&shelf, "base").unwrap().manifest().clone();
    const DAY: u64 = 86_400;
    let of = |vm: &str, days: u64, kind: Kind| {
        let made_at = ((100 - days) * DAY) as f64;
        let vm = vm.to_owned();
        Manifest {
            vm,
            made_at,
            kind,
            ..good.clone()
        }
    };
    let all = [
        ("w1", of("web", 1, Kind::Snapshot)),
        ("w9", of("web", 9, Kind::Snapshot)),
        ("w5", of("web", 5, Kind::Snapshot)),
        ("d8", of("db", 8, Kind::Snapshot)),
        ("s9", of("db", 9, Kind::Suspended)),
    ];
    let all: Vec<(&str, &Manifest)> = all.iter().map(|(name, it)| (*name, it)).collect();
    let check = |days: u64, keep: usize, expected: &[&str]| {
        let older_than = Duration::from_secs(days * DAY);
        let prune = Prune { older_than, keep };
        assert_eq!(prune.choose(&all, (100 * DAY) as f64), expected);
    };
    check(0, 0, &["w1", "w5", "d8", "w9"]);
    check(7, 0, &["d8", "w9"]);
    check(7, 1, &["w9"]);
    check(0, 1, &["w5", "w9"]);
    check(0, 2, &["w9"]);
    check(30, 0, &[]);
    let freed = shelf.prune(Prune::default());
    assert_eq!(freed.names, ["base"]);
}

#[test]
fn its_memory_is_read_by_somebody_who_has_two_files_of_it_and_no_folder() {
    let (_folder, shelf) = shelf();
    let made = make(&shelf, "base").unwrap();
    let parts = || MemoryParts::open(made.path()).unwrap();
    let reader = parts().read().unwrap();
    assert_eq!(reader.page_count(), PAGES);
    let mut chunk = vec![0; CHUNK_BYTES];
    reader.read(0, &mut chunk).unwrap();
    assert_eq!(chunk, noise());
    // Of another snapshot, cut off, or none: told, and nothing is believed.
    let swapped = MemoryParts {
        manifest: parts().memory,
        memory: parts().manifest,
    };
    assert!(swapped.read().is_err());
    let memory = made.path().join("memory");
    let file = File::options().write(true).open(&memory).unwrap();
    file.set_len(fs::metadata(&memory).unwrap().len() - 1)
        .unwrap();
    assert!(matches!(parts().read(), Err(SnapshotError::Damaged { .. })));
    fs::remove_file(&memory).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &memory).unwrap();
    assert!(
        MemoryParts::open(made.path()).is_err(),
        "no link is followed"
    );
    assert!(MemoryParts::open(Path::new("/nowhere")).is_err());
}
