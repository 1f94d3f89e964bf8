//! ISO 9660 (ECMA-119), as discs and images for them have it: names by Rock Ridge (IEEE P1282, over SUSP), else by Joliet, else
//! the plain ones, which are matched without regard to case, as GRUB and Linux do.
//!
//! Read here and not by a library: what a boot entry needs of it is folders, extents and names, and every number of it is a
//! stranger's. A folder has a greatest size, links a greatest number, and each read a place that must be within the disk.

use std::io::{self, Write};

use super::disk::Section;

/// Bytes of a sector; where the descriptors begin (ECMA-119, 6.2.1), and how many are looked at.
const SECTOR_BYTES: u64 = 2048;
const DESCRIPTORS_START: u64 = 16;
const DESCRIPTORS_MAX: u64 = 32;
/// Largest folder that is read, in bytes.
const FOLDER_BYTES_MAX: u64 = 1 << 20;
/// Links that one path may lead over.
const LINKS_MAX: usize = 16;
/// Continuations that one record may have.
const CONTINUATIONS_MAX: usize = 8;
/// Extents that one file may have; one has up to 4 GiB.
const EXTENTS_MAX: usize = 64;
/// Bytes that are copied at once.
const PIECE_BYTES: usize = 128 << 10;

/// Flags of a record (ECMA-119, 9.1.6).
const FOLDER: u8 = 0x02;
const ASSOCIATED: u8 = 0x04;
const GOES_ON: u8 = 0x80;

/// What names are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Names {
    /// Rock Ridge's; so many bytes of each record are skipped before them.
    RockRidge(usize),
    /// Those of the supplementary descriptor, in UCS-2.
    Joliet,
    /// Those of the standard.
    Plain,
}

/// A file, a folder or a link.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Node {
    /// Starts and lengths in bytes.
    extents: Vec<(u64, u64)>,
    is_folder: bool,
    /// Where it leads, if it is a link.
    link: Option<String>,
    /// Compressed by zisofs, which is not read here.
    is_packed: bool,
}

/// A file system that is read.
pub(super) struct Iso {
    section: Section,
    block_bytes: u64,
    root: Node,
    names: Names,
    uuid: String,
    label: String,
}

fn missing() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "file not found")
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let four = bytes.get(at..at + 4).and_then(|it| it.try_into().ok());
    four.map_or(0, |four| u64::from(u32::from_le_bytes(four)))
}

impl Iso {
    /// The file system in this part of a disk.
    ///
    /// # Errors
    /// If there is none, or its descriptors make no sense.
    pub(super) fn open(section: Section) -> io::Result<Iso> {
        let mut primary = None;
        let mut joliet = None;
        for n in 0..DESCRIPTORS_MAX {
            let mut sector = [0; SECTOR_BYTES as usize];
            section.fill((DESCRIPTORS_START + n) * SECTOR_BYTES, &mut sector)?;
            if sector[1..6] != *b"CD001" {
                break;
            }
            match sector[0] {
                1 if primary.is_none() => primary = Some(sector),
                2 if is_joliet(&sector) && joliet.is_none() => joliet = Some(sector),
                255 => break,
                _ => {}
            }
        }
        let primary = primary.ok_or_else(|| damaged("it has no primary descriptor"))?;
        let block_bytes = number(&primary, 128) & 0xffff;
        if !matches!(block_bytes, 512 | 1024 | 2048) {
            return Err(damaged("its blocks have no size that is known"));
        }
        let mut iso = Iso {
            section,
            block_bytes,
            root: Node {
                extents: Vec::new(),
                is_folder: true,
                link: None,
                is_packed: false,
            },
            names: Names::Plain,
            uuid: uuid(&primary),
            label: String::from_utf8_lossy(&primary[40..72]).trim().to_owned(),
        };
        iso.root.extents = vec![iso.extent(&primary[156..190])?];
        if let Some(skipped) = iso.rock_ridge()? {
            iso.names = Names::RockRidge(skipped);
        } else if let Some(joliet) = joliet {
            iso.root.extents = vec![iso.extent(&joliet[156..190])?];
            iso.names = Names::Joliet;
        }
        Ok(iso)
    }

    /// When it was made, in GRUB's form: `2026-12-02-01-53-00-00`.
    pub(super) fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The volume's name.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// Whether something is there.
    pub(super) fn is_there(&self, path: &str) -> bool {
        self.find(path).is_ok()
    }

    /// The first names in a folder; none, if it is not there.
    pub(super) fn list(&self, path: &str, max: usize) -> Vec<String> {
        let mut names = Vec::new();
        let Ok(folder) = self.find(path) else {
            return names;
        };
        let _ = self.each(&folder, &mut |name, _| {
            names.push(name);
            names.len() < max
        });
        names
    }

