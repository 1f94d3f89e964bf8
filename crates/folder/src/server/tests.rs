//! Raw messages, as a guest's kernel sends them and as it never would.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use tempfile::TempDir;

use super::files::OF_PAGES;
use super::*;
use crate::message::REQUEST_BYTES_MAX;
use crate::nodes::ROOT;

const BOUNDS: Bounds = Bounds {
    nodes: 100,
    handles: 10,
};

const WRITE: u32 = 1;
const READ_WRITE: u32 = 2;

/// A guest that has mounted a folder.
struct Guest {
    folder: TempDir,
    server: Server,
}

/// Numbers as a body has them.
fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_le_bytes()).collect()
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

impl Guest {
    fn with(access: Access, owners: Owners, bounds: Bounds) -> Guest {
        let folder = tempfile::tempdir().unwrap();
        let open = std::fs::File::open(folder.path()).unwrap();
        let server = Server::new(open.into(), access, owners, bounds).unwrap();
        let mut guest = Guest { folder, server };
        let init = words(&[7, 38, 1 << 17, u32::MAX]);
        let answer = guest.ask(opcode::INIT, 0, &init).unwrap();
        assert_eq!(answer.len(), 64);
        assert_eq!(answer[..8], words(&[7, 31]));
        guest
    }

    fn new() -> Guest {
        Guest::with(Access::Write, Owners::of_process(), BOUNDS)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn raw(&mut self, opcode: u32, node: u64, body: &[u8]) -> Option<Vec<u8>> {
        let len_bytes = (HEADER + body.len()) as u32;
        let header = [words(&[len_bytes, opcode]), longs(&[7, node])].concat();
        let who = words(&[1000, 1001, 1, 0]);
        self.server.answer(&[&header, &who, body].concat())
    }

    fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Outcome {
        let answer = self.raw(opcode, node, body).unwrap();
        assert_eq!(word(&answer, 0) as usize, answer.len());
        assert_eq!(long(&answer, 8), 7);
        match word(&answer, 4) as i32 {
            0 => Ok(answer[16..].to_vec()),
            error => {
                assert_eq!(answer.len(), 16);
                Err(Errno::from_raw_os_error(-error))
            }
        }
    }

    fn find(&mut self, node: u64, name: &str) -> Result<u64, Errno> {
        let entry = self.ask(opcode::LOOKUP, node, &text(name))?;
        assert_eq!(entry.len(), 128);
        Ok(long(&entry, 0))
    }

    /// Node and handle.
    fn create(&mut self, name: &str, mode: u32) -> Result<(u64, u64), Errno> {
        let body = [words(&[READ_WRITE, mode, 0, 0]), text(name)].concat();
        let answer = self.ask(opcode::CREATE, ROOT, &body)?;
        assert_eq!(answer.len(), 144);
        Ok((long(&answer, 0), long(&answer, 128)))
    }

    fn open(&mut self, node: u64, flags: u32) -> Result<u64, Errno> {
        let answer = self.ask(opcode::OPEN, node, &words(&[flags, 0]))?;
        assert_eq!(answer.len(), 16);
        Ok(long(&answer, 0))
    }

    fn read(&mut self, (node, handle): (u64, u64), at: u64, count: u32) -> Outcome {
        let body = [longs(&[handle, at]), words(&[count, 0, 0, 0, 0, 0])].concat();
        self.ask(opcode::READ, node, &body)
    }

    fn write(&mut self, (node, handle): (u64, u64), at: u64, bytes: &[u8]) -> Result<u32, Errno> {
        let fields = words(&[bytes.len() as u32, 0, 0, 0, 0, 0]);
        let body = [longs(&[handle, at]), fields, bytes.to_vec()].concat();
        self.ask(opcode::WRITE, node, &body)
            .map(|answer| word(&answer, 0))
    }

    fn rename(&mut self, old: &str, new: &str, flags: u32) -> Outcome {
        let body = [longs(&[ROOT]), words(&[flags, 0]), text(old), text(new)].concat();
        self.ask(opcode::RENAME2, ROOT, &body)
    }

    /// `fuse_setattr_in`, with mode, owners, size and a time.
    fn set(&mut self, node: u64, valid: u32, value: u64) -> Outcome {
        let low = value as u32;
        let body = [
            words(&[valid, 0]),
            longs(&[0, value, 0, value, value, value]),
            words(&[5, 6, 7, low, 0, low, low, 0]),
        ];
        self.ask(opcode::SETATTR, node, &body.concat())
    }

    /// All names of a folder, with the numbers that they come with.
    fn list(&mut self, node: u64, opcode: u32) -> Vec<(String, u64)> {
        let handle = long(
            &self.ask(opcode::OPENDIR, node, &words(&[0, 0])).unwrap(),
            0,
        );
        let mut offset = 0;
        let mut names = Vec::new();
        loop {
            let body = [longs(&[handle, offset]), words(&[4096, 0, 0, 0, 0, 0])].concat();
            let answer = self.ask(opcode, node, &body).unwrap();
            assert!(answer.len() <= 4096);
            let mut at = 0;
            while at < answer.len() {
                let mut id = 0;
                if opcode == opcode::READDIRPLUS {
                    id = long(&answer, at);
                    at += 128;
                }
                offset = long(&answer, at + 8);
                let len = word(&answer, at + 16) as usize;
                let name = std::str::from_utf8(&answer[at + 24..at + 24 + len]).unwrap();
                names.push((name.to_owned(), id));
                at += (24 + len).next_multiple_of(8);
            }
            if answer.is_empty() {
                self.ask(opcode::RELEASEDIR, node, &longs(&[handle, 0, 0]))
                    .unwrap();
                return names;
            }
        }
    }
}

const HEADER: usize = crate::message::HEADER_BYTES;

#[test]
fn files_are_the_same_bytes_on_both_sides() {
    let mut guest = Guest::new();
    let bytes: Vec<u8> = (0..1_000_000_u32)
        .flat_map(|at| (at / 3).to_le_bytes())
        .collect();
    let file = guest.create("a", 0o640).unwrap();
    for (index, piece) in bytes.chunks(1 << 20).enumerate() {
        let done = guest.write(file, (index as u64) << 20, piece).unwrap();
        assert_eq!(done as usize, piece.len());
    }
    assert!(std::fs::read(guest.path("a")).unwrap() == bytes);
    assert_eq!(guest.path("a").metadata().unwrap().mode() & 0o7777, 0o640);
    std::fs::write(guest.path("b"), &bytes).unwrap();
    let node = guest.find(ROOT, "b").unwrap();
    let handle = guest.open(node, 0).unwrap();
    let read = guest.read((node, handle), 5, u32::MAX).unwrap();
    assert!(read == bytes[5..5 + (1 << 20)], "as much as one answer has");
    assert_eq!(
        guest.read((node, handle), bytes.len() as u64, 10),
        Ok(Vec::new())
    );
    assert_eq!(guest.read((node, handle), u64::MAX, 10), Err(Errno::INVAL));
}

#[test]
fn pages_have_their_place_where_programs_write_to_the_end() {
    let mut guest = Guest::new();
    let (node, handle) = guest.create("a", 0o600).unwrap();
    guest.write((node, handle), 0, b"0123456789").unwrap();
    let appending = guest
        .open(node, READ_WRITE | OFlags::APPEND.bits())
        .unwrap();
    // What a program writes, wherever the guest thinks that the end is.
    guest.write((node, appending), 3, b"ab").unwrap();
    assert_eq!(std::fs::read(guest.path("a")).unwrap(), b"0123456789ab");
    // A page of a mapping, by whatever the guest's kernel has open.
    let page = |guest: &mut Guest, at: u64, bytes: &[u8]| {
        let fields = words(&[bytes.len() as u32, OF_PAGES, 0, 0, 0, 0]);
        let body = [longs(&[appending, at]), fields, bytes.to_vec()].concat();
        guest.ask(opcode::WRITE, node, &body).unwrap();
    };
    page(&mut guest, 3, b"xyz");
    std::fs::remove_file(guest.path("a")).unwrap();
    page(&mut guest, 0, b"w");
    assert_eq!(guest.read((node, handle), 0, 100).unwrap(), b"w12xyz6789ab");
}

#[test]
fn no_name_leads_out_of_the_folder() {
    let mut guest = Guest::new();
    std::fs::create_dir(guest.path("d")).unwrap();
    symlink("/etc", guest.path("out")).unwrap();
    symlink("../..", guest.path("up")).unwrap();
    let folder = guest.find(ROOT, "d").unwrap();
    for name in [
        "..",
        ".",
        "",
        "../x",
        "d/..",
        "/etc/passwd",
        "/",
        "out/passwd",
    ] {
        for node in [ROOT, folder] {
            assert_eq!(guest.find(node, name), Err(Errno::INVAL), "{name:?}");
            for opcode in [opcode::UNLINK, opcode::RMDIR] {
                assert_eq!(guest.ask(opcode, node, &text(name)), Err(Errno::INVAL));
            }
            let made = [words(&[0o755, 0]), text(name)].concat();
            assert_eq!(guest.ask(opcode::MKDIR, node, &made), Err(Errno::INVAL));
        }
        assert_eq!(guest.create(name, 0o600), Err(Errno::INVAL), "{name:?}");
        assert_eq!(guest.rename("d", name, 0), Err(Errno::INVAL));
        assert_eq!(guest.rename(name, "e", 0), Err(Errno::INVAL));
        let linked = [longs(&[folder]), text(name)].concat();
        assert_eq!(guest.ask(opcode::LINK, ROOT, &linked), Err(Errno::INVAL));
    }
    for (name, target) in [("out", "/etc"), ("up", "../..")] {
        let link = guest.find(ROOT, name).unwrap();
        let read = guest.ask(opcode::READLINK, link, &[]).unwrap();
        assert_eq!(
            read,
            target.as_bytes(),
            "where it leads is for the guest to follow"
        );
        assert_eq!(guest.find(link, "passwd"), Err(Errno::NOTDIR));
        assert_eq!(guest.open(link, 0), Err(Errno::LOOP));
        assert_eq!(guest.open(link, WRITE), Err(Errno::LOOP));
        assert_eq!(
            guest.create(name, 0o600),
            Err(Errno::EXIST),
            "it is not followed"
        );
    }
}

#[test]
fn what_was_open_stays_open_when_another_takes_its_name() {
    let mut guest = Guest::new();
    let old = guest.create("old", 0o600).unwrap();
    guest.write(old, 0, b"old").unwrap();
    let new = guest.create("new", 0o600).unwrap();
    guest.write(new, 0, b"new").unwrap();
    assert_eq!(
        guest.rename("new", "old", 1),
        Err(Errno::EXIST),
        "not over another"
    );
    guest.rename("new", "old", 0).unwrap();
    assert_eq!(guest.read(old, 0, 9).unwrap(), b"old");
    assert_eq!(guest.write(old, 3, b"er"), Ok(2));
    assert_eq!(guest.read(old, 0, 9).unwrap(), b"older");
    assert_eq!(std::fs::read(guest.path("old")).unwrap(), b"new");
    assert_eq!(
        guest.find(ROOT, "old"),
        Ok(new.0),
        "it is the same file by another name"
    );
    guest.create("c", 0o600).unwrap();
    guest.rename("c", "old", 2).unwrap();
    assert_eq!(guest.find(ROOT, "c"), Ok(new.0), "they were exchanged");
    assert_eq!(
        guest.rename("c", "d", 4),
        Err(Errno::INVAL),
        "a whiteout is a device"
    );
}

#[test]
fn a_folder_of_many_names_is_listed_whole() {
    let mut guest = Guest::new();
    std::fs::create_dir(guest.path("many")).unwrap();
    let name = |index| format!("a name of file number {index}");
    for index in 0..10_000 {
        std::fs::write(guest.path("many").join(name(index)), "").unwrap();
    }
    let folder = guest.find(ROOT, "many").unwrap();
    let mut expected: BTreeSet<String> = (0..10_000).map(name).collect();
    expected.extend([".".to_owned(), "..".to_owned()]);
    for opcode in [opcode::READDIR, opcode::READDIRPLUS] {
        let listed = guest.list(folder, opcode);
        assert_eq!(listed.len(), expected.len(), "each once");
        let names: BTreeSet<String> = listed.into_iter().map(|(name, _)| name).collect();
        assert!(names == expected);
    }
    assert_eq!(
        guest.server.nodes.len(),
        BOUNDS.nodes,
        "what is too much is listed without a number"
    );
}

#[test]
fn what_is_read_only_stays_as_it_is() {
    let mut guest = Guest::with(Access::Read, Owners::of_process(), BOUNDS);
    std::fs::write(guest.path("a"), "text").unwrap();
    let node = guest.find(ROOT, "a").unwrap();
    for opcode in (0..64).filter(|opcode| opcode::changes(*opcode)) {
        assert_eq!(
            guest.ask(opcode, node, &[0; 200]),
            Err(Errno::ROFS),
            "{opcode}"
        );
    }
    for flags in [WRITE, READ_WRITE, 3] {
        assert_eq!(guest.open(node, flags), Err(Errno::ROFS));
    }
    let handle = guest.open(node, libc_trunc()).unwrap();
    assert_eq!(
        guest.read((node, handle), 0, 10).unwrap(),
        b"text",
        "what is read is not cut"
    );
    assert_eq!(guest.write((node, handle), 0, b"x"), Err(Errno::ROFS));
}

fn libc_trunc() -> u32 {
    OFlags::TRUNC.bits()
}

#[test]
fn pipes_sockets_and_devices_are_seen_and_not_opened() {
    let mut guest = Guest::new();
    let _listener = std::os::unix::net::UnixListener::bind(guest.path("socket")).unwrap();
    let at = std::fs::File::open(guest.folder.path()).unwrap();
    rustix::fs::mkfifoat(&at, "pipe", Mode::RUSR | Mode::WUSR).unwrap();
    for name in ["pipe", "socket"] {
        let entry = guest.ask(opcode::LOOKUP, ROOT, &text(name)).unwrap();
        assert_ne!(word(&entry, 40 + 60) & 0o170_000, 0o100_000);
        assert_eq!(word(&entry, 40 + 76), 0, "and no device of the guest");
        for flags in [0, WRITE, READ_WRITE] {
            assert_eq!(
                guest.open(long(&entry, 0), flags),
                Err(Errno::NXIO),
                "{name}"
            );
        }
        assert_eq!(guest.create(name, 0o600), Err(Errno::EXIST));
        // Who may speak to a program of the host by it stays as it is, and so does its time where that is asked for.
        let before = guest.path(name).metadata().unwrap();
        let id = long(&entry, 0);
        for valid in [1, 1 << 1, 1 << 2] {
            assert_eq!(guest.set(id, valid, 0o777), Err(Errno::PERM), "{name}");
        }
        assert_eq!(guest.path(name).metadata().unwrap().mode(), before.mode());
        guest.set(id, 1 << 5, 5).unwrap();
        assert_eq!(guest.path(name).metadata().unwrap().mtime(), 5);
        // As Linux has it of what cannot have any.
        assert_eq!(
            guest.ask(opcode::LISTXATTR, id, &words(&[9, 0])),
            Ok(vec![])
        );
        let get = [words(&[9, 0]), text("user.a")].concat();
        assert_eq!(guest.ask(opcode::GETXATTR, id, &get), Err(Errno::NODATA));
        let set = [words(&[1, 0]), text("user.a"), vec![1]].concat();
        assert_eq!(guest.ask(opcode::SETXATTR, id, &set), Err(Errno::PERM));
    }
    for kind in [0o010_000, 0o020_000, 0o060_000, 0o140_000] {
        let body = [words(&[kind | 0o600, 0x103, 0, 0]), text("made")].concat();
        assert_eq!(guest.ask(opcode::MKNOD, ROOT, &body), Err(Errno::PERM));
    }
    let body = [words(&[0o100_600, 0, 0, 0]), text("made")].concat();
    guest.ask(opcode::MKNOD, ROOT, &body).unwrap();
    assert!(guest.path("made").metadata().unwrap().is_file());
    assert!(!guest.path("pipe").metadata().unwrap().file_type().is_file());
    assert!(guest.path("pipe").metadata().unwrap().file_type().is_fifo());
}

#[test]
fn no_file_of_the_host_runs_as_somebody_because_a_guest_says_so() {
    let mut guest = Guest::new();
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
    let (node, _) = guest.create("a", 0o106_755).unwrap();
    assert_eq!(mode(&guest.path("a")), 0o755);
    guest.set(node, 1, 0o6711).unwrap();
    assert_eq!(mode(&guest.path("a")), 0o711);
    let body = [words(&[0o4755, 0]), text("d")].concat();
    guest.ask(opcode::MKDIR, ROOT, &body).unwrap();
    assert_eq!(mode(&guest.path("d")), 0o755);
    symlink("a", guest.path("link")).unwrap();
    let link = guest.find(ROOT, "link").unwrap();
    assert_eq!(guest.set(link, 1, 0o777), Err(Errno::OPNOTSUPP));
    assert_eq!(mode(&guest.path("a")), 0o711, "a link is not followed");
}

#[test]
fn a_number_that_is_forgotten_means_nothing() {
    let mut guest = Guest::new();
    std::fs::write(guest.path("a"), "").unwrap();
    let node = guest.find(ROOT, "a").unwrap();
    assert_eq!(guest.find(ROOT, "a"), Ok(node));
    let attributes = |guest: &mut Guest, node| guest.ask(opcode::GETATTR, node, &longs(&[0, 0]));
    assert_eq!(guest.raw(opcode::FORGET, node, &longs(&[1])), None);
    assert!(attributes(&mut guest, node).is_ok(), "it was told twice");
    let many = [words(&[2, 0]), longs(&[node, u64::MAX, ROOT, u64::MAX])].concat();
    assert_eq!(guest.raw(opcode::BATCH_FORGET, 0, &many), None);
    assert_eq!(attributes(&mut guest, node), Err(Errno::STALE));
    assert!(attributes(&mut guest, ROOT).is_ok(), "the root stays");
    assert_ne!(guest.find(ROOT, "a"), Ok(node));
    for node in [0, 2_000, u64::MAX] {
        assert_eq!(attributes(&mut guest, node), Err(Errno::STALE));
    }
    // More than there are.
    assert_eq!(
        guest.raw(opcode::BATCH_FORGET, 0, &words(&[u32::MAX, 0])),
        None
    );
}

#[test]
fn a_guest_keeps_no_more_than_it_may() {
    let mut guest = Guest::new();
    for index in 0..200 {
        std::fs::write(guest.path(&index.to_string()), "").unwrap();
    }
    let found: Vec<_> = (0..200)
        .map(|index| guest.find(ROOT, &index.to_string()))
        .collect();
    assert_eq!(
        found.iter().filter(|found| found.is_ok()).count(),
        BOUNDS.nodes - 1
    );
    assert_eq!(found[150], Err(Errno::NFILE));
    let node = found[0].unwrap();
    let opened: Vec<_> = (0..20).map(|_| guest.open(node, 0)).collect();
    assert_eq!(
        opened.iter().filter(|opened| opened.is_ok()).count(),
        BOUNDS.handles
    );
    assert_eq!(guest.create("new", 0o600), Err(Errno::NFILE));
    assert!(
        !guest.path("new").exists(),
        "nothing is made that cannot be opened"
    );
    assert_eq!(guest.open(node, 0), Err(Errno::NFILE));
    let release = longs(&[opened[0].unwrap(), 0, 0]);
    assert_eq!(
        guest.ask(opcode::RELEASE, ROOT, &release),
        Err(Errno::BADF),
        "not as another's"
    );
    guest.ask(opcode::RELEASE, node, &release).unwrap();
    assert_eq!(guest.ask(opcode::RELEASE, node, &release), Err(Errno::BADF));
    guest.open(node, 0).unwrap();
}

#[test]
fn sizes_and_times_are_set() {
    let mut guest = Guest::new();
    let (node, _) = guest.create("a", 0o600).unwrap();
    guest.set(node, 1 << 3, 5_000).unwrap();
    guest.set(node, 1 << 4 | 1 << 5, 1_000_000).unwrap();
    let found = guest.path("a").metadata().unwrap();
    assert_eq!(
        (found.len(), found.atime(), found.mtime()),
        (5_000, 1_000_000, 1_000_000)
    );
    assert_eq!((found.atime_nsec(), found.mtime_nsec()), (5, 6));
    guest.set(node, 1 << 5 | 1 << 8, 7).unwrap();
    assert!(
        guest.path("a").metadata().unwrap().mtime() > 1_000_000,
        "now"
    );
    assert!(guest.set(node, 1 << 3, u64::MAX).is_err());
}

#[test]
fn attributes_of_users_are_kept_and_no_others() {
    let mut guest = Guest::new();
    let (node, _) = guest.create("a", 0o600).unwrap();
    let set = |name: &str| [words(&[5, 0]), text(name), b"value".to_vec()].concat();
    match guest.ask(opcode::SETXATTR, node, &set("user.a")) {
        Err(Errno::OPNOTSUPP) => {
            return println!("skipped: no attributes where temporary files are");
        }
        done => done.unwrap(),
    };
    let get = |room, name: &str| [words(&[room, 0]), text(name)].concat();
    let value = guest.ask(opcode::GETXATTR, node, &get(100, "user.a"));
    assert_eq!(value.unwrap(), b"value");
    assert_eq!(
        guest
            .ask(opcode::GETXATTR, node, &get(0, "user.a"))
            .unwrap(),
        words(&[5, 0])
    );
    assert_eq!(
        guest.ask(opcode::GETXATTR, node, &get(3, "user.a")),
        Err(Errno::RANGE)
    );
    assert_eq!(
        guest
            .ask(opcode::LISTXATTR, node, &words(&[100, 0]))
            .unwrap(),
        text("user.a")
    );
    for name in [
        "security.capability",
        "trusted.a",
        "system.posix_acl_access",
        "",
    ] {
        assert_eq!(
            guest.ask(opcode::SETXATTR, node, &set(name)),
            Err(Errno::OPNOTSUPP)
        );
        assert_eq!(
            guest.ask(opcode::GETXATTR, node, &get(9, name)),
            Err(Errno::OPNOTSUPP)
        );
    }
    guest
        .ask(opcode::REMOVEXATTR, node, &text("user.a"))
        .unwrap();
    assert_eq!(
        guest.ask(opcode::GETXATTR, node, &get(9, "user.a")),
        Err(Errno::NODATA)
    );
}

#[test]
fn a_file_with_two_names_is_one_file() {
    let mut guest = Guest::new();
    let (node, _) = guest.create("a", 0o600).unwrap();
    let linked = guest.ask(opcode::LINK, ROOT, &[longs(&[node]), text("b")].concat());
    assert_eq!(long(&linked.unwrap(), 0), node);
    assert_eq!(guest.path("b").metadata().unwrap().nlink(), 2);
    let link = [text("link"), text("nowhere")].concat();
    let link = long(&guest.ask(opcode::SYMLINK, ROOT, &link).unwrap(), 0);
    let linked = guest.ask(
        opcode::LINK,
        ROOT,
        &[longs(&[link]), text("link2")].concat(),
    );
    assert_eq!(
        long(&linked.unwrap(), 0),
        link,
        "of a link too, which is not followed"
    );
    guest.ask(opcode::UNLINK, ROOT, &text("a")).unwrap();
    assert!(!guest.path("a").exists() && guest.path("b").exists());
    assert!(guest.open(node, 0).is_ok());
}

#[test]
fn holes_are_found_and_made_and_ranges_copied() {
    let mut guest = Guest::new();
    let (node, handle) = guest.create("a", 0o600).unwrap();
    guest.write((node, handle), 0, &[1; 8192]).unwrap();
    guest.write((node, handle), 1 << 20, &[2; 4096]).unwrap();
    let seek = |at, whence| [longs(&[handle, at]), words(&[whence, 0])].concat();
    let found = guest.ask(opcode::LSEEK, node, &seek(8192, 3)).unwrap();
    assert!((8192..=1 << 20).contains(&long(&found, 0)));
    assert_eq!(
        guest.ask(opcode::LSEEK, node, &seek(0, 0)),
        Err(Errno::INVAL)
    );
    let punch = [longs(&[handle, 0, 4096]), words(&[3, 0])].concat();
    guest.ask(opcode::FALLOCATE, node, &punch).unwrap();
    assert_eq!(
        guest.read((node, handle), 4090, 12).unwrap(),
        [[0; 6], [1; 6]].concat()
    );
    let collapse = [longs(&[handle, 0, 4096]), words(&[8, 0])].concat();
    assert_eq!(
        guest.ask(opcode::FALLOCATE, node, &collapse),
        Err(Errno::OPNOTSUPP)
    );
    let (other, to) = guest.create("b", 0o600).unwrap();
    let copy = longs(&[handle, 4096, other, to, 0, 4096, 0]);
    let copied = guest.ask(opcode::COPY_FILE_RANGE, node, &copy).unwrap();
    assert_eq!(copied, words(&[4096, 0]));
    assert_eq!(std::fs::read(guest.path("b")).unwrap(), [1; 4096]);
}

#[test]
fn a_guest_that_mounts_anew_knows_nothing_of_before() {
    let mut guest = Guest::new();
    let file = guest.create("a", 0o600).unwrap();
    guest.ask(opcode::DESTROY, 0, &[]).unwrap();
    assert_eq!(guest.find(ROOT, "a"), Err(Errno::IO), "it is not mounted");
    assert_eq!(
        guest.ask(opcode::INIT, 0, &words(&[7, 27, 0, 0])),
        Err(Errno::PROTO)
    );
    guest.ask(opcode::INIT, 0, &words(&[7, 31, 0, 0])).unwrap();
    assert_eq!(guest.read(file, 0, 1), Err(Errno::BADF));
    assert_eq!(guest.open(file.0, 0), Err(Errno::STALE));
    assert!(guest.find(ROOT, "a").is_ok());
}

#[test]
fn root_keeps_numbers_and_others_own_all() {
    let mut guest = Guest::new();
    let (node, _) = guest.create("a", 0o600).unwrap();
    let found = guest.path("a").metadata().unwrap();
    let seen = guest.ask(opcode::GETATTR, node, &longs(&[0, 0])).unwrap();
    let seen = (word(&seen, 16 + 68), word(&seen, 16 + 72));
    match guest.server.owners {
        Owners::Numbers => {
            assert_eq!((found.uid(), found.gid()), (1000, 1001), "of who asked");
            assert_eq!(seen, (1000, 1001));
            guest.set(node, 1 << 1, 7).unwrap();
            assert_eq!(guest.path("a").metadata().unwrap().uid(), 7);
        }
        Owners::One { uid, .. } => {
            assert_eq!((found.uid(), seen), (uid, (0, 0)));
            guest.set(node, 1 << 1, 0).unwrap();
            assert_eq!(guest.set(node, 1 << 1, 7), Err(Errno::PERM));
        }
    }
    let uid = found.uid();
    let gid = found.gid() + 1;
    let mut guest = Guest::with(Access::Write, Owners::One { uid, gid }, BOUNDS);
    std::fs::write(guest.path("b"), "").unwrap();
    let run_as = std::fs::Permissions::from_mode(0o4755);
    std::fs::set_permissions(guest.path("b"), run_as).unwrap();
    let entry = guest.ask(opcode::LOOKUP, ROOT, &text("b")).unwrap();
    assert_eq!(
        word(&entry, 40 + 60) & 0o7777,
        0o755,
        "nor as the guest's root"
    );
    assert_eq!(word(&entry, 40 + 72), 65534);
}

#[test]
fn whatever_is_cut_short_is_refused() {
    let mut guest = Guest::new();
    let (node, handle) = guest.create("a", 0o600).unwrap();
    for opcode in (0..64).filter(|opcode| *opcode != opcode::INIT) {
        for len in 0..70 {
            for node in [0, ROOT, node, u64::MAX] {
                let _ = guest.raw(opcode, node, &vec![0xff; len]);
                let _ = guest.raw(opcode, node, &vec![0; len]);
            }
        }
    }
    guest.ask(opcode::INIT, 0, &words(&[7, 31, 0, 0])).unwrap();
    assert_eq!(guest.write((node, handle), 0, b"x"), Err(Errno::BADF));
    assert_eq!(guest.server.answer(&[]), None);
    assert_eq!(guest.server.answer(&vec![0; REQUEST_BYTES_MAX + 1]), None);
    let node = guest.find(ROOT, "a").unwrap();
    let handle = guest.open(node, WRITE).unwrap();
    let more = [longs(&[handle, 0]), words(&[2, 0, 0, 0, 0, 0]), vec![1]].concat();
    assert_eq!(
        guest.ask(opcode::WRITE, node, &more),
        Err(Errno::INVAL),
        "less than it says"
    );
    assert_eq!(
        guest.write((node, handle), u64::MAX, b"xx"),
        Err(Errno::INVAL)
    );
}

#[test]
fn messages_come_over_a_socket_and_wrong_lengths_end_it() {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream;
    let check = |first: u32, expected: Option<ErrorKind>| {
        let mut guest = Guest::new();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let served = std::thread::spawn(move || crate::serve(&mut guest.server, &theirs));
        let mut message = [words(&[first, opcode::GETATTR]), longs(&[9, ROOT])].concat();
        message.resize(56, 0);
        (&ours).write_all(&message).unwrap();
        if expected.is_none() {
            let mut answer = [0; 16 + 104];
            (&ours).read_exact(&mut answer).unwrap();
            assert_eq!(
                (word(&answer, 0), word(&answer, 4), long(&answer, 8)),
                (120, 0, 9)
            );
        }
        drop(ours);
        let ended = served.join().unwrap();
        assert_eq!(ended.err().map(|error| error.kind()), expected, "{first}");
    };
    check(56, None);
    check(0, Some(ErrorKind::InvalidData));
    check(39, Some(ErrorKind::InvalidData));
    check(REQUEST_BYTES_MAX as u32 + 1, Some(ErrorKind::InvalidData));
    check(57, Some(ErrorKind::UnexpectedEof));
}
