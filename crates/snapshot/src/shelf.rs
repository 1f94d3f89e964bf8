//! All snapshots of a user: found, begun, removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use api::VmName;

use crate::blobs;
use crate::draft::Draft;
use crate::error::{SnapshotError, error};
use crate::folder::{Folder, allocated_bytes, make};
use crate::locks::{holders, is_dead, lock_draft, lock_shelf, seize};
use crate::manifest::{MANIFEST, Manifest};
use crate::prune::Prune;
use crate::snapshot::Snapshot;

/// Endings of what is being written, and of what is being removed.
const DRAFT: &str = ".tmp";
const GONE: &str = ".gone";

/// The folder of all snapshots of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shelf {
    path: PathBuf,
}

/// A line of the list.
#[derive(Debug)]
pub struct Listed {
    /// What it is called.
    pub name: String,
    /// What it is, or why it cannot be used.
    pub manifest: Result<Manifest, SnapshotError>,
    /// What its files take on the disk; what it shares with others counts here and there.
    pub disk_bytes: u64,
    /// Whether somebody holds it.
    pub in_use: bool,
    /// Processes that hold it, as far as they can be seen.
    pub processes: Vec<u32>,
}

/// What was given back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Freed {
    /// Names of what is gone.
    pub names: Vec<String>,
    /// How much that was.
    pub bytes: u64,
}

