//! A snapshot's folder: its files are opened by plain names below it, and no link is followed.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};

use crate::digest::sha256;
use crate::error::{Damage, SnapshotError, damaged, error};
use crate::format::{MEMORY, PAGE_BYTES};
use crate::locks::{holders, seize};
use crate::manifest::{Known, MANIFEST, MANIFEST_BYTES_MAX, Manifest, is_part_name};

/// st_blocks counts so many bytes (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// The folder of a snapshot or a draft.
#[derive(Debug)]
pub(crate) struct Folder {
    /// Where it was opened.
    pub(crate) path: PathBuf,
    handle: File,
}

impl Folder {
    /// Opens one.
    pub(crate) fn open(path: &Path) -> io::Result<Folder> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Folder {
            path: path.to_owned(),
            handle: handle.into(),
        })
    }

    /// A part, for reading. What is no plain file is not waited for.
    pub(crate) fn part(&self, name: &str) -> Result<File, SnapshotError> {
        if !is_part_name(name) {
            return Err(damaged(name, Damage::Missing));
        }
        self.plain(name, OFlags::RDONLY)
    }

    /// A plain file below it.
    fn plain(&self, name: &str, how: OFlags) -> Result<File, SnapshotError> {
        let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file: File = match openat(&self.handle, name, flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(rustix::io::Errno::NOENT) => return Err(damaged(name, Damage::Missing)),
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => {
                return Err(damaged(name, Damage::NoPlainFile));
            }
            Err(errno) => return Err(error("open", &self.path.join(name))(errno.into())),
        };
        let metadata = file.metadata();
        let metadata = metadata.map_err(error("look at", &self.path.join(name)))?;
        if metadata.is_file() {
            Ok(file)
        } else {
            Err(damaged(name, Damage::NoPlainFile))
        }
    }

    /// The manifest's file; for `writing` if somebody is to be kept from it.
    pub(crate) fn manifest_file(&self, writing: bool) -> Result<File, SnapshotError> {
        let how = if writing {
            OFlags::RDWR
        } else {
            OFlags::RDONLY
        };
        self.plain(MANIFEST, how)
    }

    /// Who holds it: nothing if nobody does, else the processes that can be seen. It is locked for a moment, so that who
    /// begins to hold it waits as long.
    pub(crate) fn users(&self) -> Option<Vec<u32>> {
        let file = self
            .manifest_file(true)
            .or(self.manifest_file(false))
            .ok()?;
        let is_free = seize(&file).unwrap_or(true);
        (!is_free).then(|| holders(&file))
    }

    /// The manifest, and that every part is there as it says.
    pub(crate) fn manifest(&self) -> Result<Manifest, SnapshotError> {
        let manifest = read_manifest(&self.manifest_file(false)?, &self.path)?;
        self.check(&manifest)?;
        Ok(manifest)
    }

    /// Every part that the manifest names is there and as long as it says.
    pub(crate) fn check(&self, manifest: &Manifest) -> Result<(), SnapshotError> {
        for part in manifest.parts() {
            self.known(&part)?;
        }
        Ok(())
    }

    /// Opens a part that is as long as it should be; memory has the header that it should have.
    pub(crate) fn known(&self, part: &Known<'_>) -> Result<File, SnapshotError> {
        let file = self.part(part.name)?;
        check_part(part, &file, &self.path)?;
        Ok(file)
    }

    /// Has the host put every file and the folder on the disk.
    pub(crate) fn sync(&self) -> Result<(), SnapshotError> {
        let failed = |path: &Path| error("write", path);
        for entry in fs::read_dir(&self.path).map_err(error("read", &self.path))? {
            let path = entry.map_err(error("read", &self.path))?.path();
            let file = File::open(&path).map_err(failed(&path))?;
            file.sync_all().map_err(failed(&path))?;
        }
        self.sync_names()
    }

    /// Has the host put the names of its files on the disk.
    pub(crate) fn sync_names(&self) -> Result<(), SnapshotError> {
        let synced = self.handle.sync_all();
        synced.map_err(error("write", &self.path))
    }
}

/// The manifest in a file.
pub(crate) fn read_manifest(file: &File, folder: &Path) -> Result<Manifest, SnapshotError> {
    let text = read_bounded(file, MANIFEST, MANIFEST_BYTES_MAX, folder)?;
    Manifest::read(&text)
}

/// That a part is as long as it should be; that memory has the header that it should have.
pub(crate) fn check_part(
    part: &Known<'_>,
    file: &File,
    folder: &Path,
) -> Result<(), SnapshotError> {
    let name = part.name;
    let path = folder.join(name);
    let found = file.metadata().map_err(error("look at", &path))?.len();
    let expected = part.bytes.unwrap_or(found);
    if found != expected {
        return Err(damaged(name, Damage::Length { found, expected }));
    }
    if name == MEMORY
        && let Some(known) = part.sha256
    {
        let mut header = [0; PAGE_BYTES];
        let length = header.len().min(found as usize);
        file.read_exact_at(&mut header[..length], 0)
            .map_err(error("read", &path))?;
        if sha256(&header[..length]) != known {
            let what = "its header".to_owned();
            return Err(damaged(name, Damage::Checksum(what)));
        }
    }
    Ok(())
}

/// A whole file, if it is not longer than that.
pub(crate) fn read_bounded(
    file: &File,
    part: &str,
    most: u64,
    folder: &Path,
) -> Result<Vec<u8>, SnapshotError> {
    let path = folder.join(part);
    let found = file.metadata().map_err(error("look at", &path))?.len();
    if found > most {
        let what = format!("it has {found} bytes, more than the {most} that are read");
        return Err(damaged(part, Damage::Layout(what)));
    }
    let mut bytes = vec![0; found as usize];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(bytes),
        Err(failed) if failed.kind() == io::ErrorKind::UnexpectedEof => {
            let what = "it became shorter while it was read".to_owned();
            Err(damaged(part, Damage::Layout(what)))
        }
        Err(failed) => Err(error("read", &path)(failed)),
    }
}

/// Makes a folder for this user alone, and those it is in.
pub(crate) fn make(path: &Path) -> Result<(), SnapshotError> {
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.map_err(error("create", path))
}

/// What a folder's files take on the disk. Files that others lead to as well are left out if only what is `own` counts.
pub(crate) fn allocated_bytes(folder: &Path, own: bool) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| entry.metadata().ok());
    let files = files.filter(|file| file.is_file() && (!own || file.nlink() == 1));
    files.map(|file| file.blocks() * BLOCK_BYTES).sum()
}
