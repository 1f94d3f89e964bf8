//! Files of the guest, to the host.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::super::{DATA, END, ENTRY, NOT_DONE, Sink, TOTAL, fail, send};
use super::entry::{Entry, Kind};
use super::holes::next_part;
use super::{LeftOut, PIECE_BYTES, words};

/// `O_NOFOLLOW` and `O_NONBLOCK`: what was a file when it was looked at may be a link or a pipe by now.
const NO_LINK: i32 = 0o400_000;
const NO_WAIT: i32 = 0o4000;

/// Files without blocks may have bytes all the same: those of the kernel, which say nothing or a page's size of their length.
const KERNELS_BYTES_MAX: u64 = 1 << 20;

/// What was asked for.
struct Wanted {
    path: PathBuf,
    /// What it is called on the way.
    name: Vec<u8>,
    /// A link stands for where it leads.
    is_followed: bool,
}

impl Wanted {
    fn new(path: &[u8], follow: bool) -> Wanted {
        let is_followed = follow || path.ends_with(b"/") || path.ends_with(b"/.");
        let is_inside = path.ends_with(b"/.") || path == b".";
        let path = Path::new("/").join(Path::new(OsStr::from_bytes(path)));
        let name = match path.file_name() {
            Some(name) if !is_inside => name.as_bytes().to_vec(),
            _ => b".".to_vec(),
        };
        Wanted {
            path,
            name,
            is_followed,
        }
    }

    fn metadata(&self) -> io::Result<fs::Metadata> {
        match self.is_followed {
            true => fs::metadata(&self.path),
            false => fs::symlink_metadata(&self.path),
        }
    }
}

/// Sends what was asked for.
pub(in super::super) fn give(request: &[u8], sink: &Sink) -> io::Result<()> {
    let follow = words(request).any(|(key, _)| key == b"follow");
    let paths = words(request).filter(|(key, _)| *key == b"path");
    let wanted: Vec<Wanted> = paths.map(|(_, path)| Wanted::new(path, follow)).collect();
    let mut entries: u64 = 0;
    let mut bytes: u64 = 0;
    for one in &wanted {
        match one.metadata() {
            Ok(metadata) => measure(&one.path, &metadata, &mut entries, &mut bytes),
            Err(error) => {
                let why = format!("{}: {error}", one.path.display());
                return fail(sink, NOT_DONE, &why);
            }
        }
    }
    let total = [entries.to_le_bytes(), bytes.to_le_bytes()].concat();
    send(sink, TOTAL, &total)?;
    let mut giving = Giving {
        sink,
        left_out: LeftOut::default(),
        piece: vec![0; PIECE_BYTES + 8],
    };
    for one in &wanted {
        giving.give(&one.path, &one.name, one.metadata())?;
    }
    send(sink, END, &[])
}

/// Adds up what there is. What cannot be seen is told when it is to be sent.
fn measure(path: &Path, metadata: &fs::Metadata, entries: &mut u64, bytes: &mut u64) {
    *entries += 1;
    if metadata.is_file() {
        *bytes += metadata.len().min(metadata.blocks().saturating_mul(512));
    } else if metadata.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if let Ok(metadata) = entry.metadata() {
                measure(&entry.path(), &metadata, entries, bytes);
            }
        }
    }
}

struct Giving<'a> {
    sink: &'a Sink,
    left_out: LeftOut,
    piece: Vec<u8>,
}

impl Giving<'_> {
    /// An error of the guest's is told, one of the connection ends it.
    fn give(
        &mut self,
        path: &Path,
        name: &[u8],
        metadata: io::Result<fs::Metadata>,
    ) -> io::Result<()> {
        let entry = metadata.map(|metadata| (Entry::of(&metadata, name.to_vec()), metadata));
        let (mut entry, metadata) = match entry {
            Ok((Some(entry), metadata)) => (entry, metadata),
            Ok((None, _)) => {
                self.leave_out(name, "it is no file, folder or link");
                return Ok(());
            }
            Err(error) => {
                self.leave_out(name, &error.to_string());
                return Ok(());
            }
        };
        match entry.kind {
            Kind::File => self.file(path, entry, &metadata),
            Kind::Link => {
                match fs::read_link(path) {
                    Ok(target) => entry.target = target.into_os_string().into_vec(),
                    Err(error) => {
                        self.leave_out(name, &error.to_string());
                        return Ok(());
                    }
                }
                send(self.sink, ENTRY, &entry.encode())
            }
            Kind::Folder => {
                send(self.sink, ENTRY, &entry.encode())?;
                self.folder(path, name)
            }
        }
    }

    fn folder(&mut self, path: &Path, name: &[u8]) -> io::Result<()> {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => {
                self.leave_out(name, &error.to_string());
                return Ok(());
            }
        };
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        for below in names {
            let path = path.join(&below);
            let name = match name {
                b"." => below.as_bytes().to_vec(),
                name => [name, b"/", below.as_bytes()].concat(),
            };
            let metadata = fs::symlink_metadata(&path);
            self.give(&path, &name, metadata)?;
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, mut entry: Entry, metadata: &fs::Metadata) -> io::Result<()> {
        // Where a link was followed, that is where it leads.
        let no_link = if fs::symlink_metadata(path).is_ok_and(|it| it.is_symlink()) {
            0
        } else {
            NO_LINK
        };
        let mut options = File::options();
        options.read(true).custom_flags(no_link | NO_WAIT);
        let file = match options.open(path) {
            Ok(file) => file,
            Err(error) => {
                self.leave_out(&entry.name, &error.to_string());
                return Ok(());
            }
        };
        if !file.metadata().is_ok_and(|now| now.is_file()) {
            self.leave_out(&entry.name, "it is a file no more");
            return Ok(());
        }
        if metadata.blocks() == 0 && metadata.len() <= KERNELS_BYTES_MAX {
            return self.small(&file, entry);
        }
        entry.len = metadata.len();
        send(self.sink, ENTRY, &entry.encode())?;
        let mut at = 0;
        while let Some((begin, end)) = next_part(&file, at, entry.len) {
            at = begin;
            while at < end {
                let room = usize::try_from(end - at).unwrap_or(usize::MAX);
                let room = room.min(PIECE_BYTES);
                match file.read_at(&mut self.piece[8..8 + room], at) {
                    Ok(0) => {
                        self.leave_out(&entry.name, "it became shorter while it was read");
                        return Ok(());
                    }
                    Ok(count) => {
                        self.piece[..8].copy_from_slice(&at.to_le_bytes());
                        send(self.sink, DATA, &self.piece[..8 + count])?;
                        at += count as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        self.leave_out(&entry.name, &format!("it cannot be read whole: {error}"));
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// A file whose length is what is read of it.
    fn small(&mut self, file: &File, mut entry: Entry) -> io::Result<()> {
        let mut bytes = Vec::new();
        if let Err(error) = file.take(KERNELS_BYTES_MAX).read_to_end(&mut bytes) {
            self.leave_out(&entry.name, &error.to_string());
            return Ok(());
        }
        entry.len = bytes.len() as u64;
        send(self.sink, ENTRY, &entry.encode())?;
        for (index, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
            let at = (index * PIECE_BYTES) as u64;
            send(self.sink, DATA, &[&at.to_le_bytes()[..], piece].concat())?;
        }
        Ok(())
    }

    fn leave_out(&mut self, name: &[u8], why: &str) {
        self.left_out.tell(self.sink, name, why);
    }
}