    /// Copies a file.
    ///
    /// # Errors
    /// If it is no file, is compressed, or leads out of the disk; what `to` says.
    pub(super) fn copy(&self, path: &str, to: &mut dyn Write) -> io::Result<()> {
        let node = self.find(path)?;
        if node.is_folder {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if node.is_packed {
            return Err(damaged("it is compressed by zisofs"));
        }
        let mut piece = vec![0; PIECE_BYTES];
        for (start, len_bytes) in node.extents {
            let mut at = 0;
            while at < len_bytes {
                let len = (len_bytes - at).min(PIECE_BYTES as u64) as usize;
                self.section.fill(start + at, &mut piece[..len])?;
                to.write_all(&piece[..len])?;
                at += len as u64;
            }
        }
        Ok(())
    }

    /// Where a record's contents are.
    fn extent(&self, record: &[u8]) -> io::Result<(u64, u64)> {
        // Blocks that lie interleaved are for media that turn.
        if record.get(26..28) != Some(&[0, 0]) {
            return Err(damaged("it is interleaved"));
        }
        // Extended attributes come first (ECMA-119, 9.1.2).
        let block = number(record, 2) + u64::from(record[1]);
        Ok((block * self.block_bytes, number(record, 10)))
    }

    /// Bytes that are skipped in each record, if there are names of Rock Ridge: the root's first record says so.
    fn rock_ridge(&self) -> io::Result<Option<usize>> {
        let (start, len_bytes) = self.root.extents[0];
        let mut first = [0; 256];
        let len = len_bytes.min(first.len() as u64) as usize;
        self.section.fill(start, &mut first[..len])?;
        let len = usize::from(first[0]);
        let fields = first.get(34..len).unwrap_or_default();
        // SUSP-112, 5.3.
        let is_susp = fields.len() >= 7 && fields.starts_with(b"SP\x07\x01\xbe\xef");
        Ok(is_susp.then(|| usize::from(fields[6])))
    }

    fn find(&self, path: &str) -> io::Result<Node> {
        let parts = |path: &str| -> Vec<String> {
            path.split('/').rev().map(str::to_owned).collect::<Vec<_>>()
        };
        let mut todo = parts(path);
        let mut at = vec![self.root.clone()];
        let mut links_left = LINKS_MAX;
        while let Some(name) = todo.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    at.truncate((at.len() - 1).max(1));
                    continue;
                }
                _ => {}
            }
            let folder = at.last().unwrap_or(&self.root);
            let node = self.within(folder, &name)?;
            match &node.link {
                None => at.push(node),
                Some(_) if links_left == 0 => return Err(damaged("links lead to links for ever")),
                Some(link) => {
                    links_left -= 1;
                    if link.starts_with('/') {
                        at.truncate(1);
                    }
                    todo.extend(parts(link));
                }
            }
        }
        at.pop().ok_or_else(missing)
    }

    /// What is called so in a folder.
    fn within(&self, folder: &Node, wanted: &str) -> io::Result<Node> {
        let mut found = None;
        let is_exact = self.names != Names::Plain;
        self.each(folder, &mut |name, node| {
            let is_it = name == wanted || !is_exact && name.eq_ignore_ascii_case(wanted);
            if is_it {
                found = Some(node);
            }
            !is_it
        })?;
        found.ok_or_else(missing)
    }

    /// Tells of what is in a folder, until `tell` has heard enough.
    fn each(&self, folder: &Node, tell: &mut dyn FnMut(String, Node) -> bool) -> io::Result<()> {
        if !folder.is_folder {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let Some(&(start, len_bytes)) = folder.extents.first() else {
            return Ok(());
        };
        let mut bytes = vec![0; len_bytes.min(FOLDER_BYTES_MAX) as usize];
        self.section.fill(start, &mut bytes)?;
        let mut at = 0;
        let mut before: Vec<(u64, u64)> = Vec::new();
        while at < bytes.len() {
            let len = usize::from(bytes[at]);
            let Some(record) = bytes.get(at..at + len).filter(|record| record.len() >= 34) else {
                // No record goes over the end of a sector: the next one has the next.
                at = (at / SECTOR_BYTES as usize + 1) * SECTOR_BYTES as usize;
                continue;
            };
            at += len;
            let flags = record[25];
            let name = &record[33..(33 + usize::from(record[32])).min(len)];
            if flags & ASSOCIATED != 0 || matches!(name, [0 | 1]) || name.is_empty() {
                continue;
            }
            let Ok(extent) = self.extent(record) else {
                continue;
            };
            before.push(extent);
            // A file of more than 4 GiB has a record for each part.
            if flags & GOES_ON != 0 && before.len() < EXTENTS_MAX {
                continue;
            }
            let mut node = Node {
                extents: std::mem::take(&mut before),
                is_folder: flags & FOLDER != 0,
                link: None,
                is_packed: false,
            };
            let name = self.name(record, name, &mut node);
            if !tell(name, node) {
                break;
            }
        }
        Ok(())
    }

    /// What a record's file is called; what Rock Ridge says beside that goes to `node`.
    fn name(&self, record: &[u8], name: &[u8], node: &mut Node) -> String {
        let plain = |text: String| {
            let text = text.split(';').next().unwrap_or_default();
            text.strip_suffix('.').unwrap_or(text).to_owned()
        };
        match self.names {
            Names::Plain => plain(String::from_utf8_lossy(name).to_lowercase()),
            Names::Joliet => {
                let pairs = name.chunks_exact(2);
                let units = pairs.map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
                let letters = char::decode_utf16(units).map(|it| it.unwrap_or('\u{fffd}'));
                plain(letters.collect())
            }
            Names::RockRidge(skipped) => {
                // Names of an even length have a byte behind them.
                let start = 33 + name.len() + usize::from(name.len().is_multiple_of(2)) + skipped;
                let mut said = Said::default();
                self.fields(record.get(start..).unwrap_or_default().to_vec(), &mut said);
                node.link = said.link.map(|link| link.text);
                node.is_packed = said.is_packed;
                match said.name {
                    Some(name) => String::from_utf8_lossy(&name).into_owned(),
                    None => plain(String::from_utf8_lossy(name).to_lowercase()),
                }
            }
        }
    }

    /// Reads the fields of a record's system use, and those that it continues with.
    fn fields(&self, mut bytes: Vec<u8>, said: &mut Said) {
        for _ in 0..=CONTINUATIONS_MAX {
            let mut next = None;
            let mut rest = bytes.as_slice();
            while rest.len() >= 4 {
                let len = usize::from(rest[2]);
                if len < 4 || len > rest.len() {
                    break;
                }
                let (field, behind) = rest.split_at(len);
                rest = behind;
                match &field[..2] {
                    b"ST" => break,
                    b"CE" => next = Some((number(field, 4), number(field, 12), number(field, 20))),
                    b"NM" if len > 5 => said.take_name(field[4], &field[5..]),
                    b"SL" if len > 5 => said.take_link(field[4], &field[5..]),
                    b"ZF" => said.is_packed = true,
                    _ => {}
                }
            }
            let Some((block, offset, len_bytes)) = next else {
                return;
            };
            bytes = vec![0; len_bytes.min(SECTOR_BYTES) as usize];
            let at = block * self.block_bytes + offset;
            if self.section.fill(at, &mut bytes).is_err() {
                return;
            }
        }
    }
}

