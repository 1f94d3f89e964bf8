//! Writes ISO 9660: for tests, and for who feeds the reader with what somebody has changed.
//!
//! Two descriptors, folders, files; no path tables, which neither Linux nor GRUB reads. Folders and files have one extent each.

use std::collections::BTreeMap;

const SECTOR_BYTES: usize = 2048;

/// Which names a disc has beside the plain ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiscNames {
    /// None.
    Plain,
    /// Rock Ridge's; links are there with these alone.
    RockRidge,
    /// Joliet's.
    Joliet,
}

/// What is on a disc.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OnDisc<'a> {
    /// A file with these bytes.
    File(&'a [u8]),
    /// A link to there.
    Link(&'a str),
}

/// A folder that is being written.
#[derive(Default)]
struct Folder<'a> {
    folders: BTreeMap<&'a str, Folder<'a>>,
    files: BTreeMap<&'a str, &'a OnDisc<'a>>,
}

/// Bytes of a disc with these files, by their paths without a `/` at the start.
pub fn disc_of_files(label: &str, names: DiscNames, files: &[(&str, OnDisc<'_>)]) -> Vec<u8> {
    let mut root = Folder::default();
    for (path, content) in files {
        let mut folder = &mut root;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                folder.files.insert(part, content);
            } else {
                folder = folder.folders.entry(part).or_default();
            }
        }
    }
    let mut disc = vec![0; 19 * SECTOR_BYTES];
    let plain = if names == DiscNames::Joliet {
        DiscNames::Plain
    } else {
        names
    };
    let place = write(&mut disc, &root, plain, None);
    describe(&mut disc, (16, 1), label, &record(place, &[0], 2, &[]));
    if names == DiscNames::Joliet {
        let place = write(&mut disc, &root, names, None);
        describe(&mut disc, (17, 2), label, &record(place, &[0], 2, &[]));
        disc[17 * SECTOR_BYTES + 88..][..3].copy_from_slice(b"%/E");
        describe(&mut disc, (18, 255), "", &[]);
    } else {
        describe(&mut disc, (17, 255), "", &[]);
    }
    disc
}

/// A descriptor of a volume (ECMA-119, 8).
fn describe(disc: &mut [u8], (sector, kind): (usize, u8), label: &str, root: &[u8]) {
    let blocks = (disc.len() / SECTOR_BYTES) as u32;
    let descriptor = &mut disc[sector * SECTOR_BYTES..][..SECTOR_BYTES];
    descriptor[0] = kind;
    descriptor[1..7].copy_from_slice(b"CD001\x01");
    if kind == 255 {
        return;
    }
    descriptor[40..72].fill(b' ');
    descriptor[40..40 + label.len()].copy_from_slice(label.as_bytes());
    descriptor[80..88].copy_from_slice(&both(blocks));
    descriptor[128..132].copy_from_slice(&[0, 8, 8, 0]);
    descriptor[156..156 + root.len()].copy_from_slice(root);
    descriptor[813..829].copy_from_slice(b"2026120201530000");
}

/// A number as the standard has it: little endian, then big.
fn both(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// A folder's record (ECMA-119, 9.1): where and how long, its name, flags, and fields for the system's use.
fn record((block, len): (u32, u32), name: &[u8], flags: u8, fields: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 33];
    bytes[2..10].copy_from_slice(&both(block));
    bytes[10..18].copy_from_slice(&both(len));
    bytes[25] = flags;
    bytes[28..32].copy_from_slice(&[1, 0, 0, 1]);
    bytes[32] = name.len() as u8;
    bytes.extend(name);
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes.extend(fields);
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes[0] = bytes.len() as u8;
    bytes
}

/// Writes a folder and what is in it; its place and length.
fn write(
    disc: &mut Vec<u8>,
    folder: &Folder<'_>,
    names: DiscNames,
    above: Option<(u32, u32)>,
) -> (u32, u32) {
    // Children come first, so that a folder knows where they are; what leads up is not read by anybody here.
    let mut records = Vec::new();
    for (name, within) in &folder.folders {
        let place = write(disc, within, names, above);
        let (short, fields) = named(name, names, true);
        records.push(record(place, &short, 2, &fields));
    }
    for (name, content) in &folder.files {
        let (short, mut fields) = named(name, names, false);
        let place = match content {
            OnDisc::File(bytes) => put(disc, bytes),
            OnDisc::Link(_) if names != DiscNames::RockRidge => continue,
            OnDisc::Link(target) => {
                fields.extend(link(target));
                (0, 0)
            }
        };
        records.push(record(place, &short, 0, &fields));
    }
    // SUSP-112, 5.3: the first record of the root says that there are fields.
    let susp: &[u8] = match names {
        DiscNames::RockRidge => b"SP\x07\x01\xbe\xef\x00",
        _ => b"",
    };
    let mut bytes = record((0, 0), &[0], 2, susp);
    bytes.extend(record(above.unwrap_or_default(), &[1], 2, &[]));
    for record in records {
        let left = SECTOR_BYTES - bytes.len() % SECTOR_BYTES;
        if left < record.len() {
            bytes.resize(bytes.len() + left, 0);
        }
        bytes.extend(record);
    }
    bytes.resize(bytes.len().next_multiple_of(SECTOR_BYTES), 0);
    put(disc, &bytes)
}

/// The name of a record, and the fields with the real one.
fn named(name: &str, names: DiscNames, is_folder: bool) -> (Vec<u8>, Vec<u8>) {
    if names == DiscNames::Joliet {
        let units = name.encode_utf16().flat_map(u16::to_be_bytes);
        return (units.collect(), Vec::new());
    }
    let mut short = name.to_uppercase().into_bytes();
    if !is_folder {
        short.extend(b";1");
    }
    let mut fields = Vec::new();
    if names == DiscNames::RockRidge {
        fields.extend([b'N', b'M', 5 + name.len() as u8, 1, 0]);
        fields.extend(name.as_bytes());
    }
    (short, fields)
}

/// The field of a link (RRIP-112, 4.1.3).
fn link(target: &str) -> Vec<u8> {
    let mut parts = Vec::new();
    for (n, part) in target.split('/').enumerate() {
        match part {
            "" if n == 0 => parts.extend([8, 0]),
            ".." => parts.extend([4, 0]),
            part => {
                parts.extend([0, part.len() as u8]);
                parts.extend(part.as_bytes());
            }
        }
    }
    let mut field = vec![b'S', b'L', 5 + parts.len() as u8, 1, 0];
    field.extend(parts);
    field
}

/// Writes bytes at the next sector; its number, and their length.
fn put(disc: &mut Vec<u8>, bytes: &[u8]) -> (u32, u32) {
    let block = (disc.len() / SECTOR_BYTES) as u32;
    disc.extend(bytes);
    disc.resize(disc.len().next_multiple_of(SECTOR_BYTES), 0);
    (block, bytes.len() as u32)
}
