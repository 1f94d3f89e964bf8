//! A snapshot that is whole: what is in it, and who keeps it from being removed.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::digest::sha256_of_file;
use crate::error::{Damage, SnapshotError, damaged, error};
use crate::folder::{Folder, read_bounded};
use crate::format::CHUNK_BYTES;
use crate::locks::share;
use crate::manifest::{MANIFEST, Manifest, Part};
use crate::packed::unpack;
use crate::reader::MemoryReader;

/// The longest packed part that is read.
const PACKED_BYTES_MAX: u64 = 256 << 20;

/// A snapshot whose manifest was read, and whose files are there and as long as it says.
#[derive(Debug)]
pub struct Snapshot {
    name: String,
    folder: Folder,
    manifest: Manifest,
}

/// Keeps a snapshot from being removed as long as this lives, in whichever process.
#[derive(Debug)]
pub struct Held(OwnedFd);

impl From<Held> for OwnedFd {
    fn from(held: Held) -> OwnedFd {
        held.0
    }
}

impl Snapshot {
    /// Opens the one in this folder.
    pub(crate) fn in_folder(name: &str, path: &Path) -> Result<Snapshot, SnapshotError> {
        let folder = Folder::open(path).map_err(|failed| match failed.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                SnapshotError::Unknown(name.to_owned())
            }
            _ => error("open", path)(failed),
        })?;
        let manifest = folder.manifest().map_err(|error| error.of_snapshot(name))?;
        Ok(Snapshot {
            name: name.to_owned(),
            folder,
            manifest,
        })
    }

    /// What it is called, or where it is if it was opened by its path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.folder.path
    }

    /// What it is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A file of it, for reading, as long as the manifest says. Its bytes are not looked at: `memory` checks itself, packed
    /// parts are checked by [`Snapshot::read_part`], images by [`Snapshot::checked_file`], and all by [`Snapshot::verify`].
    ///
    /// # Errors
    /// If the manifest does not name it, or it is damaged.
    pub fn file(&self, part: &str) -> Result<File, SnapshotError> {
        self.open(part)
            .map_err(|error| error.of_snapshot(&self.name))
    }

    /// A file of it whose bytes are those that were written, by its SHA-256.
    ///
    /// # Errors
    /// If the manifest has no SHA-256 of it, or it is damaged.
    pub fn checked_file(&self, part: &str) -> Result<File, SnapshotError> {
        let file = self.file(part)?;
        self.check_digest(part, &file)
            .map_err(|error| error.of_snapshot(&self.name))?;
        Ok(file)
    }

    /// What was given to [`Draft::write_part`](crate::Draft::write_part), unpacked and checked.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn read_part(&self, part: &str) -> Result<Vec<u8>, SnapshotError> {
        let read = || {
            let file = self.open(part)?;
            let packed = read_bounded(&file, part, PACKED_BYTES_MAX, &self.folder.path)?;
            let known = self.part(part).and_then(|part| part.sha256.as_deref());
            if known != Some(crate::digest::sha256(&packed).as_str()) {
                return Err(damaged(part, Damage::Checksum("it".to_owned())));
            }
            unpack(part, &packed)
        };
        read().map_err(|error: SnapshotError| error.of_snapshot(&self.name))
    }

    /// The guest's memory.
    ///
    /// # Errors
    /// If it is damaged where that can be seen at once.
    pub fn memory(&self) -> Result<MemoryReader, SnapshotError> {
        let opened = MemoryReader::open(self.file("memory")?, self.manifest.page_count());
        let opened = opened.map_err(|error| error.of_snapshot(&self.name))?;
        Ok(opened.named(&self.name))
    }

    /// Keeps it from being removed as long as the value lives. Its descriptor can be given to another process.
    ///
    /// # Errors
    /// If it was removed in the meantime.
    pub fn hold(&self) -> Result<Held, SnapshotError> {
        let failed = |source| error("lock", &self.folder.path.join(MANIFEST))(source);
        let gone = |error| match error {
            SnapshotError::Damaged {
                damage: Damage::Missing,
                ..
            } => SnapshotError::Unknown(self.name.clone()),
            other => other.of_snapshot(&self.name),
        };
        let file = self.folder.manifest_file(false).map_err(gone)?;
        share(&file).map_err(failed)?;
        // Whoever removes it has it alone until the file's last name is gone.
        if file.metadata().map_err(failed)?.nlink() == 0 {
            return Err(SnapshotError::Unknown(self.name.clone()));
        }
        Ok(Held(file.into()))
    }

    /// How many [steps](Snapshot::verify) a verification takes.
    pub fn verify_steps(&self) -> u64 {
        let parts = self.manifest.parts().into_iter();
        let sums = parts.filter_map(|(_, part)| part.filter(|part| part.sha256.is_some()));
        let steps = sums.map(|part| part.bytes.div_ceil(CHUNK_BYTES as u64));
        steps.sum::<u64>() + self.manifest.page_count().div_ceil(crate::CHUNK_PAGES)
    }

    /// Reads everything that has a checksum; `progress` hears how many of the steps are done, each of 64 KiB, and may stop
    /// it. Disks have none: what is written in them is for the guest's file system to judge.
    ///
    /// # Errors
    /// Of the first part that is not right, or [`SnapshotError::Stopped`].
    pub fn verify(
        &self,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), SnapshotError> {
        let mut done = 0;
        for (name, part) in self.manifest.parts() {
            let file = self.file(name)?;
            let Some(part) = part.filter(|part| part.sha256.is_some()) else {
                continue;
            };
            self.check_digest(name, &file)
                .map_err(|error| error.of_snapshot(&self.name))?;
            done += part.bytes.div_ceil(CHUNK_BYTES as u64);
            if progress(done).is_break() {
                return Err(SnapshotError::Stopped);
            }
        }
        self.read_part("state")?;
        self.memory()?.verify(&mut |chunks| progress(done + chunks))
    }

    fn part(&self, name: &str) -> Option<&Part> {
        let parts = self.manifest.parts().into_iter();
        parts.filter(|(part, _)| *part == name).find_map(|it| it.1)
    }

    fn open(&self, name: &str) -> Result<File, SnapshotError> {
        let parts = self.manifest.parts();
        if !parts.iter().any(|(part, _)| *part == name) {
            return Err(damaged(name, Damage::Missing));
        }
        let file = self.folder.part(name)?;
        let found = self.folder.len(&file, name)?;
        let expected = self.part(name).map_or(found, |part| part.bytes);
        if found == expected {
            Ok(file)
        } else {
            Err(damaged(name, Damage::Length { found, expected }))
        }
    }

    fn check_digest(&self, name: &str, file: &File) -> Result<(), SnapshotError> {
        let path = self.folder.path.join(name);
        let digest = sha256_of_file(file, |_, _| Ok(())).map_err(error("read", &path))?;
        let known = self.part(name).and_then(|part| part.sha256.as_deref());
        if known == Some(digest.1.as_str()) {
            Ok(())
        } else {
            Err(damaged(name, Damage::Checksum("it".to_owned())))
        }
    }
}
