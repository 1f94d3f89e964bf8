//! Images as e2fsprogs sees them. Where it is not installed these say that they were skipped.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::ext4::{Ext4Error, Ext4Options, GROUP_BYTES, write};
use crate::tree::{Attributes, Content, Kind, Tree};

/// What a program of e2fsprogs prints, or a loud word that there is none.
fn e2fsprogs(program: &str, words: &[&str], image: &Path) -> Option<String> {
    let path = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    match Command::new(program)
        .env("PATH", path)
        .args(words)
        .arg(image)
        .output()
    {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success(),
                "{program}: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Some(text)
        }
        Err(_) => {
            writeln!(std::io::stderr(), "skipped: this host has no {program}").unwrap();
            None
        }
    }
}

struct Made {
    folder: tempfile::TempDir,
}

impl Made {
    fn new(tree: &Tree, groups: u64) -> Made {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create_new(folder.path().join("image")).unwrap();
        write(tree, &options(groups), &file).unwrap();
        Made { folder }
    }

    /// What debugfs prints about a path; the image must be clean.
    fn debugfs(&self, command: &str) -> Option<String> {
        let image = self.folder.path().join("image");
        e2fsprogs("e2fsck", &["-f", "-n"], &image)?;
        e2fsprogs("debugfs", &["-R", command], &image)
    }
}

fn options(groups: u64) -> Ext4Options<'static> {
    Ext4Options {
        len_bytes: groups * GROUP_BYTES,
        label: "root",
        uuid: *b"0123456789abcdef",
        made: 1_700_000_000,
    }
}

fn check(tree: &Tree, groups: u64, command: &str, expected: &[&str]) {
    let Some(text) = Made::new(tree, groups).debugfs(command) else {
        return;
    };
    for part in expected {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn an_empty_disk_is_clean_and_has_a_journal() {
    check(
        &Tree::new(),
        1,
        "stats",
        &["has_journal", "Journal inode:            8", "root"],
    );
    check(&Tree::new(), 32, "stat <8>", &["Size: 33554432"]);
}

#[test]
fn every_kind_of_file_is_what_it_was() {
    let mut tree = Tree::new();
    let owned = Attributes {
        uid: 100_000,
        gid: 7,
        mtime: 1_600_000_000,
        ..Attributes::of_root(0o4755)
    };
    let kind = Kind::File(Content::Bytes((*b"hello").into()));
    tree.put(b"dir/tool", owned, kind).unwrap();
    tree.put_hard_link(b"dir/again", b"dir/tool").unwrap();
    tree.put_symlink("short", "dir/tool").unwrap();
    tree.put_symlink("long", &"x/".repeat(100)).unwrap();
    for (path, major, minor) in [("null", 1, 3), ("big", 300, 70_000)] {
        let kind = Kind::Device {
            is_block: path == "big",
            major,
            minor,
        };
        tree.put(path.as_bytes(), Attributes::of_root(0o666), kind)
            .unwrap();
    }
    tree.put(b"pipe", Attributes::of_root(0o600), Kind::Fifo)
        .unwrap();
    let tool = [
        "Mode:  04755",
        "User: 100000",
        "Group:     7",
        "Links: 2",
        "Size: 5",
        "0x5f5e1000",
    ];
    check(&tree, 1, "stat dir/tool", &tool);
    check(&tree, 1, "cat dir/again", &["hello"]);
    check(
        &tree,
        1,
        "stat short",
        &["Type: symlink", "Fast link dest: \"dir/tool\""],
    );
    check(&tree, 1, "stat long", &["Type: symlink", "Size: 200"]);
    check(&tree, 1, "stat null", &["Type: character special", "01:03"]);
    check(&tree, 1, "stat big", &["Type: block special", "300:70000"]);
    check(&tree, 1, "stat pipe", &["Type: FIFO"]);
}

#[test]
fn capabilities_survive_and_what_has_no_room_does_not_break_the_disk() {
    let mut tree = Tree::new();
    let capability = vec![1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let xattrs = vec![
        ("user.note".to_owned(), b"x".to_vec()),
        ("security.capability".to_owned(), capability),
        ("user.large".to_owned(), vec![7; 500]),
        ("strange".to_owned(), Vec::new()),
    ];
    let attributes = Attributes {
        xattrs,
        ..Attributes::of_root(0o755)
    };
    tree.put(
        b"ping",
        attributes,
        Kind::File(Content::Bytes((*b"x").into())),
    )
    .unwrap();
    check(&tree, 1, "ea_get ping user.note", &["x"]);
    check(&tree, 1, "stat ping", &["security.capability (20)"]);
}

#[test]
fn a_folder_of_many_files_and_many_folders() {
    let mut tree = Tree::new();
    for number in 0..9000 {
        tree.put_bytes(
            &format!("many/file-with-a-long-name-{number}"),
            0o644,
            *b"x",
        )
        .unwrap();
    }
    for number in 0..3000 {
        tree.put_folder(
            format!("folders/{number}").as_bytes(),
            Attributes::of_root(0o755),
        )
        .unwrap();
    }
    check(&tree, 2, "stat folders", &["Links: 3002"]);
    check(&tree, 2, "cat many/file-with-a-long-name-8999", &["x"]);
}

#[test]
fn a_file_that_spans_many_groups_is_whole() {
    // A hole on the host, with a word at its end.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large");
    let len = 6 * GROUP_BYTES + 5;
    let file = File::create_new(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"final", len - 5).unwrap();
    let mut tree = Tree::new();
    let kind = Kind::File(Content::Part {
        file: file.into(),
        offset: 0,
        len,
    });
    tree.put(b"large", Attributes::of_root(0o644), kind)
        .unwrap();
    check(&tree, 8, "stat large", &[&format!("Size: {len}"), "ETB0"]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut tree = Tree::new();
    let file = tempfile::tempfile().unwrap();
    file.set_len(2 * GROUP_BYTES).unwrap();
    let kind = Kind::File(Content::Part {
        file: file.into(),
        offset: 0,
        len: 2 * GROUP_BYTES,
    });
    tree.put(b"large", Attributes::of_root(0o644), kind)
        .unwrap();
    let to = tempfile::tempfile().unwrap();
    assert!(matches!(
        write(&tree, &options(1), &to),
        Err(Ext4Error::Full(_))
    ));
    let odd = Ext4Options {
        len_bytes: GROUP_BYTES + 1,
        ..options(1)
    };
    assert!(matches!(
        write(&Tree::new(), &odd, &to),
        Err(Ext4Error::Size(_))
    ));
}
