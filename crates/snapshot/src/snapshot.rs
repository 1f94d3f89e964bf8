//! A snapshot that is whole: what is in it, and who keeps it from being removed.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::digest::{sha256, sha256_of_file};
use crate::error::{Damage, SnapshotError, damaged, error};
use crate::folder::{Folder, allocated_bytes, check_part, read_bounded, read_manifest};
use crate::format::{CHUNK_BYTES, CHUNK_PAGES, MEMORY};
use crate::locks::share;
use crate::manifest::{Known, MANIFEST, Manifest};
use crate::packed::unpack;
use crate::reader::MemoryReader;

/// The longest packed part that is read.
const PACKED_BYTES_MAX: u64 = 256 << 20;

/// Steps that verifying a part takes.
fn steps(part: &Known<'_>) -> u64 {
    part.bytes.unwrap_or(0).div_ceil(CHUNK_BYTES as u64)
}

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

/// The files of a snapshot that its memory takes, opened by one who reads none of them, for one who opens nothing.
#[derive(Debug)]
pub struct MemoryParts {
    /// What says how much memory there is.
    pub manifest: File,
    /// The memory.
    pub memory: File,
}

impl MemoryParts {
    /// Opens those of the snapshot in this folder.
    ///
    /// # Errors
    /// If it has no such files.
    pub fn open(path: &Path) -> Result<MemoryParts, SnapshotError> {
        let folder = Folder::open(path).map_err(error("open", path))?;
        let open = || {
            Ok(MemoryParts {
                manifest: folder.manifest_file(false)?,
                memory: folder.part(MEMORY)?,
            })
        };
        open().map_err(|error: SnapshotError| error.of_snapshot(&path.to_string_lossy()))
    }

    /// Reads them. Nothing is believed, and nothing else of the snapshot is looked at.
    ///
    /// # Errors
    /// If they are damaged where that can be seen at once.
    pub fn read(self) -> Result<MemoryReader, SnapshotError> {
        // For sentences: who reads has no folder.
        let folder = Path::new("");
        let manifest = read_manifest(&self.manifest, folder)?;
        let mut parts = manifest.parts().into_iter();
        let part = parts.find(|part| part.name == MEMORY);
        let part = part.ok_or_else(|| damaged(MEMORY, Damage::Missing))?;
        check_part(&part, &self.memory, folder)?;
        MemoryReader::open(self.memory, manifest.page_count())
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

    /// What its files take on the disk; what it shares with others counts.
    pub fn disk_bytes(&self) -> u64 {
        allocated_bytes(&self.folder.path, false)
    }

    /// Who holds it: nothing if nobody does, else the processes that can be seen.
    pub fn users(&self) -> Option<Vec<u32>> {
        self.folder.users()
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
        let check = || {
            let file = self.open(part)?;
            self.check_digest(&self.part(part)?, &file)?;
            Ok(file)
        };
        check().map_err(|error: SnapshotError| error.of_snapshot(&self.name))
    }

    /// What was given to [`Draft::write_part`](crate::Draft::write_part), unpacked and checked.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn read_part(&self, part: &str) -> Result<Vec<u8>, SnapshotError> {
        let read = || {
            let file = self.open(part)?;
            let packed = read_bounded(&file, part, PACKED_BYTES_MAX, &self.folder.path)?;
            if self.part(part)?.sha256 != Some(sha256(&packed).as_str()) {
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
        let steps = parts.filter(Known::is_summed).map(|part| steps(&part));
        steps.sum::<u64>() + self.manifest.page_count().div_ceil(CHUNK_PAGES)
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
        for part in self.manifest.parts() {
            let file = self.file(part.name)?;
            if !part.is_summed() {
                continue;
            }
            self.check_digest(&part, &file)
                .map_err(|error| error.of_snapshot(&self.name))?;
            done += steps(&part);
            if progress(done).is_break() {
                return Err(SnapshotError::Stopped);
            }
        }
        self.read_part("state")?;
        self.memory()?.verify(&mut |chunks| progress(done + chunks))
    }

    fn part(&self, name: &str) -> Result<Known<'_>, SnapshotError> {
        let mut parts = self.manifest.parts().into_iter();
        let part = parts.find(|part| part.name == name);
        part.ok_or_else(|| damaged(name, Damage::Missing))
    }

    fn open(&self, name: &str) -> Result<File, SnapshotError> {
        self.folder.known(&self.part(name)?)
    }

    fn check_digest(&self, part: &Known<'_>, file: &File) -> Result<(), SnapshotError> {
        let path = self.folder.path.join(part.name);
        let digest = sha256_of_file(file, |_, _| Ok(())).map_err(error("read", &path))?;
        if part.is_summed() && part.sha256 == Some(digest.1.as_str()) {
            Ok(())
        } else {
            Err(damaged(part.name, Damage::Checksum("it".to_owned())))
        }
    }
}
