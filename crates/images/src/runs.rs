//! A folder for what one run needs and nobody else may see: its initrd, its overlay.
//!
//! ```text
//! $XDG_CACHE_HOME/mother/runs/PID-N/lock   held while the run lives
//! ```
//!
//! The folder goes with the run. A run that was killed cannot remove its own, so whoever comes next removes every
//! folder whose lock nobody holds: the kernel gives up the locks of dead processes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::file::{FileError, create_folder, error};
use crate::work::{begun, done};

/// Tries at a name that no other run has.
const TRIES: u32 = 10_000;

/// A run's own folder, removed when this is dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// The lock; none once it was handed over.
    lock: Option<File>,
}

impl RunFolder {
    /// A new folder in `runs`, after the folders of dead runs have been removed.
    pub(crate) fn new(runs: &Path) -> Result<RunFolder, FileError> {
        create_folder(runs)?;
        sweep(runs);
        let id = std::process::id();
        let free = |number: &u32| !runs.join(format!("{id}-{number}")).exists();
        let number = (0..TRIES).find(free).unwrap_or(TRIES);
        // The lock is taken under a name that sweeps leave alone.
        let new = runs.join(format!("{id}-{number}.new"));
        let _ = fs::remove_dir_all(&new);
        begun(&new);
        create_folder(&new)?;
        let lock = new.join("lock");
        let open = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock);
        let file = open.map_err(error("create", &lock))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| error("lock", &lock)(errno.into()))?;
        let path = runs.join(format!("{id}-{number}"));
        begun(&path);
        fs::rename(&new, &path).map_err(error("rename to", &path))?;
        done(&new);
        Ok(RunFolder {
            path,
            lock: Some(file),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder and its lock, for another process: the process that holds the lock removes the folder.
    pub fn hand_over(mut self) -> (PathBuf, Option<File>) {
        done(&self.path);
        (self.path.clone(), self.lock.take())
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if self.lock.is_none() {
            return;
        }
        // The next run removes what we cannot.
        let _ = fs::remove_dir_all(&self.path);
        done(&self.path);
    }
}

/// Where runs have their folders when the cache cannot be written: in the user's runtime folder, or under `/tmp` in a
/// folder that is this user's alone.
pub(crate) fn elsewhere() -> Result<PathBuf, FileError> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    if let Some(folder) = runtime.filter(|path| path.is_absolute() && path.is_dir()) {
        return Ok(folder.join("mother-runs"));
    }
    let user = rustix::process::geteuid().as_raw();
    let folder = std::env::temp_dir().join(format!("mother-runs-{user}"));
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(crate::file::error("create", &folder)(error));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(&folder).map_err(error("look at", &folder))?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        let strange = io::Error::other("it is not a folder of this user alone");
        return Err(error("use", &folder)(strange));
    }
    Ok(folder)
}

/// Removes the folders of runs that are dead; how many bytes that gave back.
pub(crate) fn sweep(runs: &Path) -> u64 {
    let mut freed = 0;
    let Ok(entries) = fs::read_dir(runs) else {
        return 0;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if is_dead(&path) {
            let bytes = allocated_bytes(&path);
            freed += if fs::remove_dir_all(&path).is_ok() {
                bytes
            } else {
                0
            };
        }
    }
    freed
}

fn is_dead(run: &Path) -> bool {
    if run.extension().is_some_and(|extension| extension == "new") {
        // Half made: dead if the process of its name is.
        let name = run
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let process = name.split('-').next().unwrap_or_default().to_owned();
        return !Path::new("/proc").join(process).exists();
    }
    let Ok(file) = File::open(run.join("lock")) else {
        return true;
    };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// What a file, or a folder with all that is in it, takes on the disk.
pub(crate) fn allocated_bytes(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return 0;
    };
    let inside = match fs::read_dir(path) {
        Ok(entries) if metadata.is_dir() => entries
            .flatten()
            .map(|entry| allocated_bytes(&entry.path()))
            .sum(),
        _ => 0,
    };
    // st_blocks counts 512 bytes each (stat(2)).
    inside + metadata.blocks() * 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_a_cache_to_write_has_a_place_of_this_user_alone() {
        let place = elsewhere().unwrap();
        let run = RunFolder::new(&place).unwrap();
        fs::write(run.path().join("initrd"), "x").unwrap();
        assert!(run.path().starts_with(&place));
    }

    #[test]
    fn a_dead_runs_folder_goes_and_a_living_ones_stays() {
        let folder = tempfile::tempdir().unwrap();
        let runs = folder.path().join("runs");
        let dead = runs.join("4194305-0");
        fs::create_dir_all(&dead).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        fs::write(dead.join("overlay"), [1; 8192]).unwrap();
        let living = RunFolder::new(&runs).unwrap();
        assert!(!dead.exists());
        let second = RunFolder::new(&runs).unwrap();
        assert!(living.path().exists() && second.path() != living.path());
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
        let (path, lock) = second.hand_over();
        sweep(&runs);
        assert!(path.exists(), "it is another process's now");
        drop(lock);
        sweep(&runs);
        assert!(!path.exists());
    }
}