/// What Rock Ridge says of a file.
#[derive(Default)]
struct Said {
    name: Option<Vec<u8>>,
    link: Option<Link>,
    is_packed: bool,
}

/// Where a link leads, as far as it was read.
#[derive(Default)]
struct Link {
    text: String,
    /// The next part belongs to the last one.
    goes_on: bool,
}

impl Said {
    /// A piece of the name (RRIP-112, 4.1.4); flags 2 and 4 are the folder itself and the one above.
    fn take_name(&mut self, flags: u8, piece: &[u8]) {
        if flags & 6 == 0 {
            self.name.get_or_insert_default().extend_from_slice(piece);
        }
    }

    /// Parts of a link (RRIP-112, 4.1.3): flags and a length before each.
    fn take_link(&mut self, _: u8, mut parts: &[u8]) {
        let link = self.link.get_or_insert_default();
        while let [flags, len, rest @ ..] = parts {
            let len = usize::from(*len).min(rest.len());
            let (part, behind) = rest.split_at(len);
            parts = behind;
            let part = match flags & 0x0e {
                0x02 => ".".into(),
                0x04 => "..".into(),
                0x08 => "/".into(),
                _ => String::from_utf8_lossy(part),
            };
            if !link.goes_on && !link.text.is_empty() && !link.text.ends_with('/') {
                link.text.push('/');
            }
            link.text.push_str(&part);
            link.goes_on = flags & 1 != 0;
        }
    }
}

/// Whether a supplementary descriptor has names in UCS-2: its escape sequence says so.
fn is_joliet(sector: &[u8]) -> bool {
    matches!(&sector[88..91], b"%/@" | b"%/C" | b"%/E")
}

/// When a volume was changed, or else made.
fn uuid(primary: &[u8]) -> String {
    let digits = |at: usize| &primary[at..at + 16];
    let is_said = |digits: &&[u8]| digits.iter().any(|digit| !matches!(digit, 0 | b'0'));
    let said = [digits(830), digits(813)].into_iter().find(is_said);
    let Some(said) = said else {
        return String::new();
    };
    let text = String::from_utf8_lossy(said);
    let letters: Vec<char> = text.chars().collect();
    let parts = [0..4, 4..6, 6..8, 8..10, 10..12, 12..14, 14..16];
    let parts = parts.map(|range| letters.get(range).unwrap_or_default().iter().collect());
    parts.map(|part: String| part).join("-")
}
