//! Files of this host, for a guest.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use api::{Entry, EntryKind};
use rustix::fs::{OFlags, SeekFrom, seek};
use rustix::io::Errno;

use super::pour::{PIECE_BYTES, Stop, Taker, Told};
use crate::failure::Failure;

/// One path as it was typed.
struct Named {
    path: PathBuf,
    /// What it is called on the way.
    name: Vec<u8>,
    metadata: Metadata,
}

/// What was typed.
pub struct FromHere {
    named: Vec<Named>,
    total: u64,
}

impl FromHere {
    /// Looks whether all of it is there, and how much it is.
    pub fn new(paths: &[OsString], follow: bool) -> Result<FromHere, Failure> {
        let mut named = Vec::new();
        let mut total = 0;
        for path in paths {
            let bytes = path.as_bytes();
            let is_inside = bytes.ends_with(b"/.") || bytes == b".";
            let path = PathBuf::from(path);
            let metadata = match follow || bytes.ends_with(b"/") || is_inside {
                true => fs::metadata(&path),
                false => fs::symlink_metadata(&path),
            };
            let metadata = metadata.map_err(|error| Failure::BadWord {
                act: "copy",
                what: format!("{}: {error}", path.display()),
                help: "check the path; a path in a guest is written NAME:PATH",
            })?;
            let name = match path.file_name() {
                Some(name) if !is_inside => name.as_bytes().to_vec(),
                _ => b".".to_vec(),
            };
            measure(&path, &metadata, &mut total);
            named.push(Named {
                path,
                name,
                metadata,
            });
        }
        Ok(FromHere { named, total })
    }

    /// Bytes of all files, without their holes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Sends all of it.
    pub fn pour(self, taker: &mut dyn Taker, told: &mut Told) -> Result<(), Stop> {
        let mut pouring = Pouring {
            taker,
            piece: vec![0; PIECE_BYTES],
        };
        for Named {
            path,
            name,
            metadata,
        } in self.named
        {
            // What was named may be a link to it.
            let follows =
                metadata.is_file() && fs::symlink_metadata(&path).is_ok_and(|it| it.is_symlink());
            pouring.pour(&path, name, Ok(metadata), follows, told)?;
        }
        taker.end(told)
    }
}

/// Adds up what there is. What cannot be seen is told when it is to be sent.
fn measure(path: &Path, metadata: &Metadata, total: &mut u64) {
    if metadata.is_file() {
        *total += metadata.len().min(metadata.blocks().saturating_mul(512));
    } else if metadata.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if let Ok(metadata) = entry.metadata() {
                measure(&entry.path(), &metadata, total);
            }
        }
    }
}

fn entry(metadata: &Metadata, name: Vec<u8>) -> Option<Entry> {
    let kind = metadata.file_type();
    let kind = match (kind.is_file(), kind.is_dir(), kind.is_symlink()) {
        (true, _, _) => EntryKind::File,
        (_, true, _) => EntryKind::Folder,
        (_, _, true) => EntryKind::Link,
        _ => return None,
    };
    Some(Entry {
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        seconds: metadata.mtime(),
        nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        len: match kind {
            EntryKind::File => metadata.len(),
            _ => 0,
        },
        name,
        target: Vec::new(),
    })
}

struct Pouring<'a> {
    taker: &'a mut dyn Taker,
    piece: Vec<u8>,
}

impl Pouring<'_> {
    fn pour(
        &mut self,
        path: &Path,
        name: Vec<u8>,
        metadata: io::Result<Metadata>,
        follows: bool,
        told: &mut Told,
    ) -> Result<(), Stop> {
        let metadata = match metadata {
            Ok(metadata) => metadata,
            Err(error) => {
                told.leave_out(&name, &error.to_string());
                return Ok(());
            }
        };
        let Some(mut entry) = entry(&metadata, name) else {
            told.leave_out(path.as_os_str().as_bytes(), "it is no file, folder or link");
            return Ok(());
        };
        match entry.kind {
            EntryKind::File => self.file(path, entry, follows, told),
            EntryKind::Folder => {
                told.entry(&entry)?;
                self.taker.entry(&entry, told)?;
                self.folder(path, &entry.name, told)
            }
            EntryKind::Link => match fs::read_link(path) {
                Ok(target) => {
                    entry.target = target.into_os_string().into_vec();
                    told.entry(&entry)?;
                    self.taker.entry(&entry, told)
                }
                Err(error) => {
                    told.leave_out(&entry.name, &error.to_string());
                    Ok(())
                }
            },
        }
    }

    fn folder(&mut self, path: &Path, name: &[u8], told: &mut Told) -> Result<(), Stop> {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => {
                told.leave_out(name, &error.to_string());
                return Ok(());
            }
        };
        let mut names: Vec<OsString> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        for below in names {
            let path = path.join(&below);
            let name = match name {
                b"." => below.as_bytes().to_vec(),
                name => [name, b"/", below.as_bytes()].concat(),
            };
            let metadata = fs::symlink_metadata(&path);
            self.pour(&path, name, metadata, false, told)?;
        }
        Ok(())
    }

    fn file(
        &mut self,
        path: &Path,
        mut entry: Entry,
        follows: bool,
        told: &mut Told,
    ) -> Result<(), Stop> {
        // What was a file when it was looked at may be a link or a pipe by now.
        let no_link = if follows {
            OFlags::empty()
        } else {
            OFlags::NOFOLLOW
        };
        let flags = (no_link | OFlags::NONBLOCK).bits();
        let mut options = File::options();
        options.read(true).custom_flags(flags.cast_signed());
        let opened = options.open(path).and_then(|file| {
            let now = file.metadata()?;
            match now.is_file() {
                true => Ok((file, now.len())),
                false => Err(io::Error::other("it is a file no more")),
            }
        });
        let file = match opened {
            Ok((file, len)) => {
                entry.len = len;
                file
            }
            Err(error) => {
                told.leave_out(&entry.name, &error.to_string());
                return Ok(());
            }
        };
        told.entry(&entry)?;
        self.taker.entry(&entry, told)?;
        let mut at = 0;
        while let Some((begin, end)) = next_part(&file, at, entry.len) {
            at = begin;
            while at < end {
                let room = usize::try_from(end - at).unwrap_or(usize::MAX);
                let room = room.min(PIECE_BYTES);
                match file.read_at(&mut self.piece[..room], at) {
                    Ok(0) => {
                        told.leave_out(&entry.name, "it became shorter while it was read");
                        return Ok(());
                    }
                    Ok(count) => {
                        told.data(count)?;
                        self.taker.data(at, &self.piece[..count], told)?;
                        at += count as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                        told.check_signal()?;
                    }
                    Err(error) => {
                        told.leave_out(&entry.name, &format!("it cannot be read whole: {error}"));
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}

/// The next part with bytes at or after `from`, within `len`. A file system that knows no holes has one part.
fn next_part(file: &File, from: u64, len: u64) -> Option<(u64, u64)> {
    if from >= len {
        return None;
    }
    let begin = match seek(file, SeekFrom::Data(from)) {
        Ok(begin) => begin,
        Err(Errno::NXIO) => return None,
        Err(_) => return Some((from, len)),
    };
    let end = seek(file, SeekFrom::Hole(begin)).unwrap_or(len);
    (begin < len).then_some((begin, end.clamp(begin + 1, len)))
}
