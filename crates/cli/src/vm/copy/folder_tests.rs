//! What a guest may send, and what becomes of it here.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::super::shown::Shown;
use super::*;

fn entry(kind: EntryKind, name: &str) -> Entry {
    Entry {
        kind,
        mode: 0o640,
        uid: 0,
        gid: 0,
        seconds: 1_000_000_000,
        nanoseconds: 5,
        len: 0,
        name: name.as_bytes().to_vec(),
        target: Vec::new(),
    }
}

/// A file with these bytes, a folder (`name/`), or a link (`name -> target`).
enum What<'a> {
    File(&'a str, &'a str),
    Folder(&'a str),
    Link(&'a str, &'a str),
}

use What::{File, Folder, Link};

/// Has all of it put at `to` below `folder`; what was told, or why it ended.
fn put(folder: &Path, to: &str, all: &[What<'_>]) -> Result<Told, String> {
    let mut told = Told::new(Shown::new(), Arc::new(AtomicUsize::new(0)));
    let path = folder.join(to).into_os_string();
    // `join` takes a last slash along.
    let target = Target::find(&path, false).map_err(|stop| words(&stop))?;
    let mut taker = ToFolder::new(target, false);
    let mut run = || -> Result<(), Stop> {
        for one in all {
            match *one {
                File(name, bytes) => {
                    let mut entry = entry(EntryKind::File, name);
                    entry.len = bytes.len() as u64;
                    taker.entry(&entry, &mut told)?;
                    taker.data(0, bytes.as_bytes(), &mut told)?;
                }
                Folder(name) => {
                    let mut entry = entry(EntryKind::Folder, name);
                    entry.mode = 0o750;
                    taker.entry(&entry, &mut told)?;
                }
                Link(name, target) => {
                    let mut entry = entry(EntryKind::Link, name);
                    entry.target = target.as_bytes().to_vec();
                    taker.entry(&entry, &mut told)?;
                }
            }
        }
        taker.end(&mut told)
    };
    run().map_err(|stop| words(&stop))?;
    drop(taker);
    Ok(told)
}

fn words(stop: &Stop) -> String {
    match stop {
        Stop::Failure(failure) => failure.to_string(),
        other => format!("{other:?}"),
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn things_go_where_cp_would_put_them() {
    let check = |to: &str, all: &[What<'_>], expected: Result<&[(&str, &str)], &str>| {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::create_dir(folder.join("there")).unwrap();
        fs::write(folder.join("old"), "old").unwrap();
        match (put(folder, to, all), expected) {
            (Ok(told), Ok(expected)) => {
                assert_eq!(told.left_out, 0, "{to}");
                for (path, text) in expected {
                    assert_eq!(read(&folder.join(path)), *text, "{to}");
                }
            }
            (Err(why), Err(expected)) => assert!(why.ends_with(expected), "{why}"),
            (got, expected) => panic!("{to}: {:?}, not {expected:?}", got.map(|_| ())),
        }
    };
    let file = [File("f", "new")];
    check("there", &file, Ok(&[("there/f", "new")]));
    check("there/", &file, Ok(&[("there/f", "new")]));
    check("name", &file, Ok(&[("name", "new")]));
    check("old", &file, Ok(&[("old", "new")]));
    check("name/", &file, Err("/name/"));
    check(
        "none/name",
        &file,
        Err("No such file or directory (os error 2)"),
    );
    let tree = [
        Folder("d"),
        File("d/f", "new"),
        Folder("d/e"),
        File("d/e/g", "more"),
    ];
    check(
        "there",
        &tree,
        Ok(&[("there/d/f", "new"), ("there/d/e/g", "more")]),
    );
    check(
        "name",
        &tree,
        Ok(&[("name/f", "new"), ("name/e/g", "more")]),
    );
    check("name/", &tree, Ok(&[("name/f", "new")]));
    check("old", &tree, Err("/old is no folder"));
    let inside = [
        Folder("."),
        File("f", "new"),
        Folder("e"),
        File("e/g", "more"),
    ];
    check(
        "there",
        &inside,
        Ok(&[("there/f", "new"), ("there/e/g", "more")]),
    );
    check(
        "name",
        &inside,
        Ok(&[("name/f", "new"), ("name/e/g", "more")]),
    );
    check("old", &inside, Err("/old is no folder"));
}

#[test]
fn modes_times_and_links_are_kept_and_set_user_id_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let all = [
        Folder("d"),
        File("d/f", "x"),
        Link("d/l", "f"),
        Link("d/out", "../../x"),
    ];
    let told = put(folder, "", &all).unwrap();
    let file = fs::metadata(folder.join("d/f")).unwrap();
    assert_eq!(
        (file.mode() & 0o7777, file.mtime(), file.mtime_nsec()),
        (0o640, 1_000_000_000, 5)
    );
    let made = fs::metadata(folder.join("d")).unwrap();
    assert_eq!((made.mode() & 0o7777, made.mtime()), (0o750, 1_000_000_000));
    assert_eq!(fs::read_link(folder.join("d/l")).unwrap(), Path::new("f"));
    assert_eq!((told.leading_out, told.stripped, told.left_out), (1, 0, 0));
    let mut told = Told::new(Shown::new(), Arc::new(AtomicUsize::new(0)));
    let target = Target::find(&folder.join("su").into_os_string(), false).unwrap();
    let mut taker = ToFolder::new(target, false);
    let mut su = entry(EntryKind::File, "su");
    su.mode = 0o4755;
    taker.entry(&su, &mut told).unwrap();
    taker.end(&mut told).unwrap();
    let mode = fs::metadata(folder.join("su"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!((mode & 0o7777, told.stripped), (0o755, 1));
}

#[test]
fn holes_stay_holes() {
    let folder = tempfile::tempdir().unwrap();
    let mut told = Told::new(Shown::new(), Arc::new(AtomicUsize::new(0)));
    let target = Target::find(&folder.path().as_os_str().to_owned(), false).unwrap();
    let mut taker = ToFolder::new(target, false);
    let mut sparse = entry(EntryKind::File, "sparse");
    sparse.len = 1 << 40;
    taker.entry(&sparse, &mut told).unwrap();
    taker.data(1 << 39, b"middle", &mut told).unwrap();
    taker.end(&mut told).unwrap();
    let there = fs::metadata(folder.path().join("sparse")).unwrap();
    assert_eq!(there.len(), 1 << 40);
    assert!(there.blocks() < 1000, "{}", there.blocks());
}

/// Each of these would be written elsewhere, or would replace what is not a file.
#[test]
fn nothing_leaves_the_folder_whatever_lies_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("inside");
    let outside = folder.path().join("outside");
    fs::create_dir(&inside).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "kept").unwrap();
    symlink("../outside", inside.join("way")).unwrap();
    symlink("../outside/secret", inside.join("file")).unwrap();
    fs::create_dir(inside.join("folder")).unwrap();
    let all = [
        // By a link that was there, and by one that came along.
        File("way/x", "bad"),
        Folder("way/y"),
        Link("mine", "../outside"),
        File("mine/z", "bad"),
        Folder("mine"),
        File("folder", "bad"),
        // A link is replaced, not what it leads to.
        File("file", "good"),
    ];
    let told = put(&inside, "", &all).unwrap();
    assert_eq!(told.left_out, 5);
    assert_eq!(read(&outside.join("secret")), "kept");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(read(&inside.join("file")), "good");
    assert!(inside.join("folder").is_dir());
    // Nothing that was not finished is left.
    let names = fs::read_dir(&inside)
        .unwrap()
        .flatten()
        .map(|it| it.file_name());
    assert!(
        names
            .into_iter()
            .all(|name| !name.as_bytes().starts_with(b".mother"))
    );
}

#[test]
fn a_link_that_leads_out_is_known() {
    let check = |name: &str, target: &str, expected| {
        assert_eq!(
            leads_out(name.as_bytes(), target.as_bytes()),
            expected,
            "{name} {target}"
        );
    };
    check("l", "x", false);
    check("d/l", "../x", false);
    check("l", "../x", true);
    check("d/l", "../../x", true);
    check("l", "d/../../x", true);
    check("l", "/x", true);
    check("l", "./d/.././x", false);
}
