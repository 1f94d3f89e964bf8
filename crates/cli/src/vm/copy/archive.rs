//! Tar streams: what comes on standard input, and what goes to standard output.

use std::io::{self, Read, Write};

use api::{Entry, EntryKind, VmName};
use images::HeaderBounds;
use tar::{EntryType, Header};

use super::pour::{PIECE_BYTES, Stop, Taker, Told};

const BLOCK_BYTES: u64 = 512;

/// What a plain header of tar can say: longer names, larger files and other times stand in one before it.
const NAME_BYTES_MAX: usize = 100;
const LEN_MAX: u64 = 0o77_777_777_777;

/// Reads an archive.
pub struct FromTar<R>(R);

impl<R: Read> FromTar<R> {
    /// Of this stream.
    pub fn new(stream: R) -> FromTar<R> {
        FromTar(stream)
    }

    /// Has all that is in it go to `taker`.
    pub fn pour(self, taker: &mut dyn Taker, told: &mut Told) -> Result<(), Stop> {
        let bounds = HeaderBounds::new();
        let mut archive = tar::Archive::new(bounds.around(self.0));
        let mut entries = archive.entries().map_err(Stop::Input)?;
        loop {
            bounds.begin();
            let Some(found) = entries.next() else { break };
            let mut found = found.map_err(Stop::Input)?;
            bounds.end();
            told.check_signal()?;
            let name = trimmed(&found.path_bytes());
            let Some(entry) = read_header(&mut found, name.clone()).map_err(Stop::Input)? else {
                told.leave_out(&name, "it is no file, folder or symbolic link");
                skip(&mut found)?;
                continue;
            };
            if let Err(error) = entry.check() {
                told.leave_out(&name, &error.to_string());
                skip(&mut found)?;
                continue;
            }
            told.entry(&entry)?;
            taker.entry(&entry, told)?;
            if entry.kind == EntryKind::File {
                pour_file(&mut found, entry.len, taker, told)?;
            }
        }
        taker.end(told)
    }
}

/// What is not wanted of it. Holes could be without an end, and the library does not step through those.
fn skip<R: Read>(found: &mut tar::Entry<'_, R>) -> Result<(), Stop> {
    if found.header().entry_type() != EntryType::GNUSparse {
        io::copy(found, &mut io::sink()).map_err(Stop::Input)?;
    }
    Ok(())
}

/// The name below where it goes: what tar itself takes away.
fn trimmed(path: &[u8]) -> Vec<u8> {
    let mut path = path;
    while let Some(rest) = path.strip_prefix(b"./") {
        path = rest;
    }
    while let Some(rest) = path.strip_suffix(b"/") {
        path = rest;
    }
    match path {
        b"" => b".".to_vec(),
        path => path.to_vec(),
    }
}

fn read_header<R: Read>(found: &mut tar::Entry<'_, R>, name: Vec<u8>) -> io::Result<Option<Entry>> {
    let header = found.header();
    let kind = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => EntryKind::File,
        EntryType::Directory => EntryKind::Folder,
        EntryType::Symlink => EntryKind::Link,
        _ => return Ok(None),
    };
    let number = |number: u64| u32::try_from(number).map_err(io::Error::other);
    let mut entry = Entry {
        kind,
        mode: header.mode()? & 0o7777,
        uid: number(header.uid()?)?,
        gid: number(header.gid()?)?,
        seconds: i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0),
        nanoseconds: 0,
        len: match kind {
            EntryKind::File if header.entry_type() == EntryType::GNUSparse => {
                header.as_gnu().map_or(Ok(0), tar::GnuHeader::real_size)?
            }
            EntryKind::File => found.size(),
            _ => 0,
        },
        name,
        target: Vec::new(),
    };
    if kind == EntryKind::Link {
        entry.target = found.link_name_bytes().unwrap_or_default().into_owned();
    }
    for extension in found.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let key = extension.key().unwrap_or_default();
        if key.starts_with("GNU.sparse.") {
            return Err(io::Error::other(
                "files with holes are in pax format, which is not read here; have tar write --format=gnu",
            ));
        }
        let value = extension.value().unwrap_or_default();
        let (seconds, rest) = value.split_once('.').unwrap_or((value, ""));
        if let ("mtime", Ok(seconds)) = (key, seconds.parse()) {
            entry.seconds = seconds;
            let digits: String = rest.chars().chain("000000000".chars()).take(9).collect();
            entry.nanoseconds = digits.parse().unwrap_or(0);
        }
    }
    Ok(Some(entry))
}

/// What is all zeros need not go over: it becomes a hole.
fn pour_file(
    from: &mut impl Read,
    len: u64,
    taker: &mut dyn Taker,
    told: &mut Told,
) -> Result<(), Stop> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < len {
        let room = usize::try_from(len - at).unwrap_or(usize::MAX);
        let room = room.min(PIECE_BYTES);
        match from.read(&mut piece[..room]) {
            Ok(0) => {
                let what = "it ends inside of a file";
                return Err(Stop::Input(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    what,
                )));
            }
            Ok(count) => {
                told.data(count)?;
                if piece[..count].iter().any(|&byte| byte != 0) {
                    taker.data(at, &piece[..count], told)?;
                }
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => told.check_signal()?,
            Err(error) => return Err(Stop::Input(error)),
        }
    }
    Ok(())
}

