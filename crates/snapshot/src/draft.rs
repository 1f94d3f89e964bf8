//! A snapshot that is being written: a hidden folder, locked as long as its process lives, which gets its name last.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::blobs;
use crate::digest::sha256;
use crate::error::{SnapshotError, error};
use crate::folder::Folder;
use crate::locks::{LOCK, lock_shelf};
use crate::manifest::{Image, ImageRole, MANIFEST, MANIFEST_FORMAT, Manifest, Part, is_part_name};
use crate::packed::pack;
use crate::snapshot::Snapshot;

/// The longest part that is packed, as long as one that is unpacked can be.
const PART_BYTES_MAX: usize = 256 << 20;

/// A snapshot that is being written. Dropped, nothing is left of it.
#[derive(Debug)]
pub struct Draft {
    name: String,
    shelf: PathBuf,
    /// Its folder; none once it has its name.
    folder: Option<Folder>,
    /// Held until the folder is gone or has its name.
    _lock: File,
    modules: usize,
}

/// A snapshot without a name, which is there as long as this value lives. When its process dies, it is removed as drafts are.
/// Who has opened its files has them still.
#[derive(Debug)]
pub struct Unnamed {
    snapshot: Snapshot,
    _draft: Draft,
}

impl Unnamed {
    /// What is in it.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl Draft {
    /// One in this folder, whose lock is held.
    pub(crate) fn in_folder(
        name: &str,
        shelf: &Path,
        path: &Path,
        lock: File,
    ) -> Result<Draft, SnapshotError> {
        Ok(Draft {
            name: name.to_owned(),
            shelf: shelf.to_owned(),
            folder: Some(Folder::open(path).map_err(error("open", path))?),
            _lock: lock,
            modules: 0,
        })
    }

    /// What it will be called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is now.
    pub fn path(&self) -> &Path {
        &self.folder().path
    }

    /// Makes a file of it.
    ///
    /// # Errors
    /// What the host says; [`io::ErrorKind::InvalidInput`] if a part cannot be called so.
    pub fn file(&mut self, part: &str) -> io::Result<File> {
        if !is_part_name(part) {
            let what = format!("{part:?} cannot be the name of a part");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        create(&self.folder().path.join(part))
    }

    /// Writes a part, packed.
    ///
    /// # Errors
    /// What the host says, or that it is too long.
    pub fn write_part(&mut self, part: &str, bytes: &[u8]) -> Result<Part, SnapshotError> {
        let path = self.folder().path.join(part);
        if bytes.len() > PART_BYTES_MAX {
            let what = format!("{part:?} has {} bytes", bytes.len());
            return Err(self.unfinished(what));
        }
        let packed = pack(bytes);
        let mut file = self.file(part).map_err(error("create", &path))?;
        file.write_all(&packed).map_err(error("write", &path))?;
        Ok(Part {
            bytes: packed.len() as u64,
            sha256: Some(sha256(&packed)),
        })
    }

    /// Keeps what a reset of the guest loads again; equal ones of other snapshots share one file.
    ///
    /// # Errors
    /// What the host says.
    pub fn add_image(
        &mut self,
        role: ImageRole,
        name: &str,
        source: &File,
    ) -> Result<Image, SnapshotError> {
        let file = match role {
            ImageRole::Kernel => "kernel".to_owned(),
            ImageRole::Module => format!("module{}", self.modules),
        };
        let part = blobs::keep(&self.shelf, &self.folder().path.join(&file), source)?;
        self.modules += usize::from(role == ImageRole::Module);
        Ok(Image {
            role,
            file,
            name: name.to_owned(),
            part,
        })
    }

    /// Bytes that this user may still write where it lies.
    ///
    /// # Errors
    /// What the host says.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.folder().path)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Gives it its name: everything in it is on the disk first, the manifest last.
    ///
    /// # Errors
    /// What the host says; that the manifest and the files do not fit; [`SnapshotError::Taken`] if another one got the name in the
    /// meantime. Nothing is left then.
    pub fn commit(mut self, manifest: Manifest) -> Result<Snapshot, SnapshotError> {
        let name = self.name.clone();
        let path = self.shelf.join(&name);
        self.write_manifest(&manifest)?;
        self.folder().sync_names()?;
        {
            let _names = lock_shelf(&self.shelf)?;
            self.give_name(&path)?;
        }
        let shelf = File::open(&self.shelf).map_err(error("open", &self.shelf))?;
        shelf.sync_all().map_err(error("write", &self.shelf))?;
        Snapshot::in_folder(&name, &path)
    }

    /// Completes it and gives it no name: nobody else finds it, and it need not outlive this host's next crash, so nothing
    /// waits for the disk.
    ///
    /// # Errors
    /// What the host says; that the manifest and the files do not fit. Nothing is left then.
    pub fn complete_unnamed(self, manifest: Manifest) -> Result<Unnamed, SnapshotError> {
        self.check(&manifest)?;
        self.create_manifest(&manifest)?;
        let snapshot = Snapshot::in_folder(&self.name, &self.folder().path)?;
        Ok(Unnamed {
            snapshot,
            _draft: self,
        })
    }

    fn write_manifest(&self, manifest: &Manifest) -> Result<(), SnapshotError> {
        self.check(manifest)?;
        self.folder().sync()?;
        let file = self.create_manifest(manifest)?;
        let path = self.folder().path.join(MANIFEST);
        file.sync_all().map_err(error("write", &path))
    }

    /// Whether the manifest says what is there.
    fn check(&self, manifest: &Manifest) -> Result<(), SnapshotError> {
        let what = if manifest.format == MANIFEST_FORMAT {
            manifest.contradiction()
        } else {
            Some(format!("format {}", manifest.format))
        };
        if let Some(what) = what {
            return Err(self.unfinished(format!("its manifest has {what}")));
        }
        let checked = self.folder().check(manifest);
        checked.map_err(|error| error.of_snapshot(&self.name))
    }

    fn create_manifest(&self, manifest: &Manifest) -> Result<File, SnapshotError> {
        let path = self.folder().path.join(MANIFEST);
        let mut file = create(&path).map_err(error("create", &path))?;
        file.write_all(manifest.to_text().as_bytes())
            .map_err(error("write", &path))?;
        Ok(file)
    }

    /// Renames the folder; to be called with the shelf's lock, since without its own lock it looks dead.
    fn give_name(&mut self, path: &Path) -> Result<(), SnapshotError> {
        let folder = &self.folder().path;
        let lock = folder.join(LOCK);
        fs::remove_file(&lock).map_err(error("remove", &lock))?;
        let renamed = match renameat_with(CWD, folder, CWD, path, RenameFlags::NOREPLACE) {
            // A file system that cannot: under the lock only a stranger could come between.
            Err(Errno::INVAL | Errno::NOSYS) if !path.exists() => rustix::fs::rename(folder, path),
            other => other,
        };
        match renamed {
            Ok(()) => {
                self.folder = None;
                Ok(())
            }
            Err(Errno::EXIST | Errno::NOTEMPTY) => Err(SnapshotError::Taken(self.name.clone())),
            Err(errno) => Err(error("rename to", path)(errno.into())),
        }
    }

    fn folder(&self) -> &Folder {
        let folder = self.folder.as_ref();
        folder.expect("it is given away with the draft only")
    }

    fn unfinished(&self, what: String) -> SnapshotError {
        SnapshotError::Unfinished {
            name: self.name.clone(),
            what,
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            // What we cannot remove, the next one who looks does.
            let _ = fs::remove_dir_all(&folder.path);
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path)
}
