//! Archives as hostile and as ordinary as they come.

use tar::{Builder, EntryType, Header};

use crate::tree::{Kind, Node, Spool, Tree, UnpackError, Unpacker};

/// One file of an archive: kind, path, and its bytes or where it leads.
type File<'a> = (EntryType, &'a str, &'a str);

const FILE: EntryType = EntryType::Regular;
const FOLDER: EntryType = EntryType::Directory;
const SYMLINK: EntryType = EntryType::Symlink;
const LINK: EntryType = EntryType::Link;

fn archive(files: &[File<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for &(kind, path, text) in files {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(1000);
        header.set_gid(100);
        // Written past the library's checks: an attacker does not use the library.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        let is_link = matches!(kind, SYMLINK | LINK);
        if is_link {
            header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        let bytes = if is_link { &[] } else { text.as_bytes() };
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

struct Layers {
    tree: Tree,
    spool: Spool,
    _folder: tempfile::TempDir,
}

impl Layers {
    fn new() -> Layers {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(&folder.path().join("spool")).unwrap();
        Layers {
            tree: Tree::new(),
            spool,
            _folder: folder,
        }
    }

    fn put(&mut self, files: &[File<'_>]) -> Result<(), UnpackError> {
        let mut unpacker = Unpacker::of_layer(&mut self.tree, &mut self.spool);
        unpacker.unpack(&mut archive(files).as_slice()).map(drop)
    }

    fn node(&self, path: &str) -> Option<&Node> {
        self.tree
            .find(path.as_bytes(), false)
            .map(|node| self.tree.node(node))
    }

    fn text(&self, path: &str) -> Option<String> {
        let Kind::File(content) = &self.node(path)?.kind else {
            return None;
        };
        let mut bytes = Vec::new();
        content
            .read(|part| {
                bytes.extend_from_slice(part);
                Ok(())
            })
            .unwrap();
        String::from_utf8(bytes).ok()
    }
}

#[test]
fn files_come_with_owner_mode_and_links() {
    let mut layers = Layers::new();
    layers
        .put(&[
            (FILE, "./a/b", "text"),
            (LINK, "a/c", "a/b"),
            (SYMLINK, "d", "a"),
            (FILE, "d/e", "through"),
        ])
        .unwrap();
    assert_eq!(layers.text("a/b").as_deref(), Some("text"));
    assert_eq!(
        layers.tree.find(b"a/c", false),
        layers.tree.find(b"a/b", false)
    );
    assert_eq!(layers.text("a/e").as_deref(), Some("through"));
    let attributes = &layers.node("a/b").unwrap().attributes;
    assert_eq!(
        (attributes.mode, attributes.uid, attributes.gid),
        (0o755, 1000, 100)
    );
}

#[test]
fn whiteouts_hide_what_lower_layers_have_and_nothing_else() {
    let lower = [
        (FILE, "d/old", "1"),
        (FILE, "d/sub/old", "2"),
        (FILE, "keep", "3"),
        (FILE, "gone", "4"),
    ];
    let check = |upper: &[File<'_>], present: &[&str], absent: &[&str]| {
        let mut layers = Layers::new();
        layers.put(&lower).unwrap();
        layers.put(upper).unwrap();
        for path in present {
            assert!(layers.node(path).is_some(), "{path} after {upper:?}");
        }
        for path in absent {
            assert!(layers.node(path).is_none(), "{path} after {upper:?}");
        }
    };
    check(
        &[(FILE, ".wh.gone", "")],
        &["keep", "d/old"],
        &["gone", ".wh.gone"],
    );
    check(&[(FILE, "d/.wh.sub", "")], &["d/old"], &["d/sub"]);
    // In any order, an opaque folder keeps what its own layer has.
    let new = (FILE, "d/sub/new", "5");
    let opaque = (FILE, "d/.wh..wh..opq", "");
    check(
        &[new, opaque],
        &["d/sub/new", "keep"],
        &["d/old", "d/sub/old"],
    );
    check(
        &[opaque, new],
        &["d/sub/new", "keep"],
        &["d/old", "d/sub/old"],
    );
    check(
        &[(FILE, "gone", "6"), (FILE, ".wh.gone", "")],
        &["gone"],
        &[],
    );
}

#[test]
fn whiteouts_for_what_is_not_there_say_nothing() {
    let mut layers = Layers::new();
    layers.put(&[(FILE, "d/old", "1")]).unwrap();
    // The folder became a file, and the marks for its old children came along.
    layers
        .put(&[
            (FILE, "d", "now a file"),
            (FILE, "d/.wh.old", ""),
            (FILE, "d/.wh..wh..opq", ""),
            (FILE, "no/such/.wh.thing", ""),
        ])
        .unwrap();
    assert_eq!(layers.text("d").as_deref(), Some("now a file"));
    assert!(layers.node("no").is_none());
}

#[test]
fn a_layer_may_put_a_folder_where_a_link_was_and_a_package_may_not() {
    let files: [File<'_>; 2] = [(FOLDER, "lib/", ""), (FILE, "lib/x", "x")];
    let mut layers = Layers::new();
    layers
        .put(&[(FOLDER, "usr/lib", ""), (SYMLINK, "lib", "usr/lib")])
        .unwrap();
    let mut package = Layers {
        tree: layers.tree.clone(),
        ..Layers::new()
    };
    layers.put(&files).unwrap();
    assert!(layers.node("usr/lib/x").is_none());
    let unpacked = Unpacker::of_package(&mut package.tree, &mut package.spool, |_| None)
        .unpack(&mut archive(&files).as_slice());
    assert!(unpacked.is_ok());
    assert!(package.node("usr/lib/x").is_some());
}

#[test]
fn hostile_archives_lead_nowhere() {
    let refused = |files: &[File<'_>]| assert!(Layers::new().put(files).is_err(), "{files:?}");
    refused(&[(FILE, "../escape", "x")]);
    refused(&[(FILE, "a/../../escape", "x")]);
    refused(&[(SYMLINK, "l", "l"), (FILE, "l/x", "x")]);
    refused(&[(FILE, "f", "x"), (FILE, "f/x", "x")]);
    refused(&[(LINK, "h", "/etc/passwd")]);
    refused(&[(LINK, "h", "d"), (FOLDER, "d", "")]);
    refused(&[(FILE, ".wh.", "")]);
    refused(&[(FILE, ".wh...", "")]);
    // A link out of the tree ends at the tree's own root.
    let mut layers = Layers::new();
    layers
        .put(&[
            (SYMLINK, "out", "/../../tmp"),
            (FILE, "out/x", "x"),
            (FILE, "/abs", "y"),
        ])
        .unwrap();
    assert_eq!(layers.text("tmp/x").as_deref(), Some("x"));
    assert_eq!(layers.text("abs").as_deref(), Some("y"));
}

fn unpack(bytes: &[u8]) -> (Layers, Result<Vec<Vec<u8>>, UnpackError>) {
    let mut layers = Layers::new();
    let unpacked = Unpacker::of_layer(&mut layers.tree, &mut layers.spool).unpack(&mut &bytes[..]);
    (layers, unpacked)
}

#[test]
fn a_cut_archive_is_an_error() {
    // One header, two blocks of which the last is full, then the padding and the end.
    let whole = archive(&[(FILE, "a", &"x".repeat(1024))]);
    for len in [1000, 1500, 1535, 300] {
        assert!(unpack(&whole[..len]).1.is_err(), "{len}");
    }
    assert!(unpack(&whole[..1536]).1.is_ok());
}

#[test]
fn an_archive_may_end_with_its_last_byte() {
    let whole = archive(&[(FILE, "a", "first"), (FILE, "b", &"x".repeat(700))]);
    let (layers, unpacked) = unpack(&whole[..512 * 3 + 700]);
    unpacked.unwrap();
    assert_eq!(layers.text("a").as_deref(), Some("first"));
    assert_eq!(layers.text("b"), Some("x".repeat(700)));
}

#[test]
fn holes_and_times_come_from_pax_headers() {
    let mut builder = Builder::new(Vec::new());
    let headers: [(&str, &[u8]); 5] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"var/holes"),
        ("GNU.sparse.realsize", b"200000"),
        ("mtime", b"-12.5"),
    ];
    builder.append_pax_extensions(headers).unwrap();
    let mut packed = b"1\n199998\n2\n".to_vec();
    packed.resize(512, 0);
    packed.extend(b"ab");
    let mut header = Header::new_ustar();
    header.set_size(packed.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    builder
        .append_data(&mut header, "var/GNUSparseFile.0/holes", &packed[..])
        .unwrap();
    let (layers, unpacked) = unpack(&builder.into_inner().unwrap());
    unpacked.unwrap();
    let text = layers.text("var/holes").unwrap();
    assert_eq!((text.len(), &text[199_997..]), (200_000, "\0ab"));
    assert_eq!(layers.node("var/holes").unwrap().attributes.mtime, -12);
}

/// A file with a long name and an attribute in front of it.
fn with_headers(name_bytes: usize, xattr_bytes: usize) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let value = vec![b'v'; xattr_bytes];
    if xattr_bytes > 0 {
        let header: [(&str, &[u8]); 1] = [("SCHILY.xattr.user.x", &value)];
        builder.append_pax_extensions(header).unwrap();
    }
    let name = "n/".repeat(name_bytes / 2);
    let mut header = Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    builder.append_data(&mut header, name, &b""[..]).unwrap();
    builder.into_inner().unwrap()
}

/// Packed, each of these is a few kilobytes.
#[test]
fn headers_of_a_file_may_be_as_long_as_files_need_and_no_longer() {
    let check = |name_bytes, xattr_bytes, expected: Option<&str>| {
        let refused = unpack(&with_headers(name_bytes, xattr_bytes)).1.err();
        let refused = refused.map(|error| error.to_string());
        match (&refused, expected) {
            (None, None) => {}
            (Some(refused), Some(expected)) => assert!(refused.contains(expected), "{refused}"),
            _ => panic!("{name_bytes} {xattr_bytes}: {refused:?}"),
        }
    };
    check(300, 0, None);
    check(300, 64 << 10, None);
    check(10, 900 << 10, None);
    let too_long = Some("headers of a file are longer");
    check(10, 1100 << 10, too_long);
    check(1100 << 10, 0, too_long);
    check(600 << 10, 600 << 10, too_long);
    check(1000, 0, Some("is no path of a file system"));
}

#[test]
fn many_files_with_much_to_say_are_refused_before_they_take_our_memory() {
    let one = with_headers(10, 900 << 10);
    let one = &one[..one.len() - 1024];
    let mut many = Vec::new();
    (0..400).for_each(|_| many.extend_from_slice(one));
    let refused = unpack(&many).1.unwrap_err().to_string();
    assert!(refused.contains("take more than 256 MiB"), "{refused}");
}

#[test]
fn a_layer_that_grows_beyond_what_packers_reach_is_refused() {
    let check = |text: &str, is_taken| {
        let mut layers = Layers::new();
        layers.spool.room = 200_000;
        layers.spool.expect_layer(100);
        assert_eq!(layers.put(&[(FILE, "a", text)]).is_ok(), is_taken);
    };
    check(&"x".repeat(200_000), true);
    check(&"x".repeat(300_000), false);
    // Holes cost nothing.
    check(&"\0".repeat(3_000_000), true);
}