/// Writes an archive.
pub struct ToTar<W> {
    output: W,
    /// Whose files they are, and how much may come of them: holes too, since here they are written out.
    most: Option<(VmName, u64)>,
    announced: u64,
    /// Length of the file that is written, and how much of it is.
    len: u64,
    at: u64,
}

impl<W: Write> ToTar<W> {
    /// To this stream.
    pub fn new(output: W, most: Option<(VmName, u64)>) -> ToTar<W> {
        ToTar {
            output,
            most,
            announced: 0,
            len: 0,
            at: 0,
        }
    }

    fn zeros(&mut self, mut count: u64) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while count > 0 {
            let now = usize::try_from(count).map_or(ZEROS.len(), |count| count.min(ZEROS.len()));
            self.output.write_all(&ZEROS[..now])?;
            count -= now as u64;
        }
        Ok(())
    }

    /// What is missing of the last file is a hole, and its last block is filled.
    fn finish_file(&mut self) -> io::Result<()> {
        let padding = self.len.next_multiple_of(BLOCK_BYTES) - self.len;
        self.zeros(self.len - self.at + padding)?;
        (self.len, self.at) = (0, 0);
        Ok(())
    }

    fn header(&mut self, entry: &Entry) -> io::Result<()> {
        let (kind, mut name) = match entry.kind {
            EntryKind::File => (EntryType::Regular, entry.name.clone()),
            EntryKind::Folder => (EntryType::Directory, [&entry.name[..], b"/"].concat()),
            EntryKind::Link => (EntryType::Symlink, entry.name.clone()),
        };
        let mut records = Vec::new();
        if name.len() > NAME_BYTES_MAX {
            record(&mut records, "path", &name);
            name.truncate(NAME_BYTES_MAX);
        }
        if entry.target.len() > NAME_BYTES_MAX {
            record(&mut records, "linkpath", &entry.target);
        }
        if entry.len > LEN_MAX {
            record(&mut records, "size", entry.len.to_string().as_bytes());
        }
        if entry.seconds < 0 || entry.nanoseconds > 0 {
            record(&mut records, "mtime", moment(entry).as_bytes());
        }
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            header.as_old_mut().name[..4].copy_from_slice(b"long");
            header.set_mode(0o644);
            header.set_size(records.len() as u64);
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            header.set_cksum();
            self.output.write_all(header.as_bytes())?;
            self.output.write_all(&records)?;
            let len = records.len() as u64;
            self.zeros(len.next_multiple_of(BLOCK_BYTES) - len)?;
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.as_old_mut().name[..name.len()].copy_from_slice(&name);
        let target = &entry.target[..entry.target.len().min(NAME_BYTES_MAX)];
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        header.set_mode(entry.mode);
        header.set_uid(entry.uid.into());
        header.set_gid(entry.gid.into());
        header.set_mtime(u64::try_from(entry.seconds).unwrap_or(0));
        header.set_size(entry.len);
        header.set_cksum();
        self.output.write_all(header.as_bytes())
    }
}

/// Seconds since 1970, with what is after the point.
fn moment(entry: &Entry) -> String {
    match (entry.seconds < 0, entry.nanoseconds) {
        // A quarter of a second before 1970 is one second before it and three quarters after that.
        (true, 1..) => {
            let seconds = -(entry.seconds + 1);
            format!("-{seconds}.{:09}", 1_000_000_000 - entry.nanoseconds)
        }
        (_, nanoseconds) => format!("{}.{nanoseconds:09}", entry.seconds),
    }
}

/// A record of pax: its own length, key and value.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    records.extend(format!("{len} {key}=").as_bytes());
    records.extend(value);
    records.push(b'\n');
}

impl<W: Write> Taker for ToTar<W> {
    fn entry(&mut self, entry: &Entry, _told: &mut Told) -> Result<(), Stop> {
        self.announced = self.announced.saturating_add(entry.len);
        if let Some((name, most)) = &self.most
            && self.announced > *most
        {
            return Err(Stop::TooMuch(name.clone(), *most));
        }
        self.finish_file().map_err(Stop::Output)?;
        self.header(entry).map_err(Stop::Output)?;
        self.len = entry.len;
        Ok(())
    }

    fn data(&mut self, at: u64, bytes: &[u8], _told: &mut Told) -> Result<(), Stop> {
        self.zeros(at - self.at).map_err(Stop::Output)?;
        self.output.write_all(bytes).map_err(Stop::Output)?;
        self.at = at + bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self, _told: &mut Told) -> Result<(), Stop> {
        self.finish_file().map_err(Stop::Output)?;
        self.zeros(2 * BLOCK_BYTES).map_err(Stop::Output)?;
        self.output.flush().map_err(Stop::Output)
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