impl Shelf {
    /// The user's, as the XDG base directory specification says: a relative path counts as not set.
    ///
    /// # Errors
    /// If the environment says neither the data folder nor the home folder.
    pub fn of_user() -> Result<Shelf, SnapshotError> {
        let absolute = |name| {
            let path = std::env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        let data = absolute("XDG_DATA_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
        data.map(|data| Shelf::at(data.join("mother/snapshots")))
            .ok_or(SnapshotError::NoFolder)
    }

    /// One in this folder, which is made when something is begun.
    pub fn at(path: impl Into<PathBuf>) -> Shelf {
        Shelf { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All there are, by name: whole ones, and damaged ones with what is wrong. What dead processes left is removed.
    pub fn list(&self) -> Vec<Listed> {
        // Without it (of another user, on a medium that nobody can write) nothing is swept, and all is listed as it is seen.
        let lock = lock_shelf(&self.path).ok();
        if lock.is_some() {
            self.sweep();
        }
        let mut names = self.names();
        names.sort();
        names.into_iter().map(|name| self.listed(name)).collect()
    }

    /// The snapshot of this name, or in the folder of this path, which has a slash in it.
    ///
    /// # Errors
    /// If there is none, or it is damaged where that can be seen at once.
    pub fn open(&self, name_or_path: &str) -> Result<Snapshot, SnapshotError> {
        if name_or_path.contains('/') {
            return Snapshot::in_folder(name_or_path, Path::new(name_or_path));
        }
        match VmName::new(name_or_path) {
            Ok(name) => Snapshot::in_folder(name.as_str(), &self.path.join(name.as_str())),
            Err(_) => Err(SnapshotError::Unknown(name_or_path.to_owned())),
        }
    }

    /// Begins to write one.
    ///
    /// # Errors
    /// If the name is none, taken, or about to be; if the host refuses.
    pub fn begin(&self, name: &str) -> Result<Draft, SnapshotError> {
        if let Err(source) = VmName::new(name) {
            let name = name.to_owned();
            return Err(SnapshotError::BadName { name, source });
        }
        make(&self.path)?;
        let _names = lock_shelf(&self.path)?;
        self.sweep();
        if fs::symlink_metadata(self.path.join(name)).is_ok() {
            return Err(SnapshotError::Taken(name.to_owned()));
        }
        if let Some(process) = self.writer_of(name) {
            let name = name.to_owned();
            return Err(SnapshotError::BeingWritten { name, process });
        }
        let path = self
            .path
            .join(format!(".{name}.{}{DRAFT}", std::process::id()));
        make(&path)?;
        let lock = lock_draft(&path)?;
        Draft::in_folder(name, &self.path, &path, lock)
    }

    /// Removes one, also a damaged one. With `force` also one that somebody runs on, whose files are there until those end.
    ///
    /// # Errors
    /// If there is none, it is in use, or the host refuses.
    pub fn remove(&self, name: &str, force: bool) -> Result<Freed, SnapshotError> {
        let unknown = || SnapshotError::Unknown(name.to_owned());
        let name = VmName::new(name).map_err(|_| unknown())?;
        let path = self.path.join(name.as_str());
        let Ok(found) = fs::symlink_metadata(&path) else {
            return Err(unknown());
        };
        if !found.is_dir() {
            return Err(unknown());
        }
        let _names = lock_shelf(&self.path)?;
        let folder = Folder::open(&path).map_err(error("open", &path))?;
        // Held until all of it is gone: whoever wants to hold it meanwhile waits, and finds nothing.
        let manifest = folder.manifest_file(true).ok();
        if let Some(file) = &manifest
            && !seize(file).map_err(error("lock", &path.join(MANIFEST)))?
            && !force
        {
            let processes = holders(file);
            let name = name.to_string();
            return Err(SnapshotError::InUse { name, processes });
        }
        let gone = self
            .path
            .join(format!(".{name}.{}{GONE}", std::process::id()));
        let _ = fs::remove_dir_all(&gone);
        fs::rename(&path, &gone).map_err(error("rename to", &gone))?;
        let bytes = allocated_bytes(&gone, true);
        // First, so that nobody who opened it before can begin to hold it.
        let _ = fs::remove_file(gone.join(MANIFEST));
        fs::remove_dir_all(&gone).map_err(error("remove", &gone))?;
        Ok(Freed {
            names: vec![name.to_string()],
            bytes: bytes + blobs::sweep(&self.path),
        })
    }

    /// Removes snapshots that are not needed any more, and what dead processes left. What is in use, damaged, or a suspended
    /// VM stays.
    pub fn prune(&self, prune: Prune) -> Freed {
        let list = self.list();
        let whole: Vec<(&str, &Manifest)> = list
            .iter()
            .filter_map(|listed| Some((listed.name.as_str(), listed.manifest.as_ref().ok()?)))
            .collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut freed = Freed::default();
        for name in prune.choose(&whole, now.unwrap_or_default().as_secs_f64()) {
            // In use is in use: it stays, and counts among those that are kept.
            if let Ok(one) = self.remove(&name, false) {
                freed.names.extend(one.names);
                freed.bytes += one.bytes;
            }
        }
        freed
    }

    fn listed(&self, name: String) -> Listed {
        let path = self.path.join(&name);
        let users = Folder::open(&path).map(|folder| folder.users());
        let users = users.unwrap_or_default();
        Listed {
            manifest: Snapshot::in_folder(&name, &path).map(|it| it.manifest().clone()),
            disk_bytes: allocated_bytes(&path, false),
            in_use: users.is_some(),
            processes: users.unwrap_or_default(),
            name,
        }
    }

    /// Names of snapshots, damaged ones too.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir()));
        let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| VmName::new(name).is_ok()).collect()
    }

    /// What is hidden, with this ending: names with a process behind them, and where they are.
    fn hidden(&self, ending: &str) -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let hidden = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let inside = name.strip_prefix('.')?.strip_suffix(ending)?;
            Some((inside.to_owned(), entry.path()))
        });
        hidden.collect()
    }

    /// The process that writes a snapshot of this name.
    fn writer_of(&self, name: &str) -> Option<String> {
        let drafts = self.hidden(DRAFT).into_iter();
        let mut written = drafts.filter_map(|(inside, _)| {
            let (of, process) = inside.rsplit_once('.')?;
            (of == name).then(|| process.to_owned())
        });
        written.next()
    }

    /// Removes what dead processes left; to be called with the lock.
    fn sweep(&self) {
        for (_, draft) in self.hidden(DRAFT) {
            if is_dead(&draft) {
                // What cannot be removed is nobody's anyway.
                let _ = fs::remove_dir_all(&draft);
            }
        }
        for (_, gone) in self.hidden(GONE) {
            let _ = fs::remove_dir_all(&gone);
        }
        blobs::sweep(&self.path);
    }
}
