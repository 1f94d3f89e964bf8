//! What goes in as an archive comes out as one, and what should not go in does not.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::super::shown::Shown;
use super::*;

fn told() -> Told {
    Told::new(Shown::new(), Arc::new(AtomicUsize::new(0)))
}

/// Keeps what came, whole.
#[derive(Default)]
struct Kept(Vec<(Entry, Vec<u8>)>);

impl Taker for Kept {
    fn entry(&mut self, entry: &Entry, _told: &mut Told) -> Result<(), Stop> {
        self.0.push((entry.clone(), Vec::new()));
        Ok(())
    }

    fn data(&mut self, at: u64, bytes: &[u8], _told: &mut Told) -> Result<(), Stop> {
        let (_, kept) = self.0.last_mut().unwrap();
        kept.resize(at as usize, 0);
        kept.extend(bytes);
        Ok(())
    }

    fn end(&mut self, _told: &mut Told) -> Result<(), Stop> {
        for (entry, kept) in &mut self.0 {
            kept.resize(entry.len as usize, 0);
        }
        Ok(())
    }
}

fn entry(kind: EntryKind, name: &str, target: &str, len: u64) -> Entry {
    Entry {
        kind,
        mode: 0o755,
        uid: 1000,
        gid: 100,
        seconds: 1_600_000_000,
        nanoseconds: 250_000_000,
        len,
        name: name.as_bytes().to_vec(),
        target: target.as_bytes().to_vec(),
    }
}

#[test]
fn what_is_written_is_read_again_byte_for_byte() {
    let long = "long/".repeat(60) + "name";
    let mut past = entry(EntryKind::File, "past", "", 0);
    past.seconds = -2;
    let entries = [
        (entry(EntryKind::Folder, "d", "", 0), Vec::new()),
        (entry(EntryKind::File, "d/f", "", 700), vec![b'x'; 700]),
        (entry(EntryKind::File, &long, "", 512), vec![b'y'; 512]),
        (entry(EntryKind::Link, "l", &long, 0), Vec::new()),
        (past, Vec::new()),
        (entry(EntryKind::File, "holes", "", 200_000), Vec::new()),
    ];
    let mut bytes = Vec::new();
    let mut writer = ToTar::new(&mut bytes, None);
    for (entry, content) in &entries {
        writer.entry(entry, &mut told()).unwrap();
        if !content.is_empty() {
            writer.data(0, content, &mut told()).unwrap();
        }
    }
    writer.data(100_000, b"middle", &mut told()).unwrap();
    writer.end(&mut told()).unwrap();
    assert_eq!(bytes.len() % 512, 0);
    let mut kept = Kept::default();
    FromTar::new(bytes.as_slice())
        .pour(&mut kept, &mut told())
        .unwrap();
    assert_eq!(kept.0.len(), entries.len());
    for ((entry, content), (read, found)) in entries.iter().zip(&kept.0).take(5) {
        assert_eq!(entry.name, read.name);
        let negative = entry.seconds < 0;
        assert!(negative || entry == read, "{entry:?} {read:?}");
        assert_eq!(content, found);
    }
    let (_, holes) = &kept.0[5];
    assert_eq!(
        (holes.len(), &holes[100_000..100_006]),
        (200_000, &b"middle"[..])
    );
}

#[test]
fn holes_that_a_guest_announces_count_before_they_are_written() {
    let mut bytes = Vec::new();
    let most = VmName::new("web").unwrap();
    let mut writer = ToTar::new(&mut bytes, Some((most, 1 << 20)));
    let mut write = |len| writer.entry(&entry(EntryKind::File, "f", "", len), &mut told());
    write(1 << 19).unwrap();
    write(1 << 19).unwrap();
    let refused = write(1);
    assert!(matches!(refused, Err(Stop::TooMuch(_, _))), "{refused:?}");
    let refused = write(u64::MAX);
    assert!(matches!(refused, Err(Stop::TooMuch(_, _))), "{refused:?}");
    assert!(bytes.len() < 2 << 20, "{}", bytes.len());
}

fn archive(kind: EntryType, name: &str, target: &str, len: u64) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    // Past the library's checks: an attacker does not use the library.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(len);
    header.set_cksum();
    header.as_bytes().to_vec()
}

#[test]
fn what_would_go_elsewhere_is_left_out() {
    let check = |kind, name: &str, target: &str, taken| {
        let mut bytes = archive(kind, name, target, 0);
        bytes.extend(archive(EntryType::Regular, "next", "", 0));
        bytes.extend([0; 1024]);
        let mut kept = Kept::default();
        let mut told = told();
        FromTar::new(bytes.as_slice())
            .pour(&mut kept, &mut told)
            .unwrap();
        assert_eq!(kept.0.len(), if taken { 2 } else { 1 }, "{name}");
        assert_eq!(told.left_out, u64::from(!taken), "{name}");
    };
    check(EntryType::Regular, "./a/b", "", true);
    check(EntryType::Directory, "./", "", true);
    check(EntryType::Regular, "/etc/passwd", "", false);
    check(EntryType::Regular, "a/../../b", "", false);
    check(EntryType::Regular, "a\x1b[2Jb", "", false);
    check(EntryType::Char, "null", "", false);
    check(EntryType::Block, "sda", "", false);
    check(EntryType::Fifo, "pipe", "", false);
    check(EntryType::Link, "second", "first", false);
    check(EntryType::Symlink, "l", "", false);
}

#[test]
fn an_archive_that_is_cut_or_none_is_refused() {
    let check = |bytes: &[u8]| {
        let poured = FromTar::new(bytes).pour(&mut Kept::default(), &mut told());
        assert!(matches!(poured, Err(Stop::Input(_))), "{poured:?}");
    };
    check(&[b'x'; 600]);
    let mut cut = archive(EntryType::Regular, "f", "", 1000);
    cut.extend([b'x'; 512]);
    check(&cut);
    // A header that says it is gigabytes.
    let mut long = archive(EntryType::XHeader, "h", "", 1 << 32);
    long.resize(3 << 20, b'x');
    check(&long);
}
