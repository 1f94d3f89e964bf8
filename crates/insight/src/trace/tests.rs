//! What is made of hits: of honest ones, and of what a guest may put into one.

use probe::{Bytes, From, Value};

use super::event::{EventKind, Facts, Mount, What};
use super::recipe::{LEVELS, Recipe, Values};

/// What is made of a hit with these values, where a mount's root is seen at `/mnt` and is `/part` in its file system.
fn what(kind: EventKind, values: &[(&'static str, Value)]) -> Option<What> {
    let mut recipe = Recipe::new(0);
    for (name, _) in values {
        recipe.number(name, From::Gs, &[], 8);
    }
    let values: Vec<Value> = values.iter().map(|(_, value)| value.clone()).collect();
    let facts = Facts {
        mounted_at: &|mount| {
            let is_it = [Mount::Shown(1), Mount::Whole(5)].contains(&mount);
            is_it.then(|| ("/mnt".to_owned(), "/part".to_owned()))
        },
        values: Values::new(&recipe, &values),
        files: &["/mnt/file".to_owned()],
        host: None,
    };
    facts.what(kind)
}

fn bytes(text: &[u8]) -> Value {
    Value::Bytes(Bytes(text.to_vec()))
}

fn names(names: &[&str]) -> Value {
    Value::Names(
        names
            .iter()
            .map(|name| Bytes(name.as_bytes().to_vec()))
            .collect(),
    )
}

use Value::Number as N;

#[test]
fn few_addresses_go_to_the_kinds_that_matter_most() {
    use EventKind::{Bind, Connect, Credentials, Exec, Exit, Fork, Log, Module, Mount};
    let check = |places: &[(EventKind, u64)], most, expected: &[EventKind]| {
        assert_eq!(super::fitting(places, most), expected, "{places:?} {most}");
    };
    let usual = [
        (Log, 1),
        (Mount, 2),
        (Mount, 3),
        (Module, 4),
        (Credentials, 5),
        (Exit, 6),
        (Exec, 7),
    ];
    check(&usual, 4, &[Exec, Exit, Credentials, Module]);
    check(&usual, 5, &[Exec, Exit, Credentials, Module, Log]);
    check(&usual, 7, &[Exec, Exit, Credentials, Module, Mount, Log]);
    check(&usual, 0, &[]);
    // What is asked for alone has the room alone; two addresses or none.
    check(
        &[(Connect, 1), (Bind, 2), (Fork, 3)],
        4,
        &[Connect, Bind, Fork],
    );
    check(&[(Mount, 1), (Mount, 2)], 1, &[]);
    // One address is one, whoever is told of it.
    check(&[(Exec, 1), (Exit, 1), (Fork, 1)], 1, &[Exec, Exit, Fork]);
}

#[test]
fn an_end_is_told_as_a_parent_would_be() {
    let check = |code: u64, group_code: u64, group_flags: u64, expected| {
        let found = what(
            EventKind::Exit,
            &[
                ("code", N(code)),
                ("group code", N(group_code)),
                ("group flags", N(group_flags)),
            ],
        );
        let Some(What::Exit {
            status,
            signal,
            has_core,
        }) = found
        else {
            panic!("{found:?}");
        };
        assert_eq!((status, signal, has_core), expected, "{code:#x}");
    };
    check(0, 0, 0, (Some(0), None, false));
    check(0x300, 0, 0, (Some(3), None, false));
    check(9, 0, 0, (None, Some(9), false));
    check(0x8b, 0, 0, (None, Some(11), true));
    // One thread ends by itself, the process by another one's word.
    check(0, 0x4d00, 4, (Some(77), None, false));
    check(0, 0x4d00, 8, (Some(0), None, false));
    // What no kernel has.
    check(u64::MAX, 0, 0, (None, Some(0x7f), true));
}

#[test]
fn files_are_seen_from_the_root_of_their_mount_namespace() {
    let check = |mount, path: &[&str], own: &str, hashed, expected: &str, is_nameless| {
        let found = what(
            EventKind::Mount,
            &[
                ("mount", N(mount)),
                ("path", names(path)),
                ("own name", bytes(own.as_bytes())),
                ("hashed", N(hashed)),
            ],
        );
        let Some(What::Mount { at, .. }) = found else {
            panic!("{found:?}");
        };
        assert_eq!((at.path.as_str(), at.is_nameless), (expected, is_nameless));
    };
    check(0, &["ls", "bin"], "ls", 1, "/bin/ls", false);
    check(0, &[], "/", 1, "/", false);
    check(0, &["ls", "bin"], "ls", 0, "/bin/ls (deleted)", true);
    check(0, &[], "memfd:x", 0, "/memfd:x (deleted)", true);
    check(1, &["file", "part"], "file", 1, "/mnt/file", false);
    check(1, &["part"], "part", 1, "/mnt", false);
    // Not below what is mounted: moved away meanwhile, or made up.
    check(1, &["file", "other"], "file", 1, "/mnt/other/file", false);
    check(
        1,
        &["file", "partner"],
        "file",
        1,
        "/mnt/partner/file",
        false,
    );
}

/// A guest may have unmounted it before anybody asks.
#[test]
fn a_path_is_that_of_the_moment_when_its_file_was_used() {
    type Level<'a> = (&'a [&'a str], &'a [&'a str], Value);
    let check = |levels: &[Level<'_>], expected: &str| {
        let mut values = vec![
            ("mount", N(1)),
            ("path", names(&["file", "folder"])),
            ("own name", bytes(b"file")),
            ("hashed", N(1)),
            ("file system", bytes(b"tmpfs")),
        ];
        for (own, level) in levels.iter().zip(&LEVELS) {
            values.push((level.part, names(own.0)));
            values.push((level.point, names(own.1)));
            values.push((level.parent, own.2.clone()));
        }
        let Some(What::Mount { at, .. }) = what(EventKind::Mount, &values) else {
            panic!("{values:?}");
        };
        assert_eq!(at.path, expected, "{levels:?}");
    };
    let root: Level<'_> = (&[], &[], N(2));
    check(&[root.clone(), root.clone()], "/folder/file");
    check(
        &[(&[], &["b", "a"], N(2)), root.clone()],
        "/a/b/folder/file",
    );
    // A part of its file system, in a part of another one.
    let bound: Level<'_> = (&["folder"], &["b", "data"], N(3));
    let other: Level<'_> = (&["data"], &["mnt"], N(2));
    check(&[bound, other, root.clone()], "/mnt/b/file");
    let deep: Level<'_> = (&[], &["a"], N(3));
    let deeper: Level<'_> = (&[], &["b"], N(4));
    let all = [deep.clone(), deeper.clone(), (&[], &[], N(2)), root.clone()];
    check(&all, "/b/a/folder/file");
    // Deeper than what is taken down, and what does not fit: asked now.
    let deepest: Level<'_> = (&[], &["c", "part"], N(5));
    let all = [deep.clone(), deeper, (&[], &["d"], N(6)), deepest.clone()];
    check(&all, "/mnt/c/d/b/a/folder/file");
    let cut: Level<'_> = (&[], &["d"], Value::Unreadable);
    check(&[deepest, cut], "/mnt/c/folder/file");
    check(&[], "/mnt/folder/file");
    // It was unmounted already when it was used.
    check(&[(&[], &[], N(2)), (&[], &["gone"], N(2))], "/folder/file");
}

#[test]
fn files_of_the_same_name_elsewhere_are_not_told() {
    let opened = |path: &[&str]| {
        what(
            EventKind::Open,
            &[
                ("mount", N(1)),
                ("path", names(path)),
                ("own name", bytes(b"file")),
                ("hashed", N(1)),
                ("open flags", N(0x8002)),
            ],
        )
    };
    let found = opened(&["file", "part"]);
    assert!(
        matches!(&found, Some(What::Open { access, .. }) if access == "read-write"),
        "{found:?}"
    );
    assert_eq!(opened(&["file", "folder", "part"]), None);
}

#[test]
fn arguments_are_words_between_zeros() {
    let check = |arguments: &[u8], expected: &[&str]| {
        let found = what(
            EventKind::Exec,
            &[("arguments", bytes(arguments)), ("given", bytes(b"x"))],
        );
        let Some(What::Exec { arguments, .. }) = found else {
            panic!("{found:?}");
        };
        assert_eq!(arguments, expected);
    };
    check(b"ls\0-l\0\0a b\0", &["ls", "-l", "", "a b"]);
    check(b"", &[]);
    check(b"cut of", &["cut of"]);
    check(b"\xff\0", &["\u{fffd}"]);
}

#[test]
fn what_is_no_event_after_all_is_not_told() {
    let fork = |tid, pid| {
        what(
            EventKind::Fork,
            &[
                ("child tid", N(tid)),
                ("child pid", N(pid)),
                ("child flags", N(0)),
            ],
        )
    };
    assert!(fork(5, 5).is_some());
    assert_eq!(fork(6, 5), None, "a thread");
    let credentials = |uid| {
        let same = |name| (name, N(7));
        what(
            EventKind::Credentials,
            &[
                same("uid"),
                same("euid"),
                same("gid"),
                same("egid"),
                same("caps"),
                ("new uid", N(uid)),
                same("new euid"),
                same("new gid"),
                same("new egid"),
                same("new caps"),
            ],
        )
    };
    assert!(credentials(0).is_some());
    assert_eq!(credentials(7), None, "the same as before");
}

/// Every value of each kind unreadable, absent, of another shape, or as long as one can be.
#[test]
fn nothing_that_is_in_a_hit_makes_it_fail() {
    let odd = [
        Value::Unreadable,
        N(u64::MAX),
        bytes(&[0xff; 4096]),
        bytes(&[]),
        names(&[]),
        Value::Names(vec![Bytes(vec![0xff; 255]); 64]),
    ];
    let all = [
        "address",
        "type",
        "length",
        "code",
        "group code",
        "group flags",
        "family",
        "peer port",
        "own port",
        "peer v4",
        "own v4",
        "peer v6",
        "own v6",
        "mount",
        "path",
        "own name",
        "hashed",
        "open flags",
        "module",
        "parameters",
        "taints",
        "child tid",
        "child pid",
        "child flags",
        "target pid",
        "target comm",
        "program",
        "program type",
        "instructions",
        "format",
        "arguments",
        "given",
        "interpreter",
        "source",
        "file system",
        "part 0",
        "point 0",
        "parent 0",
        "part 1",
        "point 1",
        "parent 1",
    ];
    for kind in EventKind::ALL {
        for value in &odd {
            let values: Vec<_> = all.iter().map(|name| (*name, value.clone())).collect();
            let _ = what(kind, &values);
            for at in 0..values.len() {
                let mut values = values.clone();
                values[at].1 = Value::Unreadable;
                let _ = what(kind, &values);
                values.truncate(at);
                let _ = what(kind, &values);
            }
        }
    }
}
